//! `wasi:keyvalue` as `0.2.0-draft` and as `0.2.0-draft2`: cursors are numbers in the first and text in the second, which also has
//! compare-and-swap.

use lodge_state::{Condition, Cursor, Error as StateError, Swap, Version};
use wasmtime::component::{ComponentType, Lift, Linker, Lower, Resource, ResourceType};

use super::super::handles::TOO_MANY_HANDLES;
use super::super::outcome::guest_text;
use super::super::{Ctx, GuestCall};
use super::operation::{Operation, size_of_entries, size_of_keys};
use super::{Closed, HandlePermit, KeyPage, OpenBucket, StoreBucket, TOO_MANY, bytes, drop_handle, link_basics, open};

#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(variant)]
enum Error {
    /// Part of the interface. Buckets exist as soon as they have keys, so this does not happen.
    #[component(name = "no-such-store")]
    NoSuchStore,
    #[component(name = "access-denied")]
    AccessDenied,
    #[component(name = "other")]
    Other(String),
}

impl From<StateError> for Error {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Denied { .. } => Self::AccessDenied,
            error => Self::Other(guest_text(&error)),
        }
    }
}

impl From<Closed> for Error {
    fn from(closed: Closed) -> Self {
        match closed {
            Closed::Denied => Self::AccessDenied,
            Closed::Full(text) => Self::Other(text.into()),
            Closed::Invalid(error) => error.into(),
        }
    }
}

#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(record)]
struct NumberedPage {
    keys: Vec<String>,
    cursor: Option<u64>,
}

/// A handle of compare-and-swap: the version of the entry that was there when it was made. Its value is read again, since handles
/// with values would hold more of the host's memory than a sandbox may have of its own.
struct Cas {
    bucket: StoreBucket,
    key: String,
    /// `None` if there was no entry.
    version: Option<Version>,
    _handle: HandlePermit,
}

#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
enum CasError {
    #[component(name = "store-error")]
    Store(Error),
    #[component(name = "cas-failed")]
    Failed(Resource<Cas>),
}

pub(super) fn link(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    link_draft(linker)?;
    link_draft2(linker)?;
    for version in ["0.2.0-draft", "0.2.0-draft2"] {
        link_store(linker, &format!("wasi:keyvalue/store@{version}"))?;
        let mut batch = linker.instance(&format!("wasi:keyvalue/batch@{version}"))?;
        batch.func_wrap_async(
            "set-many",
            |caller: GuestCall<'_>, (bucket, entries): (_, Vec<(String, Vec<u8>)>)| {
                let operation = Operation::begin(caller.data(), &bucket, size_of_entries(&entries));
                Box::new(async move { Ok((operation?.set_many(entries).await.map_err(Error::from),)) })
            },
        )?;
        batch.func_wrap_async("delete-many", |caller: GuestCall<'_>, (bucket, keys): (_, Vec<String>)| {
            let operation = Operation::begin(caller.data(), &bucket, size_of_keys(&keys));
            Box::new(async move { Ok((operation?.delete_many(&keys).await.map_err(Error::from),)) })
        })?;
    }
    Ok(())
}

/// What both versions have in common.
fn link_store(linker: &mut Linker<Ctx>, name: &str) -> wasmtime::Result<()> {
    let mut store = linker.instance(name)?;
    store.resource("bucket", ResourceType::host::<OpenBucket>(), |mut caller, rep| {
        drop_handle::<OpenBucket>(caller.data_mut(), rep)
    })?;
    store.func_wrap("open", |mut caller: GuestCall<'_>, (identifier,): (String,)| {
        Ok((open(caller.data_mut(), &identifier)?.map_err(Error::from),))
    })?;
    link_basics::<Error>(&mut store, "bucket")
}

fn link_draft(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    let mut store = linker.instance("wasi:keyvalue/store@0.2.0-draft")?;
    store.func_wrap_async(
        "[method]bucket.list-keys",
        |mut caller: GuestCall<'_>, (bucket, cursor): (Resource<OpenBucket>, Option<u64>)| {
            Box::new(async move {
                let operation = Operation::begin(caller.data(), &bucket, 0)?;
                let bucket = caller.data_mut().table.get_mut(&bucket)?;
                let after = cursor.map(|cursor| bucket.numbered(cursor));
                if after.as_ref().is_some_and(Option::is_none) {
                    return Ok((Err(Error::Other(UNKNOWN_CURSOR.into())),));
                }
                let after = after.flatten();
                let page = operation.list("", after.as_ref()).await.map_err(Error::from);
                Ok((page.map(|(keys, next)| NumberedPage { keys, cursor: next.map(|next| bucket.number(next)) }),))
            })
        },
    )?;
    let mut atomics = linker.instance("wasi:keyvalue/atomics@0.2.0-draft")?;
    atomics.func_wrap_async("increment", |caller: GuestCall<'_>, (bucket, key, delta): (_, String, u64)| {
        let operation = Operation::begin(caller.data(), &bucket, key.len());
        Box::new(async move {
            let operation = operation?;
            let Ok(delta) = i64::try_from(delta) else { return Ok((Err(Error::from(StateError::Overflow)),)) };
            Ok((increment(&operation, &key, delta).await.map_err(Error::from),))
        })
    })?;
    let mut batch = linker.instance("wasi:keyvalue/batch@0.2.0-draft")?;
    batch.func_wrap_async("get-many", |caller: GuestCall<'_>, (bucket, keys): (_, Vec<String>)| {
        let operation = Operation::begin(caller.data(), &bucket, size_of_keys(&keys));
        Box::new(async move {
            let entries = operation?.get_many(&keys).await.map_err(Error::from);
            let with_keys = |entries: Vec<_>| {
                let pairs = keys.into_iter().zip(entries);
                pairs.map(|(key, entry)| Some((key, bytes(entry?)))).collect::<Vec<Option<(String, Vec<u8>)>>>()
            };
            Ok((entries.map(with_keys),))
        })
    })
}

