//! What operations cost: `cargo test --release -p lodge-postgres -- --ignored --nocapture cost`.

use crate::server;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures; tests nothing"]
async fn cost() {
    if let Some(server) = server::start(&["fsync=on"]) {
        let backend = server::connect(&server);
        lodge_remote::testing::cost("PostgreSQL", &backend).await;
        lodge_remote::testing::queue_cost("PostgreSQL", &backend).await;
    }
}
