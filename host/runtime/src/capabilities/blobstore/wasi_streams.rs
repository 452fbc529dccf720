//! Content as streams of WASI 0.2.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use lodge_state::blobs::{BlobError, BlobReader, BlobWriter, PIECE};
use tokio::task::JoinHandle;
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

use super::BlobFailure;

/// A future of a stream, in the form of its trait.
type Ready<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// What a stream does on a thread that may wait.
enum BlobWork<T> {
    /// Nothing.
    Idle,
    /// It reads or writes.
    Running(JoinHandle<Result<T, BlobError>>),
    /// It has read or written this, and the guest has not taken it yet.
    Done(Result<T, BlobError>),
    /// Nothing any more: at the end, or after an error.
    Ended,
}

impl<T> BlobWork<T> {
    async fn wait(&mut self) {
        if let Self::Running(task) = self {
            let stopped = |error| Err(BlobError::Unavailable(format!("the operation did not run: {error}")));
            *self = Self::Done(task.await.unwrap_or_else(stopped));
        }
    }
}

fn failed(error: BlobError) -> StreamError {
    StreamError::LastOperationFailed(wasmtime::Error::msg(BlobFailure::from(error).to_string()))
}

/// The content of an object that a guest reads.
pub(super) struct ContentInput {
    object: Box<dyn BlobReader>,
    work: BlobWork<Bytes>,
}

impl ContentInput {
    pub(super) fn new(object: Box<dyn BlobReader>) -> Self {
        Self { object, work: BlobWork::Idle }
    }

    fn begin(&mut self) {
        self.work = self.object.read().map_or(BlobWork::Ended, BlobWork::Running);
    }
}

impl InputStream for ContentInput {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if matches!(self.work, BlobWork::Idle) && size > 0 {
            self.begin();
        }
        match std::mem::replace(&mut self.work, BlobWork::Ended) {
            BlobWork::Ended => Err(StreamError::Closed),
            BlobWork::Done(Err(error)) => Err(failed(error)),
            BlobWork::Done(Ok(mut bytes)) => {
                let taken = bytes.split_to(size.min(bytes.len()));
                self.work = if bytes.is_empty() { BlobWork::Idle } else { BlobWork::Done(Ok(bytes)) };
                Ok(taken)
            }
            same => {
                self.work = same;
                Ok(Bytes::new())
            }
        }
    }
}

impl Pollable for ContentInput {
    fn ready<'a, 'b>(&'a mut self) -> Ready<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        if matches!(self.work, BlobWork::Idle) {
            self.begin();
        }
        Box::pin(self.work.wait())
    }
}

/// The content of an object that a guest writes.
pub(super) struct ContentOutput {
    upload: Arc<dyn BlobWriter>,
    work: BlobWork<()>,
}

impl ContentOutput {
    pub(super) fn new(upload: Arc<dyn BlobWriter>) -> Self {
        Self { upload, work: BlobWork::Idle }
    }

    /// Reports an error once.
    fn check(&mut self) -> StreamResult<()> {
        match std::mem::replace(&mut self.work, BlobWork::Ended) {
            BlobWork::Ended => Err(StreamError::Closed),
            BlobWork::Done(Err(error)) => Err(failed(error)),
            BlobWork::Done(Ok(())) => {
                self.work = BlobWork::Idle;
                Ok(())
            }
            same => {
                self.work = same;
                Ok(())
            }
        }
    }
}

impl OutputStream for ContentOutput {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.check()?;
        if matches!(self.work, BlobWork::Running(_)) || bytes.len() > PIECE {
            return Err(StreamError::trap("more bytes than check-write allows"));
        }
        match self.upload.write(&bytes) {
            Ok(task) => {
                self.work = task.map_or(BlobWork::Idle, BlobWork::Running);
                Ok(())
            }
            Err(error) => {
                self.work = BlobWork::Ended;
                Err(failed(error))
            }
        }
    }

    /// Bytes may stay in memory: they are no object before `finish`, which waits for the disk.
    fn flush(&mut self) -> StreamResult<()> {
        self.check()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.check()?;
        Ok(if matches!(self.work, BlobWork::Running(_)) { 0 } else { PIECE })
    }
}

impl Pollable for ContentOutput {
    fn ready<'a, 'b>(&'a mut self) -> Ready<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(self.work.wait())
    }
}
