//! What waits for the disk, on threads that may.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use tokio::task::JoinHandle;

use super::BlobError;

/// Creates a directory that only its owner can read, if there is none. Waits for the disk.
pub(super) fn create(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// Returns the bytes of a file; `None` if there is none. Waits for the disk.
pub(super) fn size(path: &Path) -> Result<Option<u64>, BlobError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) => match BlobError::NoObject.absent(&error) {
            BlobError::NoObject => Ok(None),
            other => Err(other),
        },
    }
}

/// Runs `work` on a thread that may wait for the disk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    finished(tokio::task::spawn_blocking(work)).await
}

/// Waits for the end of a task.
pub(super) async fn finished<T>(task: JoinHandle<Result<T, BlobError>>) -> Result<T, BlobError> {
    task.await.unwrap_or_else(|error| Err(BlobError::Unavailable(format!("the operation did not run: {error}"))))
}
