//! `[tls]`: HTTPS for the services.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::acme::Acme;
use super::key::{Key, count, duration, word};
use super::keys::{address, words};

const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
/// Two years, which lists of preloaded hosts ask for.
const LONGEST_HSTS: Duration = Duration::from_secs(2 * 366 * 24 * 60 * 60);

/// HTTPS for the services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsListener {
    /// Address of the listener; `None` if it is `off`.
    pub listen: Option<SocketAddr>,
    /// Files and directories with certificates and their keys.
    pub certificates: Vec<PathBuf>,
    /// Certificates from an authority, beside those in files.
    pub acme: Acme,
    /// The lowest version that clients may use.
    pub minimum: TlsVersion,
    /// The file with the authorities of client certificates.
    pub client_ca: Option<PathBuf>,
    /// Whether a client must have a certificate, where there are authorities.
    pub client: ClientCertificates,
    /// The time for a handshake.
    pub handshake: Duration,
    /// The most concurrent handshakes.
    pub handshakes: usize,
    /// The public port to which requests without TLS are redirected; `None` if they are not.
    pub redirect: Option<u16>,
    /// How long browsers must use HTTPS only, by `Strict-Transport-Security`; zero if they are not told.
    pub hsts: Duration,
}

impl TlsListener {
    /// Says whether clients need certificates; `None` if none is verified.
    pub fn clients(&self) -> Option<String> {
        self.listen.and(self.client_ca.as_ref()).map(|_| {
            let need = match self.client {
                ClientCertificates::Required => {
                    "clients of tls.listen need a certificate that tls.client_ca has signed"
                }
                ClientCertificates::Optional => {
                    "clients of tls.listen may have a certificate that tls.client_ca has signed"
                }
            };
            format!("{need}; `listen` takes requests without one")
        })
    }
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246), without its insecure cipher suites.
    #[default]
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

/// Whether a client must have a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// A handshake without one fails.
    #[default]
    Required,
    /// A client may have one. An invalid one fails the handshake.
    Optional,
}

/// Every setting, in the order of the docs.
pub(super) const KEYS: &[Key<TlsListener>] = &[
    Key {
        name: "listen",
        default: "off",
        help: "address of the listener for services over HTTPS, such as `:8443`; or `off`",
        set: |c, text| {
            c.listen = if text == "off" { None } else { Some(address(text)?) };
            Ok(())
        },
    },
    Key {
        name: "certificates",
        default: "",
        help: "files and directories with certificates and their private keys (PEM), comma-separated; read again when they change",
        set: |c, text| {
            c.certificates = words(text).map(PathBuf::from).collect();
            Ok(())
        },
    },
    Key {
        name: "minimum",
        default: "1.2",
        help: "the lowest version of TLS that clients may use: `1.2` or `1.3`",
        set: |c, text| {
            word(text, &[("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)]).map(|value| c.minimum = value)
        },
    },
    Key {
        name: "client_ca",
        default: "",
        help: "file with the authorities (PEM) that sign the certificates of clients; read again when it changes",
        set: |c, text| {
            c.client_ca = (!text.is_empty()).then(|| text.into());
            Ok(())
        },
    },
    Key {
        name: "client",
        default: "required",
        help: "with `tls.client_ca`, whether a client certificate is `required` or `optional`",
        set: |c, text| {
            let words = [("required", ClientCertificates::Required), ("optional", ClientCertificates::Optional)];
            word(text, &words).map(|value| c.client = value)
        },
    },
    Key {
        name: "handshake",
        default: "5s",
        help: "time for a TLS handshake",
        set: |c, text| duration(text, MS..=MINUTE).map(|value| c.handshake = value),
    },
    Key {
        name: "handshakes",
        default: "500",
        help: "concurrent TLS handshakes; a further one ends the oldest",
        set: |c, text| count(text, 1..=100_000).map(|value| c.handshakes = value),
    },
    Key {
        name: "redirect",
        default: "off",
        help: "the public port of HTTPS, such as `443`, to which requests without TLS are redirected; or `off`",
        set: |c, text| {
            c.redirect = match text {
                "off" | "false" => None,
                "on" | "true" => return Err("write the public port of HTTPS, such as 443".into()),
                port => Some(count(port, 1..=usize::from(u16::MAX)).map(|port| u16::try_from(port).unwrap_or(443))?),
            };
            Ok(())
        },
    },
    Key {
        name: "hsts",
        default: "0s",
        help: "how long browsers must use HTTPS for this host (`Strict-Transport-Security`), such as `180days`; `0s` does not tell them",
        set: |c, text| duration(text, Duration::ZERO..=LONGEST_HSTS).map(|value| c.hsts = value),
    },
];

impl TlsListener {
    /// Returns what is contradictory among the settings. `server` is whether `state.url` is set.
    pub(super) fn disagreements(&self, server: bool) -> Vec<String> {
        let mut problems = Vec::new();
        let acme = !self.acme.certificates.is_empty();
        if self.listen.is_some() && self.certificates.is_empty() && !acme {
            problems.push(
                "tls.certificates: `tls.listen` needs a certificate; name a file or a directory with a certificate and its key, or \
                 set `tls.acme.domains` to get one from an authority"
                    .into(),
            );
        }
        if self.listen.is_none() && acme {
            problems.push("tls.listen: `tls.acme.domains` has no effect without an address such as `:8443`".into());
        }
        if self.listen.is_none() && !self.certificates.is_empty() {
            problems.push("tls.listen: `tls.certificates` has no effect without an address such as `:8443`".into());
        }
        if self.listen.is_none() && self.client_ca.is_some() {
            problems.push("tls.listen: `tls.client_ca` has no effect without an address such as `:8443`".into());
        }
        problems.extend(self.acme.disagreements(server));
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Origin, resolve};

    #[test]
    fn clients_know_whether_they_need_certificates() {
        let said = |settings: &[(&str, &str)]| {
            let set = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            resolve(&[(Origin::Flag, set)]).unwrap().config.tls.clients()
        };
        let listen = [("tls.listen", "127.0.0.1:8443"), ("tls.certificates", "certs"), ("tls.client_ca", "ca.crt")];
        assert_eq!(said(&listen[..2]), None);
        let need = said(&listen).unwrap();
        assert!(
            need.contains(" need a certificate ") && need.ends_with("`listen` takes requests without one"),
            "{need}"
        );
        let may = said(&[listen[0], listen[1], listen[2], ("tls.client", "optional")]).unwrap();
        assert!(may.contains(" may have a certificate "), "{may}");
    }

    /// Others write `on`; the host has to know where browsers find HTTPS.
    #[test]
    fn a_redirect_names_the_public_port() {
        let with = |text: &str| resolve(&[(Origin::Flag, [("tls.redirect".to_owned(), text.to_owned())].into())]);
        for (text, port) in [("443", Some(443)), ("off", None), ("false", None)] {
            assert_eq!(with(text).unwrap().config.tls.redirect, port, "{text}");
        }
        for text in ["on", "true"] {
            let problems = with(text).unwrap_err();
            assert!(problems[0].contains("redirect: write the public port of HTTPS, such as 443"), "{problems:?}");
        }
        assert!(with("0").is_err() && with("yes").is_err());
    }
}
