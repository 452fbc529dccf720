//! What a reference has led to, as a file: with the documents that say so, so that nothing else in it has to be true.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::pull::FoundComponent;
use lodge_manifest::reference::Reference;

/// The most bytes of a record: those of an index and of a manifest, in base64.
pub(super) const MOST: u64 = 12 << 20;

#[derive(Deserialize, Serialize)]
struct ReferenceRecord {
    reference: String,
    /// The index, where the reference leads to one, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    index: Option<String>,
    /// The manifest of the component, in base64.
    manifest: String,
}

/// Returns the record of a reference.
pub(super) fn write(reference: &Reference, found: &FoundComponent) -> Vec<u8> {
    let record = ReferenceRecord {
        reference: reference.to_string(),
        index: found.index.as_ref().map(|index| STANDARD.encode(index)),
        manifest: STANDARD.encode(&found.document),
    };
    serde_json::to_vec(&record).unwrap_or_default()
}

/// Reads a record: the reference, and what its documents lead to.
pub(super) fn read(text: &[u8]) -> Option<(String, FoundComponent)> {
    let ReferenceRecord { reference, index, manifest } = serde_json::from_slice(text).ok()?;
    let decoded = |text: &str| STANDARD.decode(text).ok().map(Bytes::from);
    let index = match index {
        Some(index) => Some(decoded(&index)?),
        None => None,
    };
    Some((reference, FoundComponent::of(index, decoded(&manifest)?).ok()?))
}
