//! The directory of a service. Files are opened beneath it: neither `..` nor a link leads out of it, whatever their path is.
//!
//! What the kernel has in memory of a local file system is opened and read at once. The rest waits for the disk, on a thread that
//! may. On any other file system (NFS, SMB, 9p, FUSE) even the status of an open file may ask a server, so all of it is on threads.

use std::fs::{self, File};
use std::io::{self, ErrorKind, IoSliceMut};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use cap_primitives::fs::{OpenOptions, OpenOptionsExt, open};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags, makedev, openat2, statx};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

/// Opens the directory of a service, unless the host must not serve it. The error is one line.
pub type OpenDirectory = dyn Fn(&Path) -> Result<File, String> + Send + Sync;

/// The file systems that answer from memory without another machine or process, by the numbers of `statfs(2)`.
const LOCAL: [i128; 12] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0x794c_7630, // overlayfs
    0xf2f5_2010, // f2fs
    0x2fc1_2fc1, // zfs
    0xca45_1a4e, // bcachefs
    0x7371_7368, // squashfs
    0xe0f5_e1e2, // erofs
    0x4d44,      // fat
];

/// For how long the directory is used that its path led to. To look every time takes a tenth of the time of a small file.
const RECENT: Duration = Duration::from_millis(10);

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
    /// The host may not read the file.
    Forbidden(String),
    /// The file cannot be opened.
    Unreadable(String),
}

/// The directory of a service, which may be replaced by another one of the same path.
pub struct Root {
    path: PathBuf,
    open: Box<OpenDirectory>,
    is_local: fn(&File) -> bool,
    current: ArcSwap<RootDirectory>,
    created: Instant,
    /// When the path led to `current`, in milliseconds after `created`.
    checked: AtomicU64,
    /// For how long that holds.
    pub(super) recent: Duration,
}

/// An open directory.
pub(super) struct RootDirectory {
    /// `None` while it is dropped.
    file: Option<File>,
    identity: (u64, u64),
    reads: Reads,
}

/// How the files of a directory can be read.
#[derive(Clone, Debug)]
pub(super) struct Reads {
    /// The file system is one of [`LOCAL`].
    is_local: bool,
    /// A read cannot find out whether it would wait: overlayfs, and tmpfs of older kernels.
    cannot_tell: Arc<AtomicBool>,
}

/// A file or directory below the root.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) file: File,
    pub(super) reads: Reads,
    pub(super) is_directory: bool,
    /// The size in bytes.
    pub(super) size: u64,
    /// When its content was changed, in nanoseconds since 1970.
    pub(super) modified: i128,
    /// When anything of it was changed, as the kernel recorded it. No program can set it.
    pub(super) changed: i128,
}

impl Root {
    /// Opens the directory at `path`. Waits for the disk.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn new(path: PathBuf, open: Box<OpenDirectory>) -> Result<Self, String> {
        Self::on(path, open, is_local)
    }

    /// Opens a directory whose file system is what `is_local` says.
    pub(super) fn on(path: PathBuf, open: Box<OpenDirectory>, is_local: fn(&File) -> bool) -> Result<Self, String> {
        let current = ArcSwap::from_pointee(RootDirectory::new(open(&path)?, is_local)?);
        let (created, checked) = (Instant::now(), AtomicU64::default());
        Ok(Self { path, open, is_local, current, created, checked, recent: RECENT })
    }

    #[cfg(test)]
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a lookup may find all that it needs in memory: with the content of the file, if it `reads`.
    pub(super) fn is_fast(&self, reads: bool) -> bool {
        let known = self.current.load();
        known.reads.is_local && (!reads || known.reads.are_fast())
    }

    /// Returns the directory that the path led to a moment ago, if it is local. A file that is missing there may be in the one
    /// that it leads to [now](Self::current).
    pub(super) fn recent(&self) -> Option<Arc<RootDirectory>> {
        let known = self.current.load();
        let age = self.created.elapsed().saturating_sub(Duration::from_millis(self.checked.load(Relaxed)));
        (known.reads.is_local && age < self.recent).then(|| Arc::clone(&known))
    }

    /// Returns the directory that the path leads to now: a tool that builds a site may replace it.
    pub(super) fn current(&self, access: ReadFrom) -> Result<Arc<RootDirectory>, Unopened> {
        let (known, at) = (self.current.load(), self.created.elapsed());
        let checked = || self.checked.store(u64::try_from(at.as_millis()).unwrap_or_default(), Relaxed);
        let now = match access {
            ReadFrom::Memory if !known.reads.is_local => return Err(Unopened::WouldWait),
            ReadFrom::Memory => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let found = openat2(CWD, &self.path, flags, Mode::empty(), ResolveFlags::CACHED);
                // Without a question to a server: the path may lead to another file system by now.
                let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
                let found = found.and_then(|found| statx(found, c"", flags, StatxFlags::INO));
                let found = found.map_err(|_| Unopened::WouldWait)?;
                (makedev(found.stx_dev_major, found.stx_dev_minor), found.stx_ino)
            }
            ReadFrom::Disk => {
                let found = fs::metadata(&self.path);
                let found = found.map_err(|error| Unopened::NoRoot(format!("{}: {error}", self.path.display())))?;
                (found.dev(), found.ino())
            }
        };
        match access {
            _ if now == known.identity => {
                checked();
                Ok(Arc::clone(&known))
            }
            ReadFrom::Memory => Err(Unopened::WouldWait),
            ReadFrom::Disk => {
                let opened = (self.open)(&self.path).and_then(|file| RootDirectory::new(file, self.is_local));
                let opened = opened.map_err(|why| Unopened::NoRoot(format!("{}: {why}", self.path.display())))?;
                let opened = Arc::new(opened);
                self.current.store(Arc::clone(&opened));
                checked();
                Ok(opened)
            }
        }
    }
}

