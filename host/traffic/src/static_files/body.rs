//! The bytes of a file, on their way to a client.

use std::collections::VecDeque;
use std::fs::File;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use tokio::sync::Semaphore;

use super::FilesError;
use super::root::{ReadFrom, read};
use crate::proxy::outbound::MAX_CHUNK;

/// The most bytes of a file that are in memory for one response.
const READ: usize = 64 << 10;

type PendingRead = Pin<Box<dyn Future<Output = Result<Bytes, FilesError>> + Send>>;

/// The body of a response: a file, or a range of it.
pub struct FileBody {
    /// Bytes that were read.
    ready: Bytes,
    /// The bytes after them; `None` if there are none.
    rest: Option<Rest>,
}

struct Rest {
    file: Arc<File>,
    range: Range<u64>,
    reading: Option<PendingRead>,
    disk: Arc<Semaphore>,
}

impl FileBody {
    /// A body without bytes.
    pub(super) fn empty() -> Self {
        Self { ready: Bytes::new(), rest: None }
    }

    /// Reads the first bytes of a range of a file. Returns `None` if that would wait for the disk. `disk` bounds how many reads
    /// wait at a time.
    pub(super) fn open(
        file: File,
        mut range: Range<u64>,
        disk: &Arc<Semaphore>,
        access: ReadFrom,
    ) -> Result<Option<Self>, FilesError> {
        let Some(ready) = read_some(&file, &mut range, access)? else { return Ok(None) };
        let (file, disk) = (Arc::new(file), Arc::clone(disk));
        let rest = (!range.is_empty()).then_some(Rest { file, range, reading: None, disk });
        Ok(Some(Self { ready, rest }))
    }

    /// Returns the bytes of a body that is in memory; `None` if some are not.
    pub fn size(&self) -> Option<usize> {
        self.rest.is_none().then_some(self.ready.len())
    }

    /// Returns the bytes that are left.
    pub fn exact_size(&self) -> u64 {
        let rest = self.rest.as_ref().map_or(0, |rest| rest.range.end.saturating_sub(rest.range.start));
        rest.saturating_add(self.ready.len() as u64)
    }

    /// Returns the frames of a body that is in memory.
    pub fn into_frames(self) -> VecDeque<Frame<Bytes>> {
        if self.ready.is_empty() { VecDeque::new() } else { VecDeque::from([Frame::data(self.ready)]) }
    }

    /// Polls for the next frame.
    ///
    /// # Errors
    /// If the file cannot be read, or has become shorter.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, FilesError>>> {
        if let Some(rest) = self.rest.as_mut().filter(|_| self.ready.is_empty()) {
            match ready!(rest.poll(cx)) {
                Ok(bytes) => self.ready = bytes,
                Err(error) => {
                    self.rest = None;
                    return Poll::Ready(Some(Err(error)));
                }
            }
            if rest.range.is_empty() {
                self.rest = None;
            }
        }
        if self.ready.is_empty() {
            return Poll::Ready(None);
        }
        let piece = self.ready.split_to(self.ready.len().min(MAX_CHUNK));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

impl Rest {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, FilesError>> {
        if self.reading.is_none()
            && let Some(bytes) = read_some(&self.file, &mut self.range, ReadFrom::Memory)?
        {
            return Poll::Ready(Ok(bytes));
        }
        let (file, range, disk) = (&self.file, &self.range, &self.disk);
        let reading = self.reading.get_or_insert_with(|| {
            let (file, mut range, disk) = (Arc::clone(file), range.clone(), Arc::clone(disk));
            Box::pin(on_disk(disk, move || {
                let read = read_some(&file, &mut range, ReadFrom::Disk)?;
                Ok(read.unwrap_or_default())
            }))
        });
        let bytes = ready!(reading.as_mut().poll(cx));
        self.reading = None;
        let bytes = bytes?;
        self.range.start = self.range.start.saturating_add(bytes.len() as u64);
        Poll::Ready(Ok(bytes))
    }
}

/// Reads the next bytes of a range, at most [`READ`], and removes them from it. `None` if it would wait for the disk.
fn read_some(file: &File, range: &mut Range<u64>, access: ReadFrom) -> Result<Option<Bytes>, FilesError> {
    let left = range.end.saturating_sub(range.start);
    if left == 0 {
        return Ok(Some(Bytes::new()));
    }
    let mut buffer = BytesMut::zeroed(usize::try_from(left).unwrap_or(READ).min(READ));
    let unreadable = |error: std::io::Error| FilesError::Unreadable(error.to_string());
    match read(file, range.start, &mut buffer, access).map_err(unreadable)? {
        None => Ok(None),
        // Changed since its size was announced.
        Some(0) => Err(FilesError::Unreadable("the file has become shorter".into())),
        Some(length) => {
            buffer.truncate(length);
            range.start = range.start.saturating_add(length as u64);
            Ok(Some(buffer.freeze()))
        }
    }
}

/// Runs `work` on a thread that may wait for the disk, as one of those that `disk` allows. Work that has begun ends, whether
/// or not somebody waits for it.
pub(super) async fn on_disk<T: Send + 'static>(
    disk: Arc<Semaphore>,
    work: impl FnOnce() -> Result<T, FilesError> + Send + 'static,
) -> Result<T, FilesError> {
    let unavailable = |why: String| FilesError::Unreadable(why);
    let slot = disk.acquire_owned().await.map_err(|closed| unavailable(closed.to_string()))?;
    let work = move || {
        let result = work();
        drop(slot);
        result
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(unavailable(error.to_string())))
}
