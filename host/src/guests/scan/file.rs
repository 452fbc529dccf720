//! The properties of a file in the directory.

use std::fs::{self, Metadata};
use std::io::{Error, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::guests::trust::TrustedKeys;
use crate::guests::trust::signature::Signature;
use lodge_base::config::Config;
use lodge_base::files;
use lodge_manifest::digest::Digest;
use lodge_manifest::refusal::Refusal;
use lodge_manifest::refusal::{file_name, unreadable};

/// The maximum size of a manifest.
pub const MANIFEST: u64 = 1 << 20;

/// The metadata that reveal a change of a file without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) file: (u64, u64),
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

    /// The time since the last change of the file, by the clock of its file system, which may be another machine's.
    /// Copies preserve the time of modification, so the time of the last change of any kind counts.
    pub(super) fn age(&self) -> Duration {
        let (seconds, nanos) = self.changed;
        let changed = Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanos).unwrap_or(0));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        now.saturating_sub(changed)
    }
}

pub(super) fn is_absent(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

/// The keys in force, and the signature beside a component.
pub(super) type Seal = (Arc<TrustedKeys>, Signature);

/// The digest of a component, and why its signature is not enough for the service.
pub(super) type Inspected = (Digest, Result<(), Refusal>);

/// Computes the digest of an open component that has `metadata`, and lets `judge` decide on the same bytes.
pub(super) fn inspect(
    path: &Path,
    (file, metadata): (&fs::File, &Metadata),
    config: &Config,
    judge: impl FnOnce(Digest, &[u8]) -> Result<(), Refusal>,
) -> Result<Inspected, Refusal> {
    let name = file_name(path);
    let bytes = files::rest_of(file, metadata.len(), config.engine.max_file as u64);
    let bytes = bytes.map_err(|error| unreadable(&name, &error))?;
    let digest = Digest::of(&bytes);
    is_component(&bytes).map_err(|(reason, remedy)| Refusal::new(&name, reason, remedy).of(digest))?;
    if let Some(least) = needed(&bytes) {
        let reason = format!("it is cut off: it has {} bytes of at least {least}", bytes.len());
        return Err(Refusal::new(&name, reason, "copy it again").of(digest));
    }
    Ok((digest, judge(digest, &bytes)))
}

/// The stamp of a manifest, with its text or the reason why it is unreadable. `None` if there is no file.
pub(super) fn manifest(path: &Path) -> (Option<Stamp>, Option<Result<String, Refusal>>) {
    let opened = match files::open(path) {
        // A dangling link is an unreadable manifest, not a service without a manifest.
        Err(error) if error.kind() == ErrorKind::NotFound && is_absent(path) => return (None, None),
        opened => opened,
    };
    let stamp = opened.as_ref().ok().map(|(_, metadata)| Stamp::of(metadata));
    let text = opened
        .and_then(|(file, metadata)| files::rest_of(&file, metadata.len(), MANIFEST))
        .and_then(|bytes| files::text(bytes).map_err(|why| Error::new(ErrorKind::InvalidData, why)));
    (stamp, Some(text.map_err(|error| unreadable(&file_name(path), &error))))
}

/// Whether a file has no other names (hard links), so that a rename tells all about it.
pub(super) fn is_own(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.nlink() == 1)
}

/// Returns the bytes that a component must at least have, if it has fewer: the end of its last section. A component that
/// ends between two sections is not recognized.
fn needed(bytes: &[u8]) -> Option<usize> {
    /// The highest id of a section of a component (the binary format of the component model).
    const SECTIONS: u8 = 12;
    let mut at = 8;
    while at < bytes.len() {
        let [id, rest @ ..] = bytes.get(at..)? else { return None };
        if *id > SECTIONS {
            return None;
        }
        // LEB128: seven bits in each byte, the lowest first, and at most five bytes.
        let (mut size, mut digits) = (0_usize, 0);
        loop {
            let Some(byte) = rest.get(digits) else { return Some(bytes.len() + 1) };
            size |= usize::from(byte & 0x7f) << (7 * digits);
            digits += 1;
            match (byte & 0x80, digits) {
                (0, _) => break,
                (_, 5..) => return None,
                _ => {}
            }
        }
        at = at.checked_add(1 + digits)?.checked_add(size)?;
    }
    (at > bytes.len()).then_some(at)
}

/// Distinguishes a component from other files by its first bytes.
///
/// # Errors
/// What it is, and the remedy.
pub fn is_component(bytes: &[u8]) -> Result<(), (&'static str, &'static str)> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Every beginning of a component is recognized as one, except where a section ends.
    #[test]
    fn a_component_that_is_cut_off() {
        let header = [0, b'a', b's', b'm', 0x0d, 0, 1, 0];
        let sections = [[0, 3, 1, b'a', 7].as_slice(), &[0, 0x85, 0x00, 1, b'b', 7, 7, 7]].concat();
        let whole = [header.as_slice(), &sections].concat();
        let found: Vec<_> = (8..=whole.len()).map(|length| needed(&whole[..length])).collect();
        let expected = [
            None,
            Some(10),
            Some(13),
            Some(13),
            Some(13),
            None,
            Some(15),
            Some(16),
            Some(21),
            Some(21),
            Some(21),
            Some(21),
            Some(21),
            None,
        ];
        assert_eq!(found, expected);
        assert_eq!(needed(&[&header[..], b"nonsense"].concat()), None);
        assert_eq!(needed(&[&header[..], &[1, 0xff, 0xff, 0xff, 0xff, 0xff, 1]].concat()), None);
    }
}
