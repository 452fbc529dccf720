//! A store between whose operations those of other hosts happen.

use std::sync::Arc;
use std::task::Poll;

use lodge_state::{Batch, Condition, Entry, Key, Listing, Outcome, Page, Pending, Store, Usage, Write};
use tokio::time::Instant;

/// A store to which requests are on their way for one poll each, so that those of several hosts mix in any order.
pub(super) struct Distant {
    pub(super) store: Arc<dyn Store>,
    /// Whether it ignores the conditions of writes, as a leader without compare-and-swap would.
    pub(super) ignores_conditions: bool,
}

async fn on_its_way() {
    let mut arrived = false;
    std::future::poll_fn(|_| if std::mem::replace(&mut arrived, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

impl Store for Distant {
    fn get<'a>(&'a self, key: Key<'a>, deadline: Instant) -> Pending<'a, Option<Entry>> {
        Box::pin(async move {
            on_its_way().await;
            self.store.get(key, deadline).await
        })
    }

    fn write<'a>(&'a self, mut write: Write<'a>, deadline: Instant) -> Pending<'a, Outcome> {
        Box::pin(async move {
            on_its_way().await;
            if self.ignores_conditions {
                write.condition = Condition::Always;
            }
            self.store.write(write, deadline).await
        })
    }

    fn get_many<'a>(&'a self, _: Batch<Key<'a>>, _: Instant) -> Pending<'a, Vec<Option<Entry>>> {
        panic!("a fenced value is one entry")
    }

    fn write_many<'a>(&'a self, _: Batch<Write<'a>>, _: Instant) -> Pending<'a, Vec<Outcome>> {
        panic!("a fenced value is one entry")
    }

    fn list<'a>(&'a self, _: Listing<'a>, _: Instant) -> Pending<'a, Page> {
        panic!("a fenced value is one entry")
    }

    fn buckets<'a>(&'a self, _: &'a str, _: Instant) -> Pending<'a, Vec<String>> {
        panic!("a fenced value is one entry")
    }

    fn usage(&self, _: Instant) -> Pending<'_, Usage> {
        panic!("a fenced value is one entry")
    }
}
