//! What operations cost: `cargo test --release -p lodge-nats -- --ignored --nocapture figures`.

use crate::server;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures; tests nothing"]
async fn figures() {
    if let Some(server) = server::start("") {
        lodge_remote::testing::figures("NATS", &server::connect(&server)).await;
    }
}
