//! `[tls.acme]`: certificates from an authority, by ACME (RFC 8555).

use std::net::IpAddr;
use std::path::PathBuf;

use http::Uri;

use super::key::{Key, word};
use super::keys::words;

/// The most names of a certificate: what Let's Encrypt allows.
const MOST_NAMES: usize = 100;

/// The most certificates.
const MOST_CERTIFICATES: usize = 100;

/// The most contacts of an account.
const MOST_CONTACTS: usize = 10;

/// Certificates from an authority.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acme {
    /// The names of each certificate, in lower case. No name occurs twice.
    pub certificates: Vec<Vec<String>>,
    /// URLs of people whom the authority may reach, as `mailto:ops@example.org`.
    pub contact: Vec<String>,
    /// The URL of the authority's directory.
    pub directory: Uri,
    /// The file with the certificates of authorities that the directory is verified by; those of the system without one.
    pub ca: Option<PathBuf>,
    /// The name of the account elsewhere that the ACME account is bound to; empty if it is bound to none.
    pub eab_kid: String,
    /// The file with the key of that account.
    pub eab_key: Option<PathBuf>,
    /// How the host proves that a name is its own.
    pub challenge: AcmeChallenge,
    /// The directory of account and certificates; beside the state of services if there is none.
    pub path: Option<PathBuf>,
    /// The file with keys by which hosts share certificates, account and proofs in the server of their state; they do not without one.
    pub share_keys: Option<PathBuf>,
}

/// How the host proves to an authority that a name is its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AcmeChallenge {
    /// By a certificate in a handshake on port 443 (RFC 8737).
    #[default]
    TlsAlpn01,
    /// By a response over plain HTTP on port 80 (RFC 8555 8.3).
    Http01,
}

impl AcmeChallenge {
    /// Returns its name in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Http01 => "http-01",
        }
    }
}

/// Every setting, in the order of the docs.
pub(super) const KEYS: &[Key<Acme>] = &[
    Key {
        name: "domains",
        default: "",
        help: "names for which the host gets a certificate from an authority by ACME, comma-separated; `;` begins the names of another certificate",
        set: |c, text| certificates(text).map(|value| c.certificates = value),
    },
    Key {
        name: "contact",
        default: "",
        help: "where the authority may reach you, comma-separated, such as `mailto:ops@example.org`",
        set: |c, text| {
            c.contact = words(text).map(contact).collect::<Result<_, _>>()?;
            if c.contact.len() > MOST_CONTACTS {
                Err(format!("has more than {MOST_CONTACTS} contacts"))
            } else {
                Ok(())
            }
        },
    },
    Key {
        name: "directory",
        default: "https://acme-v02.api.letsencrypt.org/directory",
        help: "URL of the authority's ACME directory; the default is Let's Encrypt, whose terms you agree to by using it",
        set: |c, text| directory(text).map(|value| c.directory = value),
    },
    Key {
        name: "ca",
        default: "",
        help: "a PEM file with the authorities that the server of the directory is verified by; empty for those of the system",
        set: |c, text| {
            c.ca = (!text.is_empty()).then(|| text.into());
            Ok(())
        },
    },
    Key {
        name: "eab_kid",
        default: "",
        help: "the key identifier of an external account binding, for authorities that want one",
        set: |c, text| {
            c.eab_kid = text.to_owned();
            let sound = text.len() <= 256 && text.bytes().all(|byte| byte.is_ascii_graphic());
            if sound { Ok(()) } else { Err("must be up to 256 printable characters without spaces".into()) }
        },
    },
    Key {
        name: "eab_key",
        default: "",
        help: "a file with the key of the external account binding, in base64url as the authority shows it",
        set: |c, text| {
            c.eab_key = (!text.is_empty()).then(|| text.into());
            Ok(())
        },
    },
    Key {
        name: "challenge",
        default: "tls-alpn-01",
        help: "how names are proven: `tls-alpn-01`, for which port 443 of each name leads to `tls.listen`, or `http-01`, for which port 80 leads to `listen`",
        set: |c, text| {
            let words =
                [AcmeChallenge::TlsAlpn01, AcmeChallenge::Http01].map(|challenge| (challenge.name(), challenge));
            word(text, &words).map(|value| c.challenge = value)
        },
    },
    Key {
        name: "path",
        default: "beside",
        help: "the directory of the account and the certificates; `beside` is `acme` beside the state of services",
        set: |c, text| {
            c.path = match text {
                "beside" => None,
                "" => return Err("must name a directory, or be `beside`".into()),
                path => Some(path.into()),
            };
            Ok(())
        },
    },
    Key {
        name: "share_keys",
        default: "",
        help: "a file with keys that encrypt what hosts with one `state.url` share: certificates, account and proofs; empty if each host orders for itself",
        set: |c, text| {
            c.share_keys = (!text.is_empty()).then(|| text.into());
            Ok(())
        },
    },
];

impl Acme {
    /// Returns what is contradictory among the settings. `server` is whether `state.url` is set.
    pub(super) fn disagreements(&self, server: bool) -> Vec<String> {
        let mut problems = match (self.eab_kid.is_empty(), &self.eab_key) {
            (false, None) => vec!["tls.acme.eab_key: `tls.acme.eab_kid` needs the file with its key".into()],
            (true, Some(_)) => vec!["tls.acme.eab_kid: `tls.acme.eab_key` needs the identifier of the key".into()],
            _ => Vec::new(),
        };
        if self.share_keys.is_some() && !server {
            problems.push(
                "tls.acme.share_keys: hosts share certificates by the server of their state; set `state.url` on all of them".into(),
            );
        }
        problems
    }
}

