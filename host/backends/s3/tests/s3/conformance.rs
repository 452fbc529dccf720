//! The conformance suite.

use std::sync::{Arc, OnceLock};

use lodge_conformance::BlobFixture;
use lodge_remote::testing::TestServer;

use crate::server;

/// One server for all tests of the suite. It ends with the process.
static SERVER: OnceLock<Option<TestServer>> = OnceLock::new();

async fn fixture() -> Option<BlobFixture> {
    let server = SERVER.get_or_init(|| server::start(&[])).as_ref()?;
    server::ready(server).await;
    Some(BlobFixture {
        backend: Arc::new(server::connect(server)),
        other_host: Some(Arc::new(server::connect(server))),
        long_name: 900,
        keeps_what_is_open: false,
        keeps: None,
    })
}

lodge_conformance::conformance!(blobs fixture);
