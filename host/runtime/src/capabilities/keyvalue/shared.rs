//! Buckets that a service shares with others: what its manifest grants them, for as long as it is served.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, Weak};

use lodge_base::lock::lock;
use lodge_manifest::keyvalue::{BucketAccess, BucketOf, SharedBuckets};
use lodge_state::{Error, Store};

/// What all services of a host share with each other, by the service that has it.
///
/// A grant lasts as long as the deployment that gives it: without its manifest, a service shares nothing.
#[derive(Default)]
pub struct SharedStores(Mutex<HashMap<Arc<str>, Weak<SharedStore>>>);

/// What one service shares.
pub struct SharedStore {
    /// Its keys.
    pub store: Arc<dyn Store>,
    /// Its buckets, with the services that may use them.
    pub shared: SharedBuckets,
}

/// A bucket of another service, as the manifest of its user refers to it.
pub struct ForeignBucket {
    /// What all services share.
    pub stores: Arc<SharedStores>,
    /// The service that uses the bucket.
    pub user: Arc<str>,
    /// The service that has it, and its name there.
    pub bucket: BucketOf,
}

impl SharedStores {
    /// Replaces what `service` shares.
    pub fn replace(&self, service: &Arc<str>, shared: Option<&Arc<SharedStore>>) {
        let mut all = lock(&self.0);
        all.retain(|_, shared| shared.strong_count() > 0);
        match shared {
            Some(shared) => all.insert(Arc::clone(service), Arc::downgrade(shared)),
            None => all.remove(service),
        };
    }
}

impl ForeignBucket {
    /// Returns the store that has the bucket, and what its user may do with it now; `None` if the other service does not share
    /// it.
    pub(super) fn find(&self) -> Option<(Arc<dyn Store>, BucketAccess)> {
        let BucketOf { service, bucket } = &self.bucket;
        let shared = lock(&self.stores.0).get(&**service)?.upgrade()?;
        let access = *shared.shared.get(bucket)?.get(&*self.user)?;
        Some((Arc::clone(&shared.store), access))
    }
}

/// What an operation can do with a bucket of another service.
#[derive(Clone)]
pub(super) enum Reach {
    /// Read and write.
    Write(Arc<dyn Store>),
    /// Read.
    Read(Arc<dyn Store>),
    /// Nothing: the other service does not share it any more.
    Nothing,
}

impl Reach {
    /// Returns what can be done now.
    pub(super) fn of(bucket: &ForeignBucket) -> Self {
        match bucket.find() {
            Some((store, BucketAccess::Write)) => Self::Write(store),
            Some((store, BucketAccess::Read)) => Self::Read(store),
            None => Self::Nothing,
        }
    }

    /// The store to read from.
    pub(super) fn reading(&self) -> Result<&dyn Store, Error> {
        match self {
            Self::Write(store) | Self::Read(store) => Ok(&**store),
            Self::Nothing => Err(Error::Denied { why: "its service does not share the bucket any more" }),
        }
    }

    /// The store to write to.
    pub(super) fn writing(&self) -> Result<&dyn Store, Error> {
        match self {
            Self::Read(_) => Err(Error::Denied { why: "its service shares the bucket for reading only" }),
            other => other.reading(),
        }
    }
}

/// The buckets of other services that a service uses, by its own names for them.
pub type ForeignBuckets = BTreeMap<String, Arc<ForeignBucket>>;
