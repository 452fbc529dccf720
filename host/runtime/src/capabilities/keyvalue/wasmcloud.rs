//! `wasmcloud:keyvalue@0.2.0`: async, with expiry, prefixes and compare-and-swap by version or value.

use lodge_state::{Condition, Cursor, Entry, Error as StateError, Expiry, Set, Swap, Ttl, Value, Version};
use wasmtime::component::{Accessor, ComponentType, Lift, Linker, Lower, ResourceType};

use std::time::Duration;

use super::super::Ctx;
use super::super::outcome::guest_text;
use super::operation::{size_of_entries, size_of_keys};
use super::{Closed, KeyPage, OpenBucket, begin, bytes, drop_handle, link_async_basics, open};

#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(variant)]
enum Error {
    /// Part of the interface. Buckets exist as soon as they have keys, so this does not happen.
    #[component(name = "no-such-store")]
    NoSuchStore,
    #[component(name = "access-denied")]
    AccessDenied,
    #[component(name = "invalid-argument")]
    InvalidArgument,
    #[component(name = "precondition-failed")]
    PreconditionFailed,
    #[component(name = "timeout")]
    Timeout,
    #[component(name = "store-unavailable")]
    StoreUnavailable,
    #[component(name = "quota-exceeded")]
    QuotaExceeded,
    #[component(name = "other")]
    Other(String),
}

