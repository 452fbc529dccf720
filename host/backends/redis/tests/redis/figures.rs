//! What operations cost: `cargo test --release -p lodge-redis -- --ignored --nocapture figures`.

use crate::server;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures; tests nothing"]
async fn figures() {
    if let Some(server) = server::start(&["--appendfsync", "everysec"]) {
        lodge_remote::testing::figures("Redis", &server::connect(&server)).await;
    }
}