impl RootDirectory {
    fn new(file: File, is_local: fn(&File) -> bool) -> Result<Self, String> {
        let metadata = file.metadata().map_err(|error| error.to_string())?;
        let reads = Reads { is_local: is_local(&file), cannot_tell: Arc::default() };
        Ok(Self { identity: (metadata.dev(), metadata.ino()), file: Some(file), reads })
    }

    /// Opens a regular file or a directory. An open of a FIFO or a device does not wait, and is refused.
    pub(super) fn open(&self, path: &Path, access: ReadFrom) -> Result<OpenFile, Unopened> {
        // The root itself.
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let Some(root) = &self.file else { return Err(Unopened::Absent) };
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match access {
            ReadFrom::Memory => {
                // Another file system below this one need not be local.
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
                let (resolve, flags) = (resolve | ResolveFlags::CACHED, flags | OFlags::RDONLY | OFlags::CLOEXEC);
                match openat2(root, path, flags, Mode::empty(), resolve) {
                    Ok(file) => File::from(file),
                    Err(Errno::NOENT | Errno::NOTDIR) => return Err(Unopened::Absent),
                    Err(_) => return Err(Unopened::WouldWait),
                }
            }
            ReadFrom::Disk => {
                let mut options = OpenOptions::new();
                options.read(true).custom_flags(flags.bits().cast_signed());
                open(root, path, &options).map_err(|error| Unopened::of(&error))?
            }
        };
        let metadata = file.metadata().map_err(|error| Unopened::of(&error))?;
        if !metadata.is_file() && !metadata.is_dir() {
            return Err(Unopened::Absent);
        }
        let is_local = self.reads.is_local && (access == ReadFrom::Memory || metadata.dev() == self.identity.0);
        Ok(OpenFile {
            is_directory: metadata.is_dir(),
            size: metadata.len(),
            modified: nanos(metadata.mtime(), metadata.mtime_nsec()),
            changed: nanos(metadata.ctime(), metadata.ctime_nsec()),
            reads: Reads { is_local, cannot_tell: Arc::clone(&self.reads.cannot_tell) },
            file,
        })
    }
}

impl Drop for RootDirectory {
    /// Closes the directory where that may ask a server.
    fn drop(&mut self) {
        let runtime = tokio::runtime::Handle::try_current().ok().filter(|_| !self.reads.is_local);
        if let Some((file, runtime)) = self.file.take().zip(runtime) {
            runtime.spawn_blocking(move || drop(file));
        }
    }
}

impl Reads {
    /// Whether the file system is local.
    pub(super) fn are_local(&self) -> bool {
        self.is_local
    }

    /// Whether what is in memory can be read at once.
    pub(super) fn are_fast(&self) -> bool {
        self.is_local && !self.cannot_tell.load(Relaxed)
    }
}

/// Whether the file system of an open file never asks another machine or process for what the kernel has in memory. Waits for it.
fn is_local(file: &File) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|found| LOCAL.contains(&i128::from(found.f_type)))
}

