//! State of services in Redis (5 or later), for hosts that share it.
//!
//! * Every write is one Lua script, so it is atomic, and quotas are exact. Reads of one key are plain `GET`.
//! * All keys of a namespace begin with `lodge:{LENGTH:NAMESPACE}:`. The braces are a hash tag: a namespace is in one slot.
//!   * `…e:LENGTH:BUCKETKEY`: an entry, as `VERSION EXPIRES VALUE`. It expires by Redis itself.
//!   * `…i:BUCKET`: the keys of a bucket, sorted, for listings; `…b`: the buckets.
//!   * `…s`: the bytes of every entry; `…x`: when entries expire; `…u`: the usage and the last version.
//!   * `…l:NAME`: a lock, as `HOLDER TOKEN`, which expires with its lease; `…h`: the locks that are held.
//! * Messages of all services are in a namespace of their own, which no service can name.
//! * Versions and tokens are at least the time of the server in microseconds, so they grow even if Redis has lost its data.
//! * What is confirmed is as durable as Redis is configured to be: with `appendfsync always` it survives a crash, and with
//!   `everysec` the last two seconds may not. A server that evicts keys is refused. Failover to a replica
//!   may lose the last writes, and may grant a lock twice; fencing tokens protect from that.

mod connection;
mod connector;
mod locks;
mod messages;
mod reply;
mod scripts;
mod settings;
mod store;

use std::fmt;
use std::sync::{Arc, OnceLock};

use lodge_remote::{Links, RemoteSpaces};
use lodge_state::{Backend, Error, Locks, MessageQueue, Namespace, Pending, Quota, Store};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::connector::RedisConnector;
use crate::locks::RedisLocks;
use crate::messages::RedisQueue;
use crate::store::RedisStore;

pub use settings::{RedisSettings, RedisSettingsError};

/// State in Redis. Its connections are opened at once, and again whenever they are lost.
pub struct Redis {
    shared: Arc<Shared>,
    /// The messages of all services, once they are used.
    messages: OnceLock<Arc<RedisQueue>>,
}

/// What all namespaces share.
struct Shared {
    links: Links<RedisConnector>,
    spaces: RemoteSpaces,
}

impl Redis {
    /// Connects to a server by tasks of `runtime`. Returns at once: the server need not be there yet.
    pub fn new(settings: RedisSettings, runtime: &Handle) -> Redis {
        let number = settings.connections();
        let links = Links::open(RedisConnector::new(settings), number, runtime);
        let shared = Arc::new(Shared { links, spaces: RemoteSpaces::new(SERVER) });
        Redis { shared, messages: OnceLock::new() }
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("links", &self.shared.links).finish_non_exhaustive()
    }
}

impl Backend for Redis {
    fn open<'a>(&'a self, namespace: &'a Namespace, quota: Quota, _: Instant) -> Pending<'a, Arc<dyn Store>> {
        // Nothing needs to be created: keys make themselves.
        Box::pin(async move {
            let space = self.shared.spaces.open(namespace, Some(quota))?;
            Ok(Arc::new(RedisStore::new(self.shared.clone(), space)) as Arc<dyn Store>)
        })
    }

    fn locks<'a>(&'a self, namespace: &'a Namespace, _: Instant) -> Pending<'a, Arc<dyn Locks>> {
        Box::pin(async move {
            let space = self.shared.spaces.open(namespace, None)?;
            Ok(Arc::new(RedisLocks::new(self.shared.clone(), space)) as Arc<dyn Locks>)
        })
    }

    fn messages(&self) -> Result<Arc<dyn MessageQueue>, Error> {
        if self.messages.get().is_none() {
            // Of two at the same time, the first stays.
            let _ = self.messages.set(Arc::new(RedisQueue::new(self.shared.clone())?));
        }
        let queue = self.messages.get().cloned().ok_or_else(reply::unexpected)?;
        Ok(queue)
    }
}

/// What messages call the server.
const SERVER: &str = "Redis";

/// What the names of all keys of a namespace begin with.
fn prefix(namespace: &Namespace) -> String {
    let name = namespace.as_str();
    format!("lodge:{{{}:{name}}}:", name.len())
}
