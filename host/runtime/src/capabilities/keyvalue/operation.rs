//! What operations on a bucket do, whatever their interface.

use std::sync::Arc;
use std::time::Instant;

use lodge_base::telemetry::traces::{OperationObject, OutboundTrace};
use lodge_state::{
    Batch, Change, Condition, Cursor, Entry, Error, Expiry, Key, Listing, Set, Store, Swap, Value, limits,
};
use tokio::sync::OwnedSemaphorePermit;
use wasmtime::component::Resource;

use super::super::Ctx;
use super::super::outcome::{log_if_unavailable, outcome};
use super::in_flight::{BATCH, PAGE, SentPermit, VALUE};
use super::shared::Reach;
use super::{OpenBucket, SandboxStore, StoreBucket};

/// The keys that a listing without pages returns at most.
const UNPAGED_KEYS: usize = 10_000;

/// An operation on a bucket, before its deadline.
pub(super) struct Operation {
    pub(super) bucket: StoreBucket,
    /// What can be done with a bucket of another service.
    reach: Option<Reach>,
    deadline: tokio::time::Instant,
    /// The trace of the request, if the operation has a span.
    trace: Option<Arc<OutboundTrace>>,
    /// The bytes of its arguments, or why they are too many.
    sent: Result<SentPermit, Error>,
}

impl Operation {
    /// Begins an operation with arguments of `sent` bytes.
    ///
    /// # Errors
    /// If the guest has no such handle.
    pub(super) fn begin(ctx: &Ctx, bucket: &Resource<OpenBucket>, sent: usize) -> wasmtime::Result<Self> {
        Ok(Self::on(ctx, ctx.table.get(bucket)?.bucket.clone(), sent))
    }

    /// Begins an operation on a bucket that the guest may have no handle of any more.
    pub(super) fn on(ctx: &Ctx, bucket: StoreBucket, sent: usize) -> Self {
        let SandboxStore { granted, in_flight } = &bucket.store;
        let (deadline, sent) = (granted.deadline(ctx), in_flight.send(sent));
        let reach = bucket.foreign.as_deref().map(Reach::of);
        Self { bucket, reach, deadline, trace: ctx.sandbox.operation_trace(), sent }
    }

    /// The store to read from.
    fn reading(&self) -> Result<&dyn Store, Error> {
        self.reach.as_ref().map_or(Ok(&*self.bucket.store.granted.store), Reach::reading)
    }

    /// The store to write to.
    fn writing(&self) -> Result<&dyn Store, Error> {
        self.reach.as_ref().map_or(Ok(&*self.bucket.store.granted.store), Reach::writing)
    }

    fn key<'a>(&'a self, key: &'a str) -> Result<Key<'a>, Error> {
        Key::new(&self.bucket.name, key)
    }

    /// Waits for room for a result of up to `bytes`, which it takes until the permit is dropped.
    async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Error> {
        self.bucket.store.in_flight.receive(bytes, self.deadline).await
    }

    fn keys<'a>(&'a self, keys: &'a [String]) -> Result<Vec<Key<'a>>, Error> {
        // Checked before anything is allocated for them.
        if keys.len() > limits::MAX_BATCH {
            let (size, limit) = (keys.len(), limits::MAX_BATCH);
            return Err(Error::TooLarge { what: "a batch", unit: "keys", size, limit });
        }
        keys.iter().map(|key| self.key(key)).collect()
    }

    /// Counts an operation and its time, and records its span. `name` is that of the span.
    async fn counted<T>(
        &self,
        name: &'static str,
        operation: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let start = Instant::now();
        let service = &self.bucket.store.granted.service;
        let bucket = || OperationObject::Bucket(Arc::clone(&self.bucket.name));
        let span = self.trace.as_ref().map(|trace| trace.begin_operation(name, &service.name, bucket()));
        let result = match &self.sent {
            Ok(_) => operation.await,
            Err(error) => Err(error.clone()),
        };
        if let Err(error) = &result {
            log_if_unavailable(service, error);
        }
        let failure = result.as_ref().err().map(outcome);
        if let Some(span) = span {
            span.finish(failure);
        }
        service.metrics.state_duration.record(start.elapsed());
        service.metrics.state.count(failure.unwrap_or("ok"));
        result
    }

