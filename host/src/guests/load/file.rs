//! What a file of the directory is, and whether somebody may still be writing it.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{GuestSpec, Refusal, SETTLE};
use crate::config::Config;
use crate::guests::digest::Digest;

/// What a file system says of a file without reading it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            file: (metadata.dev(), metadata.ino()),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// By the time of the last change of any kind: copies bring their own time of modification along.
pub(super) fn elapsed_since_change(metadata: &Metadata) -> Duration {
    let (seconds, nanos) = (metadata.ctime(), metadata.ctime_nsec());
    let changed = Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanos).unwrap_or(0));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(changed)
}

/// A file that is not there is settled: nobody is writing it.
pub(super) fn is_settled(path: &Path) -> bool {
    fs::metadata(path).map_or(true, |metadata| elapsed_since_change(&metadata) >= SETTLE)
}

pub(super) fn is_absent(path: &Path) -> bool {
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

pub(super) fn inspect(path: &Path, metadata: &Metadata, config: &Config) -> Result<Digest, Refusal> {
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
pub(super) fn text_of(path: &Path, first: bool) -> Result<String, Refusal> {
    match fs::read_to_string(path) {
        Ok(text) if text.is_empty() && !first && !is_settled(path) => {
            Err(Refusal::new(&file_name(path), "it is empty", "write it, or remove it").passing())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        read => read.map_err(|error| unreadable(&file_name(path), &error)),
    }
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

pub(super) fn unreadable(file: &str, error: &std::io::Error) -> Refusal {
    Refusal::new(file, format!("it cannot be read: {error}"), "make it readable for the user that Lodge runs as")
        .passing()
}
