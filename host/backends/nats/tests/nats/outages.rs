//! Outages.

use std::sync::Arc;

use lodge_remote::testing::TestServer;
use lodge_state::Backend;

use crate::server;

async fn start() -> Option<(TestServer, Arc<dyn Backend>)> {
    let server = server::start("")?;
    let backend = Arc::new(server::connect(&server));
    Some((server, backend))
}

lodge_remote::outages!(start);
