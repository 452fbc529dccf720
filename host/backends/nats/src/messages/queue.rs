//! The streams of one consumer: one with the messages that it has not acknowledged, and one with its dead messages.

use std::time::Duration;

use async_nats::{Message, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt;
use lodge_remote::LinkFailure;
use lodge_state::limits::{MAX_DEAD, MAX_RECEIVE_BYTES};
use lodge_state::messages::{Backlog, QueueStatus};
use lodge_state::{Error, Namespace, Resource, Timestamp};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::clock::timestamp;
use crate::connector::{NO_RESPONDERS, NatsConnection};
use crate::messages::listing::delete;
use crate::messages::stream_requests::{Storing, create, extend, get, remove, store, subject};
use crate::messages::wire::{GROWTH, QueuedMessage};
use crate::names;
use crate::response::{JetStreamResponse, StreamLimits, StreamState, code};
use crate::unexpected;

/// How long a message that was delivered belongs to its receiver, until that has said for how long it wants it.
pub(crate) const UNCLAIMED: Duration = Duration::from_secs(30);
/// The longest wait of one request for messages.
const WAIT: Duration = Duration::from_secs(10);
/// How long a response to a request for messages may take.
const RESPONSE: Duration = Duration::from_secs(5);
/// How long NATS knows that it has stored a message, so that the same one is not stored twice.
const DISTINCT: Duration = Duration::from_secs(60);
/// The name of the durable consumer in each stream.
const CONSUMER: &str = "lodge";

/// The configuration that both streams have.
fn config(name: &str, bytes: u64, replicas: usize) -> Value {
    json!({
        "name": name,
        "subjects": [subject(name)],
        "max_bytes": limit(bytes),
        "storage": "file",
        "num_replicas": replicas,
        "duplicate_window": DISTINCT.as_nanos() as u64,
    })
}

fn limit(limit: u64) -> i64 {
    i64::try_from(limit.max(1)).unwrap_or(i64::MAX)
}

/// The streams of a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueueStreams {
    /// The name of the stream with its messages.
    stream: String,
    /// The same of dead messages.
    pub(super) dead: String,
}

impl QueueStreams {
    /// The streams of `consumer` in the subscription with this number.
    pub(crate) fn new(consumer: &Namespace, number: &str) -> QueueStreams {
        let name = |kind| names::messages(kind, consumer, number);
        QueueStreams { stream: name("queue"), dead: name("dead") }
    }

    /// The name of the stream.
    pub(crate) fn name(&self) -> &str {
        &self.stream
    }

    /// The names of both streams.
    pub(super) fn names(&self) -> [&str; 2] {
        [&self.stream, &self.dead]
    }

    /// Creates the streams and the durable consumer, or gives them this quota.
    pub(crate) async fn create(
        &self,
        connection: &NatsConnection,
        quota: Backlog,
        replicas: usize,
    ) -> Result<(), LinkFailure> {
        let mut queue = config(&self.stream, quota.bytes, replicas);
        let limits = json!({ "retention": "workqueue", "max_msgs": limit(quota.messages), "discard": "new" });
        extend(&mut queue, limits);
        create(connection, &self.stream, queue).await?;
        self.create_dead(connection, quota.bytes, replicas).await?;
        let consumer = json!({
            "name": CONSUMER,
            "durable_name": CONSUMER,
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": UNCLAIMED.as_nanos() as u64,
            // How often a message is delivered, and how many wait for it, is counted by hosts.
            "max_deliver": -1,
            "max_ack_pending": -1,
        });
        let payload = json!({ "stream_name": self.stream, "config": consumer }).to_string();
        let subject = format!("$JS.API.CONSUMER.CREATE.{}.{CONSUMER}", self.stream);
        JetStreamResponse::read(&connection.request(subject, None, payload.into()).await?)?.accepted()?;
        Ok(())
    }

    /// Creates the stream of dead messages, or gives it room for so many bytes of messages that have not died yet.
    async fn create_dead(&self, connection: &NatsConnection, bytes: u64, replicas: usize) -> Result<(), LinkFailure> {
        let mut dead = config(&self.dead, bytes.saturating_add(GROWTH as u64), replicas);
        extend(&mut dead, json!({ "max_msgs": MAX_DEAD, "discard": "old" }));
        create(connection, &self.dead, dead).await
    }

    /// Deletes the streams with all messages, if there are any.
    pub(crate) async fn delete(&self, connection: &NatsConnection) -> Result<(), LinkFailure> {
        for name in self.names() {
            delete(connection, name).await?;
        }
        Ok(())
    }

