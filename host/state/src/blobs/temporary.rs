//! Files that are not objects yet, and directories that are no containers any more.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::{fs, io};

use super::BlobError;
use super::usage::{BlobAccount, BlobUsage};
use crate::closing::close;

/// The directory with temporary files of all services. No service has a name that is encoded like this.
const DIRECTORY: &str = ".temporary";

/// The temporary files of a host.
pub(super) struct TemporaryFiles {
    directory: PathBuf,
    next: AtomicU64,
}

impl TemporaryFiles {
    /// Removes what an earlier process has left, which must have ended. Waits for the disk.
    pub(super) fn sweep(blobs: &Path) -> io::Result<Self> {
        let directory = blobs.join(DIRECTORY);
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir(&directory)?,
        }
        Ok(Self { directory, next: AtomicU64::new(0) })
    }

    /// A path that nothing has had in this process.
    pub(super) fn path(&self) -> PathBuf {
        self.directory.join(self.next.fetch_add(1, Relaxed).to_string())
    }
}

/// A temporary file, which is removed when this is dropped, and the bytes that the service was charged for it.
pub(super) struct TemporaryFile {
    account: Arc<BlobAccount>,
    path: PathBuf,
    bytes: u64,
}

impl TemporaryFile {
    /// A file that is about to be created at `path`.
    pub(super) fn new(path: PathBuf, account: &Arc<BlobAccount>) -> Self {
        Self { account: Arc::clone(account), path, bytes: 0 }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Charges the service for more bytes.
    pub(super) fn charge(&mut self, bytes: u64) -> Result<(), BlobError> {
        self.account.take_bytes(bytes)?;
        self.bytes = self.bytes.saturating_add(bytes);
        Ok(())
    }

    /// The bytes are those of an object from now on.
    pub(super) fn keep_bytes(&mut self) {
        self.bytes = 0;
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let removal =
            Removal { account: Arc::clone(&self.account), path: std::mem::take(&mut self.path), bytes: self.bytes };
        close(removal);
    }
}

/// Removes a file, and gives its bytes back.
struct Removal {
    account: Arc<BlobAccount>,
    path: PathBuf,
    bytes: u64,
}

impl Drop for Removal {
    fn drop(&mut self) {
        // It may have been renamed.
        let _ = fs::remove_file(&self.path);
        self.account.give_back(BlobUsage::only_bytes(self.bytes));
    }
}
