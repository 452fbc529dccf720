//! Client certificates, verified by the handshake of their connection, as credentials.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use http::header::HeaderValue;

use super::denial::Cause;
use super::identity::{AuthMethod, Identity};
use lodge_base::telemetry::logs::foreign_line;
use lodge_manifest::auth::certificate::{CertificateName, CertificatePattern};

/// The most names of a certificate that can identify a client: the first URIs, and the first DNS names.
const MOST_NAMES: usize = 32;

/// The most names in a line of the log, and the most characters of one.
const MOST_SHOWN: usize = 4;
const MOST_NAME: usize = 200;

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
    /// Returns a certificate with these URIs and DNS names, that is not valid from `expires` on.
    pub fn new(header: HeaderValue, uris: &[&str], dns: &[&str], expires: SystemTime) -> Self {
        let name = |is_uri| move |text: &&str| Name { text: (*text).to_owned(), is_uri, identity: OnceLock::new() };
        let uris = uris.iter().take(MOST_NAMES).map(name(true));
        let names = uris.chain(dns.iter().take(MOST_NAMES).map(name(false))).collect();
        Self { header, names, expires }
    }

    /// Returns when it, or a certificate of its chain, expires.
    pub fn expires(&self) -> SystemTime {
        self.expires
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
        let Some(name) = self.names.iter().find(is_allowed) else {
            tracing::debug!(
                "a client certificate has none of the names of `client_certificates`: it has {}",
                self.shown()
            );
            return Err(Cause::Certificate);
        };
        let identity = || Arc::new(Identity::new(AuthMethod::Certificate, &name.text, &[]));
        Ok(Arc::clone(name.identity.get_or_init(identity)))
    }

    /// Returns its first names, for the log.
    fn shown(&self) -> String {
        let names = self.names.iter().take(MOST_SHOWN).map(|name| foreign_line(&name.text, MOST_NAME));
        let more = self.names.len().saturating_sub(MOST_SHOWN);
        let more = (more > 0).then(|| format!("{more} more"));
        let all: Vec<_> = names.chain(more).collect();
        if all.is_empty() { "neither a URI nor a DNS name (the CN does not count)".into() } else { all.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_a_line_are_bounded() {
        let of = |uris: &[&str], dns: &[&str]| {
            ClientCertificate::new(HeaderValue::from_static("x"), uris, dns, SystemTime::UNIX_EPOCH).shown()
        };
        assert_eq!(of(&["spiffe://a/b"], &["a.test"]), "spiffe://a/b, a.test");
        assert_eq!(of(&[], &[]), "neither a URI nor a DNS name (the CN does not count)");
        assert_eq!(of(&[], &["a", "b", "c", "d", "e", "f"]), "a, b, c, d, 2 more");
        let long = of(&["x\ny".repeat(10_000).as_str(); 20], &[]);
        assert!(long.len() < 1_000 && !long.contains('\n'), "{long}");
    }
}
