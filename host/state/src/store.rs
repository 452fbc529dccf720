//! The interface of all backends: [`Backend`] opens the [`Store`] of a namespace.

mod batch;
mod listing;
mod operations;

use std::sync::Arc;

use tokio::time::Instant;

use crate::entry::Entry;
use crate::error::Error;
use crate::key::{Key, Namespace};
use crate::limits::{Quota, Usage};
use crate::locks::Locks;
use crate::messages::MessageQueue;
use crate::write::{Outcome, Write};

pub use batch::Batch;
pub(crate) use batch::Entries;
pub(crate) use listing::PageBuilder;
pub use listing::{Cursor, Listing, Page};
pub use operations::{Set, Swap};

pub(crate) use crate::pending::ready;
pub use crate::pending::{Pending, within};

/// A place where state is kept: this process, a file, or a server.
pub trait Backend: Send + Sync + 'static {
    /// Opens a namespace, and creates it if it does not exist. `quota` holds from now on for all its stores.
    fn open<'a>(&'a self, namespace: &'a Namespace, quota: Quota, deadline: Instant) -> Pending<'a, Arc<dyn Store>>;

    /// Opens the locks of a namespace. They are independent of its keys.
    fn locks<'a>(&'a self, namespace: &'a Namespace, deadline: Instant) -> Pending<'a, Arc<dyn Locks>>;

    /// Does the writes that wait, and ends the use of the place. Later operations fail.
    fn close(&self) -> Pending<'_, ()> {
        ready(Ok(()))
    }

    /// Returns the messages of all services.
    ///
    /// # Errors
    /// If it cannot begin to keep some.
    fn messages(&self) -> Result<Arc<dyn MessageQueue>, Error>;

    /// Returns the messages that the server passes on without storing them, so that each is delivered once at most. Nothing is
    /// published by this.
    ///
    /// # Errors
    /// [`Error::Unavailable`] from a backend that has none.
    fn unstored_messages(&self) -> Result<Arc<dyn MessageQueue>, Error> {
        Err(Error::unavailable(
            "only NATS passes messages on without storing them: let `state.url` name it, or leave `consume.at_most_once` out",
        ))
    }
}

/// The keys of one namespace. A store cannot name another namespace: it gives access to the state of one service.
///
/// What holds for every backend, and the conformance suite checks:
///
/// * Operations on one key are linearizable: each takes effect at one moment between its call and its result.
/// * A write whose result is `Ok` is durable, as far as the backend was configured to be. A write that fails has changed
///   nothing, except after [`Timeout`](crate::Error::Timeout) and [`Unavailable`](crate::Error::Unavailable), when it may
///   have been applied.
/// * Entries that have expired do not exist for any operation.
/// * No operation blocks the thread that polls it, and each ends at its deadline.
///
/// Most callers use the operations with names, as `set` and `increment`, which are written in terms of these.
pub trait Store: Send + Sync + 'static {
    /// Returns the entry of `key`.
    fn get<'a>(&'a self, key: Key<'a>, deadline: Instant) -> Pending<'a, Option<Entry>>;

    /// Does one write. [`apply`](crate::apply) defines its meaning.
    fn write<'a>(&'a self, write: Write<'a>, deadline: Instant) -> Pending<'a, Outcome>;

    /// Returns the entries of several keys, in the order of `keys`. They may be from different moments.
    ///
    /// # Errors
    /// [`TooLarge`](crate::Error::TooLarge) if the values exceed [`MAX_BATCH_BYTES`](crate::limits::MAX_BATCH_BYTES) together.
    fn get_many<'a>(&'a self, keys: Batch<Key<'a>>, deadline: Instant) -> Pending<'a, Vec<Option<Entry>>>;

    /// Does several writes in their order, with one outcome each. Each is atomic, but all together need not be: after an
    /// error, some may have been applied.
    fn write_many<'a>(&'a self, writes: Batch<Write<'a>>, deadline: Instant) -> Pending<'a, Vec<Outcome>>;

    /// Returns a page of the keys of a bucket. A key that exists from the first page to the last is in exactly one of them,
    /// whatever is written meanwhile. A page may have fewer keys than the limit, even if it is not the last.
    fn list<'a>(&'a self, listing: Listing<'a>, deadline: Instant) -> Pending<'a, Page>;

    /// Returns the names of buckets that come after `after` in the order of their bytes, at most
    /// [`MAX_PAGE`](crate::limits::MAX_PAGE) of them. All names come after the empty text, and no names are the end. A bucket
    /// whose entries have expired may be among them for some time.
    fn buckets<'a>(&'a self, after: &'a str, deadline: Instant) -> Pending<'a, Vec<String>>;

    /// Returns how much the namespace stores.
    fn usage(&self, deadline: Instant) -> Pending<'_, Usage>;
}
