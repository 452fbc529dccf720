//! TLS to servers: rustls with ring, and certificates that are always verified.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// Why TLS cannot be set up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// The certificates of authorities.
    #[error("the certificates of authorities cannot be read ({detail}): give PEM files with at least one certificate")]
    Authorities {
        /// What is wrong.
        detail: String,
    },
    /// No authority is known.
    #[error(
        "the system has no certificates of authorities: install its package ca-certificates, or give a file of them"
    )]
    NoAuthorities,
    /// The client's own certificate or its key.
    #[error("the client certificate cannot be used ({detail}): give its chain and its key in PEM")]
    Identity {
        /// What is wrong.
        detail: String,
    },
}

/// How connections with TLS are verified. The certificate and the host name of the server are always checked.
#[derive(Clone, Default)]
pub struct Tls {
    /// Certificates of the authorities that are trusted, in PEM; `None` for those of the system.
    pub authorities: Option<Vec<u8>>,
    /// The client's certificate chain and key, in PEM.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Tls {
    /// The configuration of connections.
    ///
    /// # Errors
    /// If certificates or the key cannot be read.
    pub fn config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let mut roots = RootCertStore::empty();
        match &self.authorities {
            Some(pem) => {
                let authorities = |error: &dyn std::fmt::Display| TlsError::Authorities { detail: error.to_string() };
                for certificate in CertificateDer::pem_slice_iter(pem) {
                    let certificate = certificate.map_err(|error| authorities(&error))?;
                    roots.add(certificate).map_err(|error| authorities(&error))?;
                }
                if roots.is_empty() {
                    return Err(authorities(&"no certificate in it"));
                }
            }
            None => {
                // Systems have some certificates that nothing can read.
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if roots.is_empty() {
                    return Err(TlsError::NoAuthorities);
                }
            }
        }
        let identity = |error: &dyn std::fmt::Display| TlsError::Identity { detail: error.to_string() };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| identity(&error))?
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>();
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| identity(&error))?;
                builder
                    .with_client_auth_cert(chain.map_err(|error| identity(&error))?, key)
                    .map_err(|error| identity(&error))?
            }
        };
        // rustls does not verify the certificate of a server again when it resumes a session.
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("authorities", &self.authorities.is_some())
            .field("identity", &self.identity.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "testing")]
    #[test]
    fn no_session_is_resumed() {
        let authority = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap();
        let config = Tls { authorities: Some(authority.cert.pem().into_bytes()), identity: None }.config().unwrap();
        let sessions = format!("{:?}", config.resumption);
        assert!(sessions.contains("NoClientSessionStorage"), "{sessions}");
    }

    #[test]
    fn files_that_are_no_certificates_are_refused() {
        let authorities = Some(b"nothing".to_vec());
        let error = Tls { authorities, identity: None }.config().unwrap_err();
        assert!(matches!(error, TlsError::Authorities { .. }), "{error}");
        let identity = Some((Vec::new(), b"nothing".to_vec()));
        let error = Tls { authorities: None, identity }.config().unwrap_err();
        assert!(matches!(error, TlsError::Identity { .. } | TlsError::NoAuthorities), "{error}");
    }
}
