//! The bytes of a file, on their way to a client.

use std::collections::VecDeque;
use std::fs::File;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use tokio::sync::Semaphore;

use super::FilesError;
use super::root::{ContentStamp, OpenFile, ReadFrom, Reads, read};
use crate::proxy::outbound::MAX_CHUNK;

/// The bytes of one read that needs no thread.
const READ: usize = 64 << 10;

/// The bytes of a read on a thread of a file system that cannot tell what it has in memory: fewer switches between threads.
const THREAD_READ: usize = 256 << 10;

/// A client that takes longer for what was read is slower than any disk, and more in memory makes nothing faster.
const SLOW: Duration = Duration::from_secs(1);

/// Bounds how many reads wait for the disk at a time: of one directory, and of all directories of the host.
#[derive(Clone)]
pub(super) struct Disk {
    pub(super) own: Arc<Semaphore>,
    pub(super) host: Arc<Semaphore>,
    /// How long one read of a body may take.
    pub(super) patience: Duration,
}

type PendingRead = Pin<Box<dyn Future<Output = Result<Bytes, FilesError>> + Send>>;

/// The body of a response: a file, or a range of it.
pub struct FileBody {
    /// Bytes that were read.
    ready: Bytes,
    /// The bytes after them; `None` if there are none.
    rest: Option<Rest>,
}

struct Rest {
    /// `None` while it is dropped.
    source: Option<Source>,
    range: Range<u64>,
    reading: Option<PendingRead>,
    disk: Disk,
    /// When the last read ended.
    last: Instant,
}

/// A file that is sent.
#[derive(Clone)]
struct Source {
    file: Arc<File>,
    reads: Reads,
    stamp: ContentStamp,
}

impl FileBody {
    /// A body without bytes.
    pub(super) fn empty() -> Self {
        Self { ready: Bytes::new(), rest: None }
    }

    /// Reads the first bytes of a range of a file. Returns `None` if that would wait for the disk.
    ///
    /// # Errors
    /// If the file cannot be read, or is another than when it was opened.
    pub(super) fn open(
        file: OpenFile,
        mut range: Range<u64>,
        disk: &Disk,
        access: ReadFrom,
    ) -> Result<Option<Self>, FilesError> {
        let stamp = ContentStamp::from(&file);
        let source = Source { file: Arc::new(file.file), reads: file.reads, stamp };
        let Some(ready) = source.read(&mut range, source.piece(), access)? else { return Ok(None) };
        let (source, disk, last) = (Some(source), disk.clone(), Instant::now());
        let rest = (!range.is_empty()).then_some(Rest { source, range, reading: None, disk, last });
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
    /// If the file cannot be read in time, or was changed since its head was sent.
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
        let Some(source) = &self.source else { return Poll::Ready(Ok(Bytes::new())) };
        let piece = if self.last.elapsed() > SLOW { MAX_CHUNK } else { source.piece() };
        if self.reading.is_none()
            && source.reads.are_fast()
            && let Some(bytes) = source.read(&mut self.range, piece, ReadFrom::Memory)?
        {
            self.last = Instant::now();
            return Poll::Ready(Ok(bytes));
        }
        let (range, disk) = (&self.range, &self.disk);
        let reading = self.reading.get_or_insert_with(|| {
            let (source, mut range, disk) = (source.clone(), range.clone(), disk.clone());
            let patience = disk.patience;
            let reading = on_disk(disk, move || {
                let read = source.read(&mut range, piece, ReadFrom::Disk)?;
                Ok(read.unwrap_or_default())
            });
            Box::pin(async move { tokio::time::timeout(patience, reading).await.unwrap_or(Err(FilesError::Late)) })
        });
        let bytes = ready!(reading.as_mut().poll(cx));
        self.reading = None;
        let bytes = bytes?;
        self.range.start = self.range.start.saturating_add(bytes.len() as u64);
        self.last = Instant::now();
        Poll::Ready(Ok(bytes))
    }
}

impl Drop for Rest {
    /// Closes the file on a thread where that may ask a server.
    fn drop(&mut self) {
        self.reading = None;
        let runtime = tokio::runtime::Handle::try_current();
        if let (Some(source), Ok(runtime)) = (self.source.take().filter(|source| !source.reads.are_local()), runtime) {
            runtime.spawn(on_disk(self.disk.clone(), move || {
                drop(source);
                Ok(())
            }));
        }
    }
}

impl Source {
    /// The most bytes of one read.
    fn piece(&self) -> usize {
        if self.reads.are_fast() { READ } else { THREAD_READ }
    }

    /// Reads the next bytes of a range, at most `piece`, and removes them from it. `None` if it would wait for the disk.
    fn read(&self, range: &mut Range<u64>, piece: usize, access: ReadFrom) -> Result<Option<Bytes>, FilesError> {
        let left = range.end.saturating_sub(range.start);
        if left == 0 {
            return Ok(Some(Bytes::new()));
        }
        let mut buffer = BytesMut::zeroed(usize::try_from(left).unwrap_or(piece).min(piece));
        let unreadable = |error: std::io::Error| FilesError::Unreadable(error.to_string());
        let read = read((&self.file, &self.reads), range.start, &mut buffer, access).map_err(unreadable)?;
        let Some(length) = read else { return Ok(None) };
        // After the read: what was read before a change is of the file that was announced.
        if length == 0 || ContentStamp::of(&self.file).map_err(unreadable)? != self.stamp {
            return Err(FilesError::Changed);
        }
        buffer.truncate(length);
        range.start = range.start.saturating_add(length as u64);
        Ok(Some(buffer.freeze()))
    }
}

/// Runs `work` on a thread that may wait for the disk, as one of those that `disk` allows. Work that has begun ends, whether
/// or not somebody waits for it.
pub(super) async fn on_disk<T: Send + 'static>(
    disk: Disk,
    work: impl FnOnce() -> Result<T, FilesError> + Send + 'static,
) -> Result<T, FilesError> {
    let unavailable = |why: String| FilesError::Unreadable(why);
    // That of the directory first: those of one that hangs do not wait in the queue of all.
    let own = disk.own.acquire_owned().await.map_err(|closed| unavailable(closed.to_string()))?;
    let slots = (own, disk.host.acquire_owned().await.map_err(|closed| unavailable(closed.to_string()))?);
    let work = move || {
        let result = work();
        drop(slots);
        result
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(unavailable(error.to_string())))
}

#[cfg(test)]
mod tests;
