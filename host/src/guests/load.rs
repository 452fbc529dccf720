//! One scan of the directory: every `*.wasm` is a [`GuestSpec`] or a [`Refusal`].
//!
//! Only looks: reads files whole to hash them, compiles nothing, keeps no bytes. What it says is true of the
//! moment it looked; [`compile`](super::compile) checks the digest again when it reads the file.

mod file;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use self::file::{Stamp, elapsed_since_change, inspect, is_absent, is_settled, text_of, unreadable};
pub use self::file::{file_name, read};
use super::digest::Digest;
use super::manifest::Manifest;
use crate::config::Config;

/// What is on disk of a service: a comparable value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestSpec {
    /// Its name: the file's, without `.wasm`. A version's is `service@label`.
    pub name: String,
    /// Where the component is.
    pub path: PathBuf,
    /// What the component is.
    pub digest: Digest,
    /// Size of the component in bytes.
    pub size: u64,
    /// How it wants to be served.
    pub manifest: Manifest,
}

/// A file that is not served: which, why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The file, as it is named in the directory.
    pub file: String,
    /// What is wrong with it.
    pub reason: String,
    /// What to do.
    pub remedy: String,
    /// It may pass without the file being changed, so it is worth another try.
    pub passing: bool,
    /// The end of what its build has said.
    pub output: Option<Arc<str>>,
}

/// A service as a scan found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What there is of it.
    pub state: State,
    /// Its files have been left alone for [`SETTLE`]; otherwise somebody may be in the middle of writing them.
    pub settled: bool,
    /// Its component was written or touched since the last scan, and is what it was.
    pub touched: bool,
}

/// What there is of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one per file, and most of them are ready")]
pub enum State {
    /// Files that can be compiled.
    Ready(GuestSpec),
    /// Files that cannot.
    Refused(Refusal),
    /// A manifest without a component: no service, and probably a mistake.
    Orphan(Refusal),
    /// A manifest that says that there is no service.
    Disabled,
}

/// Looks at one directory again and again, and reads only what has changed.
pub struct Scanner {
    path: PathBuf,
    known: HashMap<PathBuf, Known>,
    first: bool,
}

/// What is known of a file, and the stamp it had then.
struct Known {
    stamp: Stamp,
    content: Result<Digest, Refusal>,
    /// To be read again: it changed so shortly before it was read that it could change again without a new stamp.
    racy: bool,
    /// By the scan that is under way, or the last one.
    used: bool,
}

/// How long files must have been left alone before something wrong with them is reported.
pub const SETTLE: Duration = Duration::from_millis(500);

/// What is wrong with a manifest alone.
pub(super) const NO_COMPONENT: &str = "it has no component";

/// Twice the coarsest time stamp of a file system in use (NFS, ext3: 1 s).
const RACY: Duration = Duration::from_secs(2);

impl GuestSpec {
    /// The host whose every path is the service's, whatever its routes: host names have no `_`. None where a route
    /// has policies of its own, which nobody must go around.
    pub fn host(&self) -> Option<String> {
        (!self.manifest.terms.has_routes()).then(|| host_of(&self.name))
    }

    /// The service of which this is a version, and the version's label; `None` for the service itself.
    pub fn version_of(&self) -> Option<(&str, &str)> {
        let (service, label) = split(&self.name);
        Some((service, label?))
    }
}

/// `users@2` is version `2` of `users`.
fn split(name: &str) -> (&str, Option<&str>) {
    name.split_once('@').map_or((name, None), |(service, label)| (service, Some(label)))
}

/// The host whose every path is the service `name`'s; of a version of it, its label goes before.
pub fn host_of(name: &str) -> String {
    let (service, label) = split(name);
    let label = label.map_or(String::new(), |label| format!("{label}."));
    format!("{label}{service}.localhost").replace('_', "-").to_ascii_lowercase()
}

impl Refusal {
    /// A refusal of `file`.
    pub fn new(file: &str, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { file: file.to_owned(), reason: reason.into(), remedy: remedy.into(), passing: false, output: None }
    }

    /// One that may pass by itself.
    #[must_use]
    pub fn passing(self) -> Self {
        Self { passing: true, ..self }
    }
}

