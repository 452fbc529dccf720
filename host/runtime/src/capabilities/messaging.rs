//! Messages that guests publish: `wasmcloud:messaging/consumer@0.2.0` and `0.3.0`.
//!
//! `publish` stores a message for the services that consume its subject. `request` sends one to a service at once and waits for
//! its reply, which that service publishes to the inbox that `reply-to` names, or returns as its response.

mod failure;
mod inboxes;
mod streamed;
mod unread;

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use lodge_base::telemetry::traces::{OperationObject, OperationSpan};
use lodge_state::Error;
use lodge_state::messages::{Headers, Message, MessageBody, MessageQueue, Pattern, Subject};
use lodge_traffic::service::Service;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use wasmtime::component::{ComponentType, Lift, Linker, Lower};

use super::denied::deny;
use super::logged_denials::Denial;
use super::outcome::log_if_unavailable;
use super::sandbox::{RequestContext, Sandbox};
use super::{Ctx, GuestCall};

use failure::{MessageFailure, MessageFailureKind};
pub use inboxes::Inboxes;
use inboxes::{INBOX, Inbox, Reply};
pub(crate) use streamed::{HandleError, StreamedMessage};
use unread::UnreadMessages;
pub(crate) use unread::delivered;

/// The error of a request whose time is up.
pub const NO_REPLY: &str = "no reply in time";

/// Bytes of a service's messages that are on their way to where they are kept, and what each of them counts for besides its own.
/// With all services together, a backend has a few times as many.
const SHARE: (usize, usize) = (4 << 20, 16 << 10);

/// The headers of a request that its messages have as well, so that their consumers join the trace.
const TRACE_HEADERS: [&str; 2] = ["traceparent", "tracestate"];

/// Sends messages to services of this host at once.
pub trait MessageRequests: Send + Sync {
    /// Sends a message to a service that consumes its subject, on behalf of the request of `context`, and returns the body of
    /// the response; `None` if it is empty.
    ///
    /// # Errors
    /// What went wrong, for the developer of the sender.
    fn request(self: Arc<Self>, message: Message, context: RequestContext) -> Requested;
}

/// The result of a [`MessageRequests::request`].
pub type Requested = Pin<Box<dyn Future<Output = Result<Option<Bytes>, String>> + Send>>;

/// The type of a `Weak` for guests that are only checked.
#[derive(Debug)]
pub struct NoRequests;

impl MessageRequests for NoRequests {
    fn request(self: Arc<Self>, _: Message, _: RequestContext) -> Requested {
        Box::pin(std::future::ready(Err("nothing is sent by a check".to_owned())))
    }
}

/// What the manifest of a service grants of the messages.
pub struct GrantedMessages {
    /// The messages of all services.
    pub queue: Arc<dyn MessageQueue>,
    /// The subjects that it may publish to.
    pub subjects: Vec<Pattern>,
    /// The service, whose metrics count what it publishes.
    pub service: Arc<Service>,
    /// The inboxes of all services.
    pub inboxes: Arc<Inboxes>,
    /// Where requests are sent. Weak, since the handler of requests owns this.
    pub requests: Weak<dyn MessageRequests>,
    /// The longest time that publishing may take.
    pub timeout: Duration,
    /// What it may publish at a time.
    pub share: PublishingShare,
}

/// The bytes of all bodies that a sandbox writes as streams at a time. They are in no memory of the sandbox.
const SENDING: usize = 4 << 20;

/// The messages of a sandbox.
pub(super) struct SandboxMessages {
    granted: Arc<GrantedMessages>,
    /// The bytes of [`SENDING`] that are left.
    sending: Arc<Semaphore>,
    /// The room for what it has not read.
    unread: UnreadMessages,
}

impl SandboxMessages {
    pub(super) fn new(granted: Arc<GrantedMessages>) -> Self {
        Self { granted, sending: Arc::new(Semaphore::new(SENDING)), unread: UnreadMessages::default() }
    }
}

/// What a service may publish at a time, so that it leaves room for the others while a server is slow.
pub struct PublishingShare(Semaphore);

impl Default for PublishingShare {
    fn default() -> Self {
        Self(Semaphore::new(SHARE.0))
    }
}

impl PublishingShare {
    /// Waits until a message of `size` bytes may be on its way, too.
    ///
    /// # Errors
    /// [`Error::Unavailable`] at `deadline`.
    async fn enter(&self, size: u64, deadline: Instant) -> Result<SemaphorePermit<'_>, Error> {
        let bytes = usize::try_from(size).unwrap_or(usize::MAX).saturating_add(SHARE.1).min(SHARE.0);
        let permit = self.0.acquire_many(u32::try_from(bytes).unwrap_or(u32::MAX));
        let permit = tokio::time::timeout_at(deadline, permit).await;
        let slow = || Error::unavailable("messages of the service are not stored fast enough: publish fewer at a time");
        permit.map_err(|_| slow())?.map_err(|_| slow())
    }
}

