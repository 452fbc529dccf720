//! Real servers for tests, and what every backend of a server promises in outages.
//!
//! A server is a program of this machine, started on a free port of the loopback interface, with its data in a directory of its
//! own. It ends with the test process, however that ends. Where a program is missing the tests are skipped, and say so; with
//! `CI=true` they fail.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "tests fail by panics, say what they skip, and this module is compiled for tests only"
)]

mod certificate;
mod cost;
mod outages;
mod program;
mod server;

pub use certificate::Authority;
pub use cost::cost;
pub use outages::{outage, restarts, slowness, storm};
pub use program::{ServerProgram, find};
pub use server::TestServer;

/// A directory for files of a test, which is removed in the end.
pub fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Makes a test of every outage. `$start` is an async function that starts a server and connects a backend to it; it returns
/// `Option<(TestServer, Arc<dyn Backend>)>`. The caller's crate needs tokio.
#[macro_export]
macro_rules! outages {
    ($start:path) => {
        $crate::outages!($start: outage slowness restarts storm);
    };
    ($start:path: $($test:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                if let Some((server, backend)) = $start().await {
                    $crate::testing::$test(server, backend).await;
                }
            }
        )*
    };
}
