//! Content and names as streams of WASI 0.3.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use lodge_state::blobs::{BlobError, BlobPages, BlobReader, BlobWriter, MAX_NAMES, PIECE};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use wasmtime::StoreContextMut;
use wasmtime::component::{Destination, Source, StreamConsumer, StreamProducer, StreamResult, VecBuffer};

use super::super::Ctx;
use super::GrantedBlobs;

/// The error of a task that did not run.
fn stopped<T>(error: tokio::task::JoinError) -> Result<T, BlobError> {
    Err(BlobError::Unavailable(format!("the operation did not run: {error}")))
}

/// The content of an object that a guest reads. The stream has no place for an error, so one ends the guest: it must not take a
/// part for the whole.
pub(super) struct ContentProducer {
    object: Box<dyn BlobReader>,
    reading: Option<JoinHandle<Result<Bytes, BlobError>>>,
}

impl ContentProducer {
    pub(super) fn new(object: Box<dyn BlobReader>) -> Self {
        Self { object, reading: None }
    }
}

impl StreamProducer<Ctx> for ContentProducer {
    type Item = u8;
    type Buffer = Bytes;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        _store: StoreContextMut<'a, Ctx>,
        mut destination: Destination<'a, Self::Item, Self::Buffer>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let me = &mut *self;
        let Some(mut reading) = me.reading.take().or_else(|| me.object.read()) else {
            return Poll::Ready(Ok(StreamResult::Dropped));
        };
        match Pin::new(&mut reading).poll(cx) {
            Poll::Ready(read) => {
                destination.set_buffer(read.unwrap_or_else(stopped)?);
                Poll::Ready(Ok(StreamResult::Completed))
            }
            Poll::Pending => {
                me.reading = Some(reading);
                if finish { Poll::Ready(Ok(StreamResult::Cancelled)) } else { Poll::Pending }
            }
        }
    }
}

/// The content of an object that a guest writes.
pub(super) struct ContentConsumer {
    upload: Arc<dyn BlobWriter>,
    /// The bytes that are being written, and the task that does it.
    writing: Option<(usize, JoinHandle<Result<(), BlobError>>)>,
    /// Receives the result when the stream ends.
    ended: Option<oneshot::Sender<Result<(), BlobError>>>,
}

impl ContentConsumer {
    pub(super) fn new(upload: Arc<dyn BlobWriter>, ended: oneshot::Sender<Result<(), BlobError>>) -> Self {
        Self { upload, writing: None, ended: Some(ended) }
    }

    fn end(&mut self, result: Result<(), BlobError>) {
        if let Some(ended) = self.ended.take() {
            // The call may have been cancelled.
            let _ = ended.send(result);
        }
    }
}

impl StreamConsumer<Ctx> for ContentConsumer {
    type Item = u8;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        store: StoreContextMut<Ctx>,
        source: Source<'_, Self::Item>,
        // A write that has begun ends soon, and the guest must know how much was taken.
        _finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let mut source = source.as_direct(store);
        let me = &mut *self;
        let written = loop {
            if let Some((length, task)) = &mut me.writing {
                let written = ready!(Pin::new(task).poll(cx)).unwrap_or_else(stopped).map(|()| *length);
                me.writing = None;
                break written;
            }
            let all = source.remaining();
            let piece = all.get(..PIECE).unwrap_or(all);
            match me.upload.write(piece) {
                Ok(Some(task)) => me.writing = Some((piece.len(), task)),
                Ok(None) => break Ok(piece.len()),
                Err(error) => break Err(error),
            }
        };
        Poll::Ready(Ok(match written {
            Ok(length) => {
                source.mark_read(length);
                StreamResult::Completed
            }
            Err(error) => {
                self.end(Err(error));
                StreamResult::Dropped
            }
        }))
    }
}

impl Drop for ContentConsumer {
    fn drop(&mut self) {
        self.end(Ok(()));
    }
}

/// The names of the objects of a container.
pub(super) struct NameProducer {
    blobs: Arc<GrantedBlobs>,
    /// The listing between two pages.
    names: Option<Box<dyn BlobPages>>,
    reading: Option<NamesFuture>,
}

type NamesFuture = Pin<Box<dyn Future<Output = Result<(Vec<String>, Option<Box<dyn BlobPages>>), BlobError>> + Send>>;

impl NameProducer {
    pub(super) fn new(blobs: Arc<GrantedBlobs>, names: Box<dyn BlobPages>) -> Self {
        Self { blobs, names: Some(names), reading: None }
    }
}

impl StreamProducer<Ctx> for NameProducer {
    type Item = String;
    type Buffer = VecBuffer<String>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        store: StoreContextMut<'a, Ctx>,
        mut destination: Destination<'a, Self::Item, Self::Buffer>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let me = &mut *self;
        let begin = |mut names: Box<dyn BlobPages>| -> NamesFuture {
            let deadline = store.data().sandbox.operation_deadline(me.blobs.timeout).into();
            Box::pin(async move {
                let (page, ended) = names.next(MAX_NAMES, deadline).await?;
                Ok((page, Some(names).filter(|_| !ended)))
            })
        };
        let Some(mut reading) = me.reading.take().or_else(|| me.names.take().map(begin)) else {
            return Poll::Ready(Ok(StreamResult::Dropped));
        };
        match reading.as_mut().poll(cx) {
            Poll::Ready(read) => {
                let (page, names) = read?;
                let ended = names.is_none();
                destination.set_buffer(page.into());
                me.names = names;
                Poll::Ready(Ok(if ended { StreamResult::Dropped } else { StreamResult::Completed }))
            }
            Poll::Pending => {
                me.reading = Some(reading);
                if finish { Poll::Ready(Ok(StreamResult::Cancelled)) } else { Poll::Pending }
            }
        }
    }
}
