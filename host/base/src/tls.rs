//! TLS for all clients in the host: the trusted certificates and the cryptography provider. `pem` reads files of certificates.

pub mod pem;

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};

/// Reads the root certificates of this system from disk.
///
/// # Errors
/// One line, if the system has none.
pub fn system_roots() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (taken, _) = roots.add_parsable_certificates(found.certs);
    if taken == 0 {
        let remedy = "install them, or set the variable SSL_CERT_FILE to a file of certificates";
        return Err(format!("https needs root certificates, and this system has none; {remedy}"));
    }
    Ok(roots)
}

/// Returns a client configuration that trusts `roots`, without a client certificate, without ALPN protocols and without resumption.
///
/// # Errors
/// One line, if the provider does not support TLS 1.2 or 1.3.
pub fn client(roots: impl Into<Arc<RootCertStore>>) -> Result<ClientConfig, String> {
    // Explicit, because a program with two providers has no default one.
    let ring = rustls::crypto::ring::default_provider();
    let tls = ClientConfig::builder_with_provider(ring.into())
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("cannot set up TLS: {error}"))?;
    Ok(without_resumption(tls.with_root_certificates(roots).with_no_client_auth()))
}

/// Returns a client configuration whose handshakes are all full ones. rustls does not verify the certificate of a server again when
/// it resumes a session, so a server whose certificate has expired would be trusted for as long as it issues tickets. Connections are
/// used for many requests, so few handshakes could be saved.
pub fn without_resumption(mut config: ClientConfig) -> ClientConfig {
    config.resumption = Resumption::disabled();
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_session_is_resumed() {
        let config = client(RootCertStore::empty()).unwrap();
        let sessions = format!("{:?}", config.resumption);
        assert!(sessions.contains("NoClientSessionStorage"), "{sessions}");
    }
}
