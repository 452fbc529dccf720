//! Files that other programs write: one way to open, read and replace them.
//!
//! A name in a directory may be anything: a FIFO whose open waits for a writer, a link to a device that never ends, a
//! file that grows while it is read. [`open`] waits for none of them and gives out regular files only, and every read
//! has a bound. A file system that hangs keeps its caller waiting all the same, so reads of what is served run on threads
//! that the end of the host does not wait for.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Component, Path, PathBuf};

use rustix::fs::OFlags;

/// As many links to nothing as Linux follows of all links together.
const LINKS: u32 = 40;

/// Why a name is not opened.
const IRREGULAR: &str = "it is not a regular file";

/// Opens a regular file for reading, through links, without waiting for a writer or a device.
///
/// # Errors
/// Those of the file system; [`ErrorKind::InvalidInput`] for anything but a regular file.
pub fn open(path: &Path) -> io::Result<(File, Metadata)> {
    // To open a device may have effects of its own, so most are refused by name. The descriptor decides.
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

/// The content of a regular file of at most `most` bytes.
///
/// # Errors
/// Those of [`open`]; [`ErrorKind::FileTooLarge`] for one that is larger, whatever its metadata say.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let (file, metadata) = open(path)?;
    rest_of(&file, metadata.len(), most)
}

/// The content of an open file of at most `most` bytes; `size` is only a guess at it.
///
/// # Errors
/// Those of reading; [`ErrorKind::FileTooLarge`].
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

/// The text of a regular file of at most `most` bytes.
///
/// # Errors
/// Those of [`read`]; [`ErrorKind::InvalidData`] for what is not UTF-8.
pub fn read_text(path: &Path, most: u64) -> io::Result<String> {
    text(read(path, most)?).map_err(|why| io::Error::new(ErrorKind::InvalidData, why))
}

/// Bytes as text, without the byte order mark that some editors put before it.
///
/// # Errors
/// In which other encoding it is or, where that cannot be seen, the line that is not UTF-8.
pub fn text(bytes: Vec<u8>) -> Result<String, String> {
    const MARK: &str = "\u{feff}";
    match bytes.as_slice() {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => return Err("it is UTF-32; save it as UTF-8".into()),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => return Err("it is UTF-16; save it as UTF-8".into()),
        // ASCII in UTF-16 has a zero in every other byte, and no text has one.
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

/// Puts `content` at `path` in one step, and on disk before that: a reader sees the file before or this one, also after
/// a crash. The file that it is written to first has a name of its own, so others may do the same at the same time. The new
/// file has the mode of the one that it replaces and, as far as this process may set them, its owner and group.
///
/// # Errors
/// Those of the file system. The file before is then still there.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    replace_like(path, content, path)
}

/// The same; where nothing is at `path`, the file gets mode, owner and group of `like`, if that is a file.
///
/// # Errors
/// Those of [`replace`].
pub fn replace_like(path: &Path, content: &[u8], like: &Path) -> io::Result<()> {
    let partial = partial(path)?;
    let like = regular_at(path).or_else(|| regular_at(like));
    // Until it has the mode of the other file, nobody else may open it.
    let mode = if like.is_some() { 0o600 } else { 0o666 };
    let written = OpenOptions::new().write(true).create_new(true).mode(mode).open(&partial).and_then(|mut file| {
        like.map_or(Ok(()), |like| adopt(&file, &like))?;
        file.write_all(content)?;
        file.sync_all()
    });
    let replaced = written.and_then(|()| fs::rename(&partial, path));
    if replaced.is_err() {
        // The first error counts.
        let _ = fs::remove_file(&partial);
    }
    replaced?;
    sync(path)
}

/// Renames a file of a directory, and waits until that is on disk. The file takes mode, owner and group of the one that it
/// replaces, as far as this process may set them.
///
/// # Errors
/// Those of the file system.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    if let (Some(like), Ok((file, _))) = (regular_at(to), open(from)) {
        // Another user's file in a directory of ours can be renamed and not changed.
        let _ = adopt(&file, &like);
    }
    fs::rename(from, to)?;
    sync(to)
}

fn regular_at(path: &Path) -> Option<Metadata> {
    fs::metadata(path).ok().filter(Metadata::is_file)
}

/// Gives a file mode, owner and group of another.
fn adopt(file: &File, like: &Metadata) -> io::Result<()> {
    let own = file.metadata()?;
    let mut group = own.gid();
    if (own.uid(), own.gid()) != (like.uid(), like.gid()) {
        // Only root gives files to other users; their owner may give them to a group that it belongs to.
        let given = fchown(file, Some(like.uid()), Some(like.gid())).or_else(|_| fchown(file, None, Some(like.gid())));
        group = if given.is_ok() { like.gid() } else { own.gid() };
    }
    let mut mode = like.mode() & 0o777;
    if group != like.gid() {
        // What the other file's group may do is not for this one.
        mode = mode & !0o070 | (mode & 0o007) << 3;
    }
    // A change of owner takes bits of the mode away, so the mode comes last.
    if file.metadata()?.mode() & 0o777 != mode { file.set_permissions(Permissions::from_mode(mode)) } else { Ok(()) }
}

/// Waits until the names in the directory of `path` are on disk.
fn sync(path: &Path) -> io::Result<()> {
    match File::open(parent(path))?.sync_all() {
        // Some file systems cannot do that for directories.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        synced => synced,
    }
}

/// What stands in the name of a file that is to be renamed once it is written, after a dot and the name that it gets.
pub const PARTIAL: &str = ".new.";

fn partial(path: &Path) -> io::Result<PathBuf> {
    let unique = getrandom::u64().map_err(io::Error::other)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(parent(path).join(format!(".{name}{PARTIAL}{unique:016x}")))
}

/// Device and inode, which tell a file or directory apart whatever its name is.
pub fn identity(metadata: &Metadata) -> String {
    format!("{}:{}", metadata.dev(), metadata.ino())
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether `path` is `directory` or would be inside of it, by whatever names and links both are written, whether they
/// exist or not.
pub fn is_inside(path: &Path, directory: &Path) -> bool {
    real(path, LINKS).starts_with(real(directory, LINKS))
}

/// The one name of what `path` leads to; what does not exist of it stays as it is written. At most `links` links that
/// lead to nothing are followed.
fn real(path: &Path, links: u32) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut known = PathBuf::new();
    for part in absolute.components() {
        match part {
            // Links before it were followed already, so this is the parent of what they lead to.
            Component::ParentDir => drop(known.pop()),
            part => known.push(part),
        }
        if let Ok(found) = known.canonicalize() {
            known = found;
        } else if let (Ok(target), Some(links)) = (known.read_link(), links.checked_sub(1)) {
            known = real(&parent(&known).join(target), links);
        }
    }
    known
}

#[cfg(test)]
mod tests;
