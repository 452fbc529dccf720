//! What operations cost: `cargo test --release -p lodge-postgres -- --ignored --nocapture figures`.

use crate::server;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures; tests nothing"]
async fn figures() {
    if let Some(server) = server::start(&["fsync=on"]) {
        lodge_remote::testing::figures("PostgreSQL", &server::connect(&server)).await;
    }
}
