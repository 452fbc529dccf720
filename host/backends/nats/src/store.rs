//! The keys of one namespace.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use futures_util::{StreamExt, TryStreamExt, stream};
use lodge_remote::LinkFailure;
use lodge_state::limits::{MAX_BATCH_BYTES, MAX_PAGE};
use lodge_state::{
    Batch, Change, Condition, Cursor, Entry, Error, Expiry, Holder, Key, Listing, Outcome, Page, Pending, Store,
    Timestamp, Usage, Version, Write, apply,
};
use tokio::time::{Instant, sleep};

use crate::connector::NatsConnection;
use crate::names;
use crate::stream::{NatsStream, UpdateOutcome, expiry};

/// Reads of a batch at a time.
const READS: usize = 16;
/// Milliseconds of the pauses before an update is repeated because of a writer of another host: up to four times as many.
const PAUSE: u64 = 8;
/// Bytes of subjects in one request for headers; NATS accepts requests of 1 MiB.
const FILTERS: usize = 256 << 10;

/// The keys of one namespace in NATS.
pub(crate) struct NatsStore(Arc<NatsStream>);

impl NatsStore {
    pub(crate) fn new(stream: Arc<NatsStream>) -> NatsStore {
        NatsStore(stream)
    }

    async fn read(&self, connection: &NatsConnection, key: &str) -> Result<Option<Entry>, LinkFailure> {
        let Some(stored) = self.0.read(connection, key).await? else { return Ok(None) };
        if stored.entry.expires.is_none() {
            return Ok(Some(stored.entry));
        }
        let now = self.0.now(connection).await?;
        Ok(Some(stored.entry).filter(|entry| entry.live(now)))
    }

    async fn change(&self, write: &Write<'_>, deadline: Instant) -> Result<Outcome, Error> {
        let key = names::key(write.key);
        let blind = write.condition == Condition::Always
            && matches!(write.change, Change::Put(_, Expiry::Never | Expiry::After(_)));
        // A write that reads nothing cannot conflict.
        let _turn = if blind { None } else { Some(self.0.turn(&key, deadline).await?) };
        self.0
            .links()
            .once(deadline, async |connection: NatsConnection| self.attempts(&connection, &key, write, blind).await)
            .await
    }

    /// Reads and updates until nothing comes in between.
    async fn attempts(
        &self,
        connection: &NatsConnection,
        key: &str,
        write: &Write<'_>,
        mut blind: bool,
    ) -> Result<Outcome, LinkFailure> {
        for attempt in 0u64.. {
            let stored = if blind { None } else { self.0.read(connection, key).await? };
            let now = self.0.now(connection).await?;
            let sequence = stored.as_ref().map_or(0, |stored| stored.sequence);
            let before = stored.map(|stored| stored.entry).filter(|entry| entry.live(now));
            let less = before.as_ref().map_or(0, |before| write.key.size() + before.value.size());
            let mut outcome = apply(before, &write.condition, &write.change, Version::new(0), now)?;
            if !outcome.applied {
                return Ok(outcome);
            }
            match &mut outcome.after {
                None if sequence == 0 => return Ok(outcome),
                None => {
                    if self.0.delete(connection, sequence).await? {
                        return Ok(outcome);
                    }
                }
                Some(entry) => {
                    let more = write.key.size() + entry.value.size();
                    if more > less {
                        match self.0.room(connection, more - less).await {
                            // It may replace a value that is as large.
                            Err(LinkFailure::Refused(Error::QuotaExceeded { .. })) if blind => {
                                blind = false;
                                continue;
                            }
                            room => room?,
                        }
                    }
                    let expected = (!blind).then_some(sequence);
                    if let UpdateOutcome::Done(sequence) = self.0.update(connection, key, entry, expected, now).await? {
                        entry.version = Version::new(sequence);
                        return Ok(outcome);
                    }
                }
            }
            // Another host has written: both would come first again and again without pauses of different length.
            let part = Holder::random()?.bits() as u64 % PAUSE;
            sleep(Duration::from_millis(part * attempt.min(4))).await;
        }
        Err(LinkFailure::Lost)
    }