/// A message, as guests send and receive it.
#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(record)]
pub(crate) struct BrokerMessage {
    subject: String,
    body: Vec<u8>,
    #[component(name = "reply-to")]
    reply_to: Option<String>,
}

/// A message that is delivered to a service as the body of a request: an extension of that request.
#[derive(Clone, Debug)]
pub struct MessageDelivery {
    /// The subject.
    pub subject: String,
    /// The subject of replies.
    pub reply_to: Option<String>,
}

impl BrokerMessage {
    /// Returns the message of a delivery.
    pub(crate) fn new(MessageDelivery { subject, reply_to }: MessageDelivery, body: Vec<u8>) -> Self {
        Self { subject, body, reply_to }
    }
}

/// An operation of a guest, with what it may do.
struct MessageOperation {
    granted: Option<Arc<GrantedMessages>>,
    sending: Option<Arc<Semaphore>>,
    unread: UnreadMessages,
    sandbox: Arc<Sandbox>,
    deadline: Instant,
}

impl MessageOperation {
    fn begin(ctx: &Ctx) -> Self {
        let messages = ctx.messages.as_ref();
        let granted = messages.map(|messages| Arc::clone(&messages.granted));
        let sending = messages.map(|messages| Arc::clone(&messages.sending));
        let unread = messages.map(|messages| messages.unread.clone()).unwrap_or_default();
        let timeout = granted.as_ref().map_or(Duration::ZERO, |granted| granted.timeout);
        let deadline = ctx.sandbox.operation_deadline(timeout).into();
        Self { granted, sending, unread, deadline, sandbox: Arc::clone(&ctx.sandbox) }
    }

    /// What the service may publish to this subject with.
    ///
    /// # Errors
    /// The line that grants it.
    fn granted(&self, subject: &Subject) -> Result<&Arc<GrantedMessages>, MessageFailure> {
        let granted = |granted: &&Arc<GrantedMessages>| granted.subjects.iter().any(|one| one.matches(subject));
        self.granted.as_ref().filter(granted).ok_or_else(|| {
            deny(&self.sandbox, Denial::Publish);
            let (name, subject) = (&self.sandbox.service.name, subject.as_str());
            let text =
                format!("access denied: add `publish = [\"{subject}\"]` to {name}.toml, above its first [section]");
            MessageFailure::new(MessageFailureKind::Denied, text)
        })
    }

    /// Begins the span of a message to `subject`, if it is recorded.
    fn span(&self, name: &'static str, object: fn(Arc<str>) -> OperationObject, subject: &Subject) -> OperationSpan {
        let Some(trace) = self.sandbox.operation_trace() else { return OperationSpan::default() };
        trace.begin_operation(name, &self.sandbox.service.name, object(subject.as_str().into()))
    }

    /// The message, with the trace of the present request: its consumers continue `span`, if that is recorded.
    fn message(
        &self,
        subject: Subject,
        body: Vec<u8>,
        reply_to: Option<&str>,
        span: &OperationSpan,
    ) -> Result<Message, Error> {
        let mut fields = HeaderMap::new();
        span.inject(&mut fields);
        if let Some(onward) = self.sandbox.context().and_then(|context| context.onward) {
            onward.inject(&mut fields);
        }
        let field = |name: &'static str| Some((name, fields.get(name)?.to_str().ok()?));
        let headers = Headers::new(TRACE_HEADERS.into_iter().filter_map(field))?;
        Ok(Message {
            subject,
            reply_to: reply_to.map(Subject::new).transpose()?,
            headers,
            body: MessageBody::new(body)?,
        })
    }