impl Scanner {
    /// Will scan the directory `path`, or only the service of the file that it is.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), known: HashMap::new(), first: true }
    }

    /// What is there now, by name. Blocking: reads every component that is new or has changed.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn scan(&mut self, config: &Config) -> std::io::Result<BTreeMap<String, Found>> {
        let mut found = BTreeMap::new();
        self.known.values_mut().for_each(|known| known.used = false);
        for component in self.components()? {
            let stem = component.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            found.insert(stem.clone(), self.find(&stem, &component, config));
        }
        self.known.retain(|_, known| known.used);
        self.first = false;
        Ok(found)
    }

    /// Where the component of every service is or should be.
    fn components(&self) -> std::io::Result<Vec<PathBuf>> {
        if self.path.is_file() {
            return Ok(vec![self.path.with_extension("wasm")]);
        }
        let entries = fs::read_dir(&self.path)?.map(|entry| Ok(entry?.path()));
        let mut files = entries.collect::<std::io::Result<Vec<_>>>()?;
        files.retain(|file| file.extension().is_some_and(|extension| extension == "wasm" || extension == "toml"));
        let mut components: Vec<_> = files.iter().map(|file| file.with_extension("wasm")).collect();
        components.sort();
        components.dedup();
        Ok(components)
    }

    /// What there is of one service.
    fn find(&mut self, stem: &str, component: &Path, config: &Config) -> Found {
        let manifest = component.with_extension("toml");
        let service = component.with_file_name(format!("{}.toml", split(stem).0));
        let quiet = || [component, &manifest, &service].iter().all(|file| is_settled(file));
        let mut settled = self.first || quiet();
        let mut touched = false;
        let spec = match manifest_of(stem, component, config, self.first) {
            Ok(manifest) if !manifest.enabled => {
                return Found { state: State::Disabled, settled: true, touched: false };
            }
            Ok(manifest) if manifest.upstream.is_some() => elsewhere(stem, component, manifest, self.first),
            Ok(manifest) => {
                let named = manifest.component.as_ref().map(|name| component.with_file_name(name));
                let path = named.as_deref().unwrap_or(component);
                settled &= self.first || is_settled(path);
                self.component(path, config, &mut touched).and_then(|(digest, size)| {
                    pinned(&manifest, digest, &file_name(path))?;
                    Ok(GuestSpec { name: stem.to_owned(), path: path.to_owned(), digest, size, manifest })
                })
            }
            Err(refusal) => Err(refusal),
        };
        // What is wrong may be so since the look before.
        settled &= self.first || spec.is_ok() || quiet();
        let state = match spec {
            Ok(spec) => State::Ready(spec),
            Err(refusal) if refusal.file == file_name(component) && is_absent(component) => {
                let remedy = format!("put {} beside it, or remove it", file_name(component));
                State::Orphan(Refusal::new(&file_name(&manifest), NO_COMPONENT, remedy))
            }
            Err(refusal) => State::Refused(refusal),
        };
        Found { state, settled, touched }
    }

    /// Digest and size of a component, read again only if it may have changed.
    fn component(&mut self, path: &Path, config: &Config, touched: &mut bool) -> Result<(Digest, u64), Refusal> {
        let metadata = fs::metadata(path).map_err(|error| unreadable(&file_name(path), &error))?;
        let stamp = Stamp::of(&metadata);
        let known = self.known.get_mut(path);
        if let Some(known) = known.filter(|known| known.stamp == stamp && !known.racy) {
            known.used = true;
            return known.content.clone().map(|digest| (digest, metadata.len()));
        }
        let content = inspect(path, &metadata, config);
        let racy = elapsed_since_change(&metadata) < RACY || content.as_ref().is_err_and(|bad| bad.passing);
        let now = Known { stamp, content: content.clone(), racy, used: true };
        let before = self.known.insert(path.to_owned(), now);
        let before = before.filter(|before| before.stamp != stamp && !before.racy);
        *touched = content.is_ok() && before.is_some_and(|before| before.content == content);
        content.map(|digest| (digest, metadata.len()))
    }
}

fn manifest_of(stem: &str, component: &Path, config: &Config, first: bool) -> Result<Manifest, Refusal> {
    let (name, label) = split(stem);
    if !is_name(name) || label.is_some_and(|label| !is_label(label)) {
        let remedy = "rename it: letters, digits, `-` and `_`, at most 63, starting with a letter or digit; a version \
                      of it has `@` and a label after that";
        return Err(Refusal::new(&file_name(component), "its name cannot be a service's", remedy));
    }
    let most = config.engine.max_memory;
    let read = |path: &Path, read: &dyn Fn(&str) -> Result<Manifest, Vec<String>>| {
        let wrong = |problems: Vec<String>| {
            Refusal::new(&file_name(path), problems.join("; "), "correct the manifest; the README lists its keys")
        };
        read(&text_of(path, first)?).map_err(wrong)
    };
    let service = component.with_file_name(format!("{name}.toml"));
    let service = read(&service, &|text| Manifest::read(name, text, &config.limits, most))?;
    match label {
        Some(_) => read(&component.with_extension("toml"), &|text| service.version(text, most)),
        None => Ok(service),
    }
}

/// A service whose replicas are elsewhere: its manifest is all there is of it.
fn elsewhere(name: &str, component: &Path, manifest: Manifest, first: bool) -> Result<GuestSpec, Refusal> {
    let path = component.with_extension("toml");
    if !is_absent(component) {
        let reason = "it is a component, and its manifest has [upstream]";
        let remedy = format!("take one of them away, or name it {name}@LABEL.wasm to give it a part of the requests");
        return Err(Refusal::new(&file_name(component), reason, remedy));
    }
    let text = text_of(&path, first)?;
    let (digest, size) = (Digest::of(text.as_bytes()), text.len() as u64);
    Ok(GuestSpec { name: name.to_owned(), path, digest, size, manifest })
}

fn pinned(manifest: &Manifest, digest: Digest, file: &str) -> Result<(), Refusal> {
    match manifest.digest {
        Some(pinned) if pinned != digest => {
            let reason = format!("it is sha256:{digest}, and its manifest wants sha256:{pinned}");
            Err(Refusal::new(file, reason, "put the right component there, or pin this one"))
        }
        _ => Ok(()),
    }
}

/// A version's label may be a number such as `1.4.2`.
fn is_label(label: &str) -> bool {
    is_name(&label.replace('.', "-")) && !label.ends_with('.')
}

/// Whether this can be the name of a service: letters, digits, `-` and `_`, at most 63.
pub fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=63).contains(&name.len())
        && name.bytes().all(plain)
        && name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.file, self.reason, self.remedy)
    }
}
