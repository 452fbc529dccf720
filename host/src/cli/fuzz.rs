//! Fuzz targets for the inputs of commands: components, and event streams of a host.

use super::{client, inspect};

/// Component inspection ends, and returns no more names than the file has bytes.
pub(crate) fn component(bytes: &[u8]) {
    if let Ok(interfaces) = inspect::component::interfaces(bytes) {
        assert!(interfaces.imports.len() + interfaces.exports.len() <= bytes.len());
        let _ = inspect::component::wasi_versions(&interfaces);
    }
}

/// An event stream has the same events whole and in two pieces.
pub(crate) fn events(bytes: &[u8]) {
    client::sse::fuzz(bytes);
}
