//! A file that arrives from a registry. It gets its name once it is complete and its digest is right; what has arrived is
//! kept, so that the next attempt continues.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use lodge_manifest::digest::Digest;
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;

use super::RegistryError;
use lodge_base::files;

/// The end of the name of a file that is not complete.
pub(super) const EXTENSION: &str = "part";

/// Bytes that are read at a time.
const PART: usize = 256 << 10;

/// The bytes of a file that have arrived. No other process writes it.
pub struct PartialFile {
    file: File,
    path: PathBuf,
    hasher: Sha256,
    length: u64,
}

impl PartialFile {
    /// Opens the file at `path`, with what an earlier attempt has left. Blocking: reads that.
    ///
    /// # Errors
    /// If it cannot be written, or another process writes it.
    pub fn open(path: &Path) -> Result<Self, RegistryError> {
        let failed = |error: io::Error| RegistryError::of_file(path, &error);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o666).custom_flags(OWN);
        let file = options.open(path).map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(RegistryError::new(format!("{} is not a regular file", path.display())));
        }
        let other = || RegistryError::new(format!("another process writes {}", path.display()));
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(other()),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // Another process may have completed it before it could be locked.
        let [own, named] = [file.metadata(), fs::metadata(path)].map(|found| found.ok().map(|it| files::identity(&it)));
        if own != named {
            return Err(other());
        }
        let mut this = Self { file, path: path.to_owned(), hasher: Sha256::new(), length: 0 };
        this.read_back().map_err(failed)?;
        Ok(this)
    }

    fn read_back(&mut self) -> io::Result<()> {
        let mut part = vec![0; PART];
        loop {
            let read = self.file.read(&mut part)?;
            let Some(bytes) = part.get(..read).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
            self.hasher.update(bytes);
            self.length = self.length.saturating_add(read as u64);
        }
    }

    /// Returns the number of bytes that have arrived.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Discards what has arrived. Blocking.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        (self.hasher, self.length) = (Sha256::new(), 0);
        Ok(())
    }

    /// Appends bytes, on a thread that may wait for the disk.
    pub(super) async fn append(mut self, bytes: Bytes) -> Result<Self, RegistryError> {
        let written = spawn_blocking(move || {
            self.file.write_all(&bytes).map_err(|error| self.failed(&error))?;
            self.hasher.update(&bytes);
            self.length = self.length.saturating_add(bytes.len() as u64);
            Ok(self)
        });
        written.await.unwrap_or_else(|error| Err(RegistryError::new(error.to_string())))
    }

    /// Gives the file the name `to`, if this is its digest. Otherwise removes it. Blocking.
    ///
    /// # Errors
    /// If the digest is another one, or the file cannot be renamed.
    pub(super) fn finish(self, digest: Digest, to: &Path) -> Result<(), RegistryError> {
        let found = Digest::from(<[u8; 32]>::from(self.hasher.clone().finalize()));
        if found != digest {
            let _ = fs::remove_file(&self.path);
            let why = format!("the registry sent sha256:{found} in place of sha256:{digest}");
            return Err(RegistryError::new(why));
        }
        let named = self.file.sync_all().and_then(|()| files::rename(&self.path, to));
        named.map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &io::Error) -> RegistryError {
        RegistryError::of_file(&self.path, error)
    }
}

/// Returns the name of the reference whose component arrives in this file, if there is one.
pub(super) fn reference(path: &Path) -> Option<Digest> {
    let name = path.file_name()?.to_str()?.strip_suffix(EXTENSION)?;
    Digest::read(name.split('.').next()?)
}

/// Removes a file that nothing is written to. Returns whether it is gone. Blocking.
pub(super) fn remove_idle(path: &Path) -> bool {
    let file = OpenOptions::new().read(true).write(true).custom_flags(OWN).open(path);
    file.is_ok_and(|file| file.try_lock().is_ok() && fs::remove_file(path).is_ok())
}

/// A link could lead to any file of the user, and a FIFO has to wait for a reader.
const OWN: i32 = rustix::fs::OFlags::NOFOLLOW.union(rustix::fs::OFlags::NONBLOCK).bits().cast_signed();
