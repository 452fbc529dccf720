//! State of services in NATS JetStream (2.11 or later), for hosts that share it.
//!
//! * A namespace is two key-value buckets of JetStream: `lodge-state-NAMESPACE` and `lodge-locks-NAMESPACE`. `nats kv` shows
//!   them. Services cannot name buckets, so none reaches those of another one.
//! * A key is `BUCKET.KEY`, with bytes that NATS does not accept as `=XX`. Its version is the sequence of its message.
//! * A write is a read and an update that expects the sequence that was read, until both fit. Writers of one host take turns.
//! * A deletion deletes the message, so it leaves no marker that counts against the quota.
//! * Expiry is in a header, to the millisecond, by the clock of the server; NATS removes messages some seconds later.
//! * The quota of keys is that of the stream, and exact. Bytes are counted as NATS stores them, with subjects and headers, and
//!   with a delay, so the quota can be exceeded by what hosts write in ten seconds.
//! * Locks are messages with a holder; their tokens are sequences too.
//! * Messages of services are in a stream of each consumer, and hosts pull them by a durable consumer of JetStream.
//!   Messages of NATS itself, which it does not store, are in the memory of the host that gets them.

mod clock;
mod connector;
mod locks;
mod messages;
mod names;
mod response;
mod settings;
mod store;
mod stream;
mod unstored;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use lodge_remote::{Links, RemoteSpace, RemoteSpaces};
use lodge_state::limits::MAX_LOCKS;
use lodge_state::{Backend, Error, Locks, MessageQueue, Namespace, Pending, Quota, Store};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::connector::NatsConnector;
use crate::locks::NatsLocks;
use crate::messages::NatsQueue;
use crate::store::NatsStore;
use crate::stream::{NatsStream, StreamKind};
use crate::unstored::UnstoredQueue;

pub use settings::{NatsSettings, NatsSettingsError};

/// What messages call the server.
const SERVER: &str = "NATS";

/// State in NATS. Its connection is opened at once, and again whenever it is lost.
pub struct Nats {
    links: Arc<Links<NatsConnector>>,
    replicas: usize,
    spaces: RemoteSpaces,
    /// The streams that are open, so that all stores of a namespace share one.
    streams: Mutex<HashMap<(StreamKind, Namespace), Arc<NatsStream>>>,
    /// The messages of all services, once they are used.
    messages: OnceLock<Arc<NatsQueue>>,
    /// Those that JetStream does not store.
    unstored: Arc<UnstoredQueue>,
}

impl Nats {
    /// Connects to a server by tasks of `runtime`. Returns at once: the server need not be there yet.
    pub fn new(settings: NatsSettings, runtime: &Handle) -> Nats {
        let replicas = settings.replicas;
        let links = Arc::new(Links::open(NatsConnector::new(settings), 1, runtime));
        let unstored = Arc::new(UnstoredQueue::new(links.clone(), runtime));
        Nats {
            links,
            replicas,
            spaces: RemoteSpaces::new(SERVER),
            streams: Mutex::default(),
            messages: OnceLock::new(),
            unstored,
        }
    }

    fn stream(&self, kind: StreamKind, space: &Arc<RemoteSpace>) -> Arc<NatsStream> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(NatsStream::new(kind, self.links.clone(), space.clone(), self.replicas));
        streams.entry((kind, space.namespace().clone())).or_insert_with(new).clone()
    }
}

impl fmt::Debug for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nats").field("links", &self.links).finish_non_exhaustive()
    }
}

impl Backend for Nats {
    fn open<'a>(&'a self, namespace: &'a Namespace, quota: Quota, deadline: Instant) -> Pending<'a, Arc<dyn Store>> {
        Box::pin(async move {
            let space = self.spaces.open(namespace, Some(quota))?;
            let stream = self.stream(StreamKind::State, &space);
            stream.configure(quota.keys, deadline).await?;
            Ok(Arc::new(NatsStore::new(stream)) as Arc<dyn Store>)
        })
    }

    fn locks<'a>(&'a self, namespace: &'a Namespace, deadline: Instant) -> Pending<'a, Arc<dyn Locks>> {
        Box::pin(async move {
            let space = self.spaces.open(namespace, None)?;
            let stream = self.stream(StreamKind::Locks, &space);
            stream.configure(MAX_LOCKS, deadline).await?;
            Ok(Arc::new(NatsLocks::new(stream)) as Arc<dyn Locks>)
        })
    }

    fn messages(&self) -> Result<Arc<dyn MessageQueue>, Error> {
        if self.messages.get().is_none() {
            let queue = NatsQueue::new(self.links.clone(), self.replicas)?;
            // Of two at the same time, the first stays.
            let _ = self.messages.set(Arc::new(queue));
        }
        let queue = self.messages.get().cloned().ok_or_else(unexpected)?;
        Ok(queue)
    }

    fn unstored_messages(&self) -> Result<Arc<dyn MessageQueue>, Error> {
        Ok(self.unstored.clone())
    }
}

/// A response that NATS never gives.
fn unexpected() -> Error {
    Error::unavailable("NATS has sent an unexpected response: check that no other program writes to buckets of lodge-*")
}
