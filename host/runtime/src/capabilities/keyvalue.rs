//! Key-value stores. The interfaces differ in names and types; what they do is here.
//!
//! * `wasi` has `wasi:keyvalue`, as `0.2.0-draft` and `0.2.0-draft2`.
//! * `spin` has `fermyon:spin/key-value@2.0.0` and `spin:key-value@3.0.0`.
//! * `wasmcloud` has `wasmcloud:keyvalue@0.2.0`.
//!
//! A store has the keys of one service, so no name that a guest chooses leads to another service's keys. Buckets exist as
//! soon as they have keys.

mod spin;
mod wasi;
mod wasmcloud;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lodge_base::telemetry::traces::{OperationObject, OutboundTrace};
use lodge_state::{
    Batch, Change, Condition, Cursor, Entry, Error, Expiry, Key, Listing, Set, Store, Swap, Value, limits,
};
use lodge_traffic::service::Service;
use wasmtime::component::{Accessor, ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceTableError};

use super::denied::deny;
use super::logged_denials::Denial;
use super::outcome::outcome;
use super::{Ctx, GuestCall};

/// The bucket that a guest gets when it names none.
const DEFAULT_BUCKET: &str = "default";

/// The cursors of a bucket that interfaces with numbers for cursors can refer to. Older ones are forgotten.
const NUMBERED_CURSORS: usize = 16;

/// The keys that a listing without pages returns at most.
const UNPAGED_KEYS: usize = 10_000;

/// What the manifest of a service grants of its store.
pub struct GrantedStore {
    /// The keys of the service.
    pub store: Arc<dyn Store>,
    /// The service, whose metrics count the operations.
    pub service: Arc<Service>,
    /// The buckets that its guests may open; any if empty.
    pub buckets: Vec<String>,
    /// The longest time that an operation may take.
    pub timeout: Duration,
}

/// A bucket that a guest has opened.
struct OpenBucket {
    name: Arc<str>,
    keyvalue: Arc<GrantedStore>,
    /// Numbers and cursors, oldest first.
    cursors: VecDeque<(u64, Cursor)>,
    /// The number of the next cursor.
    next: u64,
}

/// A page of keys, as guests receive it.
#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(record)]
struct KeyPage {
    keys: Vec<String>,
    cursor: Option<String>,
}

impl KeyPage {
    fn new(keys: Vec<String>, next: Option<Cursor>) -> Self {
        Self { keys, cursor: next.map(|next| next.as_str().to_owned()) }
    }
}

/// Why a bucket cannot be opened.
enum Closed {
    /// The manifest does not grant it.
    Denied,
    /// The guest has too many handles.
    Full,
}

/// The errors of an interface.
trait ErrorType: From<Error> + ComponentType + Lower + Lift + Send + Sync + 'static {}

impl<E: From<Error> + ComponentType + Lower + Lift + Send + Sync + 'static> ErrorType for E {}

/// Adds all key-value interfaces to the linker, and into a `concurrent` engine also those with async functions.
pub(super) fn link(linker: &mut Linker<Ctx>, concurrent: bool) -> wasmtime::Result<()> {
    wasi::link(linker)?;
    spin::link(linker)?;
    if concurrent {
        spin::link_async(linker)?;
        wasmcloud::link(linker)?;
    }
    Ok(())
}

/// Opens the bucket `name`.
fn open(ctx: &mut Ctx, name: &str) -> wasmtime::Result<Result<Resource<OpenBucket>, Closed>> {
    let name = if name.is_empty() { DEFAULT_BUCKET } else { name };
    let allowed = |keyvalue: &&Arc<GrantedStore>| {
        keyvalue.buckets.is_empty() || keyvalue.buckets.iter().any(|bucket| bucket == name)
    };
    let Some(keyvalue) = ctx.keyvalue.as_ref().filter(allowed).map(Arc::clone) else {
        deny(&ctx.sandbox, if ctx.keyvalue.is_none() { Denial::KeyValue } else { Denial::Bucket });
        return Ok(Err(Closed::Denied));
    };
    let bucket = OpenBucket { name: name.into(), keyvalue, cursors: VecDeque::new(), next: 1 };
    match ctx.table.push(bucket) {
        Ok(bucket) => Ok(Ok(bucket)),
        Err(ResourceTableError::Full) => Ok(Err(Closed::Full)),
        Err(other) => Err(other.into()),
    }
}

impl GrantedStore {
    /// When an operation that begins now must end.
    fn deadline(&self, ctx: &Ctx) -> tokio::time::Instant {
        ctx.sandbox.operation_deadline(self.timeout).into()
    }
}