/// Adds to a number whose sum must be at least 0: one below was stored through another interface.
async fn increment(operation: &Operation, key: &str, delta: i64) -> Result<u64, StateError> {
    let number = operation.get(key).await?.map_or(Ok(0), |entry| entry.value.to_number())?;
    if number.checked_add(delta).is_some_and(|sum| sum < 0) {
        return Err(StateError::NotANumber);
    }
    let sum = operation.increment(key, delta).await?;
    match u64::try_from(sum) {
        Ok(sum) => Ok(sum),
        Err(_) => {
            // It was changed between the two, and this addition must not be seen.
            operation.increment(key, -delta).await?;
            Err(StateError::NotANumber)
        }
    }
}

fn link_draft2(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    let mut store = linker.instance("wasi:keyvalue/store@0.2.0-draft2")?;
    store.func_wrap_async(
        "[method]bucket.list-keys",
        |caller: GuestCall<'_>, (bucket, cursor): (_, Option<String>)| {
            let operation = Operation::begin(caller.data(), &bucket, cursor.as_ref().map_or(0, String::len));
            Box::new(async move {
                let operation = operation?;
                let page = async {
                    let cursor = cursor.map(Cursor::new).transpose()?;
                    let (keys, next) = operation.list("", cursor.as_ref()).await?;
                    Ok(KeyPage::new(keys, next))
                };
                Ok((page.await.map_err(|error: StateError| Error::from(error)),))
            })
        },
    )?;
    let mut batch = linker.instance("wasi:keyvalue/batch@0.2.0-draft2")?;
    batch.func_wrap_async("get-many", |caller: GuestCall<'_>, (bucket, keys): (_, Vec<String>)| {
        let operation = Operation::begin(caller.data(), &bucket, size_of_keys(&keys));
        Box::new(async move {
            let entries = operation?.get_many(&keys).await.map_err(Error::from);
            let with_keys = |entries: Vec<_>| {
                let pairs = keys.into_iter().zip(entries);
                pairs.map(|(key, entry)| (key, Option::map(entry, bytes))).collect::<Vec<(String, Option<Vec<u8>>)>>()
            };
            Ok((entries.map(with_keys),))
        })
    })?;
    let mut atomics = linker.instance("wasi:keyvalue/atomics@0.2.0-draft2")?;
    atomics
        .resource("cas", ResourceType::host::<Cas>(), |mut caller, rep| drop_handle::<Cas>(caller.data_mut(), rep))?;
    atomics.func_wrap_async("increment", |caller: GuestCall<'_>, (bucket, key, delta): (_, String, i64)| {
        let operation = Operation::begin(caller.data(), &bucket, key.len());
        Box::new(async move { Ok((operation?.increment(&key, delta).await.map_err(Error::from),)) })
    })?;
    atomics.func_wrap_async(
        "[static]cas.new",
        |mut caller: GuestCall<'_>, (bucket, key): (Resource<OpenBucket>, String)| {
            Box::new(async move {
                let operation = Operation::begin(caller.data(), &bucket, key.len())?;
                let version = operation.get(&key).await.map(|entry| entry.map(|entry| entry.version));
                let Operation { bucket, .. } = operation;
                let cas = version.map_err(Error::from);
                Ok((cas.and_then(|version| Cas::open(caller.data_mut(), bucket, key, version)),))
            })
        },
    )?;
    atomics.func_wrap_async("[method]cas.current", |caller: GuestCall<'_>, (cas,): (Resource<Cas>,)| {
        let cas = caller.data().table.get(&cas);
        let begun = cas.map(|cas| (Operation::on(caller.data(), cas.bucket.clone(), cas.key.len()), cas.key.clone()));
        Box::new(async move {
            // If this is a later value than that of the handle's version, the swap fails.
            let (operation, key) = begun?;
            Ok((operation.get(&key).await.map(|entry| entry.map(bytes)).map_err(Error::from),))
        })
    })?;
    atomics.func_wrap_async("swap", |mut caller: GuestCall<'_>, (cas, value): (Resource<Cas>, Vec<u8>)| {
        Box::new(async move {
            let Cas { bucket, key, version, .. } = caller.data_mut().table.delete(cas)?;
            let operation = Operation::on(caller.data(), bucket.clone(), key.len() + value.len());
            let condition = version.map_or(Condition::Absent, Condition::Version);
            Ok((match operation.swap(&key, condition, value).await {
                Ok(Swap::Done(_)) => Ok(()),
                Ok(Swap::Stale(entry)) => {
                    let version = entry.map(|entry| entry.version);
                    let cas = Cas::open(caller.data_mut(), bucket, key, version);
                    Err(cas.map_or_else(CasError::Store, CasError::Failed))
                }
                Err(error) => Err(CasError::Store(error.into())),
            },))
        })
    })
}

impl Cas {
    /// Makes a handle for the entry with this version.
    fn open(
        ctx: &mut Ctx,
        bucket: StoreBucket,
        key: String,
        version: Option<Version>,
    ) -> Result<Resource<Self>, Error> {
        let handle = bucket.store.in_flight.handle().ok_or(Closed::Full(TOO_MANY))?;
        let pushed = ctx.table.push(Self { bucket, key, version, _handle: handle });
        pushed.map_err(|_| Closed::Full(TOO_MANY_HANDLES).into())
    }
}

/// The error for a number that is no cursor of this handle.
const UNKNOWN_CURSOR: &str =
    "the cursor is not one of this handle: pass a cursor that list-keys has returned, soon after it did";
