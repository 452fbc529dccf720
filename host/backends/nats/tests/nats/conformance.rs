//! The conformance suite.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lodge_conformance::{Fixture, Time};
use lodge_remote::testing::TestServer;

use crate::server;

/// One server for all tests of the suite. It ends with the process.
static SERVER: OnceLock<Option<TestServer>> = OnceLock::new();

async fn fixture() -> Option<Fixture> {
    let server = SERVER.get_or_init(|| server::start("")).as_ref()?;
    let backend = Arc::new(server::connect(server));
    let fixture = Fixture::new(backend, Time::Real(Duration::from_millis(1)));
    Some(Fixture { schedules: 30, exact_quotas: false, ..fixture })
}

lodge_conformance::conformance!(fixture);

/// The same with a unit that leaves a loaded machine time between the end of a lease and the next one.
async fn messages() -> Option<Fixture> {
    let fixture = fixture().await?;
    Some(Fixture { time: Time::Real(Duration::from_millis(300)), ..fixture })
}

lodge_conformance::conformance!(messages messages);