/// An operation on a bucket, before its deadline.
struct Operation {
    bucket: Arc<str>,
    keyvalue: Arc<GrantedStore>,
    deadline: tokio::time::Instant,
    /// The trace of the request, if the operation has a span.
    trace: Option<Arc<OutboundTrace>>,
}

impl Operation {
    /// Begins an operation.
    ///
    /// # Errors
    /// If the guest has no such handle.
    fn begin(ctx: &Ctx, bucket: &Resource<OpenBucket>) -> wasmtime::Result<Self> {
        let OpenBucket { name, keyvalue, .. } = ctx.table.get(bucket)?;
        let deadline = keyvalue.deadline(ctx);
        let trace = ctx.sandbox.operation_trace();
        Ok(Self { bucket: Arc::clone(name), keyvalue: Arc::clone(keyvalue), deadline, trace })
    }

    /// Begins another operation on the same bucket.
    fn again(self, ctx: &Ctx) -> Self {
        Self { deadline: self.keyvalue.deadline(ctx), trace: ctx.sandbox.operation_trace(), ..self }
    }

    fn store(&self) -> &dyn Store {
        &*self.keyvalue.store
    }

    fn key<'a>(&'a self, key: &'a str) -> Result<Key<'a>, Error> {
        Key::new(&self.bucket, key)
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
        let service = &self.keyvalue.service;
        let bucket = || OperationObject::Bucket(Arc::clone(&self.bucket));
        let span = self.trace.as_ref().map(|trace| trace.begin_operation(name, &service.name, bucket()));
        let result = operation.await;
        let failure = result.as_ref().err().map(outcome);
        if let Some(span) = span {
            span.finish(failure);
        }
        service.metrics.state_duration.record(start.elapsed());
        service.metrics.state.count(failure.unwrap_or("ok"));
        result
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.counted("state.get", async { self.store().get(self.key(key)?, self.deadline).await }).await
    }

    async fn exists(&self, key: &str) -> Result<bool, Error> {
        self.counted("state.exists", async { self.store().exists(self.key(key)?, self.deadline).await }).await
    }

    async fn set(&self, key: &str, value: Vec<u8>, set: Set) -> Result<(), Error> {
        let set = async { self.store().set(self.key(key)?, Value::new(value)?, set, self.deadline).await };
        self.counted("state.set", set).await.map(drop)
    }

    async fn delete(&self, key: &str) -> Result<(), Error> {
        self.counted("state.delete", async { self.store().delete(self.key(key)?, self.deadline).await }).await.map(drop)
    }

    async fn increment(&self, key: &str, delta: i64) -> Result<i64, Error> {
        self.counted("state.increment", async { self.store().increment(self.key(key)?, delta, self.deadline).await })
            .await
    }

    /// Stores `value` if `condition` is true.
    async fn swap(&self, key: &str, condition: Condition, value: Vec<u8>) -> Result<Swap, Error> {
        let swap = async {
            let change = Change::Put(Value::new(value)?, Expiry::Keep);
            self.store().compare_and_swap(self.key(key)?, condition, change, self.deadline).await
        };
        self.counted("state.swap", swap).await
    }

    /// A page of keys that begin with `prefix`, and where the next one begins.
    async fn list(&self, prefix: &str, cursor: Option<&Cursor>) -> Result<(Vec<String>, Option<Cursor>), Error> {
        let page = async {
            let first = Listing::new(&self.bucket, prefix, limits::MAX_PAGE)?;
            let listing = cursor.map_or(first, |cursor| first.at(cursor));
            self.store().list(listing, self.deadline).await
        };
        let page = self.counted("state.list", page).await?;
        Ok((page.keys, page.next))
    }

    /// All keys, for interfaces without pages.
    async fn list_all(&self) -> Result<Vec<String>, Error> {
        let (mut keys, mut next) = self.list("", None).await?;
        while let Some(cursor) = next {
            if keys.len() >= UNPAGED_KEYS {
                let (what, unit) = ("a listing without pages", "keys");
                return Err(Error::TooLarge { what, unit, size: keys.len().saturating_add(1), limit: UNPAGED_KEYS });
            }
            let more;
            (more, next) = self.list("", Some(&cursor)).await?;
            keys.extend(more);
        }
        Ok(keys)
    }

    async fn get_many(&self, keys: &[String]) -> Result<Vec<Option<Entry>>, Error> {
        let get = async { self.store().get_many(Batch::new(self.keys(keys)?)?, self.deadline).await };
        self.counted("state.get_many", get).await
    }

