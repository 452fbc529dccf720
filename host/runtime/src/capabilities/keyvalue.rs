//! Key-value stores. The interfaces differ in names and types; what they do is here.
//!
//! * `wasi` has `wasi:keyvalue`, as `0.2.0-draft` and `0.2.0-draft2`.
//! * `spin` has `fermyon:spin/key-value@2.0.0` and `spin:key-value@3.0.0`.
//! * `wasmcloud` has `wasmcloud:keyvalue@0.2.0`.
//!
//! A store has the keys of one service, so no name that a guest chooses leads to another service's keys, except the names that its
//! manifest gives to buckets which the other one [shares](shared). Buckets exist as
//! soon as they have keys.

mod in_flight;
mod operation;
pub mod shared;
mod spin;
mod wasi;
mod wasmcloud;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use in_flight::{HandlePermit, InFlight};
use lodge_state::{Cursor, Entry, Error, Listing, Set, Store, limits};
use lodge_traffic::service::Service;
use operation::Operation;
use wasmtime::component::{Accessor, ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceTableError};

use super::denied::deny;
use super::handles::TOO_MANY_HANDLES;
use super::logged_denials::Denial;
use super::{Ctx, GuestCall};
use shared::{ForeignBucket, ForeignBuckets, SharedStore};

/// The bucket that a guest gets when it names none.
const DEFAULT_BUCKET: &str = "default";

/// The cursors of a bucket that interfaces with numbers for cursors can refer to. Older ones are forgotten.
const NUMBERED_CURSORS: usize = 16;

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
    /// What other services may use, for as long as this value exists.
    pub shared: Arc<SharedStore>,
    /// The buckets of other services that its guests may open.
    pub foreign: ForeignBuckets,
}

/// The store of a sandbox.
#[derive(Clone)]
pub(super) struct SandboxStore {
    granted: Arc<GrantedStore>,
    in_flight: Arc<InFlight>,
}

/// A bucket of the store, or of another service.
#[derive(Clone)]
struct StoreBucket {
    name: Arc<str>,
    /// Where the bucket is, if another service has it. Its name is that which it has there.
    foreign: Option<Arc<ForeignBucket>>,
    store: SandboxStore,
}

/// A bucket that a guest has opened.
struct OpenBucket {
    bucket: StoreBucket,
    _handle: HandlePermit,
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
    /// The guest has too many handles. The text says of what.
    Full(&'static str),
    /// It cannot be the name of a bucket.
    Invalid(Error),
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
    let denied = |kind| {
        deny(&ctx.sandbox, kind);
        Ok(Err(Closed::Denied))
    };
    let Some(store) = ctx.keyvalue.clone() else { return denied(Denial::KeyValue) };
    let foreign = store.granted.foreign.get(name).cloned();
    let own = &store.granted.buckets;
    let name = match &foreign {
        Some(foreign) if foreign.find().is_none() => return denied(Denial::Shared),
        Some(foreign) => &foreign.bucket.bucket,
        None if own.is_empty() || own.iter().any(|bucket| bucket == name) => name,
        None => return denied(Denial::Bucket),
    };
    // The handle has the name, so a name that no operation accepts must not be in one.
    if let Err(error) = Listing::new(name, "", limits::MAX_PAGE) {
        return Ok(Err(Closed::Invalid(error)));
    }
    let Some(handle) = store.in_flight.handle() else { return Ok(Err(Closed::Full(TOO_MANY))) };
    let bucket = StoreBucket { name: name.into(), foreign: foreign.clone(), store: store.clone() };
    match ctx.table.push(OpenBucket { bucket, _handle: handle, cursors: VecDeque::new(), next: 1 }) {
        Ok(bucket) => Ok(Ok(bucket)),
        Err(ResourceTableError::Full) => Ok(Err(Closed::Full(TOO_MANY_HANDLES))),
        Err(other) => Err(other.into()),
    }
}

/// The error of a guest that has as many handles as a store permits.
const TOO_MANY: &str = "this request has 256 handles of buckets and of compare-and-swap; drop some";

impl SandboxStore {
    /// Returns the store of a new sandbox.
    pub(super) fn new(granted: Arc<GrantedStore>) -> Self {
        Self { granted, in_flight: InFlight::new() }
    }
}

impl GrantedStore {
    /// When an operation that begins now must end.
    fn deadline(&self, ctx: &Ctx) -> tokio::time::Instant {
        ctx.sandbox.operation_deadline(self.timeout).into()
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
        let operation = Operation::begin(caller.data(), &bucket, key.len());
        Box::new(async move { Ok((operation?.get(&key).await.map(|entry| entry.map(bytes)).map_err(E::from),)) })
    })?;
    instance.func_wrap_async(&method("set"), |caller: GuestCall<'_>, (bucket, key, value): (_, String, Vec<u8>)| {
        let operation = Operation::begin(caller.data(), &bucket, key.len() + value.len());
        Box::new(async move { Ok((operation?.set(&key, value, Set::default()).await.map_err(E::from),)) })
    })?;
    instance.func_wrap_async(&method("delete"), |caller: GuestCall<'_>, (bucket, key): (_, String)| {
        let operation = Operation::begin(caller.data(), &bucket, key.len());
        Box::new(async move { Ok((operation?.delete(&key).await.map_err(E::from),)) })
    })?;
    instance.func_wrap_async(&method("exists"), |caller: GuestCall<'_>, (bucket, key): (_, String)| {
        let operation = Operation::begin(caller.data(), &bucket, key.len());
        Box::new(async move { Ok((operation?.exists(&key).await.map_err(E::from),)) })
    })
}

/// Links `get`, `delete` and `exists` as async functions.
fn link_async_basics<E: ErrorType>(instance: &mut LinkerInstance<'_, Ctx>, resource: &str) -> wasmtime::Result<()> {
    let method = |name: &str| format!("[method]{resource}.{name}");
    instance.func_wrap_concurrent(&method("get"), |accessor, (bucket, key): (_, String)| {
        let operation = begin(accessor, &bucket, key.len());
        Box::pin(async move { Ok((operation?.get(&key).await.map(|entry| entry.map(bytes)).map_err(E::from),)) })
    })?;
    instance.func_wrap_concurrent(&method("delete"), |accessor, (bucket, key): (_, String)| {
        let operation = begin(accessor, &bucket, key.len());
        Box::pin(async move { Ok((operation?.delete(&key).await.map_err(E::from),)) })
    })?;
    instance.func_wrap_concurrent(&method("exists"), |accessor, (bucket, key): (_, String)| {
        let operation = begin(accessor, &bucket, key.len());
        Box::pin(async move { Ok((operation?.exists(&key).await.map_err(E::from),)) })
    })
}

/// Begins an operation of an async function.
fn begin(accessor: &Accessor<Ctx>, bucket: &Resource<OpenBucket>, sent: usize) -> wasmtime::Result<Operation> {
    accessor.with(|mut access| Operation::begin(access.get(), bucket, sent))
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