impl From<StateError> for Error {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Invalid { .. } => Self::InvalidArgument,
            StateError::Conflict | StateError::LeaseEnded => Self::PreconditionFailed,
            StateError::Denied { .. } => Self::AccessDenied,
            StateError::Timeout => Self::Timeout,
            StateError::Unavailable { .. } => Self::StoreUnavailable,
            StateError::QuotaExceeded { .. } => Self::QuotaExceeded,
            // These have no case, and their text says what to do.
            StateError::TooLarge { .. } | StateError::NotANumber | StateError::Overflow => {
                Self::Other(guest_text(&error))
            }
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
struct SetOptions {
    #[component(name = "ttl-ms")]
    ttl_ms: Option<u64>,
    #[component(name = "if-not-exists")]
    if_not_exists: bool,
}

#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(record)]
struct VersionedEntry {
    value: Vec<u8>,
    version: String,
}

#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(record)]
struct CasOptions {
    #[component(name = "require-version")]
    require_version: Option<String>,
    #[component(name = "require-value")]
    require_value: Option<Vec<u8>>,
}

#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(variant)]
enum CasResult {
    #[component(name = "swapped")]
    Swapped,
    #[component(name = "stale")]
    Stale(Option<VersionedEntry>),
}

impl From<Entry> for VersionedEntry {
    fn from(entry: Entry) -> Self {
        Self { version: entry.version.number().to_string(), value: bytes(entry) }
    }
}

impl SetOptions {
    fn read(options: Option<Self>) -> Result<Set, StateError> {
        let Some(Self { ttl_ms, if_not_exists }) = options else { return Ok(Set::default()) };
        let expiry = match ttl_ms {
            Some(ttl) => Expiry::After(Ttl::new(Duration::from_millis(ttl))?),
            None => Expiry::Never,
        };
        Ok(Set { expiry, if_absent: if_not_exists })
    }
}

impl CasOptions {
    /// Without any option, the key must not exist.
    fn read(self) -> Result<Condition, StateError> {
        let version = self.require_version.map(|text| {
            let number = text.parse().map_err(|_| StateError::Invalid {
                what: "the version",
                problem: "is not one that `current` has returned",
            })?;
            Ok::<_, StateError>(Version::new(number))
        });
        let (version, value) = (version.transpose()?, self.require_value.map(Value::new).transpose()?);
        Ok(match (version, value) {
            (None, None) => Condition::Absent,
            (Some(version), None) => Condition::Version(version),
            (None, Some(value)) => Condition::Value(value),
            (Some(version), Some(value)) => Condition::Both(version, value),
        })
    }
}

pub(super) fn link(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    let mut types = linker.instance("wasmcloud:keyvalue/types@0.2.0")?;
    types.resource("bucket", ResourceType::host::<OpenBucket>(), |mut caller, rep| {
        drop_handle::<OpenBucket>(caller.data_mut(), rep)
    })?;
    link_async_basics::<Error>(&mut types, "bucket")?;
    types.func_wrap_concurrent(
        "[method]bucket.set",
        |accessor, (bucket, key, value, options): (_, String, Vec<u8>, Option<SetOptions>)| {
            let operation = begin(accessor, &bucket, key.len() + value.len());
            Box::pin(async move {
                let operation = operation?;
                let set = async { operation.set(&key, value, SetOptions::read(options)?).await };
                Ok((set.await.map_err(Error::from),))
            })
        },
    )?;
    types.func_wrap_concurrent(
        "[method]bucket.list-keys",
        |accessor, (bucket, prefix, cursor): (_, Option<String>, Option<String>)| {
            let sent = [&prefix, &cursor].into_iter().flatten().map(String::len).sum();
            let operation = begin(accessor, &bucket, sent);
            Box::pin(async move {
                let operation = operation?;
                let page = async {
                    let cursor = cursor.map(Cursor::new).transpose()?;
                    let (keys, next) = operation.list(&prefix.unwrap_or_default(), cursor.as_ref()).await?;
                    Ok(KeyPage::new(keys, next))
                };
                Ok((page.await.map_err(|error: StateError| Error::from(error)),))
            })
        },
    )?;
    linker.instance("wasmcloud:keyvalue/store@0.2.0")?.func_wrap_concurrent(
        "open",
        |accessor: &Accessor<Ctx>, (identifier,): (String,)| {
            let opened = accessor.with(|mut access| open(access.get(), &identifier));
            Box::pin(async move { Ok((opened?.map_err(Error::from),)) })
        },
    )?;
    linker.instance("wasmcloud:keyvalue/atomics@0.2.0")?.func_wrap_concurrent(
        "increment",
        |accessor, (bucket, key, delta): (_, String, i64)| {
            let operation = begin(accessor, &bucket, key.len());
            Box::pin(async move { Ok((operation?.increment(&key, delta).await.map_err(Error::from),)) })
        },
    )?;
    link_cas(linker)?;
    link_batch(linker)
}

fn link_cas(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    let mut cas = linker.instance("wasmcloud:keyvalue/cas@0.2.0")?;
    cas.func_wrap_concurrent("current", |accessor, (bucket, key): (_, String)| {
        let operation = begin(accessor, &bucket, key.len());
        Box::pin(async move {
            let entry = operation?.get(&key).await;
            Ok((entry.map(|entry| entry.map(VersionedEntry::from)).map_err(Error::from),))
        })
    })?;
    cas.func_wrap_concurrent("swap", |accessor, (bucket, key, value, options): (_, String, Vec<u8>, CasOptions)| {
        let required = options.require_value.as_ref().map_or(0, Vec::len);
        let operation = begin(accessor, &bucket, key.len() + value.len() + required);
        Box::pin(async move {
            let operation = operation?;
            let swap = async { operation.swap(&key, options.read()?, value).await };
            let result = swap.await.map(|swap| match swap {
                Swap::Done(_) => CasResult::Swapped,
                Swap::Stale(entry) => CasResult::Stale(entry.map(VersionedEntry::from)),
            });
            Ok((result.map_err(Error::from),))
        })
    })
}

fn link_batch(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    let mut batch = linker.instance("wasmcloud:keyvalue/batch@0.2.0")?;
    batch.func_wrap_concurrent("get-many", |accessor, (bucket, keys): (_, Vec<String>)| {
        let operation = begin(accessor, &bucket, size_of_keys(&keys));
        Box::pin(async move {
            let entries = operation?.get_many(&keys).await.map_err(Error::from);
            let with_keys = |entries: Vec<Option<Entry>>| {
                let pairs = keys.into_iter().zip(entries);
                pairs.map(|(key, entry)| Some((key, bytes(entry?)))).collect::<Vec<Option<(String, Vec<u8>)>>>()
            };
            Ok((entries.map(with_keys),))
        })
    })?;
    batch.func_wrap_concurrent("set-many", |accessor, (bucket, entries): (_, Vec<(String, Vec<u8>)>)| {
        let operation = begin(accessor, &bucket, size_of_entries(&entries));
        Box::pin(async move { Ok((operation?.set_many(entries).await.map_err(Error::from),)) })
    })?;
    batch.func_wrap_concurrent("delete-many", |accessor, (bucket, keys): (_, Vec<String>)| {
        let operation = begin(accessor, &bucket, size_of_keys(&keys));
        Box::pin(async move { Ok((operation?.delete_many(&keys).await.map_err(Error::from),)) })
    })
}
