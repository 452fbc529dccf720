//! Messages that a guest was given and has not read: replies, and the message that it handles. Their bodies are in no memory of the sandbox.
//!
//! A guest may keep the streams of bodies for as long as its instance lasts, also between requests, so their room is that of the sandbox.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use lodge_state::limits::MAX_MESSAGE;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::component::{Accessor, Destination, ResourceTableError, StreamProducer, StreamReader, StreamResult};
use wasmtime::{AsContextMut, StoreContextMut};

use super::super::Ctx;
use super::super::handles::made;
use super::failure::{MessageFailure, MessageFailureKind};

/// What a message counts for besides its bytes. A stream has three entries in a table of `limits.resources` (1,000), so the room is used
/// up before the table, where the guest could make no stream of its own either.
const BESIDE: usize = 16 << 10;

/// The bytes of all messages that a sandbox has not read.
const UNREAD: usize = 4 * (MAX_MESSAGE + BESIDE);

/// Why there is no room.
const FULL: &str =
    "messages that are not read have more than 4 MiB, or are more than 260: read or drop their bodies first";

/// The room for the messages that a sandbox has not read.
#[derive(Clone)]
pub(crate) struct UnreadMessages(Arc<Semaphore>);

impl Default for UnreadMessages {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(UNREAD)))
    }
}

impl UnreadMessages {
    /// Takes the room for a message with a body of `size` bytes, until the permit is dropped.
    ///
    /// # Errors
    /// If there is too little.
    pub(super) fn enter(&self, size: usize) -> Result<OwnedSemaphorePermit, MessageFailure> {
        let full = || MessageFailure::new(MessageFailureKind::Quota, FULL);
        let bytes = u32::try_from(size.saturating_add(BESIDE)).map_err(|_| full())?;
        Arc::clone(&self.0).try_acquire_many_owned(bytes).map_err(|_| full())
    }
}

/// Makes a stream of a body; `None` if the guest has too many streams.
pub(super) fn stream(
    store: impl AsContextMut<Data = Ctx>,
    content: Bytes,
    room: OwnedSemaphorePermit,
) -> wasmtime::Result<Option<StreamReader<u8>>> {
    made(StreamReader::new(store, UnreadBody { content, _room: room }))
}

/// Makes a stream of the body of a message that a guest handles.
///
/// # Errors
/// If earlier messages leave no room: another instance can handle it.
pub(crate) fn delivered(accessor: &Accessor<Ctx>, content: Bytes) -> wasmtime::Result<StreamReader<u8>> {
    accessor.with(|mut access| {
        let unread = access.get().messages.as_ref().map(|messages| messages.unread.clone()).unwrap_or_default();
        let room = unread.enter(content.len()).map_err(|failure| wasmtime::Error::msg(failure.text))?;
        stream(&mut access, content, room)?.ok_or_else(|| ResourceTableError::Full.into())
    })
}

/// A body until it is read.
struct UnreadBody {
    content: Bytes,
    _room: OwnedSemaphorePermit,
}

impl StreamProducer<Ctx> for UnreadBody {
    type Item = u8;
    type Buffer = Bytes;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: StoreContextMut<'a, Ctx>,
        mut destination: Destination<'a, Self::Item, Self::Buffer>,
        _: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let content = std::mem::take(&mut self.content);
        if content.is_empty() {
            return Poll::Ready(Ok(StreamResult::Dropped));
        }
        destination.set_buffer(content);
        Poll::Ready(Ok(StreamResult::Completed))
    }
}
