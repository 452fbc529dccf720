//! Fuzz target for what registries send, and for references to them.

use super::artifact::{self, Leads};
use super::authorization;
use lodge_manifest::reference::Reference;

/// The manifest of an artifact, a challenge, or a reference: what is read of a reference can be written, and is the same then.
pub(crate) fn registry(bytes: &[u8]) {
    if let Ok(Leads::Component(layer, config)) = artifact::read(bytes) {
        let _ = layer.digest();
        let _ = config.map(|config| config.digest());
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    authorization::read(text);
    if let Ok(reference) = Reference::read(text) {
        assert_eq!(Reference::read(&reference.to_string()).as_ref(), Ok(&reference));
        let url =
            format!("https://{}/v2/{}/manifests/{}", reference.registry, reference.repository, reference.version());
        assert!(url.parse::<http::Uri>().is_ok_and(|url| url.host().is_some() && url.query().is_none()), "{url}");
    }
}
