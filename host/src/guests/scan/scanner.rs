//! The scanner: reads the directory, and remembers the previous scan.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::file;
use super::file::{Inspected, Seal, Stamp, inspect, is_absent, is_own};
use super::settle::{Content, ManifestState, OPENS, SETTLE, Settling};
use super::{FileState, NO_COMPONENT, Scan, ScannedService};
use crate::guests::trust::signature::Signature;
use crate::guests::trust::{LiveKeys, TrustedKeys};
use crate::registry::follow::Pulls;
use lodge_base::config::Config;
use lodge_base::files;
use lodge_manifest::Manifest;
use lodge_manifest::component::ComponentSource;
use lodge_manifest::digest::Digest;
use lodge_manifest::refusal::unreadable;
use lodge_manifest::refusal::{Refusal, file_name};
use lodge_manifest::spec::{GuestSpec, is_label, is_name, split};

/// Scans one directory repeatedly, and reads only what has changed.
pub struct Scanner {
    pub(super) path: PathBuf,
    /// By path and, since keys are for services, the service that has the component.
    components: HashMap<(PathBuf, String), Known>,
    manifests: HashMap<PathBuf, Settling>,
    keys: LiveKeys,
    first: bool,
    /// What pulls components from registries, if anything does.
    pub(super) pulls: Option<Arc<Pulls>>,
}

/// The result of reading a component, with its stamp at that time.
struct Known {
    stamp: Stamp,
    /// What its signature was verified by, where it needs one.
    seal: Option<Seal>,
    /// The first scan that saw this stamp and seal.
    since: Instant,
    /// It has not changed for [`SETTLE`] since, or was there at the first scan.
    settled: bool,
    content: Result<Inspected, Refusal>,
    /// To be read again: it had changed so shortly before it was read that another change might have the same stamp.
    racy: bool,
    /// Whether the current or the last scan used it.
    used: bool,
}

/// The context of a scan.
pub(super) struct Look<'a> {
    config: &'a Config,
    /// The keys by which components must be signed.
    keys: Option<Arc<TrustedKeys>>,
    now: Instant,
    /// Whether an event says that a file with this name was renamed into place.
    placed: &'a dyn Fn(&OsStr) -> bool,
    /// Manifests that this scan has seen already, so that a service and its versions use the same text.
    seen: HashSet<PathBuf>,
    again: Option<Duration>,
}

/// Twice the coarsest timestamp of a file system in use (NFS, ext3: 1 s).
const RACY: Duration = Duration::from_secs(2);

/// More than the clock of a file server may be ahead or behind.
const SKEW: Duration = Duration::from_secs(60);

