//! What operations cost: `cargo test --release -p lodge-postgres -- --ignored --nocapture cost`.

use crate::server;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures; tests nothing"]
async fn cost() {
    if let Some(server) = server::start(&["fsync=on"]) {
        lodge_remote::testing::cost("PostgreSQL", &server::connect(&server)).await;
    }
}
