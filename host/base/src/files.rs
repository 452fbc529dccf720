//! Opening, reading and replacing files that other programs may write.
//!
//! A directory entry may be anything: a FIFO whose open waits for a writer, a link to a device without an end, or a
//! file that grows while it is read. [`open`] opens regular files only and does not wait for a writer, and every read
//! is bounded. A file system that hangs still blocks the caller, so the files of services are read on threads that the
//! shutdown of the host does not wait for.

pub mod complete;

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;

/// The most links that are followed: as many as Linux follows in one path.
const LINKS: usize = 40;

/// More than the resolution of most file systems' clocks.
const TICK: Duration = Duration::from_millis(20);

/// The error for a directory entry of another type.
const IRREGULAR: &str = "it is not a regular file";

/// Opens a regular file for reading. Follows links; does not wait for a writer or a device.
///
/// # Errors
/// Errors of the file system; [`ErrorKind::InvalidInput`] if this is not a regular file.
pub fn open(path: &Path) -> io::Result<(File, Metadata)> {
    // Opening a device can have side effects, so the path is checked first. The check of the descriptor is decisive.
    regular(&fs::metadata(path)?)?;
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path)?;
    let metadata = file.metadata()?;
    regular(&metadata)?;
    Ok((file, metadata))
}

fn regular(metadata: &Metadata) -> io::Result<()> {
    if metadata.is_file() { Ok(()) } else { Err(io::Error::new(ErrorKind::InvalidInput, IRREGULAR)) }
}

/// Reads a regular file of at most `most` bytes.
///
/// # Errors
/// Errors of [`open`]; [`ErrorKind::FileTooLarge`] if it has more bytes, whatever its metadata say.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let (file, metadata) = open(path)?;
    rest_of(&file, metadata.len(), most)
}

/// Reads an open file to its end, at most `most` bytes. `size` is the expected size, for the first allocation.
///
/// # Errors
/// Errors of reading; [`ErrorKind::FileTooLarge`] if it has more bytes.
pub fn rest_of(file: &File, size: u64, most: u64) -> io::Result<Vec<u8>> {
    let show = |bytes| bytesize::ByteSize(bytes).display().iec();
    let too_large = |why: String| io::Error::new(ErrorKind::FileTooLarge, why);
    if size > most {
        return Err(too_large(format!("it has {}, over {}", show(size), show(most))));
    }
    let mut content = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    file.take(most.saturating_add(1)).read_to_end(&mut content)?;
    if content.len() as u64 > most { Err(too_large(format!("it has over {}", show(most)))) } else { Ok(content) }
}

/// Reads a regular UTF-8 file of at most `most` bytes.
///
/// # Errors
/// Errors of [`read`]; [`ErrorKind::InvalidData`] if it is not UTF-8.
pub fn read_text(path: &Path, most: u64) -> io::Result<String> {
    text(read(path, most)?).map_err(|why| io::Error::new(ErrorKind::InvalidData, why))
}

/// Decodes bytes as UTF-8, without the byte order mark that some editors write first.
///
/// # Errors
/// The other encoding, if the bytes show it; else the first line that is not UTF-8.
pub fn text(bytes: Vec<u8>) -> Result<String, String> {
    const MARK: &str = "\u{feff}";
    match bytes.as_slice() {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => return Err("it is UTF-32; save it as UTF-8".into()),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => return Err("it is UTF-16; save it as UTF-8".into()),
        // ASCII in UTF-16 has a zero in every other byte. UTF-8 text has no zeros.
        [0, first, 0, _, ..] | [first, 0, _, 0, ..] if *first != 0 => {
            return Err("it looks like UTF-16; save it as UTF-8".into());
        }
        _ => {}
    }
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let (good, _) = error.as_bytes().split_at_checked(error.utf8_error().valid_up_to()).unwrap_or_default();
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("line {line} is not UTF-8; save it as UTF-8")
    })?;
    if text.starts_with(MARK) {
        text.drain(..MARK.len());
    }
    Ok(text)
}

/// Replaces the file at `path` atomically and durably: a reader sees the old or the new content, also after a crash.
/// The content goes to a temporary file with a unique name first, so concurrent replacements do not interfere. The new
/// file gets the mode of the old one and, as far as this process may set them, its owner and group.
///
/// # Errors
/// Errors of the file system. An error before the rename leaves the old file in place.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    replace_like(path, content, path)
}

/// Like [`replace`]. If nothing is at `path`, the file gets the mode, owner and group of the file `like`, if that
/// exists.
///
/// # Errors
/// Those of [`replace`].
pub fn replace_like(path: &Path, content: &[u8], like: &Path) -> io::Result<()> {
    replace_with(path, content, like, 0o666)
}

