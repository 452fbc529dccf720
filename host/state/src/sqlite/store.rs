//! The store of a namespace in SQLite: operations become jobs of the threads.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::entry::Entry;
use crate::error::Error;
use crate::key::Key;
use crate::limits::Usage;
use crate::mutex::lock;
use crate::sqlite::path::{Path, PathRef};
use crate::sqlite::queue::{QueueShare, closed};
use crate::sqlite::reader::{ReadJob, ReadSession};
use crate::sqlite::recent::State;
use crate::sqlite::transaction::{OwnedWrite, Transaction};
use crate::sqlite::writer::{Confirm, WriteJob};
use crate::sqlite::{Shared, Space};
use crate::store::{Batch, Entries, Listing, Page, PageBuilder, Pending, Store, ready, within};
use crate::write::{Outcome, Write};

/// Bytes that a job needs in the queue, roughly, beside its keys and values.
const JOB: u64 = 512;

/// The store of a namespace.
pub(super) struct SqliteStore {
    shared: Arc<Shared>,
    space: Arc<Space>,
}

/// Lets the writer do `work` in a transaction, and waits until it is committed.
pub(super) async fn submit<T: Send + 'static>(
    shared: &Shared,
    budget: &QueueShare,
    size: u64,
    deadline: Instant,
    work: impl FnOnce(&mut Transaction<'_, '_>) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let units = u32::try_from(size + JOB).unwrap_or(u32::MAX);
    let ticket = budget.take(units, deadline).await?;
    let (send, receive) = oneshot::channel();
    let work = move |transaction: Result<&mut Transaction<'_, '_>, Error>| {
        // Without a receiver, the deadline has passed or the task has ended.
        if send.is_closed() {
            return None;
        }
        let result = transaction.and_then(work);
        Some(Box::new(move |committed: Result<(), Error>| drop(send.send(committed.and(result)))) as Confirm)
    };
    shared.writes.push(WriteJob { work: Box::new(work), ticket })?;
    match timeout_at(deadline, receive).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(closed()),
        Err(_) => Err(Error::Timeout),
    }
}

/// Lets a reader do `work`, and waits for the result.
pub(super) async fn read<T: Send + 'static>(
    shared: &Shared,
    budget: &QueueShare,
    deadline: Instant,
    work: impl FnOnce(&mut ReadSession<'_>) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let ticket = budget.take(1, deadline).await?;
    let (send, receive) = oneshot::channel();
    let work = move |reader: &mut ReadSession<'_>| {
        if !send.is_closed() {
            let _ = send.send(work(reader));
        }
    };
    shared.reads.push(ReadJob { work: Box::new(work), ticket })?;
    within(deadline, async { receive.await.unwrap_or_else(|_| Err(closed())) }).await
}

impl SqliteStore {
    pub(super) fn new(shared: Arc<Shared>, space: Arc<Space>) -> SqliteStore {
        SqliteStore { shared, space }
    }

    /// Lets a reader do `work`.
    async fn read<T: Send + 'static>(
        &self,
        deadline: Instant,
        work: impl FnOnce(&mut ReadSession<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        read(&self.shared, &self.space.read_budget, deadline, work).await
    }

    /// The copy in memory of an entry.
    fn recent(&self, key: Key<'_>) -> Option<State> {
        self.shared.recent.get(PathRef { namespace: self.space.id, key })
    }

    /// The entry, if it has not expired.
    fn live(&self, state: State) -> Option<Entry> {
        // Most entries do not expire, and need no clock.
        state.filter(|entry| entry.expires.is_none() || entry.live(self.shared.clock.now()))
    }

    fn path(&self, key: Key<'_>) -> Path {
        Path::new(self.space.id, key)
    }

    fn own(&self, write: Write<'_>) -> OwnedWrite {
        OwnedWrite { path: self.path(write.key), condition: write.condition, change: write.change }
    }

    /// Does writes, all or none.
    async fn write_all(&self, size: u64, writes: Vec<OwnedWrite>, deadline: Instant) -> Result<Vec<Outcome>, Error> {
        let space = self.space.clone();
        let work = move |transaction: &mut Transaction<'_, '_>| transaction.write(&space, &writes);
        submit(&self.shared, &self.space.write_budget, size, deadline, work).await
    }
}

impl Store for SqliteStore {
    fn get<'a>(&'a self, key: Key<'a>, deadline: Instant) -> Pending<'a, Option<Entry>> {
        if let Some(state) = self.recent(key) {
            return ready(Ok(self.live(state)));
        }
        let path = self.path(key);
        Box::pin(async move { Ok(self.live(self.read(deadline, move |reader| reader.entry(&path)).await?)) })
    }

    fn write<'a>(&'a self, write: Write<'a>, deadline: Instant) -> Pending<'a, Outcome> {
        let size = write.key.size() + write.change.size();
        let writes = vec![self.own(write)];
        Box::pin(async move {
            let mut outcomes = self.write_all(size, writes, deadline).await?;
            outcomes.pop().ok_or_else(closed)
        })
    }

    fn get_many<'a>(&'a self, keys: Batch<Key<'a>>, deadline: Instant) -> Pending<'a, Vec<Option<Entry>>> {
        let states: Option<Vec<_>> = keys.as_slice().iter().map(|key| self.recent(*key)).collect();
        if let Some(states) = states {
            let mut entries = Entries::default();
            let kept = states.into_iter().try_for_each(|state| entries.push(self.live(state)));
            return ready(kept.map(|()| entries.into_vec()));
        }
        let paths: Vec<_> = keys.as_slice().iter().map(|key| self.path(*key)).collect();
        let now = self.shared.clock.now();
        let read = move |reader: &mut ReadSession<'_>| {
            let mut entries = Entries::default();
            for path in &paths {
                entries.push(reader.entry(path)?.filter(|entry| entry.live(now)))?;
            }
            Ok(entries.into_vec())
        };
        Box::pin(self.read(deadline, read))
    }

    fn write_many<'a>(&'a self, writes: Batch<Write<'a>>, deadline: Instant) -> Pending<'a, Vec<Outcome>> {
        let size = writes.size() + JOB * writes.as_slice().len() as u64;
        let writes = writes.into_vec().into_iter().map(|write| self.own(write)).collect();
        Box::pin(self.write_all(size, writes, deadline))
    }

    fn list<'a>(&'a self, listing: Listing<'a>, deadline: Instant) -> Pending<'a, Page> {
        let mut collector = PageBuilder::new(&listing);
        let (namespace, bucket, now) = (self.space.id, listing.bucket().to_owned(), self.shared.clock.now());
        let read = move |reader: &mut ReadSession<'_>| {
            let first = collector.first().to_owned();
            reader.keys((namespace, &bucket, &first), now, |key| collector.push(key))?;
            Ok(collector.into_page())
        };
        Box::pin(self.read(deadline, read))
    }

    fn buckets<'a>(&'a self, after: &'a str, deadline: Instant) -> Pending<'a, Vec<String>> {
        let (namespace, after) = (self.space.id, after.to_owned());
        Box::pin(self.read(deadline, move |reader| reader.buckets(namespace, after)))
    }

    fn usage(&self, _: Instant) -> Pending<'_, Usage> {
        ready(Ok(*lock(&self.space.usage)))
    }
}
