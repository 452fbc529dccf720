//! One scan of the directory: every `*.wasm` is a [`GuestSpec`] or a [`Refusal`].
//!
//! Only looks: reads files whole to hash them, compiles nothing, keeps no bytes. What it says is true of the
//! moment it looked; [`compile`](super::compile) checks the digest again when it reads the file.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::manifest::Manifest;
use crate::config::Config;

/// What is on disk of a service: a comparable value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestSpec {
    /// Its name: the file's, without `.wasm`.
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

/// SHA-256 of a file: a guest's version.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

/// A file that is not served: which, why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The file, as it is named in the directory.
    pub file: String,
    /// What is wrong with it.
    pub reason: String,
    /// What to do.
    pub remedy: String,
}

/// What a scan found, both in the order of names.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// What can be compiled.
    pub specs: Vec<GuestSpec>,
    /// What cannot.
    pub refusals: Vec<Refusal>,
}

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl Refusal {
    /// A refusal of `file`.
    pub fn new(file: &str, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { file: file.to_owned(), reason: reason.into(), remedy: remedy.into() }
    }
}

/// Scans `directory`, or looks at one file of it when `path` is a file. Blocking: reads every component.
///
/// # Errors
/// When `path` itself cannot be read.
pub fn scan(path: &Path, config: &Config) -> std::io::Result<Scan> {
    let mut found = Scan::default();
    let mut files = Vec::new();
    if path.is_file() {
        files.push(path.to_owned());
    } else {
        for entry in fs::read_dir(path)? {
            files.push(entry?.path());
        }
    }
    files.retain(|file| file.extension().is_some_and(|extension| extension == "wasm"));
    files.sort();
    for file in files {
        match inspect(&file, config) {
            Ok(spec) => found.specs.push(spec),
            Err(refusal) => found.refusals.push(refusal),
        }
    }
    Ok(found)
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
        ))
    }
}

/// A file's name as people know it, for messages.
pub fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn inspect(path: &Path, config: &Config) -> Result<GuestSpec, Refusal> {
    let file = file_name(path);
    let name = path.file_stem().and_then(|stem| stem.to_str()).filter(|name| is_name(name));
    let name = name.ok_or_else(|| {
        let reason = "its name cannot be a service's";
        Refusal::new(
            &file,
            reason,
            "rename it: letters, digits, `-` and `_`, at most 63, starting with a letter or digit",
        )
    })?;
    // A FIFO would block the read for ever, and a device never end it.
    let metadata = fs::metadata(path).map_err(|error| unreadable(&file, &error))?;
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
    let manifest = read_manifest(name, &path.with_extension("toml"), config)?;
    let (digest, size) = (Digest::of(&bytes), metadata.len());
    Ok(GuestSpec { name: name.to_owned(), path: path.to_owned(), digest, size, manifest })
}

fn read_manifest(name: &str, path: &Path, config: &Config) -> Result<Manifest, Refusal> {
    let file = file_name(path);
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(unreadable(&file, &error)),
    };
    Manifest::read(name, &text, &config.limits, config.engine.max_memory)
        .map_err(|problems| Refusal::new(&file, problems.join("; "), "correct the manifest; the README lists its keys"))
}

fn is_name(name: &str) -> bool {
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
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.file, self.reason, self.remedy)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{self}")
    }
}
