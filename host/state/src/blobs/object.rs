//! Objects as they are read.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::space::BlobSpace;
use super::{BlobError, PIECE};

/// Opening does not follow a link, and does not wait, should the file be a FIFO: neither is an object.
const FLAGS: i32 = rustix::fs::OFlags::NOFOLLOW.union(rustix::fs::OFlags::NONBLOCK).bits().cast_signed();

/// A part of an object that is read, as it was when this was opened.
pub struct BlobObject {
    space: Arc<BlobSpace>,
    file: Arc<File>,
    position: u64,
    end: u64,
    _place: Option<OwnedSemaphorePermit>,
}

impl BlobObject {
    /// Opens the bytes of an object from `start` to `end`, both included, as far as there are any.
    ///
    /// # Errors
    /// [`BlobError::NoContainer`], [`BlobError::NoObject`], [`BlobError::Invalid`] if the range ends before it starts, and
    /// those of every operation.
    pub async fn open(
        space: &Arc<BlobSpace>,
        of: (&str, &str),
        (start, end): (u64, u64),
        deadline: Instant,
    ) -> Result<Self, BlobError> {
        if start > end {
            return Err(BlobError::Invalid { what: "the range", problem: "ends before it starts" });
        }
        let path = space.object(of)?;
        let place = space.place(deadline).await?;
        let open = move |space: &Arc<BlobSpace>| {
            let file = File::options().read(true).custom_flags(FLAGS).open(&path.path);
            let file = file.map_err(|error| path.unopened(&error))?;
            let metadata = file.metadata()?;
            if !metadata.is_file() {
                return Err(path.missing());
            }
            let end = end.saturating_add(1).min(metadata.len());
            let (space, file, position) = (Arc::clone(space), Arc::new(file), start.min(end));
            Ok(Self { space, file, position, end, _place: place })
        };
        space.run(deadline, open).await
    }

    /// The bytes that are left to read.
    pub fn left(&self) -> u64 {
        self.end.saturating_sub(self.position)
    }

    /// Starts to read the next bytes, at most [`PIECE`]; `None` at the end. The previous ones must have been read: after an
    /// error, bytes are missing.
    pub fn read(&mut self) -> Option<JoinHandle<Result<Bytes, BlobError>>> {
        let (file, position) = (Arc::clone(&self.file), self.position);
        let length = usize::try_from(self.left()).unwrap_or(PIECE).min(PIECE);
        if length == 0 {
            return None;
        }
        self.position = self.position.saturating_add(length as u64);
        Some(self.space.start(move |_| {
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, position)?;
            Ok(bytes.into())
        }))
    }
}
