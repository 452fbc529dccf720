//! What operations cost: `cargo test --release -p lodge-nats -- --ignored --nocapture cost`.

use crate::server;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures; tests nothing"]
async fn cost() {
    if let Some(server) = server::start("") {
        let backend = server::connect(&server);
        lodge_remote::testing::cost("NATS", &backend).await;
        lodge_remote::testing::queue_cost("NATS", &backend).await;
    }
}
