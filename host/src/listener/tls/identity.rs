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

/// Returns what the first certificate of a chain says, for `X-Forwarded-Client-Cert` as Envoy writes it: its SHA-256, its
/// subject, and the URIs (such as a SPIFFE id) and DNS names that it is for. It is valid until the first one of the chain expires.
/// `None` if one cannot be parsed.
pub fn client_certificate(chain: &[CertificateDer<'_>], now: SystemTime) -> Option<ClientCertificate> {
    let (certificate, others) = chain.split_first()?;
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let mut expires = end(&parsed)?;
    for other in others {
        let other = end(&X509Certificate::from_der(other).ok()?.1)?;
        // The handshake did not need one that had expired before.
        if other > now {
            expires = expires.min(other);
        }
    }
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
    Some(ClientCertificate::new(HeaderValue::from_str(&value).ok()?, &uris, &dns, expires))
}

/// Returns when a certificate expires.
fn end(certificate: &X509Certificate<'_>) -> Option<SystemTime> {
    let end = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or_default();
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(end))
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

    fn described(chain: &[CertificateDer<'_>]) -> Option<ClientCertificate> {
        client_certificate(chain, SystemTime::now())
    }

    /// Names of a certificate cannot add elements or header lines.
    #[test]
    fn names_cannot_forge_elements() {
        let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "x\";URI=spiffe://forged\r\n\u{fc}");
        for uri in ["spiffe://lodge.test/orders", "spiffe://lodge.test/;DNS=forged", "urn:\"q\\"] {
            params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        }
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let value = described(&[certificate.der().clone()]).unwrap().header;
        let (hash, rest) = value.to_str().unwrap().split_at(5 + 64);
        assert!(hash.starts_with("Hash=") && hash[5..].bytes().all(|byte| byte.is_ascii_hexdigit()), "{hash}");
        let subject = r#";Subject="CN=x\";URI=spiffe://forged???""#;
        let names =
            r#";DNS=a.test;URI=spiffe://lodge.test/orders;URI="spiffe://lodge.test/;DNS=forged";URI="urn:\"q\\""#;
        assert!(rest.starts_with(subject), "{rest}");
        assert_eq!(&rest[subject.len()..], names);
        let [sound, damaged] = [certificate.der().clone(), CertificateDer::from(vec![1, 2, 3])];
        assert!(described(std::slice::from_ref(&damaged)).is_none() && described(&[sound, damaged]).is_none());
    }

    /// A chain is valid until the first of its certificates expires, but for one that the handshake cannot have needed.
    #[test]
    fn a_chain_ends_with_its_first_certificate() {
        let now = SystemTime::now();
        let until = |years: i32| {
            let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
            params.not_after = rcgen::date_time_ymd(2100 + years, 1, 1);
            params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
        };
        let end = |years: &[i32]| {
            let chain: Vec<_> = years.iter().map(|year| until(*year)).collect();
            described(&chain).unwrap().expires()
        };
        assert!(end(&[0]) > now && end(&[0]) < end(&[1]));
        assert_eq!(end(&[1, 2]), end(&[1]));
        assert_eq!(end(&[2, 1, 3]), end(&[1]));
        assert_eq!(end(&[2, 1, -90]), end(&[1]));
    }

    #[test]
    fn many_names_are_cut_off() {
        let names: Vec<String> = (0..1_000).map(|number| format!("{number}.a-long-name.test")).collect();
        let params = CertificateParams::new(names).unwrap();
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let value = described(&[certificate.der().clone()]).unwrap().header;
        assert!(value.len() <= MOST && value.len() > MOST - 100, "{}", value.len());
    }
}
