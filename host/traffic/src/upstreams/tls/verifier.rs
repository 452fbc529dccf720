//! Verifies that a replica is one of those that the manifest names, whatever its address.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use lodge_base::tls::pem;
use lodge_manifest::auth::certificate::{CertificateName, CertificatePattern};

/// The most names of a certificate that are compared, of each kind.
const MOST_NAMES: usize = 1_000;

/// Verifies the chain of a certificate as for any server, and its names by patterns.
#[derive(Debug)]
pub(super) struct NamedVerifier {
    roots: Arc<RootCertStore>,
    names: Vec<CertificatePattern>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl NamedVerifier {
    pub(super) fn new(roots: Arc<RootCertStore>, names: &[CertificatePattern], provider: &CryptoProvider) -> Self {
        Self { roots, names: names.to_vec(), algorithms: provider.signature_verification_algorithms }
    }

    /// Returns the error of a certificate without any of the names.
    fn unnamed(&self, uris: &[String], dns: &[String]) -> Error {
        let found: Vec<_> = uris.iter().chain(dns).take(4).map(String::as_str).collect();
        let found = if found.is_empty() { "no name".to_owned() } else { found.join(", ") };
        let wanted: Vec<_> = self.names.iter().map(CertificatePattern::text).collect();
        Error::General(format!("its certificate is for {found:?}, and upstream.tls.names has {}", wanted.join(", ")))
    }
}

impl ServerCertVerifier for NamedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, self.algorithms.all)?;
        let found = pem::describe(std::slice::from_ref(end_entity)).map_err(Error::General)?.names;
        let uris = found.uris.iter().take(MOST_NAMES).map(|name| CertificateName::Uri(name));
        let dns = found.dns.iter().take(MOST_NAMES).map(|name| CertificateName::Dns(name));
        let mut names = uris.chain(dns);
        match names.any(|name| self.names.iter().any(|pattern| pattern.matches(name))) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(self.unnamed(&found.uris, &found.dns)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
