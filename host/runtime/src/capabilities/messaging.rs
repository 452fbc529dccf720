//! Messages that guests publish: `wasmcloud:messaging/consumer@0.2.0`.
//!
//! `publish` stores a message for the services that consume its subject. `request` sends one to a service at once and waits for
//! its reply, which that service publishes to the inbox that `reply-to` names, or returns as its response.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use lodge_base::lock::lock;
use lodge_base::telemetry::traces::{OperationObject, OperationSpan};
use lodge_state::messages::{Headers, Message, MessageBody, MessageQueue, Pattern, Subject};
use lodge_state::{Error, Holder};
use lodge_traffic::service::Service;
use tokio::sync::oneshot;
use tokio::time::Instant;
use wasmtime::component::{ComponentType, Lift, Linker, Lower};

use super::denied::deny;
use super::logged_denials::Denial;
use super::outcome::{guest_text, log_if_unavailable};
use super::sandbox::{RequestContext, Sandbox};
use super::{Ctx, GuestCall};

/// The error of a request whose time is up.
pub const NO_REPLY: &str = "no reply in time";

/// The first token of inboxes. Their second one is random, so to know an inbox is the right to reply.
const INBOX: &str = "_INBOX.";

/// Requests that wait for a reply, of all services.
const MOST_INBOXES: usize = 10_000;

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

/// The requests that wait for a reply, by their inbox.
#[derive(Default)]
pub struct Inboxes(Mutex<HashMap<Subject, oneshot::Sender<BrokerMessage>>>);

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

/// Removes an inbox when its request ends, however it ends.
struct Inbox {
    inboxes: Arc<Inboxes>,
    subject: Subject,
    reply: oneshot::Receiver<BrokerMessage>,
}

impl Drop for Inbox {
    fn drop(&mut self) {
        lock(&self.inboxes.0).remove(&self.subject);
    }
}

impl Inboxes {
    fn open(self: &Arc<Self>) -> Result<Inbox, String> {
        let random = Holder::random().map_err(|error| error.to_string())?.bits();
        let subject = Subject::new(&format!("{INBOX}{random:032x}")).map_err(|error| error.to_string())?;
        let (sender, reply) = oneshot::channel();
        let mut waiting = lock(&self.0);
        if waiting.len() >= MOST_INBOXES {
            return Err(format!("{MOST_INBOXES} requests wait for a reply already: try again later"));
        }
        waiting.insert(subject.clone(), sender);
        Ok(Inbox { inboxes: Arc::clone(self), subject, reply })
    }

    fn reply(&self, subject: &Subject, message: BrokerMessage) -> Result<(), String> {
        let waiting = lock(&self.0).remove(subject);
        let sent = waiting.is_some_and(|waiting| waiting.send(message).is_ok());
        if sent { Ok(()) } else { Err("the request for this reply has ended".to_owned()) }
    }
}

/// An operation of a guest, with what it may do.
struct MessageOperation {
    granted: Option<Arc<GrantedMessages>>,
    sandbox: Arc<Sandbox>,
    deadline: Instant,
}

impl MessageOperation {
    fn begin(ctx: &Ctx) -> Self {
        let granted = ctx.messages.clone();
        let timeout = granted.as_ref().map_or(Duration::ZERO, |granted| granted.timeout);
        Self { granted, deadline: ctx.sandbox.operation_deadline(timeout).into(), sandbox: Arc::clone(&ctx.sandbox) }
    }

