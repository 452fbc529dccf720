//! `wasmcloud:messaging@0.3.0`: async functions, and bodies as `stream<u8>`.
//!
//! A body is in memory before its message is stored, and a message before its consumer gets it, since neither is larger than the largest
//! message.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use lodge_state::limits::MAX_MESSAGE;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use wasmtime::StoreContextMut;
use wasmtime::component::{
    Accessor, ComponentType, Lift, Linker, Lower, Source, StreamConsumer, StreamReader, StreamResult,
};

use super::super::Ctx;
use super::failure::{MessageFailure, MessageFailureKind};
use super::inboxes::Reply;
use super::{BrokerMessage, MessageDelivery, MessageOperation, unread};

/// The longest wait for a reply of a request that says nothing of it. The time that the caller has left is less.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// A message, as guests send and receive it.
#[derive(ComponentType, Lift, Lower)]
#[component(record)]
pub(crate) struct StreamedMessage {
    subject: String,
    body: StreamReader<u8>,
    #[component(name = "reply-to")]
    reply_to: Option<String>,
}

impl StreamedMessage {
    /// Returns the message of a delivery.
    pub(crate) fn new(MessageDelivery { subject, reply_to }: MessageDelivery, body: StreamReader<u8>) -> Self {
        Self { subject, body, reply_to }
    }
}

#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(variant)]
enum Error {
    #[component(name = "subject-invalid")]
    SubjectInvalid,
    #[component(name = "access-denied")]
    AccessDenied,
    #[component(name = "timeout")]
    Timeout,
    #[component(name = "broker-unavailable")]
    BrokerUnavailable,
    #[component(name = "message-too-large")]
    MessageTooLarge,
    #[component(name = "quota-exceeded")]
    QuotaExceeded,
    #[component(name = "other")]
    Other(String),
}

impl From<MessageFailure> for Error {
    fn from(MessageFailure { kind, text }: MessageFailure) -> Self {
        match kind {
            MessageFailureKind::Subject => Self::SubjectInvalid,
            MessageFailureKind::Denied => Self::AccessDenied,
            MessageFailureKind::Timeout => Self::Timeout,
            MessageFailureKind::Unavailable => Self::BrokerUnavailable,
            MessageFailureKind::TooLarge => Self::MessageTooLarge,
            MessageFailureKind::Quota => Self::QuotaExceeded,
            MessageFailureKind::Other => Self::Other(text),
        }
    }
}

/// Why a guest has not handled a message.
#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(variant)]
pub(crate) enum HandleError {
    #[component(name = "reject")]
    Reject,
    #[component(name = "retry")]
    Retry,
    #[component(name = "other")]
    Other(String),
}

/// Adds the interface to the linker of a concurrent engine.
pub(super) fn link(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    let mut consumer = linker.instance("wasmcloud:messaging/consumer@0.3.0")?;
    consumer.func_wrap_concurrent("publish", |accessor: &Accessor<Ctx>, (message,): (StreamedMessage,)| {
        let operation = accessor.with(|mut access| MessageOperation::begin(access.get()));
        Box::pin(async move {
            let StreamedMessage { subject, body, reply_to } = message;
            let (body, _room) = match read(accessor, &operation, body).await? {
                Ok(body) => body,
                Err(error) => return Ok((Err(error),)),
            };
            let message = BrokerMessage { subject, body, reply_to };
            Ok((operation.publish(message).await.map_err(Error::from),))
        })
    })?;
    consumer.func_wrap_concurrent(
        "request",
        |accessor: &Accessor<Ctx>, (subject, body, timeout): (String, StreamReader<u8>, Option<u32>)| {
            let operation = accessor.with(|mut access| MessageOperation::begin(access.get()));
            Box::pin(async move {
                let (body, _room) = match read(accessor, &operation, body).await? {
                    Ok(body) => body,
                    Err(error) => return Ok((Err(error),)),
                };
                let timeout = timeout.map_or(LONGEST, |timeout| Duration::from_millis(timeout.into()));
                let reply = match operation.request(subject, body, timeout).await {
                    Ok(reply) => reply,
                    Err(failure) => return Ok((Err(failure.into()),)),
                };
                let Reply { message: BrokerMessage { subject, body, reply_to }, room } = reply;
                let body = accessor.with(|access| unread::stream(access, body.into(), room))?;
                let message = body.map(|body| StreamedMessage { subject, body, reply_to });
                Ok((message.ok_or(Error::QuotaExceeded),))
            })
        },
    )
}

/// Reads the body of a message, with the room for it.
async fn read(
    accessor: &Accessor<Ctx>,
    operation: &MessageOperation,
    mut body: StreamReader<u8>,
) -> wasmtime::Result<SentBody> {
    let (ended, end) = oneshot::channel();
    let Some(sending) = operation.sending.clone() else {
        // Nothing is granted, which the operation says.
        body.close_with(accessor)?;
        return Ok(Ok((Vec::new(), None)));
    };
    let consumer = BodyConsumer { body: Vec::new(), room: None, sending, ended: Some(ended) };
    accessor.with(|access| body.pipe(access, consumer))?;
    Ok(end.await.unwrap_or_else(|_| Ok((Vec::new(), None))))
}

/// The body of a message with the room for it, or why it was not taken.
type SentBody = Result<(Vec<u8>, Option<OwnedSemaphorePermit>), Error>;

/// The body of a message that a guest writes.
struct BodyConsumer {
    body: Vec<u8>,
    /// The room for it.
    room: Option<OwnedSemaphorePermit>,
    /// The bytes that are left for all bodies of the sandbox.
    sending: Arc<Semaphore>,
    /// Receives the body when the stream ends.
    ended: Option<oneshot::Sender<SentBody>>,
}

impl BodyConsumer {
    /// Adds a part.
    fn add(&mut self, part: &[u8]) -> Result<(), Error> {
        if part.len() > MAX_MESSAGE.saturating_sub(self.body.len()) {
            return Err(Error::MessageTooLarge);
        }
        let full = || Error::Other("the bodies that are sent have more than 4 MiB: await some before others".into());
        let bytes = u32::try_from(part.len()).map_err(|_| full())?;
        let room = Arc::clone(&self.sending).try_acquire_many_owned(bytes).map_err(|_| full())?;
        match &mut self.room {
            Some(all) => all.merge(room),
            none => *none = Some(room),
        }
        self.body.extend_from_slice(part);
        Ok(())
    }

    fn end(&mut self, error: Option<Error>) {
        if let Some(ended) = self.ended.take() {
            let body = (std::mem::take(&mut self.body), self.room.take());
            // The call may have been cancelled.
            let _ = ended.send(error.map_or(Ok(body), Err));
        }
    }
}

impl StreamConsumer<Ctx> for BodyConsumer {
    type Item = u8;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        store: StoreContextMut<Ctx>,
        source: Source<'_, Self::Item>,
        _: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let mut source = source.as_direct(store);
        let length = source.remaining().len();
        let added = self.add(source.remaining());
        Poll::Ready(Ok(match added {
            Ok(()) => {
                source.mark_read(length);
                StreamResult::Completed
            }
            Err(error) => {
                self.end(Some(error));
                StreamResult::Dropped
            }
        }))
    }
}

impl Drop for BodyConsumer {
    fn drop(&mut self) {
        self.end(None);
    }
}