impl Scanner {
    /// Creates a scanner of the directory `path`, or of the single service of the file `path`.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            components: HashMap::new(),
            manifests: HashMap::new(),
            keys: LiveKeys::default(),
            first: true,
            pulls: None,
        }
    }

    /// Also finds components in registries, which `pulls` pulls.
    #[must_use]
    pub fn pulling(self, pulls: Arc<Pulls>) -> Self {
        Self { pulls: Some(pulls), ..self }
    }

    /// Scans the directory. Blocking: reads every component that is new or has changed.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn scan(&mut self, config: &Config) -> std::io::Result<Scan> {
        self.scan_at(config, Instant::now(), &|_| false)
    }

    /// Scans the directory at the time `now`. `placed` is whether a file was renamed into place and not written to
    /// since, according to events. The first scan takes all files as they are.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn scan_at(&mut self, config: &Config, now: Instant, placed: &dyn Fn(&OsStr) -> bool) -> std::io::Result<Scan> {
        let keys = self.keys.refresh(&config.trust);
        let mut look = Look { config, keys, now, placed, seen: HashSet::new(), again: None };
        let (components, ignored) = self.names()?;
        let mut found = BTreeMap::new();
        self.components.values_mut().for_each(|known| known.used = false);
        for component in components {
            let stem = component.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            found.insert(stem.clone(), self.find(&stem, &component, &mut look));
        }
        self.components.retain(|_, known| known.used);
        self.forget_manifests(&mut look);
        self.pulls.iter().for_each(|pulls| pulls.end_scan());
        self.first = false;
        let (keys, key_problems) = (std::mem::take(&mut self.keys.changes), self.keys.problems());
        Ok(Scan { found, ignored, again: look.again, keys, key_problems })
    }

    /// The paths of the components that exist or should exist, and names that are almost those of one.
    fn names(&self) -> std::io::Result<(Vec<PathBuf>, Vec<String>)> {
        if self.path.is_file() {
            return Ok((vec![self.path.with_extension("wasm")], Vec::new()));
        }
        let (mut components, mut ignored) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            // Editors, file managers and `lodge deploy` use such names for temporary files.
            let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
            let extension = path.extension().filter(|_| !hidden).unwrap_or_default();
            if extension == "wasm" || extension == "toml" {
                components.push(path.with_extension("wasm"));
            } else if extension.eq_ignore_ascii_case("wasm") || extension.eq_ignore_ascii_case("toml") {
                ignored.push(file_name(&path));
            }
        }
        components.sort();
        components.dedup();
        ignored.sort();
        Ok((components, ignored))
    }

    /// The state of one service.
    fn find(&mut self, stem: &str, component: &Path, look: &mut Look<'_>) -> ScannedService {
        let (service, label) = split(stem);
        if let Err(refusal) = named(service, label, component) {
            return ScannedService::of(FileState::Refused(refusal));
        }
        let manifest = component.with_extension("toml");
        let files = Manifests { service: component.with_file_name(format!("{service}.toml")), own: manifest.clone() };
        let changing = [&files.service, &files.own].map(|path| self.see_manifest(path, look));
        if changing.contains(&true) {
            // What is known of its components stays known, so that a touch shows when the manifest has settled.
            let own = self.components.iter_mut().filter(|((_, of), _)| of == service);
            own.for_each(|(_, known)| known.used = true);
            // A manifest that disables the service takes effect at once, whatever follows.
            let seen = self.manifest(&files, service, look, Settling::seen).ok().filter(|read| !read.enabled);
            let Some(seen) = seen else {
                return ScannedService { settled: false, ..ScannedService::of(FileState::Changing) };
            };
            // It may be the first part of a text.
            let disabled = ScannedService { unsure: OPENS, settled: false, ..ScannedService::of(FileState::Disabled) };
            return ScannedService { manifest: Some(Box::new(seen)), ..disabled };
        }
        let said = |path: &Path| self.manifests.get(path).is_some_and(|known| !known.known().is_blank());
        let blank = Some(file_name(&files.service)).filter(|_| !said(&files.service));
        let known = [&files.service, &files.own].into_iter().filter_map(|path| self.manifests.get(path));
        let unsure = known.map(|known| known.unsure(look.now)).max().unwrap_or_default();
        let as_is = |state| ScannedService { blank, unsure, ..ScannedService::of(state) };
        let (mut settled, mut touched) = (true, false);
        let bare = !self.first && self.manifests.get(&manifest).is_none_or(|known| *known.known() == Content::Absent);
        let read = self.manifest(&files, service, look, Settling::known);
        let of = |found: Result<_, _>| found.map_or_else(FileState::Refused, FileState::Ready);
        let (state, trouble) = match &read {
            Ok(read) if !read.enabled => (FileState::Disabled, None),
            Ok(read) if !read.has_component() => (of(self.alone(stem, component, read)), None),
            Ok(read) => match &read.component {
                Some(ComponentSource::Registry(reference)) => self.in_registry(stem, &manifest, reference, read, look),
                _ => (of(self.in_directory((stem, component), read, look, &mut touched, &mut settled)), None),
            },
            Err(refusal) => (FileState::Refused(refusal.clone()), None),
        };
        let state = match state {
            FileState::Refused(refusal) if refusal.file == file_name(component) && is_absent(component) => {
                let remedy = format!("put {} beside it, or remove it", file_name(component));
                FileState::Orphan(Refusal::new(&file_name(&manifest), NO_COMPONENT, remedy))
            }
            state => state,
        };
        let manifest = match read {
            Ok(read) => Some(read).filter(|_| !matches!(state, FileState::Ready(_))),
            Err(_) => self.readable_part(&files, service, look),
        };
        let manifest = manifest.map(Box::new);
        ScannedService { manifest, settled, touched, bare, trouble, ..as_is(state) }
    }

    /// The digest of a component, whether its signature is enough for the service, and its size. Reads it only if it may have
    /// changed. Refusals call it `shown`.
    pub(super) fn component(
        &mut self,
        path: &Path,
        (service, shown): (&str, &str),
        look: &mut Look<'_>,
        touched: &mut bool,
        settled: &mut bool,
    ) -> Result<(Inspected, u64), Refusal> {
        let bad = |error| unreadable(&file_name(path), &error);
        let metadata = fs::metadata(path).map_err(bad)?;
        let (stamp, now) = (Stamp::of(&metadata), look.now);
        let seal = look.keys.clone().map(|keys| (keys, Signature::of(path)));
        let by = (path.to_owned(), service.to_owned());
        let same = self.components.get_mut(&by).filter(|known| known.seal == seal);
        let verified = same.as_ref().and_then(|known| known.content.clone().ok());
        let before = same.filter(|known| known.stamp == stamp);
        let since = before.as_ref().map_or(now, |known| known.since);
        let quiet = now.saturating_duration_since(since);
        *settled = self.first || quiet >= SETTLE || before.as_ref().is_some_and(|known| known.settled);
        if !*settled {
            look.again_in(SETTLE.saturating_sub(quiet));
        }
        if let Some(known) = before.filter(|known| !known.racy) {
            known.used = true;
            known.settled = *settled;
            return known.content.clone().map(|content| (content, metadata.len()));
        }
        // If it changes before it is opened, the next scan finds another stamp.
        let opened = files::open(path).map_err(bad);
        let judge = |digest, bytes: &[u8]| match (&seal, verified) {
            (None, _) => Ok(()),
            // The same content, keys and signature: the digest of a file is cheap beside its signature.
            (_, Some((known, verdict))) if known == digest => verdict,
            (Some((keys, signature)), _) => keys.admits(service, shown, bytes, signature),
        };
        let content = opened.and_then(|(file, metadata)| inspect(path, (&file, &metadata), look.config, judge));
        let racy = quiet < RACY && stamp.age() < SKEW || content.as_ref().is_err_and(|bad| bad.passing);
        let known = Known { stamp, seal, since, settled: *settled, content: content.clone(), racy, used: true };
        let before = self.components.insert(by, known);
        let before = before.filter(|before| before.stamp != stamp && !before.racy);
        *touched = content.is_ok() && before.is_some_and(|before| before.content == content);
        content.map(|content| (content, metadata.len()))
    }

    /// Looks at a manifest, once per scan. Returns whether it is changing.
    fn see_manifest(&mut self, path: &Path, look: &mut Look<'_>) -> bool {
        if look.seen.insert(path.to_owned()) {
            let (stamp, text) = file::manifest(path);
            let content = match text {
                None => Content::Absent,
                Some(Ok(text)) => Content::Text(text.into()),
                Some(Err(refusal)) => Content::Unreadable(refusal),
            };
            let placed = path.file_name().is_some_and(look.placed) && is_own(path);
            let beside = fs::metadata(path.with_extension("wasm")).ok().map(|metadata| Stamp::of(&metadata));
            let seen = ManifestState { stamp, content, beside, placed };
            if self.first {
                self.manifests.insert(path.to_owned(), Settling::taken(seen, look.now));
            } else {
                let known = self.manifests.entry(path.to_owned()).or_insert_with(|| Settling::absent(look.now));
                known.see(seen, look.now);
                if let Some(left) = known.left(look.now) {
                    look.again_in(left);
                }
            }
        }
        self.manifests.get(path).is_some_and(Settling::is_changing)
    }

    /// Handles manifests that were removed together with their components. Their text applies for a while, in case both
    /// return.
    fn forget_manifests(&mut self, look: &mut Look<'_>) {
        let unseen: Vec<_> = self.manifests.keys().filter(|path| !look.seen.contains(*path)).cloned().collect();
        for path in unseen {
            self.see_manifest(&path, look);
        }
        self.manifests.retain(|_, known| known.is_changing() || *known.known() != Content::Absent);
    }

    /// Reads the manifests of a service or version, from the texts in force or those on disk.
    fn manifest(
        &self,
        files: &Manifests,
        service: &str,
        look: &Look<'_>,
        which: fn(&Settling) -> &Content,
    ) -> Result<Manifest, Refusal> {
        let most = look.config.engine.max_memory;
        let read = |path: &Path, read: &dyn Fn(&str) -> Result<Manifest, Vec<String>>| {
            let text = match self.manifests.get(path).map(which) {
                None | Some(Content::Absent) => "",
                Some(Content::Text(text)) => text,
                Some(Content::Unreadable(refusal)) => return Err(refusal.clone()),
            };
            read(text).map_err(|problems| {
                let remedy = format!("see docs/{}.md", lodge_manifest::page(text, &problems));
                Refusal::new(&file_name(path), problems.join("; "), remedy)
            })
        };
        let of = read(&files.service, &|text| Manifest::read(service, text, &look.config.limits, most))?;
        if files.own == files.service { Ok(of) } else { read(&files.own, &|text| of.version(text, most)) }
    }

    /// What can be read of a service's manifest with mistakes; `None` if it has none, but that of the version has.
    fn readable_part(&self, files: &Manifests, service: &str, look: &Look<'_>) -> Option<Manifest> {
        let (limits, most) = (&look.config.limits, look.config.engine.max_memory);
        let is_bad = match self.manifests.get(&files.service).map(Settling::known) {
            Some(Content::Unreadable(_)) => true,
            _ => {
                files.own == files.service || Manifest::read(service, self.text(&files.service), limits, most).is_err()
            }
        };
        is_bad.then(|| Manifest::read_partly(service, self.text(&files.service), limits, most))
    }

    /// A service with replicas elsewhere or of files, which consists of its manifest alone.
    fn alone(&self, name: &str, component: &Path, manifest: &Manifest) -> Result<GuestSpec, Refusal> {
        let path = component.with_extension("toml");
        if !is_absent(component) {
            let section = if manifest.files.is_some() { "[files]" } else { "[upstream]" };
            let reason = format!("it is a component, but its manifest has {section}");
            let remedy =
                format!("remove one of the two, or rename the component to {name}@LABEL.wasm to make it a version");
            return Err(Refusal::new(&file_name(component), reason, remedy));
        }
        let (digest, size) = self.of_text(&path);
        let (name, manifest) = (name.to_owned(), manifest.clone());
        Ok(GuestSpec { name, path, content: None, digest, size, middleware: Vec::new(), manifest })
    }

    /// The digest and size of a manifest that is in force.
    pub(super) fn of_text(&self, path: &Path) -> (Digest, u64) {
        let text = self.text(path).as_bytes();
        (Digest::of(text), text.len() as u64)
    }

    /// The text of a manifest that is in force.
    pub(super) fn text(&self, path: &Path) -> &str {
        match self.manifests.get(path).map(Settling::known) {
            Some(Content::Text(text)) => text,
            _ => "",
        }
    }
}

impl Look<'_> {
    /// Requests another scan within this time.
    fn again_in(&mut self, time: Duration) {
        self.again = Some(self.again.map_or(time, |again| again.min(time)));
    }
}

/// The manifests of a service or version; for a service both are the same.
struct Manifests {
    service: PathBuf,
    own: PathBuf,
}

/// Checks whether a service or version can have this name.
fn named(service: &str, label: Option<&str>, component: &Path) -> Result<(), Refusal> {
    if is_name(service) && label.is_none_or(is_label) {
        return Ok(());
    }
    let remedy = "rename it: letters, digits, `-` and `_`, at most 63, starting with a letter or digit; a version \
                  of it has `@` and a label after that";
    Err(Refusal::new(&file_name(component), "its name is not valid for a service", remedy))
}

/// Checks whether a component is the one that its manifest requires.
///
/// # Errors
/// Both digests.
pub fn pinned(manifest: &Manifest, digest: Digest, file: &str) -> Result<(), Refusal> {
    match manifest.digest {
        Some(pinned) if pinned != digest => {
            let reason = format!("it is sha256:{digest}, but its manifest requires sha256:{pinned}");
            Err(Refusal::new(file, reason, "replace the component, or pin this one"))
        }
        _ => Ok(()),
    }
}
