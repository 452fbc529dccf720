//! Client certificates, verified by the handshake of their connection, as credentials.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use http::header::HeaderValue;

use super::denial::Cause;
use super::identity::{AuthMethod, Identity};
use lodge_manifest::auth::certificate::{CertificateName, CertificatePattern};

/// The most names of a certificate that can identify a client: the first URIs, and the first DNS names.
const MOST_NAMES: usize = 32;

/// The verified certificate of a client.
#[derive(Debug)]
pub struct ClientCertificate {
    /// What it says, as the value of `X-Forwarded-Client-Cert`.
    pub header: HeaderValue,
    names: Vec<Name>,
    expires: SystemTime,
}

#[derive(Debug)]
struct Name {
    text: String,
    is_uri: bool,
    /// The sender with this name, made for its first request.
    identity: OnceLock<Arc<Identity>>,
}

impl ClientCertificate {
    /// Returns a certificate with these URIs and DNS names, that is not valid after `expires`.
    pub fn new(header: HeaderValue, uris: &[&str], dns: &[&str], expires: SystemTime) -> Self {
        let name = |is_uri| move |text: &&str| Name { text: (*text).to_owned(), is_uri, identity: OnceLock::new() };
        let uris = uris.iter().take(MOST_NAMES).map(name(true));
        let names = uris.chain(dns.iter().take(MOST_NAMES).map(name(false))).collect();
        Self { header, names, expires }
    }

    /// Returns the sender: the first name that one of the patterns allows, URIs before DNS names.
    pub(super) fn identify(&self, allowed: &[CertificatePattern], now: SystemTime) -> Result<Arc<Identity>, Cause> {
        // The handshake has verified it, but the connection may last longer than it is valid.
        if self.expires <= now {
            return Err(Cause::ExpiredCertificate);
        }
        let is_allowed = |name: &&Name| {
            let name = if name.is_uri { CertificateName::Uri(&name.text) } else { CertificateName::Dns(&name.text) };
            allowed.iter().any(|pattern| pattern.matches(name))
        };
        let name = self.names.iter().find(is_allowed).ok_or(Cause::Certificate)?;
        let identity = || Arc::new(Identity::new(AuthMethod::Certificate, &name.text, &[]));
        Ok(Arc::clone(name.identity.get_or_init(identity)))
    }
}