    /// The keys of a listing, in ascending order.
    async fn keys(&self, connection: &NatsConnection, listing: &Listing<'_>) -> Result<Vec<String>, LinkFailure> {
        let filter = self.0.subject(&format!("{}.*", names::token(listing.bucket())));
        let after = listing.cursor().map(Cursor::as_str);
        let wanted = |subject: &str| {
            let name = names::name(subject.rsplit('.').next()?)?;
            let listed = name.starts_with(listing.prefix()) && after.is_none_or(|after| name.as_str() > after);
            listed.then_some(name)
        };
        let mut keys = Vec::new();
        self.subjects(connection, &filter, |subject| keys.extend(wanted(subject))).await?;
        keys.sort_unstable();
        // Two requests may have the same key.
        keys.dedup();
        Ok(keys)
    }

    /// The names of buckets after `after`, in ascending order. NATS has no index of them.
    async fn names(&self, connection: &NatsConnection, after: &str) -> Result<Vec<String>, LinkFailure> {
        let mut buckets = BTreeSet::new();
        let mut last = String::new();
        self.subjects(connection, &self.0.subject("*.*"), |subject| {
            let Some(token) = subject.rsplit('.').nth(1).filter(|token| **token != last) else { return };
            token.clone_into(&mut last);
            buckets.extend(names::name(token).filter(|name| name.as_str() > after));
        })
        .await?;
        Ok(buckets.into_iter().take(MAX_PAGE).collect())
    }

    /// Calls `each` with all subjects of a filter; with some of them twice, when others write.
    async fn subjects(
        &self,
        connection: &NatsConnection,
        filter: &str,
        mut each: impl FnMut(&str),
    ) -> Result<(), LinkFailure> {
        let mut offset = 0;
        loop {
            let (state, total) = self.0.info(connection, Some((filter, offset))).await?;
            let found = state.subjects.len();
            state.subjects.keys().for_each(|subject| each(subject));
            offset += found;
            if found == 0 || offset >= total {
                return Ok(());
            }
        }
    }

    /// Those of `keys` that have not expired. NATS removes them later, and only their headers say it.
    async fn live(
        &self,
        connection: &NatsConnection,
        bucket: &str,
        keys: &[String],
    ) -> Result<HashSet<String>, LinkFailure> {
        let now = self.0.now(connection).await?;
        let mut live = HashSet::new();
        let mut rest = keys;
        while !rest.is_empty() {
            let (mut subjects, mut bytes) = (Vec::new(), 0);
            for key in rest {
                let subject = self.0.subject(&format!("{}.{}", names::token(bucket), names::token(key)));
                bytes += subject.len();
                if bytes > FILTERS && !subjects.is_empty() {
                    break;
                }
                subjects.push(subject);
            }
            rest = rest.get(subjects.len()..).unwrap_or_default();
            live.extend(self.headers(connection, subjects, now).await?);
        }
        Ok(live)
    }

    /// The keys of `subjects` that have not expired, by their headers.
    async fn headers(
        &self,
        connection: &NatsConnection,
        subjects: Vec<String>,
        now: Timestamp,
    ) -> Result<Vec<String>, LinkFailure> {
        let count = subjects.len();
        let config = pull::Config {
            deliver_policy: DeliverPolicy::LastPerSubject,
            ack_policy: AckPolicy::None,
            headers_only: true,
            filter_subjects: subjects,
            memory_storage: true,
            num_replicas: 1,
            inactive_threshold: Duration::from_secs(5),
            ..pull::Config::default()
        };
        let context = jetstream::new(connection.client.clone());
        let lost = |_: &dyn std::fmt::Debug| LinkFailure::Lost;
        let fetch = async {
            let stream = context.get_stream_no_info(self.0.name()).await.map_err(|error| lost(&error))?;
            let consumer = stream.create_consumer(config).await.map_err(|error| lost(&error))?;
            let fetched = consumer.fetch().max_messages(count).messages().await.map_err(|error| lost(&error))?;
            let messages: Vec<_> = fetched.try_collect().await.map_err(|error| lost(&error))?;
            Ok::<_, LinkFailure>(messages)
        };
        let messages = connection.unless_lost(fetch).await??;
        let name = |message: jetstream::Message| {
            let headers = message.headers.clone().unwrap_or_default();
            let live = expiry(&headers).is_none_or(|expires| now < expires) && headers.get("KV-Operation").is_none();
            live.then(|| names::name(message.subject.rsplit('.').next()?)).flatten()
        };
        Ok(messages.into_iter().filter_map(name).collect())
    }

