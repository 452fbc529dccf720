//! A connection to Redis.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redis::aio::MultiplexedConnection;

/// A connection. Clones are the same connection.
#[derive(Clone)]
pub(crate) struct RedisConnection {
    pub(crate) server: MultiplexedConnection,
    /// The digests of all scripts, in their order.
    digests: Arc<[String]>,
    /// The server has become a replica: another one may be primary at the same name.
    demoted: Arc<AtomicBool>,
}

impl RedisConnection {
    /// Creates a connection to a server with scripts of these digests.
    pub(crate) fn new(server: MultiplexedConnection, digests: Vec<String>) -> RedisConnection {
        RedisConnection { server, digests: digests.into(), demoted: Arc::default() }
    }

    /// Returns the digest of a script by its number.
    pub(crate) fn digest(&self, script: usize) -> &str {
        self.digests.get(script).map_or("", String::as_str)
    }

    /// Records that the server refuses writes.
    pub(crate) fn demote(&self) {
        self.demoted.store(true, Ordering::Relaxed);
    }

    /// Whether the server refuses writes.
    pub(crate) fn is_demoted(&self) -> bool {
        self.demoted.load(Ordering::Relaxed)
    }
}