    pub(super) async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        let get = async {
            let key = self.key(key)?;
            let _room = self.room(VALUE).await?;
            self.reading()?.get(key, self.deadline).await
        };
        self.counted("state.get", get).await
    }

    pub(super) async fn exists(&self, key: &str) -> Result<bool, Error> {
        let exists = async {
            let key = self.key(key)?;
            // Backends read the entry.
            let _room = self.room(VALUE).await?;
            self.reading()?.exists(key, self.deadline).await
        };
        self.counted("state.exists", exists).await
    }

    pub(super) async fn set(&self, key: &str, value: Vec<u8>, set: Set) -> Result<(), Error> {
        let set = async { self.writing()?.set(self.key(key)?, Value::new(value)?, set, self.deadline).await };
        self.counted("state.set", set).await.map(drop)
    }

    pub(super) async fn delete(&self, key: &str) -> Result<(), Error> {
        self.counted("state.delete", async { self.writing()?.delete(self.key(key)?, self.deadline).await })
            .await
            .map(drop)
    }

    pub(super) async fn increment(&self, key: &str, delta: i64) -> Result<i64, Error> {
        self.counted("state.increment", async { self.writing()?.increment(self.key(key)?, delta, self.deadline).await })
            .await
    }

    /// Stores `value` if `condition` is true.
    pub(super) async fn swap(&self, key: &str, condition: Condition, value: Vec<u8>) -> Result<Swap, Error> {
        let swap = async {
            let (key, change) = (self.key(key)?, Change::Put(Value::new(value)?, Expiry::Keep));
            // Of the present entry, if it is another.
            let _room = self.room(VALUE).await?;
            self.writing()?.compare_and_swap(key, condition, change, self.deadline).await
        };
        self.counted("state.swap", swap).await
    }

    /// A page of keys that begin with `prefix`, and where the next one begins.
    pub(super) async fn list(
        &self,
        prefix: &str,
        cursor: Option<&Cursor>,
    ) -> Result<(Vec<String>, Option<Cursor>), Error> {
        self.held_list(prefix, cursor).await.map(|(keys, next, _)| (keys, next))
    }

    /// The same, with the room that the keys take.
    pub(super) async fn held_list(&self, prefix: &str, cursor: Option<&Cursor>) -> Result<HeldPage, Error> {
        let page = async {
            let first = Listing::new(&self.bucket.name, prefix, limits::MAX_PAGE)?;
            let listing = cursor.map_or(first, |cursor| first.at(cursor));
            let mut room = self.room(PAGE).await?;
            let page = self.reading()?.list(listing, self.deadline).await?;
            let bytes: usize = page.keys.iter().map(String::len).sum();
            drop(room.split(PAGE.saturating_sub(bytes)));
            Ok((page.keys, page.next, room))
        };
        self.counted("state.list", page).await
    }

    /// All keys, for interfaces without pages.
    pub(super) async fn list_all(&self) -> Result<Vec<String>, Error> {
        let (mut keys, mut next, mut all) = self.held_list("", None).await?;
        while let Some(cursor) = next {
            if keys.len() >= UNPAGED_KEYS {
                let (what, unit) = ("a listing without pages", "keys");
                return Err(Error::TooLarge { what, unit, size: keys.len().saturating_add(1), limit: UNPAGED_KEYS });
            }
            let (more, room);
            (more, next, room) = self.held_list("", Some(&cursor)).await?;
            keys.extend(more);
            all.merge(room);
        }
        Ok(keys)
    }

    pub(super) async fn get_many(&self, keys: &[String]) -> Result<Vec<Option<Entry>>, Error> {
        let get = async {
            let keys = Batch::new(self.keys(keys)?)?;
            let _room = self.room(BATCH).await?;
            self.reading()?.get_many(keys, self.deadline).await
        };
        self.counted("state.get_many", get).await
    }

    pub(super) async fn set_many(&self, entries: Vec<(String, Vec<u8>)>) -> Result<(), Error> {
        let (keys, values): (Vec<_>, Vec<_>) = entries.into_iter().unzip();
        let set = async {
            let values = values.into_iter().map(Value::new).collect::<Result<Vec<_>, _>>()?;
            self.writing()?.set_many(self.keys(&keys)?.into_iter().zip(values).collect(), self.deadline).await
        };
        self.counted("state.set_many", set).await
    }

    pub(super) async fn delete_many(&self, keys: &[String]) -> Result<(), Error> {
        self.counted("state.delete_many", async { self.writing()?.delete_many(&self.keys(keys)?, self.deadline).await })
            .await
            .map(drop)
    }
}

/// Keys of a page, where the next one begins, and the room that the keys take.
pub(super) type HeldPage = (Vec<String>, Option<Cursor>, OwnedSemaphorePermit);

/// Bytes of keys. Each also takes some memory itself.
pub(super) fn size_of_keys(keys: &[String]) -> usize {
    keys.iter().map(|key| key.len().saturating_add(size_of::<String>())).sum()
}

/// Bytes of keys and values.
pub(super) fn size_of_entries(entries: &[(String, Vec<u8>)]) -> usize {
    entries.iter().map(|(key, value)| key.len() + value.len() + size_of::<(String, Vec<u8>)>()).sum()
}
