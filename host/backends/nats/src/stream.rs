//! One stream of JetStream: the key-value bucket of a namespace, or its locks.

mod reading;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use lodge_remote::{LinkFailure, Links, OperationPermit, RemoteSpace};
use lodge_state::{Entry, Error, Resource, Timestamp, within};
use serde_json::json;
use tokio::sync::{Mutex as Turn, MutexGuard};
use tokio::time::Instant;

use crate::clock::ServerClock;
use crate::connector::{NO_RESPONDERS, NatsConnection, NatsConnector};
use crate::names;
use crate::response::{JetStreamResponse, StreamState, code};
use crate::unexpected;

pub(crate) use reading::{Leader, expiry};

/// When an entry expires, in milliseconds since 1970.
const EXPIRES: &str = "Lodge-Expires";
/// Turns of writers. Two keys rarely have the same.
const TURNS: usize = 64;
/// Seconds after which NATS removes a message that has expired: it counts in seconds, and an entry must not disappear early.
const SLACK: u64 = 2;
/// How long a count of bytes is used.
const COUNTED: Duration = Duration::from_secs(10);

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum StreamKind {
    State,
    Locks,
    /// Who consumes messages.
    Messages,
}

impl StreamKind {
    fn name(self) -> &'static str {
        match self {
            StreamKind::State => "state",
            StreamKind::Locks => "locks",
            StreamKind::Messages => "messages",
        }
    }
}

/// A stream of a namespace.
pub(crate) struct NatsStream {
    links: Arc<Links<NatsConnector>>,
    pub(crate) space: Arc<RemoteSpace>,
    bucket: String,
    replicas: usize,
    /// The most messages, and whether the stream has that limit.
    configured: Mutex<Option<u64>>,
    clock: ServerClock,
    bytes: Mutex<Option<Instant>>,
    /// Bytes as of the last count, and those that were written since.
    used: AtomicU64,
    turns: [Turn<()>; TURNS],
    hash: RandomState,
}

/// A message as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) sequence: u64,
    pub(crate) entry: Entry,
}

/// What an update has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UpdateOutcome {
    /// It is stored, with this sequence.
    Done(u64),
    /// Another write came first.
    Conflict,
}

impl NatsStream {
    pub(crate) fn new(
        kind: StreamKind,
        links: Arc<Links<NatsConnector>>,
        space: Arc<RemoteSpace>,
        replicas: usize,
    ) -> NatsStream {
        let bucket = names::bucket(kind.name(), space.namespace());
        NatsStream {
            links,
            space,
            bucket,
            replicas,
            configured: Mutex::default(),
            clock: ServerClock::default(),
            bytes: Mutex::default(),
            used: AtomicU64::new(0),
            turns: std::array::from_fn(|_| Turn::new(())),
            hash: RandomState::new(),
        }
    }

    /// Name of the stream, as JetStream's key-value buckets have it.
    pub(crate) fn name(&self) -> String {
        format!("KV_{}", self.bucket)
    }

    /// The subject of a key.
    pub(crate) fn subject(&self, key: &str) -> String {
        format!("$KV.{}.{key}", self.bucket)
    }

    /// The connections.
    pub(crate) fn links(&self) -> &Links<NatsConnector> {
        &self.links
    }

