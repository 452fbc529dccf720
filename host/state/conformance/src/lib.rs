//! The conformance suite of all backends.
//!
//! A backend writes a function that makes a [`Fixture`], and gives it to [`conformance!`](crate::conformance), which makes a
//! test of every function here:
//!
//! ```
//! # use std::sync::Arc;
//! # use lodge_conformance::{Fixture, Time};
//! # use lodge_state::{ManualClock, Memory, Timestamp};
//! async fn fixture() -> Fixture {
//!     let clock = Arc::new(ManualClock::new(Timestamp::new(1_000_000)));
//!     Fixture::new(Arc::new(Memory::new(64 << 20, clock.clone())), Time::Manual(clock))
//! }
//!
//! lodge_conformance::conformance!(fixture);
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panics, and this crate is for tests only"
)]

mod blobs;
mod concurrency;
mod dead_messages;
mod expiry;
mod lock_model;
mod locking;
mod messages;
mod model;
mod paging;
mod semantics;

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use lodge_state::ManualClock;
use lodge_state::Value;
use lodge_state::limits::Quota;
use lodge_state::locks::Locks;
use lodge_state::{Backend, Store};
use lodge_state::{Key, Namespace};

pub use blobs::{
    BlobFixture, blob_names, blob_quotas, containers_and_objects, copies_and_moves, hosts_share_objects, large_objects,
    objects_in_pieces, readers_never_mix, unpublished_objects,
};
pub use concurrency::{compare_and_swap_is_linearizable, increments_are_linearizable};
pub use dead_messages::{dead_messages_are_known, dead_messages_are_retried};
pub use expiry::{expiry, quotas};
pub use lock_model::locks_behave_like_the_model;
pub use locking::{fencing, lock_operations, waiting};
pub use messages::{
    dead_messages, message_quotas, messages_are_delivered_again, messages_reach_their_consumers, receivers_share,
    receivers_wait,
};
pub use model::behaves_like_the_model;
pub use paging::{buckets, paging};
pub use semantics::{batches, isolation, operations};

/// Makes a test of every function of the suite, each with a fixture of its own. The caller's crate needs tokio. The function
/// that makes fixtures returns a [`Fixture`], or an `Option` of it: tests without a fixture are skipped.
#[macro_export]
macro_rules! conformance {
    ($fixture:path) => {
        $crate::conformance!(
            $fixture: operations batches isolation expiry quotas paging buckets behaves_like_the_model
                increments_are_linearizable compare_and_swap_is_linearizable
                lock_operations fencing waiting locks_behave_like_the_model
        );
    };
    // The messages of a backend that keeps some.
    (messages $fixture:path) => {
        $crate::conformance!(
            $fixture: messages_reach_their_consumers messages_are_delivered_again dead_messages message_quotas
                receivers_wait receivers_share dead_messages_are_known dead_messages_are_retried
        );
    };
    // A backend for objects. Its function returns a `BlobFixture`.
    (blobs $fixture:path) => {
        $crate::conformance!(
            blobs $fixture: objects_in_pieces large_objects unpublished_objects blob_names copies_and_moves
                containers_and_objects blob_quotas readers_never_mix hosts_share_objects
        );
    };
    (blobs $fixture:path: $($test:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                if let Some(fixture) = Option::<$crate::BlobFixture>::from($fixture().await) {
                    $crate::$test(&fixture).await;
                }
            }
        )*
    };
    ($fixture:path: $($test:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                if let Some(fixture) = Option::<$crate::Fixture>::from($fixture().await) {
                    $crate::$test(&fixture).await;
                }
            }
        )*
    };
}

/// How time passes for a backend.
#[derive(Clone, Debug)]
pub enum Time {
    /// The backend expires by this clock.
    Manual(Arc<ManualClock>),
    /// The backend has a clock of its own: the suite waits. The duration is the unit of its TTLs: 1 ms, or 1 s.
    Real(Duration),
}

/// A backend under test.
#[derive(Clone)]
pub struct Fixture {
    /// The backend. It may contain anything in other namespaces.
    pub backend: Arc<dyn Backend>,
    /// How time passes for it.
    pub time: Time,
    /// Whether it counts keys and bytes exactly as [`Usage`](lodge_state::Usage) says. If not, it has at least both quotas.
    pub exact_quotas: bool,
    /// Random schedules of the model tests. Servers are slower than memory.
    pub schedules: u32,
    /// What must exist as long as the backend, such as its directory.
    pub keeps: Option<Arc<dyn Any + Send + Sync>>,
}

impl Fixture {
    /// A fixture for a backend that counts exactly, with 256 schedules.
    pub fn new(backend: Arc<dyn Backend>, time: Time) -> Fixture {
        Fixture { backend, time, exact_quotas: true, schedules: 256, keeps: None }
    }

    /// A namespace that no other test uses.
    pub fn namespace(&self) -> Namespace {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let random = lodge_state::locks::Holder::random().unwrap().bits() as u32;
        Namespace::new(&format!("test-{number}-{random:08x}")).unwrap()
    }

    /// The store of a new namespace.
    pub async fn store(&self, quota: Quota) -> Arc<dyn Store> {
        self.backend.open(&self.namespace(), quota, soon()).await.unwrap()
    }

    /// The locks of a new namespace.
    pub async fn locks(&self) -> Arc<dyn Locks> {
        self.backend.locks(&self.namespace(), soon()).await.unwrap()
    }

    /// Lets at least `duration` pass.
    pub async fn pass(&self, duration: Duration) {
        match &self.time {
            Time::Manual(clock) => clock.advance(duration),
            // Clocks of two machines, and timers that are a little late.
            Time::Real(unit) => tokio::time::sleep(duration + *unit + Duration::from_millis(20)).await,
        }
    }

    /// A TTL or lease that is short for this backend, but not so short that it ends before the next operations.
    pub fn short(&self) -> Duration {
        match &self.time {
            Time::Manual(_) => Duration::from_millis(50),
            Time::Real(unit) => *unit + Duration::from_millis(500),
        }
    }
}

impl fmt::Debug for Fixture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fixture").field("time", &self.time).finish_non_exhaustive()
    }
}

/// A deadline that is far enough for every operation of a loaded machine.
pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn key(name: &str) -> Key<'_> {
    Key::new("bucket", name).unwrap()
}

fn value(text: &str) -> Value {
    Value::new(text.to_owned()).unwrap()
}

/// Runs a future from a closure that cannot be async.
fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(future))
}
