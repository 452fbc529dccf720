//! Why a host does not do what a command wants, in words and with the way out.

use std::io::{self, ErrorKind};

use rustls::{CertificateError, Error as TlsError, InvalidMessage};

use super::stream::HostPlace;
use super::{AdminClient, ApiResponse};
use crate::cli::out::{CliError, clean};

impl AdminClient {
    /// Returns the error for a request that got no response.
    pub(super) fn unreachable(&self, error: &io::Error) -> CliError {
        let told = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>()).and_then(told);
        let why = told.clone().unwrap_or_else(|| error.to_string());
        let way_out = match (&self.place, told) {
            (_, Some(_)) => "",
            (HostPlace::Address(_), None) => "; is `lodge serve` running? --admin names another address",
            (HostPlace::Url(_), None) => "; does this URL lead to the admin listener of a host?",
        };
        let why = clean(&format!("cannot reach {}: {why}{way_out}", self.url())).into_owned();
        // What TLS does not accept stays so.
        let is_final = matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::InvalidInput);
        if is_final { CliError::Problem(why) } else { CliError::Unreachable(why) }
    }

    /// Returns the error message for an unsuccessful response.
    pub(in crate::cli) fn failure(&self, path: &str, response: &ApiResponse) -> CliError {
        let place = self.url();
        let why = response.why();
        CliError::new(match response.status {
            401 if self.token.is_some() => {
                let source = &self.token_source;
                let why = if why.is_empty() { why } else { format!(": {why}") };
                format!("{place} does not accept this token, which is that of {source}{why}")
            }
            401 => {
                let ways = "--token-file, --admin-token, LODGE_ADMIN_TOKEN or lodge.toml";
                format!("{place} requires a token; set admin_token ({ways}) to the host's, or a key of its admin_keys")
            }
            404 if response.is_of_services() => format!(
                "{place} has no {path}: {why}; that is a listener for services: give the address of the admin listener (`admin`, by \
                 default port 9090)"
            ),
            400 if place.starts_with("http:") && response.text.contains("HTTPS") => {
                format!("{place} speaks HTTPS: write https:// in place of http://")
            }
            // It knows the path, and not what the path names.
            404 if response.text.contains("urn:lodge:admin:")
                && !response.text.contains("urn:lodge:admin:not-found") =>
            {
                format!("{place}: {why}")
            }
            404 => format!("{place} has no {path}: {why}; is it the admin listener of a Lodge host of this version?"),
            status => format!("{place}{path}: {status} {why}"),
        })
    }
}

/// Returns what is wrong with the TLS of a host, and the way out; `None` for what no operator can change.
fn told(error: &TlsError) -> Option<String> {
    use CertificateError::{BadSignature, NotValidYet, NotValidYetContext, UnknownIssuer};
    use CertificateError::{Expired, ExpiredContext, NotValidForName, NotValidForNameContext};
    Some(match error {
        TlsError::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "it does not speak TLS: write http:// if nobody is on the way, or give the URL of its proxy with HTTPS".into()
        }
        // An authority with the name of one that is trusted, and another key, is another one.
        TlsError::InvalidCertificate(UnknownIssuer | BadSignature) => {
            "its certificate is of an authority that this machine does not trust: SSL_CERT_FILE names a file with those to trust".into()
        }
        TlsError::InvalidCertificate(NotValidForNameContext { expected, presented }) => {
            let names = presented.iter().take(NAMES).map(String::as_str).collect::<Vec<_>>().join(", ");
            format!(
                "its certificate is not for {}, but for {}: use a name that the certificate has",
                expected.to_str(),
                if names.is_empty() { "no name" } else { &names }
            )
        }
        TlsError::InvalidCertificate(NotValidForName) => {
            "its certificate is for another name: use one that the certificate has".into()
        }
        TlsError::InvalidCertificate(Expired | ExpiredContext { .. }) => {
            "its certificate has expired: renew it, or set the clock of this machine".into()
        }
        TlsError::InvalidCertificate(NotValidYet | NotValidYetContext { .. }) => {
            "its certificate is not valid yet: set the clock of this machine".into()
        }
        _ => return None,
    })
}

/// The most names of a certificate in a message.
const NAMES: usize = 5;

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use rustls::pki_types::ServerName;

    use super::*;

    #[test]
    fn certificates_in_words() {
        let other = CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("ops.example").unwrap().to_owned(),
            presented: vec!["www.example".into()],
        };
        for (error, expected) in [
            (CertificateError::UnknownIssuer, "SSL_CERT_FILE"),
            (CertificateError::BadSignature, "SSL_CERT_FILE"),
            (CertificateError::Expired, "it has expired"),
            (CertificateError::NotValidYet, "not valid yet"),
            (other, "is not for ops.example, but for www.example"),
        ] {
            let told = told(&TlsError::InvalidCertificate(error)).unwrap().replace("its certificate has", "it has");
            assert!(told.contains(expected), "{told}");
        }
        assert_eq!(told(&TlsError::InvalidCertificate(CertificateError::BadEncoding)), None);
    }

    /// Asks a server that answers with these bytes, and returns the error.
    fn error_of(scheme: &str, answer: &[u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let client =
            AdminClient::at(&url, Some("a-token".into())).unwrap().with_token_source("--token-file key".into());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut peer, _) = listener.accept().unwrap();
                let _ = peer.read(&mut [0; 4096]);
                let _ = peer.write_all(answer);
                let _ = peer.shutdown(std::net::Shutdown::Write);
                // What is unread would reset the connection before the answer is read.
                let _ = peer.read_to_end(&mut Vec::new());
            });
            let error = client.get("/v1/services").unwrap_err();
            drop(client);
            error.into_text()
        })
    }

    #[test]
    fn a_wrong_port_or_scheme_is_told() {
        let response = |status: u16, body: &str| {
            format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
        };
        let services = r#"{"type":"urn:lodge:problem:no-route","title":"no service has this path"}"#;
        let other = r#"{"type":"urn:lodge:admin:unauthorized","title":"the key ci has expired"}"#;
        for (scheme, answer, expected) in [
            ("http", b"\x15\x03\x03\x00\x02\x02\x0a".to_vec(), "it speaks TLS: write https:// in place of http://"),
            ("http", response(400, "Client sent an HTTP request to an HTTPS server."), "speaks HTTPS: write https://"),
            ("https", response(400, "what"), "it does not speak TLS: write http://"),
            ("http", response(404, services), "that is a listener for services"),
            ("http", response(404, &other.replace("unauthorized", "no-message")), ": the key ci has expired"),
            ("http", response(404, "none"), "is it the admin listener of a Lodge host"),
            ("http", response(401, other), "which is that of --token-file key: the key ci has expired"),
        ] {
            let error = error_of(scheme, &answer);
            assert!(error.contains(expected), "{scheme} {expected}: {error}");
        }
    }
}
