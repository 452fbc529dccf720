//! Objects in a directory.

use std::sync::Arc;

use lodge_conformance::BlobFixture;
use lodge_state::Durability;
use lodge_state::blobs::{BlobDirectory, BlobOptions, MAX_OBJECT_NAME};

async fn fixture() -> BlobFixture {
    let directory = tempfile::tempdir().unwrap();
    let options = BlobOptions { directory: directory.path().join("blobs"), durability: Durability::Process };
    BlobFixture {
        backend: Arc::new(BlobDirectory::new(options)),
        other_host: None,
        long_name: MAX_OBJECT_NAME,
        keeps_what_is_open: true,
        keeps: Some(Arc::new(directory)),
    }
}

lodge_conformance::conformance!(blobs fixture);
