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
mod queues;
mod server;

pub use certificate::Authority;
pub use cost::{cost, queue_cost};
pub use outages::{outage, restarts, slowness, storm};
pub use program::{ServerProgram, find};
pub use queues::{
    Connect, full_queues, hosts_share, interrupted_hosts, killed_hosts, queue_outages, receive_until_killed,
};
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

/// Makes a test of everything that hosts promise of messages on one server. `$start` is a function that starts a server; it
/// returns `Option<TestServer>`. `$connect` is a [`Connect`](testing::Connect). The macro is used in a module of the root, whose
/// name is `$module`.
#[macro_export]
macro_rules! queues {
    ($module:ident: $start:path, $connect:path) => {
        #[tokio::test(flavor = "multi_thread")]
        async fn hosts_share() {
            if let Some(server) = $start() {
                $crate::testing::hosts_share(server, $connect).await;
            }
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn interrupted_hosts() {
            if let Some(server) = $start() {
                $crate::testing::interrupted_hosts(server, $connect).await;
            }
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn full_queues() {
            if let Some(server) = $start() {
                $crate::testing::full_queues(server, $connect).await;
            }
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn killed_hosts() {
            if let Some(server) = $start() {
                $crate::testing::killed_hosts(server, $connect, concat!(stringify!($module), "::child")).await;
            }
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn queue_outages() {
            if let Some(server) = $start() {
                $crate::testing::queue_outages(server, $connect).await;
            }
        }

        #[tokio::test(flavor = "multi_thread")]
        #[ignore = "started and killed by the test of killed hosts"]
        async fn child() {
            $crate::testing::receive_until_killed($connect).await;
        }
    };
}