impl Unopened {
    fn of(error: &io::Error) -> Self {
        let gone = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename);
        // A link that leads out of the directory is no error of the system. ELOOP: links in a circle; ENXIO: a socket.
        let out = error.kind() == ErrorKind::PermissionDenied && error.raw_os_error().is_none();
        let odd = [Errno::LOOP, Errno::NXIO].map(Errno::raw_os_error);
        match error.raw_os_error().is_some_and(|number| odd.contains(&number)) || gone || out {
            true => Self::Absent,
            // EACCES, EPERM. The rights of one file say nothing of the service.
            false if error.kind() == ErrorKind::PermissionDenied => Self::Forbidden(error.to_string()),
            false => Self::Unreadable(error.to_string()),
        }
    }
}

impl OpenFile {
    /// The time of the last change of anything, if the file system records it.
    pub(super) fn changed(&self) -> Option<SystemTime> {
        /// The end of the year 9999, which a date in a header cannot pass.
        const LAST: u64 = 253_402_300_799;
        let seconds = u64::try_from(self.changed.div_euclid(1_000_000_000)).ok()?;
        (1..=LAST).contains(&seconds).then(|| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }
}

/// The size of a file, and when its content was changed, in nanoseconds since 1970: what must be the same while it is sent. A file
/// that is replaced or deleted meanwhile is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ContentStamp {
    size: u64,
    modified: i128,
}

impl ContentStamp {
    /// Returns that of an open file, which must be local if the caller may not wait.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        file.metadata().map(|found| Self { size: found.len(), modified: nanos(found.mtime(), found.mtime_nsec()) })
    }
}

impl From<&OpenFile> for ContentStamp {
    fn from(file: &OpenFile) -> Self {
        Self { size: file.size, modified: file.modified }
    }
}

fn nanos(seconds: i64, rest: i64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(rest)
}

/// Reads from an offset into `buffer`. Returns the number of bytes, 0 at the end; `None` if it would wait for the disk.
///
/// # Errors
/// Those of the file system.
pub(super) fn read(
    (file, reads): (&File, &Reads),
    offset: u64,
    buffer: &mut [u8],
    access: ReadFrom,
) -> io::Result<Option<usize>> {
    let read = match access {
        ReadFrom::Memory if !reads.are_fast() => return Ok(None),
        ReadFrom::Memory => match preadv2(file, &mut [IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT) {
            Ok(read) => Ok(read),
            Err(error) => {
                if error == Errno::OPNOTSUPP {
                    reads.cannot_tell.store(true, Relaxed);
                }
                return Ok(None);
            }
        },
        ReadFrom::Disk => loop {
            match rustix::io::pread(file, &mut *buffer, offset) {
                Err(Errno::INTR) => {}
                read => break read,
            }
        },
    };
    Ok(Some(read?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(path: &str, is_local: fn(&File) -> bool) -> Root {
        let open = |path: &Path| File::open(path).map_err(|error| error.to_string());
        Root::on(path.into(), Box::new(open), is_local).unwrap()
    }

    /// Whether a file may be read says nothing of its service, and is no way to open a breaker.
    #[test]
    fn errors_of_the_system() {
        let of = |error: Errno| Unopened::of(&error.into());
        for error in [Errno::ACCESS, Errno::PERM] {
            assert!(matches!(of(error), Unopened::Forbidden(_)), "{error}");
        }
        for error in [Errno::NOENT, Errno::NOTDIR, Errno::NAMETOOLONG, Errno::LOOP, Errno::NXIO] {
            assert!(matches!(of(error), Unopened::Absent), "{error}");
        }
        for error in [Errno::IO, Errno::NFILE, Errno::MFILE, Errno::STALE] {
            assert!(matches!(of(error), Unopened::Unreadable(_)), "{error}");
        }
    }

    #[test]
    fn file_systems_are_known() {
        assert!(!is_local(&File::open("/proc").unwrap()));
        assert!(!root("/proc", is_local).is_fast(false));
        assert!(root("/proc", |_| true).is_fast(true));
    }

    /// Of a file system below the directory it is not known whether it is local.
    #[test]
    fn other_file_systems_below_are_not_local() {
        let (root, null) = (root("/", |_| true), fs::metadata("/proc/version").unwrap());
        let current = root.current(ReadFrom::Disk).unwrap();
        assert_ne!(null.dev(), current.identity.0);
        let opened = current.open(Path::new("proc/version"), ReadFrom::Disk).unwrap();
        assert!(!opened.reads.are_local() && !opened.reads.are_fast());
        // A device is none of the files that are served, and the kernel has it in memory.
        if fs::metadata("/dev/null").unwrap().dev() != current.identity.0 {
            let found = (0..100).map(|_| current.open(Path::new("dev/null"), ReadFrom::Memory));
            assert!(found.into_iter().all(|found| matches!(found, Err(Unopened::WouldWait))));
        }
    }
}
