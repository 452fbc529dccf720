//! Objects of services in S3 and what speaks its protocol, for hosts that share them.
//!
//! * A small object is one `PUT`. A larger one is an upload in parts of 5 MiB, of which one is in memory: it is an object when the
//!   server has joined them. If the request ends before that, the parts are removed.
//! * An object is read by one `GET`. If that breaks off it is continued, on the condition that the object is the same.
//! * Containers are records with a random id, by which the keys of their objects begin: they are emptied and deleted at once.
//!   The module `container` has more, and `keys` what the keys are.
//! * Usage is counted by listing, at the start and about every minute in which something is written; between two counts, a host
//!   knows of its own changes only.
//! * The client is one of this crate: the one of `object_store` needs an HTTP client of ours just as well, and reads responses
//!   without a bound on their size.

mod account;
mod changes;
mod connector;
mod container;
mod count;
mod credentials;
mod failure;
mod key_file;
mod keys;
mod moves;
mod object;
mod operations;
mod pages;
mod places;
mod settings;
mod sign;
mod space;
mod store;
mod transport;
mod turns;
mod upload;
mod xml;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lodge_state::Namespace;
use lodge_state::blobs::{BlobBackend, BlobError, BlobQuota, BlobStore, PendingBlob};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::failure::unavailable;
use crate::keys::ServiceKeys;
use crate::places::HostPlaces;
use crate::space::{S3Space, run};
use crate::store::S3Store;
use crate::transport::{S3Lane, S3Transport};

pub use credentials::{AccessKey, KeySource};
pub use settings::{S3Settings, S3SettingsError};

// Tests of what a host leaves on a server need the server of the other tests.
#[cfg(test)]
extern crate self as lodge_s3;
#[cfg(test)]
#[path = "../tests/s3/server.rs"]
mod server;

/// How long opening the objects of a service waits for the first count, which goes on.
const OPEN: Duration = Duration::from_secs(10);
/// Services at a time.
const MAX_SERVICES: usize = 10_000;

/// The objects of all services in S3.
pub struct S3 {
    transport: Arc<S3Transport>,
    prefix: String,
    /// The places of parts in memory.
    parts: Arc<HostPlaces>,
    spaces: Mutex<HashMap<Namespace, Arc<OpenService>>>,
}

/// A service, and whether its objects were counted.
struct OpenService {
    space: Arc<S3Space>,
    counted: OnceCell<()>,
}

impl S3 {
    /// Objects on a server. It need not be there yet: nothing is sent before a service needs it.
    pub fn new(settings: &S3Settings) -> S3 {
        S3 {
            transport: Arc::new(S3Transport::new(settings)),
            prefix: settings.prefix.clone(),
            parts: HostPlaces::new(settings.parts),
            spaces: Mutex::default(),
        }
    }

    fn opening(&self, service: &Namespace, quota: BlobQuota) -> Result<Arc<OpenService>, BlobError> {
        let mut spaces = self.spaces.lock().unwrap_or_else(PoisonError::into_inner);
        if spaces.len() >= MAX_SERVICES && !spaces.contains_key(service) {
            return Err(unavailable(format!("{MAX_SERVICES} services have objects already: restart the host")));
        }
        let opening = spaces.entry(service.clone()).or_insert_with(|| {
            let keys = ServiceKeys::new(&self.prefix, service.as_str());
            let space = S3Space::new(keys, S3Lane::new(&self.transport), quota, self.parts.service());
            Arc::new(OpenService { space: Arc::new(space), counted: OnceCell::new() })
        });
        opening.space.account.set_quota(quota);
        Ok(Arc::clone(opening))
    }
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3").field("bucket", &self.transport.bucket()).finish_non_exhaustive()
    }
}

impl BlobBackend for S3 {
    fn open<'a>(&'a self, service: &'a Namespace, quota: BlobQuota) -> PendingBlob<'a, Arc<dyn BlobStore>> {
        Box::pin(async move {
            let opening = self.opening(service, quota)?;
            let space = Arc::clone(&opening.space);
            let count =
                run(async move { opening.counted.get_or_try_init(|| opening.space.count_first()).await.map(drop) });
            let late = |_| unavailable("the objects of the service are still being counted");
            timeout(OPEN, count).await.map_err(late)??;
            Ok(Arc::new(S3Store(space)) as Arc<dyn BlobStore>)
        })
    }
}
