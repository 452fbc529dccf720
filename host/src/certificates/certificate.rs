//! A certificate with its chain and its key.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::sign::CertifiedKey;

use lodge_base::tls::pem::{self, ChainDescription};

/// The time before its expiry from which a certificate is warned of at the start.
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// A usable certificate.
pub(super) struct Certificate {
    pub(super) key: Arc<CertifiedKey>,
    /// DNS names in lower case; of a wildcard, `*.` and the rest.
    pub(super) names: Vec<String>,
    /// The URIs that programs know it by, such as SPIFFE IDs.
    pub(super) uris: Vec<String>,
    /// When it begins to be valid, in seconds since 1970.
    pub(super) not_before: i64,
    /// When the chain expires, in seconds since 1970.
    pub(super) not_after: i64,
}

impl Certificate {
    /// Checks a chain and its key, which may be in one text.
    pub(super) fn new(chain: &[u8], key: &[u8]) -> Result<Self, String> {
        let chain = pem::chain(chain)?;
        let ChainDescription { names, not_before, not_after } = pem::describe(&chain)?;
        let (names, uris) = (names.dns.iter().map(|name| name.to_ascii_lowercase()).collect(), names.uris);
        Ok(Self { key: Arc::new(pem::certified(chain, key)?), names, uris, not_before, not_after })
    }

    /// Logs what clients will object to.
    pub(super) fn warn(&self, file: &str, now: SystemTime) {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let left = self.not_after.saturating_sub(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        // One that is only valid for days is renewed by a program.
        let soon = left.unsigned_abs() < SOON.as_secs()
            && self.not_after.saturating_sub(self.not_before).unsigned_abs() > 2 * SOON.as_secs();
        if left <= 0 {
            tracing::warn!("certificate {file} has expired, so clients refuse it; renew it");
        } else if soon {
            tracing::warn!("certificate {file} expires in {} hours; renew it", left / 3_600);
        }
        if self.is_nameless() {
            tracing::warn!("certificate {file} has no DNS name, so clients that use a name refuse it");
        }
    }

    /// Whether it has no name for clients to know the host by. One with a URI is for clients that look for that.
    pub(super) fn is_nameless(&self) -> bool {
        self.names.is_empty() && self.uris.is_empty()
    }

    /// Returns its names for the log.
    pub(super) fn shown(&self) -> String {
        let names: Vec<_> = self.names.iter().chain(&self.uris).map(String::as_str).collect();
        if names.is_empty() { "no name".into() } else { names.join(", ") }
    }
}