    async fn page(&self, connection: &NatsConnection, listing: &Listing<'_>) -> Result<Page, LinkFailure> {
        let mut keys = self.keys(connection, listing).await?;
        let more = keys.len() > listing.limit();
        keys.truncate(listing.limit());
        // The cursor is the last key, also if it has expired.
        let next = if more { keys.last().cloned().map(Cursor::new).transpose()? } else { None };
        let live = self.live(connection, listing.bucket(), &keys).await?;
        keys.retain(|key| live.contains(key));
        Ok(Page { keys, next })
    }
}

impl Store for NatsStore {
    fn get<'a>(&'a self, key: Key<'a>, deadline: Instant) -> Pending<'a, Option<Entry>> {
        Box::pin(async move {
            let _permit = self.0.enter(0)?;
            let key = names::key(key);
            self.0
                .links()
                .repeatable(deadline, async |connection: NatsConnection| self.read(&connection, &key).await)
                .await
        })
    }

    fn write<'a>(&'a self, write: Write<'a>, deadline: Instant) -> Pending<'a, Outcome> {
        Box::pin(async move {
            let _permit = self.0.enter(write.change.size())?;
            self.change(&write, deadline).await
        })
    }

    fn get_many<'a>(&'a self, keys: Batch<Key<'a>>, deadline: Instant) -> Pending<'a, Vec<Option<Entry>>> {
        Box::pin(async move {
            let _permit = self.0.enter(keys.size())?;
            let names: Vec<_> = keys.as_slice().iter().map(|key| names::key(*key)).collect();
            let read = async |connection: NatsConnection| {
                let mut reads = Vec::new();
                for name in &names {
                    reads.push(self.read(&connection, name));
                }
                let mut reads = stream::iter(reads).buffered(READS);
                let (mut entries, mut size) = (Vec::new(), 0);
                while let Some(entry) = reads.try_next().await? {
                    size += entry.as_ref().map_or(0, |entry| entry.value.as_slice().len());
                    if size > MAX_BATCH_BYTES {
                        let (what, unit) = ("the result of the batch", "bytes");
                        return Err(Error::TooLarge { what, unit, size, limit: MAX_BATCH_BYTES }.into());
                    }
                    entries.push(entry);
                }
                Ok(entries)
            };
            self.0.links().repeatable(deadline, read).await
        })
    }

    fn write_many<'a>(&'a self, writes: Batch<Write<'a>>, deadline: Instant) -> Pending<'a, Vec<Outcome>> {
        Box::pin(async move {
            let writes = writes.into_vec();
            let _permit = self.0.enter(writes.iter().map(|write| write.change.size()).sum())?;
            let mut outcomes = Vec::new();
            for write in &writes {
                outcomes.push(self.change(write, deadline).await?);
            }
            Ok(outcomes)
        })
    }

    fn list<'a>(&'a self, listing: Listing<'a>, deadline: Instant) -> Pending<'a, Page> {
        Box::pin(async move {
            let _permit = self.0.enter(0)?;
            self.0
                .links()
                .repeatable(deadline, async |connection: NatsConnection| self.page(&connection, &listing).await)
                .await
        })
    }

    fn buckets<'a>(&'a self, after: &'a str, deadline: Instant) -> Pending<'a, Vec<String>> {
        Box::pin(async move {
            let _permit = self.0.enter(0)?;
            let names = async |connection: NatsConnection| self.names(&connection, after).await;
            self.0.links().repeatable(deadline, names).await
        })
    }

    fn usage(&self, deadline: Instant) -> Pending<'_, Usage> {
        Box::pin(async move {
            let _permit = self.0.enter(0)?;
            let info = async |connection: NatsConnection| self.0.info(&connection, None).await;
            let (state, _) = self.0.links().repeatable(deadline, info).await?;
            Ok(Usage { keys: state.messages, bytes: state.bytes })
        })
    }
}
