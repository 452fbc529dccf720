//! SQLite: the conformance suite for both durabilities, with and without copies in memory.

use std::path::Path;
use std::sync::Arc;

use lodge_conformance::{Fixture, Time};
use lodge_state::{Clock, Durability, ManualClock, Options, Sqlite, Timestamp};

/// Options for the database in `directory`.
pub(crate) fn options(directory: &Path, clock: Arc<dyn Clock>) -> Options {
    Options { path: directory.join("state.db"), durability: Durability::Process, readers: 2, recent: 1 << 20, clock }
}

fn fixture(durability: Durability, recent: u64) -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(Timestamp::new(1_000_000)));
    let sqlite = Sqlite::open(Options { durability, recent, ..options(directory.path(), clock.clone()) }).unwrap();
    let keeps = Some(Arc::new(directory) as Arc<_>);
    Fixture { schedules: 100, keeps, ..Fixture::new(Arc::new(sqlite), Time::Manual(clock)) }
}

mod process {
    use super::*;
    async fn fixture() -> Fixture {
        super::fixture(Durability::Process, 1 << 20)
    }
    lodge_conformance::conformance!(fixture);
    lodge_conformance::conformance!(messages fixture);
}

mod process_without_copies {
    use super::*;
    async fn fixture() -> Fixture {
        super::fixture(Durability::Process, 0)
    }
    lodge_conformance::conformance!(fixture);
    lodge_conformance::conformance!(messages fixture);
}

mod power {
    use super::*;
    async fn fixture() -> Fixture {
        super::fixture(Durability::Power, 16 << 10)
    }
    lodge_conformance::conformance!(fixture);
    lodge_conformance::conformance!(messages fixture);
}