    /// Waits for the turn to write `key`. Writers of one host would otherwise repeat their updates.
    pub(crate) async fn turn(&self, key: &str, deadline: Instant) -> Result<MutexGuard<'_, ()>, Error> {
        let mut hasher = self.hash.build_hasher();
        hasher.write(key.as_bytes());
        let index = (hasher.finish() % TURNS as u64) as usize;
        let turn = self.turns.get(index).ok_or_else(unexpected)?;
        within(deadline, async { Ok(turn.lock().await) }).await
    }

    /// Permits an operation that sends `bytes`.
    pub(crate) fn enter(&self, bytes: u64) -> Result<OperationPermit, Error> {
        self.space.enter(bytes)
    }

    /// Creates the stream, or gives it its configuration.
    pub(crate) async fn configure(&self, messages: u64, deadline: Instant) -> Result<(), Error> {
        *self.configured.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let configured = async |connection: NatsConnection| self.create(&connection, messages).await;
        self.links.repeatable(deadline, configured).await?;
        *self.configured.lock().unwrap_or_else(PoisonError::into_inner) = Some(messages);
        Ok(())
    }

    async fn create(&self, connection: &NatsConnection, messages: u64) -> Result<(), LinkFailure> {
        let config = json!({
            "name": self.name(),
            "subjects": [self.subject(">")],
            "max_msgs_per_subject": 1,
            // 0 would be no limit; a quota of 0 is checked before.
            "max_msgs": i64::try_from(messages.max(1)).unwrap_or(i64::MAX),
            "discard": "new",
            "storage": "file",
            "num_replicas": self.replicas,
            // Direct reads are responded to by all replicas, also by one that is behind.
            "allow_direct": self.replicas == 1,
            "allow_msg_ttl": true,
            "deny_delete": false,
        });
        let payload = Bytes::from(config.to_string());
        let sent = Instant::now();
        let subject = format!("$JS.API.STREAM.CREATE.{}", self.name());
        let created = JetStreamResponse::read(&connection.request(subject, None, payload.clone()).await?)?;
        let response = match created.code() {
            code::NAME_IN_USE => {
                let subject = format!("$JS.API.STREAM.UPDATE.{}", self.name());
                JetStreamResponse::read(&connection.request(subject, None, payload).await?)?
            }
            _ => created,
        };
        let response = response.accepted()?;
        if let Some(time) = &response.ts {
            self.clock.read(time, sent);
        }
        Ok(())
    }

    /// Reads what the stream contains, with the subjects of a filter from `offset` on if there is one; and the clock.
    pub(crate) async fn info(
        &self,
        connection: &NatsConnection,
        filter: Option<(&str, usize)>,
    ) -> Result<(StreamState, usize), LinkFailure> {
        let payload = filter.map(|(filter, offset)| json!({ "subjects_filter": filter, "offset": offset }).to_string());
        let sent = Instant::now();
        let subject = format!("$JS.API.STREAM.INFO.{}", self.name());
        let message = connection.request(subject, None, payload.unwrap_or_default().into()).await?;
        // A bucket with many keys has many subjects: megabytes of text, which take their time.
        let read = move || JetStreamResponse::read(&message);
        let response = if filter.is_some() {
            tokio::task::spawn_blocking(read).await.map_err(|_| LinkFailure::Lost)??
        } else {
            read()?
        };
        let response = self.restored(connection, response).await?;
        if let Some(time) = &response.ts {
            self.clock.read(time, sent);
        }
        let total = response.total;
        Ok((response.state.ok_or_else(unexpected)?, total))
    }

    /// Creates a stream again that somebody has deleted.
    async fn restored(
        &self,
        connection: &NatsConnection,
        response: JetStreamResponse,
    ) -> Result<JetStreamResponse, LinkFailure> {
        if response.code() == code::STREAM_NOT_FOUND {
            self.recreate(connection).await?;
        }
        response.accepted()
    }

    async fn recreate(&self, connection: &NatsConnection) -> Result<(), LinkFailure> {
        let messages = *self.configured.lock().unwrap_or_else(PoisonError::into_inner);
        match messages {
            Some(messages) => self.create(connection, messages).await,
            None => Ok(()),
        }
    }

    /// The time of the server.
    pub(crate) async fn now(&self, connection: &NatsConnection) -> Result<Timestamp, LinkFailure> {
        if let Some(now) = self.clock.now() {
            return Ok(now);
        }
        self.info(connection, None).await?;
        self.clock.now().ok_or_else(|| unexpected().into())
    }

    /// Stores a message if the last one of its key has the sequence `expected`, 0 for none; `None` expects nothing.
    pub(crate) async fn update(
        &self,
        connection: &NatsConnection,
        key: &str,
        entry: &Entry,
        expected: Option<u64>,
        now: Timestamp,
    ) -> Result<UpdateOutcome, LinkFailure> {
        let mut headers = HeaderMap::new();
        if let Some(expected) = expected {
            headers.insert("Nats-Expected-Last-Subject-Sequence", expected.to_string().as_str());
        }
        headers.insert("Nats-Expected-Stream", self.name().as_str());
        if let Some(expires) = entry.expires {
            headers.insert(EXPIRES, expires.milliseconds().to_string().as_str());
            let seconds = expires.since(now).as_secs().saturating_add(SLACK);
            headers.insert("Nats-TTL", format!("{seconds}s").as_str());
        }
        let message = match connection.request(self.subject(key), Some(headers), entry.value.bytes()).await {
            Err(LinkFailure::Refused(error)) if error == Error::unavailable(NO_RESPONDERS) => {
                self.info(connection, None).await?;
                return Err(error.into());
            }
            message => message?,
        };
        let response = JetStreamResponse::read(&message)?;
        let limit = self.configured.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(0);
        match &response.error {
            None => {
                self.used.fetch_add(key.len() as u64 + entry.value.size(), Ordering::Relaxed);
                Ok(UpdateOutcome::Done(response.seq))
            }
            Some(refusal) if code::WRONG_SEQUENCE.contains(&refusal.err_code) => Ok(UpdateOutcome::Conflict),
            Some(refusal)
                if refusal.err_code == code::STORE_FAILED && refusal.description.contains("maximum messages") =>
            {
                Err(Error::QuotaExceeded { resource: Resource::Keys, used: limit, limit }.into())
            }
            Some(_) => Err(response.accepted().map_or_else(|failed| failed, |_| unexpected().into())),
        }
    }

    /// Deletes the message with a sequence, and returns whether it was there.
    pub(crate) async fn delete(&self, connection: &NatsConnection, sequence: u64) -> Result<bool, LinkFailure> {
        let subject = format!("$JS.API.STREAM.MSG.DELETE.{}", self.name());
        let payload = json!({ "seq": sequence, "no_erase": true }).to_string();
        let response = JetStreamResponse::read(&connection.request(subject, None, payload.into()).await?)?;
        match response.code() {
            code::NO_MESSAGE | code::SEQUENCE_NOT_FOUND | code::DELETE_FAILED => Ok(false),
            _ => response.accepted().map(|_| true),
        }
    }

    /// Refuses a write of `bytes` if the namespace has no room for them, as far as is known.
    pub(crate) async fn room(&self, connection: &NatsConnection, bytes: u64) -> Result<(), LinkFailure> {
        let quota = self.space.quota();
        if quota.keys == 0 {
            return Err(Error::QuotaExceeded { resource: Resource::Keys, used: 0, limit: 0 }.into());
        }
        let counted = *self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let enough = |used: u64| used.saturating_add(bytes) <= quota.bytes;
        let recent = counted.is_some_and(|at| at.elapsed() < COUNTED);
        if recent && enough(self.used.load(Ordering::Relaxed)) {
            return Ok(());
        }
        let (state, _) = self.info(connection, None).await?;
        self.used.store(state.bytes, Ordering::Relaxed);
        *self.bytes.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        if enough(state.bytes) {
            return Ok(());
        }
        Err(Error::QuotaExceeded { resource: Resource::Bytes, used: state.bytes, limit: quota.bytes }.into())
    }
}
