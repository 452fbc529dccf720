//! State of services in PostgreSQL (12 or later), for hosts that share it.
//!
//! * Everything is in the schema `lodge`, which the first connection creates. Its rows name their namespace.
//! * A write is one call of a function in SQL, so one transaction and one round trip. An advisory lock on the key makes writes of
//!   one key follow each other; quotas are exact.
//! * Versions and tokens are from one sequence, which never goes back.
//! * Entries and leases expire by the clock of the server. Writes remove some of those that have expired.
//! * Messages have tables of their own, which the first operation on messages creates.
//! * What is confirmed is as durable as `synchronous_commit` of the server says.
//! * A connection runs statements one after another, and operations share connections. With PgBouncer use its session mode.

mod connector;
mod databases;
mod failure;
mod locks;
mod message_statements;
mod messages;
mod settings;
mod statements;
mod store;
mod tls;

use std::fmt;
use std::sync::{Arc, OnceLock};

use lodge_remote::{LinkFailure, Links, RemoteSpace, RemoteSpaces};
use lodge_state::{Backend, Error, Locks, MessageQueue, Namespace, Pending, Quota, Store};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::connector::{PostgresConnection, PostgresConnector};
use crate::locks::PostgresLocks;
use crate::messages::PostgresQueue;
use crate::statements::Statement;
use crate::store::PostgresStore;

pub use databases::PostgresDatabases;
pub use settings::{PostgresSettings, PostgresSettingsError};

/// What messages call the server.
const SERVER: &str = "PostgreSQL";

/// State in PostgreSQL. Its connections are opened at once, and again whenever they are lost.
pub struct Postgres {
    shared: Arc<Shared>,
    /// The messages of all services, once they are used.
    messages: OnceLock<Arc<PostgresQueue>>,
}

/// What all namespaces share.
struct Shared {
    links: Links<PostgresConnector>,
    spaces: RemoteSpaces,
}

/// A namespace, and its number in the tables.
#[derive(Clone)]
struct Numbered {
    space: Arc<RemoteSpace>,
    number: i64,
}

impl Postgres {
    /// Connects to a server by tasks of `runtime`. Returns at once: the server need not be there yet.
    pub fn new(settings: PostgresSettings, runtime: &Handle) -> Postgres {
        let number = settings.connections();
        let links = Links::open(PostgresConnector::new(settings), number, runtime);
        let shared = Arc::new(Shared { links, spaces: RemoteSpaces::new(SERVER) });
        Postgres { shared, messages: OnceLock::new() }
    }

    async fn numbered(
        &self,
        namespace: &Namespace,
        quota: Option<Quota>,
        deadline: Instant,
    ) -> Result<Numbered, Error> {
        let space = self.shared.spaces.open(namespace, quota)?;
        let _permit = space.enter(0)?;
        let name = namespace.as_str().as_bytes();
        let insert = async |connection: PostgresConnection| -> Result<i64, LinkFailure> {
            let row = connection.one(Statement::Namespace, &[&name]).await?;
            failure::get(&row, 0)
        };
        let number = self.shared.links.repeatable(deadline, insert).await?;
        Ok(Numbered { space, number })
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("links", &self.shared.links).finish_non_exhaustive()
    }
}

impl Backend for Postgres {
    fn open<'a>(&'a self, namespace: &'a Namespace, quota: Quota, deadline: Instant) -> Pending<'a, Arc<dyn Store>> {
        Box::pin(async move {
            let numbered = self.numbered(namespace, Some(quota), deadline).await?;
            Ok(Arc::new(PostgresStore::new(self.shared.clone(), numbered)) as Arc<dyn Store>)
        })
    }

    fn locks<'a>(&'a self, namespace: &'a Namespace, deadline: Instant) -> Pending<'a, Arc<dyn Locks>> {
        Box::pin(async move {
            let numbered = self.numbered(namespace, None, deadline).await?;
            Ok(Arc::new(PostgresLocks::new(self.shared.clone(), numbered)) as Arc<dyn Locks>)
        })
    }

    fn messages(&self) -> Result<Arc<dyn MessageQueue>, Error> {
        if self.messages.get().is_none() {
            // Of two at the same time, the first stays.
            let _ = self.messages.set(Arc::new(PostgresQueue::new(self.shared.clone())?));
        }
        let queue = self.messages.get().cloned().ok_or_else(failure::unexpected)?;
        Ok(queue)
    }
}
