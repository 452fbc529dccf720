//! What the verified certificate of a client says of it.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use http::HeaderValue;
use lodge_traffic::auth::certificate::ClientCertificate;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The most bytes of the value. A certificate with more names is shown with the first of them.
const MOST: usize = 4 << 10;

/// Returns what a certificate says, for `X-Forwarded-Client-Cert` as Envoy writes it: the SHA-256 of the certificate, its
/// subject, and the URIs (such as a SPIFFE id) and DNS names that it is for. `None` if it cannot be parsed.
pub fn client_certificate(certificate: &CertificateDer<'_>) -> Option<ClientCertificate> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let mut value = String::from("Hash=");
    for byte in Sha256::digest(certificate) {
        // Writing to a string does not fail.
        let _ = write!(value, "{byte:02x}");
    }
    let _ = write!(value, ";Subject={}", quoted(&parsed.subject().to_string()));
    let names = parsed.subject_alternative_name().ok().flatten();
    let (mut uris, mut dns, mut fits) = (Vec::new(), Vec::new(), true);
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        let part = match name {
            GeneralName::URI(uri) => {
                uris.push(*uri);
                format!(";URI={}", escaped(uri))
            }
            GeneralName::DNSName(name) => {
                dns.push(*name);
                format!(";DNS={}", escaped(name))
            }
            _ => continue,
        };
        fits &= value.len().saturating_add(part.len()) <= MOST;
        if fits {
            value.push_str(&part);
        }
    }
    let end = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default();
    let expires = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(end))?;
    Some(ClientCertificate::new(HeaderValue::from_str(&value).ok()?, &uris, &dns, expires))
}

/// Returns a value that contains none of the separators, or the value in quotes.
fn escaped(text: &str) -> String {
    if text.contains([',', ';', '=', '"']) { quoted(text) } else { printable(text).collect() }
}

fn quoted(text: &str) -> String {
    let mut value = String::from("\"");
    for character in printable(text).take(MOST / 8) {
        if matches!(character, '"' | '\\') {
            value.push('\\');
        }
        value.push(character);
    }
    value.push('"');
    value
}

/// A header value is ASCII, and a name of a certificate may be anything.
fn printable(text: &str) -> impl Iterator<Item = char> {
    text.chars().map(|character| if matches!(character, ' '..='~') { character } else { '?' })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    /// Names of a certificate cannot add elements or header lines.
    #[test]
    fn names_cannot_forge_elements() {
        let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "x\";URI=spiffe://forged\r\n\u{fc}");
        for uri in ["spiffe://lodge.test/orders", "spiffe://lodge.test/;DNS=forged", "urn:\"q\\"] {
            params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        }
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let value = client_certificate(certificate.der()).unwrap().header;
        let (hash, rest) = value.to_str().unwrap().split_at(5 + 64);
        assert!(hash.starts_with("Hash=") && hash[5..].bytes().all(|byte| byte.is_ascii_hexdigit()), "{hash}");
        let subject = r#";Subject="CN=x\";URI=spiffe://forged???""#;
        let names =
            r#";DNS=a.test;URI=spiffe://lodge.test/orders;URI="spiffe://lodge.test/;DNS=forged";URI="urn:\"q\\""#;
        assert!(rest.starts_with(subject), "{rest}");
        assert_eq!(&rest[subject.len()..], names);
        assert!(client_certificate(&CertificateDer::from(vec![1, 2, 3])).is_none());
    }

    #[test]
    fn many_names_are_cut_off() {
        let names: Vec<String> = (0..1_000).map(|number| format!("{number}.a-long-name.test")).collect();
        let params = CertificateParams::new(names).unwrap();
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let value = client_certificate(certificate.der()).unwrap().header;
        assert!(value.len() <= MOST && value.len() > MOST - 100, "{}", value.len());
    }
}