    async fn set_many(&self, entries: Vec<(String, Vec<u8>)>) -> Result<(), Error> {
        let (keys, values): (Vec<_>, Vec<_>) = entries.into_iter().unzip();
        let set = async {
            let values = values.into_iter().map(Value::new).collect::<Result<Vec<_>, _>>()?;
            self.store().set_many(self.keys(&keys)?.into_iter().zip(values).collect(), self.deadline).await
        };
        self.counted("state.set_many", set).await
    }

    async fn delete_many(&self, keys: &[String]) -> Result<(), Error> {
        self.counted("state.delete_many", async { self.store().delete_many(&self.keys(keys)?, self.deadline).await })
            .await
            .map(drop)
    }
}

impl OpenBucket {
    /// Returns a number for `cursor`, which is valid for this handle.
    fn number(&mut self, cursor: Cursor) -> u64 {
        if self.cursors.len() >= NUMBERED_CURSORS {
            self.cursors.pop_front();
        }
        let number = self.next;
        self.next = self.next.saturating_add(1);
        self.cursors.push_back((number, cursor));
        number
    }

    /// Returns the cursor with this number.
    fn numbered(&self, number: u64) -> Option<Cursor> {
        self.cursors.iter().find(|(known, _)| *known == number).map(|(_, cursor)| cursor.clone())
    }
}

/// Links the methods that all interfaces have in common: `get`, `set`, `delete` and `exists` of `resource`, which is a
/// [`OpenBucket`].
fn link_basics<E: ErrorType>(instance: &mut LinkerInstance<'_, Ctx>, resource: &str) -> wasmtime::Result<()> {
    let method = |name: &str| format!("[method]{resource}.{name}");
    instance.func_wrap_async(&method("get"), |caller: GuestCall<'_>, (bucket, key): (_, String)| {
        let operation = Operation::begin(caller.data(), &bucket);
        Box::new(async move { Ok((operation?.get(&key).await.map(|entry| entry.map(bytes)).map_err(E::from),)) })
    })?;
    instance.func_wrap_async(&method("set"), |caller: GuestCall<'_>, (bucket, key, value): (_, String, Vec<u8>)| {
        let operation = Operation::begin(caller.data(), &bucket);
        Box::new(async move { Ok((operation?.set(&key, value, Set::default()).await.map_err(E::from),)) })
    })?;
    instance.func_wrap_async(&method("delete"), |caller: GuestCall<'_>, (bucket, key): (_, String)| {
        let operation = Operation::begin(caller.data(), &bucket);
        Box::new(async move { Ok((operation?.delete(&key).await.map_err(E::from),)) })
    })?;
    instance.func_wrap_async(&method("exists"), |caller: GuestCall<'_>, (bucket, key): (_, String)| {
        let operation = Operation::begin(caller.data(), &bucket);
        Box::new(async move { Ok((operation?.exists(&key).await.map_err(E::from),)) })
    })
}

/// Links `get`, `delete` and `exists` as async functions.
fn link_async_basics<E: ErrorType>(instance: &mut LinkerInstance<'_, Ctx>, resource: &str) -> wasmtime::Result<()> {
    let method = |name: &str| format!("[method]{resource}.{name}");
    instance.func_wrap_concurrent(&method("get"), |accessor, (bucket, key): (_, String)| {
        let operation = begin(accessor, &bucket);
        Box::pin(async move { Ok((operation?.get(&key).await.map(|entry| entry.map(bytes)).map_err(E::from),)) })
    })?;
    instance.func_wrap_concurrent(&method("delete"), |accessor, (bucket, key): (_, String)| {
        let operation = begin(accessor, &bucket);
        Box::pin(async move { Ok((operation?.delete(&key).await.map_err(E::from),)) })
    })?;
    instance.func_wrap_concurrent(&method("exists"), |accessor, (bucket, key): (_, String)| {
        let operation = begin(accessor, &bucket);
        Box::pin(async move { Ok((operation?.exists(&key).await.map_err(E::from),)) })
    })
}

/// Begins an operation of an async function.
fn begin(accessor: &Accessor<Ctx>, bucket: &Resource<OpenBucket>) -> wasmtime::Result<Operation> {
    accessor.with(|mut access| Operation::begin(access.get(), bucket))
}

/// The bytes of an entry, as guests receive them.
fn bytes(entry: Entry) -> Vec<u8> {
    entry.value.bytes().into()
}

/// Drops the handle `rep` of a bucket or the like.
fn drop_handle<T: Send + 'static>(ctx: &mut Ctx, rep: u32) -> wasmtime::Result<()> {
    ctx.table.delete(Resource::<T>::new_own(rep))?;
    Ok(())
}
