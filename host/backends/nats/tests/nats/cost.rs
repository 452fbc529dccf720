//! What operations cost: `cargo test --release -p lodge-nats -- --ignored --nocapture cost`.

use crate::server;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures; tests nothing"]
async fn cost() {
    if let Some(server) = server::start("") {
        lodge_remote::testing::cost("NATS", &server::connect(&server)).await;
    }
}