    /// What the service may publish to this subject with.
    ///
    /// # Errors
    /// The line that grants it.
    fn granted(&self, subject: &Subject) -> Result<&Arc<GrantedMessages>, String> {
        let granted = |granted: &&Arc<GrantedMessages>| granted.subjects.iter().any(|one| one.matches(subject));
        self.granted.as_ref().filter(granted).ok_or_else(|| {
            deny(&self.sandbox, Denial::Publish);
            let (name, subject) = (&self.sandbox.service.name, subject.as_str());
            format!("access denied: add `publish = [\"{subject}\"]` to {name}.toml, above its first [section]")
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

    async fn publish(&self, message: BrokerMessage) -> Result<(), String> {
        let subject = Subject::new(&message.subject).map_err(|error| error.to_string())?;
        if subject.as_str().starts_with(INBOX) {
            let inboxes = self.granted.as_ref().map(|granted| &granted.inboxes);
            return inboxes
                .ok_or("the service receives no messages, so it has none to reply to")?
                .reply(&subject, message);
        }
        let granted = self.granted(&subject)?;
        let span = self.span("message.publish", OperationObject::Published, &subject);
        let sent = async {
            let message = self.message(subject, message.body, message.reply_to.as_deref(), &span)?;
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
                Err(format!("no service consumes {subject}: deploy one with `subject = \"{subject}\"` in [consume]"))
            }
            Ok(_) => Ok(()),
            Err(Error::QuotaExceeded { limit, resource, .. }) => {
                Err(format!("a consumer of the subject has {limit} {resource} of messages waiting: try again later"))
            }
            Err(Error::Timeout) => Err("the message was not stored in time: it may be delivered nevertheless".into()),
            Err(error) => Err(guest_text(&error)),
        }
    }

    async fn request(&self, subject: String, body: Vec<u8>, timeout: Duration) -> Result<BrokerMessage, String> {
        let subject = Subject::new(&subject).map_err(|error| error.to_string())?;
        let granted = self.granted(&subject)?;
        let inbox = granted.inboxes.open()?;
        let span = self.span("message.request", OperationObject::Requested, &subject);
        let message = self.message(subject, body, Some(inbox.subject.as_str()), &span);
        let replied = match message {
            Ok(message) => self.exchange(granted, message, inbox, timeout).await,
            Err(error) => Err(error.to_string()),
        };
        span.finish(replied.as_ref().err().map(|error| if error == NO_REPLY { "timeout" } else { "failed" }));
        replied
    }

    /// Sends a message at once, and returns the reply to it.
    async fn exchange(
        &self,
        granted: &GrantedMessages,
        message: Message,
        mut inbox: Inbox,
        timeout: Duration,
    ) -> Result<BrokerMessage, String> {
        let handler = granted.requests.upgrade().ok_or("the host sends no requests here")?;
        let mut context = self.sandbox.context().ok_or("messages can only be sent while a request is handled")?;
        let until = std::time::Instant::now() + timeout;
        context.deadline = context.deadline.min(until).min(self.sandbox.operation_deadline(timeout));
        let deadline = context.deadline.into();
        // In a task of its own: what the consumer computes is not charged to the sender.
        let handled = wasmtime_wasi::runtime::spawn(handler.request(message, context));
        let replied = async {
            tokio::select! {
                biased;
                Ok(reply) = &mut inbox.reply => Ok(reply),
                response = handled => match (response?, inbox.reply.try_recv()) {
                    (_, Ok(reply)) => Ok(reply),
                    (Some(body), Err(_)) => Ok(BrokerMessage {
                        subject: inbox.subject.as_str().to_owned(),
                        body: body.into(),
                        reply_to: None,
                    }),
                    (None, Err(_)) => Err("the consumer has handled the message without a reply".to_owned()),
                },
            }
        };
        let late = |_| Err(NO_REPLY.to_owned());
        tokio::time::timeout_at(deadline, replied).await.unwrap_or_else(late)
    }
}

/// Adds the interface to the linker.
pub(super) fn link(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    let mut consumer = linker.instance("wasmcloud:messaging/consumer@0.2.0")?;
    consumer.func_wrap_async("publish", |caller: GuestCall<'_>, (message,): (BrokerMessage,)| {
        let operation = MessageOperation::begin(caller.data());
        Box::new(async move { Ok((operation.publish(message).await,)) })
    })?;
    consumer.func_wrap_async("request", |caller: GuestCall<'_>, (subject, body, timeout): (String, Vec<u8>, u32)| {
        let operation = MessageOperation::begin(caller.data());
        let timeout = Duration::from_millis(timeout.into());
        Box::new(async move { Ok((operation.request(subject, body, timeout).await,)) })
    })
}
