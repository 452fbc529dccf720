//! One scan of the directory: every `*.wasm` is a [`GuestSpec`] or a [`Refusal`].
//!
//! Only looks: reads files whole to hash them, compiles nothing, keeps no bytes. What it says is true of the
//! moment it looked; [`compile`](super::compile) checks the digest again when it reads the file.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

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

/// What a file system says of a file without reading it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// How long files must have been left alone before something wrong with them is reported.
pub const SETTLE: Duration = Duration::from_millis(500);

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
        Self { file: file.to_owned(), reason: reason.into(), remedy: remedy.into(), passing: false }
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
                State::Orphan(Refusal::new(&file_name(&manifest), "it has no component", remedy))
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

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            file: (metadata.dev(), metadata.ino()),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// By the time of the last change of any kind: copies bring their own time of modification along.
fn elapsed_since_change(metadata: &Metadata) -> Duration {
    let (seconds, nanos) = (metadata.ctime(), metadata.ctime_nsec());
    let changed = Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanos).unwrap_or(0));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(changed)
}

/// A file that is not there is settled: nobody is writing it.
fn is_settled(path: &Path) -> bool {
    fs::metadata(path).map_or(true, |metadata| elapsed_since_change(&metadata) >= SETTLE)
}

fn is_absent(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

/// The bytes of a component, if it still is what the scan saw. Blocking.
///
/// # Errors
/// When it was changed or removed since: the next scan sees what is there then.
pub fn read(spec: &GuestSpec) -> Result<Vec<u8>, Refusal> {
    let file = file_name(&spec.path);
    let bytes = fs::read(&spec.path).map_err(|error| unreadable(&file, &error))?;
    if Digest::of(&bytes) == spec.digest {
        Ok(bytes)
    } else {
        Err(Refusal::new(
            &file,
            "it changed while it was being read",
            "let the copy finish; better, rename a finished file into place",
        )
        .passing())
    }
}

/// A file's name as people know it, for messages.
pub fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn inspect(path: &Path, metadata: &Metadata, config: &Config) -> Result<Digest, Refusal> {
    let file = file_name(path);
    // A FIFO would block the read for ever, and a device never end it.
    if !metadata.is_file() {
        return Err(Refusal::new(&file, "it is not a regular file", "put the component itself, or a link to it, here"));
    }
    if metadata.len() > config.engine.max_file as u64 {
        let show = |bytes| bytesize::ByteSize(bytes).display().iec();
        let reason = format!("it has {}, over {}", show(metadata.len()), show(config.engine.max_file as u64));
        return Err(Refusal::new(&file, reason, "strip its debug sections, or raise engine.max_file"));
    }
    let bytes = fs::read(path).map_err(|error| unreadable(&file, &error))?;
    is_component(&bytes).map_err(|(reason, remedy)| Refusal::new(&file, reason, remedy))?;
    Ok(Digest::of(&bytes))
}

/// The text of a manifest, which may be missing. Who saves a file in place empties it first, and what it said of who may
/// ask must not be lost in between: one that has only just been emptied cannot be read yet.
fn text_of(path: &Path, first: bool) -> Result<String, Refusal> {
    match fs::read_to_string(path) {
        Ok(text) if text.is_empty() && !first && !is_settled(path) => {
            Err(Refusal::new(&file_name(path), "it is empty", "write it, or remove it").passing())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        read => read.map_err(|error| unreadable(&file_name(path), &error)),
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

/// Tells a component from what people drop by mistake, by its first bytes.
fn is_component(bytes: &[u8]) -> Result<(), (&'static str, &'static str)> {
    const BUILD: &str = "build it as a component, e.g. `cargo build --target wasm32-wasip2`";
    match bytes {
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => Ok(()),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Err((
            "it is a core module, not a component",
            "build it with `--target wasm32-wasip2`, or wrap it with `wasm-tools component new`",
        )),
        [0, b'a', b's', b'm', ..] => {
            Err(("it is a component of an unknown encoding", "build it with a current toolchain"))
        }
        [] => Err(("it is empty", "copy the component again")),
        [0x1f, 0x8b, ..] => Err(("it is gzip, not WebAssembly", "unpack it first")),
        [0x7f, b'E', b'L', b'F', ..] => Err(("it is a native program, not WebAssembly", BUILD)),
        [b'(', ..] => Err(("it is WebAssembly text, not binary", "assemble it with `wasm-tools parse`")),
        [b'<', ..] => Err(("it is HTML or XML, not WebAssembly", "the download probably failed; fetch it again")),
        _ => Err(("it is not WebAssembly", BUILD)),
    }
}

fn unreadable(file: &str, error: &std::io::Error) -> Refusal {
    Refusal::new(file, format!("it cannot be read: {error}"), "make it readable for the user that Lodge runs as")
        .passing()
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.file, self.reason, self.remedy)
    }
}
