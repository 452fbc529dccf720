//! The directory of a service. Files are opened beneath it: neither `..` nor a link leads out of it, whatever their path is.
//!
//! What the kernel has in memory is opened and read at once. The rest waits for the disk, on a thread that may.

use std::fs::{self, File};
use std::io::{self, ErrorKind, IoSliceMut};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use cap_primitives::fs::{OpenOptions, OpenOptionsExt, open};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

/// Opens the directory of a service, unless the host must not serve it. The error is one line.
pub type OpenDirectory = dyn Fn(&Path) -> Result<File, String> + Send + Sync;

/// Whether a lookup may wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadFrom {
    /// No: it fails with [`Unopened::WouldWait`] instead.
    Memory,
    /// Yes.
    Disk,
}

/// The reason why there is no file.
#[derive(Debug)]
pub(super) enum Unopened {
    /// There is none below the root.
    Absent,
    /// It is not known without the disk.
    WouldWait,
    /// The root cannot be opened.
    NoRoot(String),
    /// The file cannot be opened.
    Unreadable(String),
}

/// The directory of a service, which may be replaced by another one of the same path.
pub struct Root {
    path: PathBuf,
    open: Box<OpenDirectory>,
    current: ArcSwap<RootDirectory>,
}

/// An open directory.
pub(super) struct RootDirectory {
    file: File,
    identity: (u64, u64),
}

/// A file or directory below the root.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) file: File,
    pub(super) is_directory: bool,
    /// The size in bytes.
    pub(super) size: u64,
    /// When its content was changed, in nanoseconds since 1970.
    pub(super) modified: i128,
    /// When anything of it was changed.
    pub(super) changed: i128,
}

impl Root {
    /// Opens the directory at `path`. Waits for the disk.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn new(path: PathBuf, open: Box<OpenDirectory>) -> Result<Self, String> {
        let current = ArcSwap::from_pointee(RootDirectory::new(open(&path)?)?);
        Ok(Self { path, open, current })
    }

    /// Returns the directory that the path leads to now: a tool that builds a site may replace it.
    pub(super) fn current(&self, access: ReadFrom) -> Result<Arc<RootDirectory>, Unopened> {
        let known = self.current.load();
        let now = match access {
            ReadFrom::Memory => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let found = openat2(CWD, &self.path, flags, Mode::empty(), ResolveFlags::CACHED);
                let found = found.and_then(rustix::fs::fstat).map_err(|_| Unopened::WouldWait)?;
                #[expect(clippy::useless_conversion, reason = "its type differs among systems")]
                (u64::try_from(found.st_dev).unwrap_or_default(), u64::try_from(found.st_ino).unwrap_or_default())
            }
            ReadFrom::Disk => {
                let found = fs::metadata(&self.path);
                let found = found.map_err(|error| Unopened::NoRoot(format!("{}: {error}", self.path.display())))?;
                (found.dev(), found.ino())
            }
        };
        match access {
            _ if now == known.identity => Ok(Arc::clone(&known)),
            ReadFrom::Memory => Err(Unopened::WouldWait),
            ReadFrom::Disk => {
                let opened = (self.open)(&self.path).and_then(RootDirectory::new);
                let opened = opened.map_err(|why| Unopened::NoRoot(format!("{}: {why}", self.path.display())))?;
                let opened = Arc::new(opened);
                self.current.store(Arc::clone(&opened));
                Ok(opened)
            }
        }
    }
}

impl RootDirectory {
    fn new(file: File) -> Result<Self, String> {
        let metadata = file.metadata().map_err(|error| error.to_string())?;
        Ok(Self { identity: (metadata.dev(), metadata.ino()), file })
    }

    /// Opens a regular file or a directory. An open of a FIFO or a device does not wait, and is refused.
    pub(super) fn open(&self, path: &Path, access: ReadFrom) -> Result<OpenFile, Unopened> {
        // The root itself.
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match access {
            ReadFrom::Memory => {
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::CACHED;
                let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC;
                match openat2(&self.file, path, flags, Mode::empty(), resolve) {
                    Ok(file) => File::from(file),
                    Err(Errno::NOENT | Errno::NOTDIR) => return Err(Unopened::Absent),
                    Err(_) => return Err(Unopened::WouldWait),
                }
            }
            ReadFrom::Disk => {
                let mut options = OpenOptions::new();
                options.read(true).custom_flags(flags.bits().cast_signed());
                open(&self.file, path, &options).map_err(|error| Unopened::of(&error))?
            }
        };
        let metadata = file.metadata().map_err(|error| Unopened::of(&error))?;
        if !metadata.is_file() && !metadata.is_dir() {
            return Err(Unopened::Absent);
        }
        let nanos = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Ok(OpenFile {
            is_directory: metadata.is_dir(),
            size: metadata.len(),
            modified: nanos(metadata.mtime(), metadata.mtime_nsec()),
            changed: nanos(metadata.ctime(), metadata.ctime_nsec()),
            file,
        })
    }
}

impl Unopened {
    fn of(error: &io::Error) -> Self {
        let gone = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename);
        // A link that leads out of the directory is no error of the system. ELOOP: links in a circle; ENXIO: a socket.
        let out = error.kind() == ErrorKind::PermissionDenied && error.raw_os_error().is_none();
        let odd = [Errno::LOOP, Errno::NXIO].map(Errno::raw_os_error);
        match error.raw_os_error().is_some_and(|number| odd.contains(&number)) || gone || out {
            true => Self::Absent,
            false => Self::Unreadable(error.to_string()),
        }
    }
}

impl OpenFile {
    /// The time of the last change, if the file has a real one: tools that build reproducibly set one that says nothing.
    pub(super) fn modified(&self) -> Option<SystemTime> {
        /// 2 January 1980: the first times of ZIP, and all that are earlier.
        const REAL: u64 = 315_619_200;
        /// The end of the year 9999, which a date in a header cannot pass.
        const LAST: u64 = 253_402_300_799;
        let seconds = u64::try_from(self.modified.div_euclid(1_000_000_000)).ok()?;
        (REAL..=LAST).contains(&seconds).then(|| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }
}

/// Reads from an offset into `buffer`. Returns the number of bytes, 0 at the end; `None` if it would wait for the disk.
///
/// # Errors
/// Those of the file system.
pub(super) fn read(file: &File, offset: u64, buffer: &mut [u8], access: ReadFrom) -> io::Result<Option<usize>> {
    let read = match access {
        ReadFrom::Memory => {
            match preadv2(file, &mut [IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT) {
                Ok(read) => Ok(read),
                // Also a file system that cannot tell.
                Err(_) => return Ok(None),
            }
        }
        ReadFrom::Disk => loop {
            match rustix::io::pread(file, &mut *buffer, offset) {
                Err(Errno::INTR) => {}
                read => break read,
            }
        },
    };
    Ok(Some(read?))
}
