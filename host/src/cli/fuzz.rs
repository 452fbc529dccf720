//! Fuzz targets for what commands read: components, and the event streams of a host.

use super::{client, inspect};

/// Component inspection: ends, and names no more than the file can hold.
pub(crate) fn component(bytes: &[u8]) {
    if let Ok(interfaces) = inspect::component::interfaces(bytes) {
        assert!(interfaces.imports.len() + interfaces.exports.len() <= bytes.len());
        let _ = inspect::component::wasi_versions(&interfaces);
    }
}

/// Server-sent events: the same whole and in two pieces.
pub(crate) fn events(bytes: &[u8]) {
    client::sse::fuzz(bytes);
}
