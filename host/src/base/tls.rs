//! TLS as a client, for everything in the host that calls https: what is trusted, and by which provider.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

/// The certificates that this system trusts. Reads them from disk.
///
/// # Errors
/// One line, when it has none.
pub fn system_roots() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (taken, _) = roots.add_parsable_certificates(found.certs);
    if taken == 0 {
        let way_out = "install them, or name a file of them in the variable SSL_CERT_FILE";
        return Err(format!("https needs certificates to trust, and this system has none; {way_out}"));
    }
    Ok(roots)
}

/// A client that trusts `roots`, shows no certificate of its own, and offers no protocol yet.
///
/// # Errors
/// One line, when the provider lacks what TLS 1.2 and 1.3 need.
pub fn client(roots: impl Into<Arc<RootCertStore>>) -> Result<ClientConfig, String> {
    // Named, because the process may come to hold another provider, and rustls would not know which to take.
    let ring = rustls::crypto::ring::default_provider();
    let tls = ClientConfig::builder_with_provider(ring.into())
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be had: {error}"))?;
    Ok(tls.with_root_certificates(roots).with_no_client_auth())
}
