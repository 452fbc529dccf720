//! What operations cost: `cargo test --release -p lodge-redis -- --ignored --nocapture cost`.

use crate::server;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures; tests nothing"]
async fn cost() {
    if let Some(server) = server::start(&["--appendfsync", "everysec"]) {
        let backend = server::connect(&server);
        lodge_remote::testing::cost("Redis", &backend).await;
        lodge_remote::testing::queue_cost("Redis", &backend).await;
    }
}