/// Like [`replace`]. If nothing is at `path`, no other user may read the file. For a file that an operator may have given to a group.
///
/// # Errors
/// Those of [`replace`].
pub fn replace_shared(path: &Path, content: &[u8]) -> io::Result<()> {
    replace_with(path, content, path, 0o600)
}

/// Replaces a file with secrets, as [`SecretReplacement`] does.
///
/// # Errors
/// Errors of the file system. An error before the rename leaves the old file in place.
pub fn replace_secret(path: &Path, content: &[u8]) -> io::Result<()> {
    SecretReplacement::new(path)?.finish(content)
}

/// A new file that replaces what is at a path once it is complete. Only its owner can read it, even if others could read the old
/// one. It is removed if it is dropped before it is finished.
#[derive(Debug)]
pub struct SecretReplacement {
    file: File,
    partial: PathBuf,
    path: PathBuf,
}

impl SecretReplacement {
    /// Creates the file beside `path`, under a name with [`PARTIAL`].
    ///
    /// # Errors
    /// Errors of the file system; [`ErrorKind::IsADirectory`] if a directory is at `path`.
    pub fn new(path: &Path) -> io::Result<Self> {
        if fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
            return Err(ErrorKind::IsADirectory.into());
        }
        let partial = partial(path)?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
        let this = Self { file, partial, path: path.to_owned() };
        // Also under a mask that takes more.
        this.file.set_permissions(Permissions::from_mode(0o600))?;
        Ok(this)
    }

    /// Writes something and `room` further bytes, so that the disk has room for as much later.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn reserve(&mut self, content: &[u8], room: usize) -> io::Result<()> {
        self.file.write_all(content)?;
        self.file.write_all(&vec![b'\n'; room])?;
        self.file.sync_all()
    }

    /// Replaces what is at the path by a file with this content, durably. A link is replaced, not followed.
    ///
    /// # Errors
    /// Errors of the file system. An error before the rename leaves the old file in place.
    pub fn finish(mut self, content: &[u8]) -> io::Result<()> {
        self.file.rewind()?;
        self.file.write_all(content)?;
        self.file.set_len(content.len() as u64)?;
        self.file.sync_all()?;
        fs::rename(&self.partial, &self.path)?;
        sync(&self.path)
    }
}

impl Drop for SecretReplacement {
    fn drop(&mut self) {
        // After the rename, nothing has this name.
        let _ = fs::remove_file(&self.partial);
    }
}

/// Creates a directory that only this user can enter, and its parents, or takes the permissions of others from one that exists.
///
/// # Errors
/// Errors of the file system; [`ErrorKind::PermissionDenied`] if this is a link, or the directory of another user.
pub fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let found = fs::symlink_metadata(path)?;
    if !found.is_dir() || found.uid() != user() {
        return Err(io::Error::new(ErrorKind::PermissionDenied, "it is a link, or belongs to another user"));
    }
    if found.mode() & 0o077 != 0 { fs::set_permissions(path, Permissions::from_mode(0o700)) } else { Ok(()) }
}

/// Whether a regular file belongs to this user, and no other one can read or write it.
pub fn is_private(path: &Path) -> bool {
    let private = |found: &Metadata| found.is_file() && found.uid() == user() && found.mode() & 0o077 == 0;
    fs::symlink_metadata(path).is_ok_and(|found| private(&found))
}

fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// `mode` is that of a new file, before the mask of this process.
fn replace_with(path: &Path, content: &[u8], like: &Path, mode: u32) -> io::Result<()> {
    let partial = partial(path)?;
    let like = regular_at(path).or_else(|| regular_at(like));
    // Until the file has the mode of the other one, no other user may open it.
    let mode = if like.is_some() { 0o600 } else { mode };
    let written = OpenOptions::new().write(true).create_new(true).mode(mode).open(&partial).and_then(|mut file| {
        like.map_or(Ok(()), |like| adopt(&file, &like))?;
        file.write_all(content)?;
        // Whoever follows the file can tell the rename from this, however coarse the clock of the file system is.
        file.set_modified(SystemTime::now().checked_sub(TICK).unwrap_or(SystemTime::UNIX_EPOCH))?;
        file.sync_all()
    });
    let replaced = written.and_then(|()| fs::rename(&partial, path));
    if replaced.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&partial);
    }
    replaced?;
    sync(path)
}

/// Renames a file durably. The file gets the mode, owner and group of the one that it replaces, as far as this process
/// may set them.
///
/// # Errors
/// Errors of the file system.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    if let (Some(like), Ok((file, _))) = (regular_at(to), open(from)) {
        // In a directory of this user, a file of another user can be renamed but not changed.
        let _ = adopt(&file, &like);
    }
    fs::rename(from, to)?;
    sync(to)
}

