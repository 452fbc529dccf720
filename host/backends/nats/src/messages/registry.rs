//! Who consumes what: the bucket that all hosts read before they publish.
//!
//! | key | what it is |
//! |---|---|
//! | `s.CONSUMER` | a subscription: its subjects, and the number of its streams; written again by every host that subscribes, and every hour |
//! | `p.CONSUMER.HOST` | a host that receives for it; expires |
//! | `d.STREAM.SEQUENCE` | a message that was delivered more than once; expires |
//!
//! A host keeps a copy of the subscriptions. Before it publishes, it reads what was written after the last one that it knows,
//! which is nothing as a rule. So a message reaches all consumers whose subscription was confirmed before.
//!
//! A subscription ends when a host has seen for a day that nobody writes it again. Time in which no host runs does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use lodge_remote::LinkFailure;
use lodge_state::limits::MAX_ABSENCE;
use lodge_state::messages::{Pattern, Subject};
use lodge_state::{Entry, Error, Holder, Namespace, Timestamp, Value, Version};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, MutexGuard, OnceCell};
use tokio::time::Instant;

use crate::connector::NatsConnection;
use crate::messages::queue::QueueStreams;
use crate::names;
use crate::stream::{NatsStream, UpdateOutcome};
use crate::unexpected;

/// How long a host is known to receive for a consumer.
const PRESENCE: Duration = Duration::from_secs(60 * 60);
/// How often a subscription is written again that hosts receive for.
const RENEWAL: Duration = Duration::from_secs(60 * 60);
/// After this time a host reads all subscriptions again. A bucket that somebody has deleted begins anew.
const COMPLETE: Duration = Duration::from_secs(10 * 60);
/// How long it is known how often a message was delivered: much longer than the longest lease and pause.
const DELIVERED: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Entries of the bucket: more than there can be.
const ENTRIES: u64 = i64::MAX as u64;

/// The subscriptions of all services.
pub(crate) struct Registry {
    stream: Arc<NatsStream>,
    created: OnceCell<()>,
    known: Mutex<KnownSubscriptions>,
}

/// What a host knows of the subscriptions.
#[derive(Default)]
struct KnownSubscriptions {
    subscriptions: BTreeMap<String, Registered>,
    /// Those that were known before it began with the first.
    before: BTreeMap<String, Registered>,
    /// Records that another version has written.
    unknown: BTreeSet<String>,
    /// The last sequence that was read.
    last: u64,
    /// When it began to read what it knows, and when it last began with the first.
    began: Option<Instant>,
    complete: Option<Instant>,
}

/// A subscription.
#[derive(Clone, Debug)]
pub(crate) struct Registered {
    sequence: u64,
    pub(crate) consumer: Namespace,
    /// The number of its streams.
    pub(crate) number: String,
    patterns: Vec<Pattern>,
    ended: bool,
    /// When this host has first seen it with this sequence.
    observed: Instant,
}

/// A subscription as it is stored.
#[derive(Deserialize, Serialize)]
struct Subscribed<'a> {
    consumer: &'a str,
    number: &'a str,
    subjects: Vec<&'a str>,
    ended: bool,
}

/// How often a message was delivered.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Deliveries {
    /// All deliveries.
    pub(crate) all: u64,
    /// Those that do not count.
    pub(crate) released: u64,
}

impl Registered {
    fn read(sequence: u64, text: &[u8]) -> Option<Registered> {
        let stored: Subscribed<'_> = serde_json::from_slice(text).ok()?;
        let number = Some(stored.number).filter(|number| is_number(number))?.to_owned();
        Some(Registered {
            sequence,
            consumer: Namespace::new(stored.consumer).ok()?,
            number,
            patterns: stored.subjects.iter().map(|text| Pattern::new(text)).collect::<Result<_, _>>().ok()?,
            ended: stored.ended,
            observed: Instant::now(),
        })
    }

    /// Whether messages are stored for it.
    pub(crate) fn is_live(&self) -> bool {
        !self.ended && self.observed.elapsed() < MAX_ABSENCE
    }

    /// Whether its end is written, so that no host uses it.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether it need not be written again.
    pub(crate) fn is_current(&self, patterns: &[Pattern]) -> bool {
        self.patterns == patterns && self.observed.elapsed() < RENEWAL
    }

    /// Its streams.
    pub(crate) fn queue(&self) -> QueueStreams {
        QueueStreams::new(&self.consumer, &self.number)
    }
}

impl KnownSubscriptions {
    /// Begins with the first subscription again, with the times of those that have not changed.
    fn restart(&mut self) {
        let mut before = std::mem::take(&mut self.before);
        before.append(&mut self.subscriptions);
        *self = KnownSubscriptions { before, ..KnownSubscriptions::default() };
    }