    /// Stores a message for the consumer.
    pub(crate) async fn store(
        &self,
        connection: &NatsConnection,
        message: &QueuedMessage,
        distinct: &str,
    ) -> Result<Storing, LinkFailure> {
        store(connection, &self.stream, message, distinct).await
    }

    /// Keeps a dead message, which had the sequence `sequence`. The oldest ones make room for it, and a stream that was deleted is
    /// created again. If the quota was lowered below its size, NATS stores it and removes it at once.
    ///
    /// # Errors
    /// If it is not kept: it must stay where it is.
    pub(crate) async fn keep(
        &self,
        connection: &NatsConnection,
        mut message: QueuedMessage,
        sequence: u64,
        (quota, replicas): (Backlog, usize),
    ) -> Result<(), LinkFailure> {
        // One that was retried may die again within a minute. This is shorter than what it was stored with.
        let distinct = sequence.to_string();
        let mut stored = store(connection, &self.dead, &message, &distinct).await?;
        if stored == Storing::TooLarge {
            // Without its death it is no larger than it was when NATS accepted it.
            message.death = None;
            stored = store(connection, &self.dead, &message, &distinct).await?;
        }
        if stored == Storing::Gone {
            self.create_dead(connection, quota.bytes, replicas).await?;
            stored = store(connection, &self.dead, &message, &distinct).await?;
        }
        match stored {
            Storing::Stored(_) => Ok(()),
            // The configuration of NATS has changed.
            Storing::TooLarge => Err(connection.too_large().into()),
            Storing::Gone | Storing::Full => {
                Err(Error::unavailable("NATS does not store a dead message: look whether its streams can be created")
                    .into())
            }
        }
    }

    /// Removes a message that was stored.
    pub(crate) async fn remove(&self, connection: &NatsConnection, sequence: u64) -> Result<(), LinkFailure> {
        remove(connection, &self.stream, sequence).await
    }

    /// Checks that a message of `size` bytes may wait, and returns whether there is a stream for it.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`].
    pub(crate) async fn room(&self, connection: &NatsConnection, size: u64) -> Result<bool, LinkFailure> {
        let Some((state, limits)) = self.find(connection, &self.stream).await? else { return Ok(false) };
        let limit = |limit: i64| u64::try_from(limit).unwrap_or(u64::MAX);
        let (messages, bytes) = (limit(limits.max_msgs), limit(limits.max_bytes));
        let exceeded = |resource, used, limit| Err(Error::QuotaExceeded { resource, used, limit }.into());
        if state.messages >= messages {
            return exceeded(Resource::Messages, state.messages, messages);
        }
        if state.bytes.saturating_add(size) > bytes {
            return exceeded(Resource::Bytes, state.bytes, bytes);
        }
        Ok(true)
    }

    /// Why a message of `size` bytes was refused.
    pub(crate) async fn refusal(&self, connection: &NatsConnection, size: u64) -> LinkFailure {
        match self.room(connection, size).await {
            Err(refusal) => refusal,
            // NATS counts some bytes more; or something was acknowledged meanwhile.
            Ok(_) => match self.info(connection, &self.stream).await {
                Err(failed) => failed,
                Ok((state, limits)) => {
                    let limit = u64::try_from(limits.max_bytes).unwrap_or(u64::MAX);
                    Error::QuotaExceeded { resource: Resource::Bytes, used: state.bytes, limit }.into()
                }
            },
        }
    }

    /// The state of the consumer's messages.
    pub(crate) async fn status(&self, connection: &NatsConnection, now: Timestamp) -> Result<QueueStatus, LinkFailure> {
        let consumer = format!("$JS.API.CONSUMER.INFO.{}.{CONSUMER}", self.stream);
        let (queue, dead, consumer) = tokio::try_join!(
            self.info(connection, &self.stream),
            self.info(connection, &self.dead),
            connection.request(consumer, None, Bytes::new()),
        )?;
        let leased = JetStreamResponse::read(&consumer)?.accepted()?.num_ack_pending;
        let (queue, dead) = (queue.0, dead.0);
        let oldest = timestamp(&queue.first_ts).filter(|_| queue.messages > 0).map(|first| now.since(first));
        let backlog = Backlog { messages: queue.messages, bytes: queue.bytes };
        Ok(QueueStatus { backlog, leased, dead: dead.messages, oldest })
    }

    pub(super) async fn info(
        &self,
        connection: &NatsConnection,
        stream: &str,
    ) -> Result<(StreamState, StreamLimits), LinkFailure> {
        let deleted = || Error::unavailable("the stream of the service was deleted: it is created again");
        self.find(connection, stream).await?.ok_or_else(|| deleted().into())
    }