fn regular_at(path: &Path) -> Option<Metadata> {
    fs::metadata(path).ok().filter(Metadata::is_file)
}

/// Gives a file the mode, owner and group of another one.
fn adopt(file: &File, like: &Metadata) -> io::Result<()> {
    let own = file.metadata()?;
    let mut group = own.gid();
    if (own.uid(), own.gid()) != (like.uid(), like.gid()) {
        // Only root can change the owner. The owner can set a group that it belongs to.
        let given = fchown(file, Some(like.uid()), Some(like.gid())).or_else(|_| fchown(file, None, Some(like.gid())));
        group = if given.is_ok() { like.gid() } else { own.gid() };
    }
    let mut mode = like.mode() & 0o777;
    if group != like.gid() {
        // The group differs, so it gets the permissions of others, not those of the old group.
        mode = mode & !0o070 | (mode & 0o007) << 3;
    }
    // A change of owner clears bits of the mode, so the mode is set last.
    if file.metadata()?.mode() & 0o777 != mode { file.set_permissions(Permissions::from_mode(mode)) } else { Ok(()) }
}

/// Syncs the directory of `path`, so that a rename in it is on disk.
fn sync(path: &Path) -> io::Result<()> {
    match File::open(parent(path))?.sync_all() {
        // Some file systems cannot sync directories.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        synced => synced,
    }
}

/// The part of a temporary file's name after a dot and the final name. It is renamed once it is written.
pub const PARTIAL: &str = ".new.";

fn partial(path: &Path) -> io::Result<PathBuf> {
    let unique = getrandom::u64().map_err(io::Error::other)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(parent(path).join(format!(".{name}{PARTIAL}{unique:016x}")))
}

/// What changes when a file changes: device and inode, time of change, and size.
pub type FileStamp = (u64, u64, i64, i64, u64);

/// Returns the stamp of a file, through links; `None` if it is missing. To notice changes, events of the file system would not do: a
/// file that a Secret mounts by `subPath`, and a symlink that is replaced, cause none for their path.
pub fn stamp(path: &Path) -> Option<FileStamp> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec(), metadata.size()))
}

/// Whether a file was complete when it came to its path: it was renamed after it was last written, or a link by which it is found was
/// made after that, as Kubernetes does with a Secret. `false` if that cannot be known: with another name, or where the clock of the file
/// system has not moved in between.
fn is_placed(path: &Path) -> bool {
    let mut links = Vec::new();
    let Ok(found) = fs::symlink_metadata(real(path, &mut links)) else { return false };
    let changed = |found: &Metadata| (found.ctime(), found.ctime_nsec());
    let is_linked = |link: &PathBuf| {
        // The clocks of two file systems say nothing of an order.
        fs::symlink_metadata(link).is_ok_and(|link| link.dev() == found.dev() && changed(&link) > changed(&found))
    };
    let is_renamed = !links.iter().any(|link| link == path)
        && found.nlink() == 1
        && (found.mtime(), found.mtime_nsec()) != changed(&found);
    found.is_file() && (is_renamed || links.iter().any(is_linked))
}

/// Returns device and inode, which identify a file or directory under any name.
pub fn identity(metadata: &Metadata) -> String {
    format!("{}:{}", metadata.dev(), metadata.ino())
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether `path` is `directory` or inside it, through any names and links. Neither needs to exist.
pub fn is_inside(path: &Path, directory: &Path) -> bool {
    real(path, &mut Vec::new()).starts_with(real(directory, &mut Vec::new()))
}

/// Whether `path`, or a link by which it is found, is `directory` or inside it: who can write there can replace what is read from
/// `path`. Neither needs to exist.
pub fn leads_through(path: &Path, directory: &Path) -> bool {
    let (mut links, directory) = (Vec::new(), real(directory, &mut Vec::new()));
    real(path, &mut links).starts_with(&directory) || links.iter().any(|link| link.starts_with(&directory))
}

/// Resolves `path` to its canonical form. Components that do not exist stay as they are. At most [`LINKS`] links are followed, and
/// added to `links`.
fn real(path: &Path, links: &mut Vec<PathBuf>) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut known = PathBuf::new();
    for part in absolute.components() {
        match part {
            // The links before it are resolved, so this is the parent of their target.
            Component::ParentDir => drop(known.pop()),
            part => known.push(part),
        }
        if links.len() < LINKS
            && let Ok(target) = known.read_link()
        {
            links.push(known.clone());
            known = real(&parent(&known).join(target), links);
        }
    }
    known
}

#[cfg(test)]
mod tests;