/// Parses the names of certificates. No name is in two of them, or neither would be the one that a client gets.
fn certificates(text: &str) -> Result<Vec<Vec<String>>, String> {
    let mut all: Vec<Vec<String>> = Vec::new();
    for part in text.split(';').filter(|part| words(part).next().is_some()) {
        let mut names = Vec::new();
        for given in words(part) {
            let name = domain(given)?;
            if all.iter().flatten().chain(&names).any(|known| *known == name) {
                return Err(format!("`{name}` is named twice"));
            }
            names.push(name);
        }
        if names.len() > MOST_NAMES {
            return Err(format!("a certificate has more than {MOST_NAMES} names; begin another one with `;`"));
        }
        all.push(names);
    }
    if all.len() > MOST_CERTIFICATES {
        return Err(format!("has more than {MOST_CERTIFICATES} certificates"));
    }
    Ok(all)
}

/// Parses a host name (RFC 1123) for which an authority can look without DNS records of the host's making.
fn domain(given: &str) -> Result<String, String> {
    let name = given.to_ascii_lowercase();
    if name.starts_with("*.") {
        return Err(format!(
            "`{given}` needs a proof in DNS, which Lodge cannot give; list the names, or get the certificate with another \
             program and set tls.certificates"
        ));
    }
    if name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return Err(format!("`{given}` is an address; authorities certify host names, such as example.org"));
    }
    if !name.is_ascii() {
        return Err(format!("`{given}` is not ASCII; write it as DNS has it, with `xn--`"));
    }
    let label = |label: &str| {
        let inner = label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        (1..=63).contains(&label.len()) && inner && !label.starts_with('-') && !label.ends_with('-')
    };
    if name.len() > 253 || !name.split('.').all(label) {
        return Err(format!("`{given}` is not a host name; write it like www.example.org"));
    }
    Ok(name)
}

fn contact(given: &str) -> Result<String, String> {
    let address = given.strip_prefix("mailto:").and_then(|address| address.split_once('@'));
    let sound = given.len() <= 256 && given.bytes().all(|byte| byte.is_ascii_graphic());
    match address.filter(|(user, host)| sound && !user.is_empty() && !host.is_empty()) {
        Some(_) => Ok(given.to_owned()),
        None if given.contains('@') && !given.contains(':') => {
            Err(format!("`{given}` is not a URL; write mailto:{given}"))
        }
        None => Err(format!("`{given}` is not a contact; write it like mailto:ops@example.org")),
    }
}

fn directory(given: &str) -> Result<Uri, String> {
    let url = given.parse::<Uri>().ok().filter(|url| url.scheme_str() == Some("https"));
    let plain = |url: &Uri| url.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    url.filter(plain).ok_or_else(|| {
        format!("`{given}` is not the URL of a directory; write it like https://ca.example.org/directory")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_host_names() {
        let read = |text: &str| certificates(text);
        let one = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(read(""), Ok(vec![]));
        assert_eq!(
            read("Example.ORG, www.example.org; a.test;"),
            Ok(vec![one(&["example.org", "www.example.org"]), one(&["a.test"])])
        );
        for (text, why) in [
            ("*.example.org", "needs a proof in DNS"),
            ("192.0.2.7", "is an address"),
            ("[2001:db8::1]", "is an address"),
            ("2001:db8::1", "is an address"),
            ("b\u{fc}cher.example", "with `xn--`"),
            ("example.org.", "is not a host name"),
            ("a..b", "is not a host name"),
            ("-a.example", "is not a host name"),
            ("a_b.example", "is not a host name"),
            ("example.org:443", "is not a host name"),
            ("https://example.org", "is not a host name"),
            ("a/../b", "is not a host name"),
            ("a.test, A.test", "`a.test` is named twice"),
            ("a.test; a.test", "`a.test` is named twice"),
        ] {
            assert!(read(text).is_err_and(|error| error.contains(why)), "{text}: {:?}", read(text));
        }
        let many = |count: usize, by: &str| (0..count).map(|n| format!("{n}.test")).collect::<Vec<_>>().join(by);
        assert!(read(&many(100, ",")).is_ok() && read(&many(100, ";")).is_ok());
        assert!(read(&many(101, ",")).is_err_and(|why| why.contains("more than 100 names")));
        assert!(read(&many(101, ";")).is_err_and(|why| why.contains("more than 100 certificates")));
        assert!(read(&format!("{}.test", "a".repeat(64))).is_err());
        assert!(read(&["a"; 128].join(".")).is_err());
    }

    #[test]
    fn contacts_and_directories_are_urls() {
        assert_eq!(contact("mailto:ops@example.org").as_deref(), Ok("mailto:ops@example.org"));
        assert!(contact("ops@example.org").is_err_and(|why| why.ends_with("write mailto:ops@example.org")));
        for wrong in ["mailto:", "mailto:@", "tel:1", "mailto:a@b c"] {
            assert!(contact(wrong).is_err(), "{wrong}");
        }
        assert!(directory("https://127.0.0.1:14000/dir").is_ok());
        for wrong in ["http://ca.test/dir", "ca.test", "https://u:p@ca.test/", ""] {
            assert!(directory(wrong).is_err(), "{wrong}");
        }
    }
}
