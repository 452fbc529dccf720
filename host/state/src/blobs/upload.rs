//! Objects as they are written.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;

use tokio::sync::{Mutex as AsyncMutex, OwnedSemaphorePermit};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::space::BlobSpace;
use super::temporary::TemporaryFile;
use super::{BlobError, PIECE};

/// Bytes after which what was written goes to the disk, so that publishing a large object has to wait for few of them.
const SYNC: u64 = 16 << 20;

/// The error of a write that is not waited for, and of one after the object was published.
const NOT_NOW: BlobError = BlobError::Invalid {
    what: "the write",
    problem: "came before the end of the last one, or after the object was finished",
};

/// An object that is being written. It is no object before it is published: if it is dropped, nothing has happened.
pub struct BlobUpload {
    space: Arc<BlobSpace>,
    content: Arc<AsyncMutex<Option<UploadContent>>>,
}

/// What was written so far.
struct UploadContent {
    temporary: TemporaryFile,
    file: File,
    /// Bytes that are not in the file yet, less than [`PIECE`] unless they are being written.
    buffer: Vec<u8>,
    written: u64,
    synced: u64,
    /// Why the object cannot be published any more.
    failure: Option<BlobError>,
    _place: Option<OwnedSemaphorePermit>,
}

impl BlobUpload {
    /// Creates the temporary file of an object.
    ///
    /// # Errors
    /// Those of every operation.
    pub async fn begin(space: &Arc<BlobSpace>, deadline: Instant) -> Result<Self, BlobError> {
        let place = space.place(deadline).await?;
        let create = move |space: &Arc<BlobSpace>| {
            let temporary = space.temporary_file();
            let file = File::options().write(true).create_new(true).mode(0o600).open(temporary.path())?;
            let (buffer, failure) = (Vec::new(), None);
            Ok(UploadContent { temporary, file, buffer, written: 0, synced: 0, failure, _place: place })
        };
        let content = space.run(deadline, create).await?;
        Ok(Self { space: Arc::clone(space), content: Arc::new(AsyncMutex::new(Some(content))) })
    }

    /// Adds bytes. Returns a task that must end before the next write begins, unless they fit into memory.
    ///
    /// # Errors
    /// [`BlobError::Full`] if the quota does not have them. After an error, the object cannot be published.
    pub fn write(&self, bytes: &[u8]) -> Result<Option<JoinHandle<Result<(), BlobError>>>, BlobError> {
        let Ok(mut slot) = Arc::clone(&self.content).try_lock_owned() else { return Err(NOT_NOW) };
        let content = slot.as_mut().ok_or(NOT_NOW)?;
        content.add(bytes)?;
        if content.buffer.len() < PIECE {
            return Ok(None);
        }
        Ok(Some(self.space.start(move |_| slot.as_mut().map_or(Ok(()), UploadContent::flush))))
    }

    /// Waits until the object is on the disk, and gives it its name, by which it replaces another. Returns its bytes.
    ///
    /// # Errors
    /// [`BlobError::NoContainer`], the error of a write that failed, and those of every operation. Except after
    /// [`BlobError::Timeout`], nothing has changed.
    pub async fn publish(&self, name: (&str, &str), deadline: Instant) -> Result<u64, BlobError> {
        let path = self.space.object(name)?;
        let slot = timeout_at(deadline, self.content.lock()).await;
        let content = slot.map_err(|_| BlobError::Timeout)?.take().ok_or(NOT_NOW)?;
        let publish = move |space: &Arc<BlobSpace>| {
            let UploadContent { temporary, written, .. } = content.complete()?;
            space.publish(temporary, &path)?;
            Ok(written)
        };
        self.space.run(deadline, publish).await
    }
}

impl UploadContent {
    fn add(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let charged = self.temporary.charge(bytes.len() as u64);
        self.noted(charged)?;
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// Writes what is in memory. Waits for the disk.
    fn flush(&mut self) -> Result<(), BlobError> {
        let written = self.write();
        self.noted(written)
    }

    fn write(&mut self) -> Result<(), BlobError> {
        self.file.write_all_at(&self.buffer, self.written)?;
        self.written = self.written.saturating_add(self.buffer.len() as u64);
        self.buffer.clear();
        if self.written.saturating_sub(self.synced) >= SYNC {
            self.file.sync_data()?;
            self.synced = self.written;
        }
        Ok(())
    }

    /// Remembers a failure.
    fn noted(&mut self, result: Result<(), BlobError>) -> Result<(), BlobError> {
        self.failure = self.failure.take().or_else(|| result.as_ref().err().cloned());
        result
    }

    /// Returns the content when all of it is on the disk. Waits for it.
    fn complete(mut self) -> Result<Self, BlobError> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        self.write()?;
        self.file.sync_all()?;
        Ok(self)
    }
}