    /// Adds what was read under a key.
    fn add(&mut self, key: String, registered: Option<Registered>) {
        let Some(mut registered) = registered else {
            self.subscriptions.remove(&key);
            return;
        };
        if let Some(same) = self.before.get(&key).filter(|before| before.sequence == registered.sequence) {
            registered.observed = same.observed;
        }
        self.subscriptions.insert(key, registered);
    }
}

/// Whether `text` is a number of streams.
pub(crate) fn is_number(text: &str) -> bool {
    text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A new number of streams.
///
/// # Errors
/// If there are no random numbers.
pub(crate) fn new_number() -> Result<String, Error> {
    Ok(format!("{:08x}", Holder::random()?.bits() as u32))
}

impl Registry {
    pub(crate) fn new(stream: Arc<NatsStream>) -> Registry {
        Registry { stream, created: OnceCell::new(), known: Mutex::default() }
    }

    /// Creates the bucket, once.
    pub(crate) async fn create(&self, deadline: Instant) -> Result<(), Error> {
        self.created.get_or_try_init(|| self.stream.configure(ENTRIES, deadline)).await.map(drop)
    }

    /// The time of the server.
    pub(crate) async fn now(&self, connection: &NatsConnection) -> Result<Timestamp, LinkFailure> {
        self.stream.now(connection).await
    }

    /// What is known, read after this call began: by it, or by another one.
    async fn known(&self, connection: &NatsConnection) -> Result<MutexGuard<'_, KnownSubscriptions>, LinkFailure> {
        let arrived = Instant::now();
        let mut known = self.known.lock().await;
        if known.began.is_some_and(|began| began >= arrived) {
            return Ok(known);
        }
        let began = Instant::now();
        if known.complete.is_none_or(|complete| complete.elapsed() >= COMPLETE) {
            known.restart();
            known.complete = Some(began);
        }
        while let Some((key, stored)) = self.stream.next(connection, known.last.saturating_add(1), "s.*").await? {
            let registered = Registered::read(stored.sequence, stored.entry.value.as_slice());
            match registered.is_none() && stored.entry.expires.is_none() {
                true => known.unknown.insert(key.clone()),
                false => known.unknown.remove(&key),
            };
            known.add(key, registered);
            known.last = stored.sequence.max(known.last.saturating_add(1));
        }
        known.before.clear();
        known.began = Some(began);
        Ok(known)
    }

    /// Forgets what is known, because the server has shown that it is wrong.
    pub(crate) async fn forget(&self) {
        self.known.lock().await.restart();
    }

    /// The subscription of a consumer, also if it is not live.
    pub(crate) async fn find(
        &self,
        connection: &NatsConnection,
        consumer: &Namespace,
    ) -> Result<Option<Registered>, LinkFailure> {
        Ok(self.known(connection).await?.subscriptions.get(&subscription(consumer)).cloned())
    }

    /// The streams of the consumers of a subject.
    pub(crate) async fn consumers(
        &self,
        connection: &NatsConnection,
        subject: &Subject,
    ) -> Result<Vec<QueueStreams>, LinkFailure> {
        let known = self.known(connection).await?;
        let live = known.subscriptions.values().filter(|one| one.is_live());
        let matching = live.filter(|one| one.patterns.iter().any(|pattern| pattern.matches(subject)));
        Ok(matching.map(Registered::queue).collect())
    }

    /// How many subscriptions are live, and those that are not.
    pub(crate) async fn ended(&self, connection: &NatsConnection) -> Result<(u64, Vec<Registered>), LinkFailure> {
        let known = self.known(connection).await?;
        let (live, ended): (Vec<_>, Vec<_>) = known.subscriptions.values().partition(|one| one.is_live());
        Ok((live.len() as u64, ended.into_iter().cloned().collect()))
    }

    /// The names of the streams of all subscriptions; `None` if some of these cannot be read.
    pub(crate) async fn streams(&self, connection: &NatsConnection) -> Result<Option<BTreeSet<String>>, LinkFailure> {
        let known = self.known(connection).await?;
        let queues = known.subscriptions.values().map(Registered::queue);
        let names = queues.flat_map(|queue| queue.names().map(str::to_owned));
        Ok(known.unknown.is_empty().then(|| names.collect()))
    }

    /// Writes a subscription in the place of `last`.
    pub(crate) async fn write(
        &self,
        connection: &NatsConnection,
        consumer: &Namespace,
        (number, patterns, ended): (&str, &[Pattern], bool),
        last: Option<&Registered>,
    ) -> Result<UpdateOutcome, LinkFailure> {
        let subjects = patterns.iter().map(Pattern::as_str).collect();
        let stored = Subscribed { consumer: consumer.as_str(), number, subjects, ended };
        let text = serde_json::to_string(&stored).map_err(|_| unexpected())?;
        let expected = last.map_or(0, |last| last.sequence);
        let now = self.now(connection).await?;
        self.stream.update(connection, &subscription(consumer), &entry(text, None)?, Some(expected), now).await
    }

    /// Writes that `registered` is used; or, with `ended`, that it has ended.
    pub(crate) async fn renew(
        &self,
        connection: &NatsConnection,
        registered: &Registered,
        ended: bool,
    ) -> Result<UpdateOutcome, LinkFailure> {
        let Registered { consumer, number, patterns, .. } = registered;
        self.write(connection, consumer, (number, patterns, ended), Some(registered)).await
    }

    /// Removes a subscription that has ended, if nobody has renewed it.
    pub(crate) async fn remove(&self, connection: &NatsConnection, registered: &Registered) -> Result<(), LinkFailure> {
        self.stream.delete(connection, registered.sequence).await?;
        let mut known = self.known.lock().await;
        let key = subscription(&registered.consumer);
        if known.subscriptions.get(&key).is_some_and(|one| one.sequence == registered.sequence) {
            known.subscriptions.remove(&key);
        }
        Ok(())
    }

    /// Says that this host receives for a consumer.
    pub(crate) async fn arrive(
        &self,
        connection: &NatsConnection,
        consumer: &Namespace,
        host: Holder,
    ) -> Result<(), LinkFailure> {
        let now = self.now(connection).await?;
        let present = entry(String::new(), Some(now.after(PRESENCE)))?;
        self.stream.update(connection, &presence(consumer, host), &present, None, now).await.map(drop)
    }

    /// Says that this host receives no more for a consumer, and returns whether others do.
    pub(crate) async fn leave(
        &self,
        connection: &NatsConnection,
        consumer: &Namespace,
        host: Holder,
    ) -> Result<bool, LinkFailure> {
        if let Some(present) = self.stream.read(connection, &presence(consumer, host)).await? {
            self.stream.delete(connection, present.sequence).await?;
        }
        self.is_received(connection, consumer).await
    }

    /// Whether a host receives for a consumer, as far as is known.
    pub(crate) async fn is_received(
        &self,
        connection: &NatsConnection,
        consumer: &Namespace,
    ) -> Result<bool, LinkFailure> {
        let filter = self.stream.subject(&format!("p.{}.*", names::token(consumer.as_str())));
        let (state, _) = self.stream.info(connection, Some((&filter, 0))).await?;
        Ok(!state.subjects.is_empty())
    }

    /// How often a message was delivered, if more than once, and the sequence of the record.
    pub(crate) async fn deliveries(
        &self,
        connection: &NatsConnection,
        queue: &QueueStreams,
        sequence: u64,
    ) -> Result<(Deliveries, u64), LinkFailure> {
        let Some(stored) = self.stream.read(connection, &delivered(queue, sequence)).await? else {
            return Ok(Default::default());
        };
        let deliveries = serde_json::from_slice(stored.entry.value.as_slice()).unwrap_or_default();
        Ok((deliveries, stored.sequence))
    }

    /// Writes how often a message was delivered, if the last record has the sequence `expected`. Returns the sequence of this one,
    /// or `None` after another one.
    pub(crate) async fn delivered(
        &self,
        connection: &NatsConnection,
        (queue, sequence): (&QueueStreams, u64),
        deliveries: Deliveries,
        expected: u64,
    ) -> Result<Option<u64>, LinkFailure> {
        let text = serde_json::to_string(&deliveries).map_err(|_| unexpected())?;
        let now = self.now(connection).await?;
        let entry = entry(text, Some(now.after(DELIVERED)))?;
        match self.stream.update(connection, &delivered(queue, sequence), &entry, Some(expected), now).await? {
            UpdateOutcome::Done(sequence) => Ok(Some(sequence)),
            UpdateOutcome::Conflict => Ok(None),
        }
    }

    /// Removes the record of a message that is gone. It would expire, too.
    pub(crate) async fn settled(&self, connection: &NatsConnection, record: u64) {
        if record > 0 {
            let _ = self.stream.delete(connection, record).await;
        }
    }
}

fn entry(text: String, expires: Option<Timestamp>) -> Result<Entry, Error> {
    Ok(Entry { value: Value::new(text)?, version: Version::new(0), expires })
}

fn subscription(consumer: &Namespace) -> String {
    format!("s.{}", names::token(consumer.as_str()))
}

fn presence(consumer: &Namespace, host: Holder) -> String {
    format!("p.{}.{:032x}", names::token(consumer.as_str()), host.bits())
}

fn delivered(queue: &QueueStreams, sequence: u64) -> String {
    format!("d.{}.{sequence}", queue.name())
}