    async fn publish(&self, message: BrokerMessage) -> Result<(), MessageFailure> {
        let subject = Subject::new(&message.subject).map_err(|error| MessageFailure::subject(&error))?;
        if subject.as_str().starts_with(INBOX) {
            let inboxes = self.granted.as_ref().map(|granted| &granted.inboxes);
            let inboxes = inboxes.ok_or("the service receives no messages, so it has none to reply to")?;
            return inboxes.reply(&subject, message);
        }
        let granted = self.granted(&subject)?;
        let span = self.span("message.publish", OperationObject::Published, &subject);
        let sent = async {
            let message = self.message(subject, message.body, message.reply_to.as_deref(), &span)?;
            let _share = granted.share.enter(message.size(), self.deadline).await?;
            granted.queue.publish(message, self.deadline).await
        };
        let published = sent.await;
        let outcome = match &published {
            Ok(published) if published.consumers == 0 => "no-consumer",
            Ok(_) => "ok",
            Err(Error::Invalid { .. } | Error::TooLarge { .. }) => "invalid",
            Err(Error::QuotaExceeded { .. }) => "quota",
            Err(Error::Timeout) => "timeout",
            Err(_) => "unavailable",
        };
        span.finish((outcome != "ok").then_some(outcome));
        granted.service.metrics.messages.published.count(outcome);
        if let Err(error) = &published {
            log_if_unavailable(&granted.service, error);
        }
        match published {
            Ok(published) if published.consumers == 0 => {
                let subject = &message.subject;
                let why = "deploy one with";
                Err(format!("no service consumes {subject}: {why} `subject = \"{subject}\"` in [consume]").into())
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn request(&self, subject: String, body: Vec<u8>, timeout: Duration) -> Result<Reply, MessageFailure> {
        let subject = Subject::new(&subject).map_err(|error| MessageFailure::subject(&error))?;
        let granted = self.granted(&subject)?;
        let inbox = granted.inboxes.open(self.unread.clone())?;
        let span = self.span("message.request", OperationObject::Requested, &subject);
        let message = self.message(subject, body, Some(inbox.subject.as_str()), &span);
        let replied = match message {
            Ok(message) => self.exchange(granted, message, inbox, timeout).await,
            Err(error) => Err(error.into()),
        };
        let late =
            |failure: &MessageFailure| if failure.kind == MessageFailureKind::Timeout { "timeout" } else { "failed" };
        span.finish(replied.as_ref().err().map(late));
        replied
    }

    /// Sends a message at once, and returns the reply to it.
    async fn exchange(
        &self,
        granted: &GrantedMessages,
        message: Message,
        mut inbox: Inbox,
        timeout: Duration,
    ) -> Result<Reply, MessageFailure> {
        let handler = granted.requests.upgrade().ok_or("the host sends no requests here")?;
        let mut context = self.sandbox.context().ok_or("messages can only be sent while a request is handled")?;
        let until = std::time::Instant::now() + timeout;
        context.deadline = context.deadline.min(until).min(self.sandbox.operation_deadline(timeout));
        let deadline = context.deadline.into();
        let (subject, unread) = (inbox.subject.clone(), inbox.unread.clone());
        // In a task of its own: what the consumer computes is not charged to the sender.
        let handled = wasmtime_wasi::runtime::spawn(async move {
            let Some(body) = handler.request(message, context).await? else { return Ok(None) };
            let message = BrokerMessage { subject: subject.as_str().to_owned(), body: body.into(), reply_to: None };
            Reply::new(message, &unread).map(Some)
        });
        let replied = async {
            tokio::select! {
                biased;
                Ok(reply) = &mut inbox.reply => reply,
                response = handled => match (response, inbox.reply.try_recv()) {
                    (Err(failure), _) => Err(failure),
                    (_, Ok(reply)) => reply,
                    (Ok(Some(reply)), Err(_)) => Ok(reply),
                    (Ok(None), Err(_)) => Err("the consumer has handled the message without a reply".into()),
                },
            }
        };
        let late = |_| Err(NO_REPLY.into());
        tokio::time::timeout_at(deadline, replied).await.unwrap_or_else(late)
    }
}

/// Adds the interfaces to the linker.
pub(super) fn link(linker: &mut Linker<Ctx>, concurrent: bool) -> wasmtime::Result<()> {
    let mut consumer = linker.instance("wasmcloud:messaging/consumer@0.2.0")?;
    consumer.func_wrap_async("publish", |caller: GuestCall<'_>, (message,): (BrokerMessage,)| {
        let operation = MessageOperation::begin(caller.data());
        Box::new(async move { Ok((operation.publish(message).await.map_err(|failure| failure.text),)) })
    })?;
    consumer.func_wrap_async(
        "request",
        |caller: GuestCall<'_>, (subject, body, timeout): (String, Vec<u8>, u32)| {
            let operation = MessageOperation::begin(caller.data());
            let timeout = Duration::from_millis(timeout.into());
            Box::new(async move {
                let replied = operation.request(subject, body, timeout).await;
                Ok((replied.map(|reply| reply.message).map_err(|failure| failure.text),))
            })
        },
    )?;
    if concurrent { streamed::link(linker) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_service_publishes_no_more_than_its_share_at_a_time() {
        let (share, soon) = (PublishingShare::default(), || Instant::now() + Duration::from_secs(1));
        let large = [share.enter(1 << 20, soon()).await, share.enter(1 << 20, soon()).await];
        let third = share.enter(1 << 20, soon()).await;
        let late = share.enter(1 << 20, soon()).await;
        assert!(matches!(late, Err(Error::Unavailable { .. })), "{late:?}");
        let (waiting, ()) = tokio::join!(share.enter(1 << 20, soon()), async { drop(third) });
        assert!(waiting.is_ok() && large.iter().all(Result::is_ok));
        drop((waiting, large));
        let whole = share.enter(u64::MAX, soon()).await;
        assert!(whole.is_ok(), "one message may always be on its way");
    }
}