    /// The state and the limits of a stream; `None` if there is none.
    async fn find(
        &self,
        connection: &NatsConnection,
        stream: &str,
    ) -> Result<Option<(StreamState, StreamLimits)>, LinkFailure> {
        let message = connection.request(format!("$JS.API.STREAM.INFO.{stream}"), None, Bytes::new()).await?;
        let response = JetStreamResponse::read(&message)?;
        if response.code() == code::STREAM_NOT_FOUND {
            return Ok(None);
        }
        let response = response.accepted()?;
        response.state.zip(response.config).map(Some).ok_or_else(|| unexpected().into())
    }

    /// Reads the message with a sequence; `None` if it is gone.
    pub(crate) async fn read(
        &self,
        connection: &NatsConnection,
        sequence: u64,
    ) -> Result<Option<QueuedMessage>, LinkFailure> {
        let found = get(connection, &self.stream, json!({ "seq": sequence })).await?;
        Ok(found.and_then(|(_, queued)| queued))
    }

    /// Receives up to `limit` messages that can be delivered now; or else waits for the first one until `until`, and a while at
    /// most.
    pub(crate) async fn pull(
        &self,
        connection: &NatsConnection,
        limit: usize,
        until: Instant,
        interrupted: &watch::Receiver<()>,
    ) -> Result<Vec<Message>, LinkFailure> {
        let now = Instant::now();
        let mut messages = self.request(connection, None, limit, now + RESPONSE).await?;
        let wait = until.saturating_duration_since(now).min(WAIT);
        if !messages.is_empty() || wait < Duration::from_millis(1) || interrupted.has_changed().is_ok_and(|it| it) {
            return Ok(messages);
        }
        messages = self.request(connection, Some((wait, interrupted)), 1, now + wait + RESPONSE).await?;
        if !messages.is_empty() && limit > 1 {
            // The first is there already: an error of the others must not lose it for its lease.
            let others = self.request(connection, None, limit - 1, Instant::now() + RESPONSE).await;
            messages.extend(others.unwrap_or_default());
        }
        Ok(messages)
    }

    /// Requests messages: what is there, or with `wait` what comes within that time, until it is interrupted.
    async fn request(
        &self,
        connection: &NatsConnection,
        wait: Option<(Duration, &watch::Receiver<()>)>,
        limit: usize,
        deadline: Instant,
    ) -> Result<Vec<Message>, LinkFailure> {
        let client = &connection.client;
        let inbox = client.new_inbox();
        let mut subscriber = client.subscribe(inbox.clone()).await.map_err(|_| LinkFailure::Lost)?;
        let mut request = json!({ "batch": limit, "max_bytes": MAX_RECEIVE_BYTES });
        let how = match wait {
            None => json!({ "no_wait": true }),
            Some((wait, _)) => json!({ "expires": u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX) }),
        };
        extend(&mut request, how);
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{CONSUMER}", self.stream);
        let sent = client.publish_with_reply(subject, inbox, request.to_string().into()).await;
        sent.map_err(|_| LinkFailure::Lost)?;
        let mut interrupted = wait.map(|(_, interrupted)| interrupted.clone());
        let interruption = async {
            match &mut interrupted {
                Some(interrupted) => interrupted.changed().await.is_ok(),
                None => std::future::pending().await,
            }
        };
        tokio::pin!(interruption);
        let (mut messages, mut draining) = (Vec::new(), false);
        while messages.len() < limit {
            let next = connection.unless_lost(timeout_at(deadline, subscriber.next()));
            let next = tokio::select! {
                next = next => next?,
                _ = &mut interruption, if !draining => {
                    // What NATS has sent to this host comes first.
                    draining = true;
                    subscriber.drain().await.map_err(|_| LinkFailure::Lost)?;
                    continue;
                }
            };
            let message = match next {
                Ok(Some(message)) => message,
                Ok(None) if draining => break,
                Ok(None) => return Err(LinkFailure::Lost),
                Err(_) if messages.is_empty() => return Err(LinkFailure::Doubted(Error::Timeout)),
                Err(_) => break,
            };
            match message.status {
                None => messages.push(message),
                Some(StatusCode::IDLE_HEARTBEAT) => {}
                Some(StatusCode::NOT_FOUND | StatusCode::TIMEOUT) => break,
                Some(_) if !messages.is_empty() => break,
                Some(StatusCode::NO_RESPONDERS) => return Err(Error::unavailable(NO_RESPONDERS).into()),
                Some(status) => {
                    let text = format!("NATS has ended a request for messages with status {status}: it is repeated");
                    return Err(Error::unavailable(text).into());
                }
            }
        }
        Ok(messages)
    }
}
