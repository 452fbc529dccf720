//! Possession of a database: by one process at a time, and of the file that is at its path.

use std::fs::{self, File, Metadata, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::clock::Timestamp;
use crate::error::Error;
use crate::sqlite::OpenError;

/// Opening does not wait, should the path be that of a FIFO.
const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();

/// Digits of a time.
const DIGITS: usize = 20;

/// Why nothing is written.
const REPLACED: &str =
    "the file of the database was removed or replaced while in use: put it back, or restart the host";

/// Proof that no other process uses a database.
pub(super) struct Possession {
    lock: File,
    /// The files that must stay at their paths.
    files: Vec<(PathBuf, Identity)>,
}

/// Device and inode of a file.
type Identity = (u64, u64);

impl Possession {
    /// Takes possession of the database at `path`, and returns its path without symbolic links. Creates an empty file if there
    /// is none, which only its owner can read; SQLite gives its other files the same mode.
    ///
    /// # Errors
    /// If another process has it, or this is no regular file.
    pub(super) fn take(path: &Path) -> Result<(Possession, PathBuf), OpenError> {
        let unusable = |error: io::Error| OpenError::Unusable { path: path.to_owned(), detail: error.to_string() };
        // Two names of one file have the same lock.
        let real = match path.canonicalize() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create(path).and_then(|_| path.canonicalize()).map_err(unusable)?
            }
            // Not opened: closing another handle of it would release the locks of SQLite.
            real => real.map_err(unusable)?,
        };
        regular(&real).map_err(unusable)?;
        let name = beside(&real, "-lock");
        let lock = create(&name).and_then(|file| regular(&name).map(|_| file)).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
        }
        let held = lock.metadata().map_err(unusable)?;
        Ok((Possession { lock, files: vec![(name, identity(&held))] }, real))
    }

    /// Remembers which files are open, once they are.
    ///
    /// # Errors
    /// If they are not there.
    pub(super) fn opened(&mut self, path: &Path) -> io::Result<()> {
        for file in [path.to_owned(), beside(path, "-wal")] {
            let found = identity(&fs::metadata(&file)?);
            self.files.push((file, found));
        }
        Ok(())
    }

    /// The time of the last write that is known, by the clock that entries expire by.
    pub(super) fn last_time(&self) -> Option<Timestamp> {
        let mut text = [0; DIGITS];
        self.lock.read_exact_at(&mut text, 0).ok()?;
        std::str::from_utf8(&text).ok()?.parse().ok().map(Timestamp::new)
    }

    /// Keeps the time of a write, beside the database: a backup that is used elsewhere does not contain it.
    pub(super) fn keep_time(&self, now: Timestamp) {
        // Without it, the next start has the clock of the system.
        let _ = self.lock.write_all_at(format!("{:0DIGITS$}", now.milliseconds()).as_bytes(), 0);
    }

    /// Checks that all files are still at their paths. Otherwise nobody would find what is written, or another process could
    /// write at the same time.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if one is not.
    pub(super) fn check(&self) -> Result<(), Error> {
        let there =
            |(path, known): &(PathBuf, Identity)| fs::metadata(path).is_ok_and(|found| identity(&found) == *known);
        if self.files.iter().all(there) { Ok(()) } else { Err(Error::unavailable(REPLACED)) }
    }
}

impl Drop for Possession {
    fn drop(&mut self) {
        // Not only by closing the file: a process that is being started just now has a copy of every open file.
        let _ = self.lock.unlock();
    }
}

/// Whether another process uses the database at `path`, which exists.
pub fn is_in_use(path: &Path) -> bool {
    matches!(Possession::take(path), Err(OpenError::InUse { .. }))
}

fn create(path: &Path) -> io::Result<File> {
    File::options().create(true).truncate(false).read(true).write(true).mode(0o600).custom_flags(NONBLOCK).open(path)
}

fn regular(path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.is_file() { Ok(()) } else { Err(io::Error::other("it is not a regular file")) }
}

fn identity(metadata: &Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

/// The path of a file beside the database.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
