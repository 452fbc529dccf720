//! `auth.client_certificates`: which names a client certificate must have.

use super::texts;
use crate::written::Written;

/// A pattern of names in a certificate: a URI such as a SPIFFE id, or a DNS name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificatePattern {
    /// This URI.
    Uri(String),
    /// The URIs below this one, which ends in `/`.
    Below(String),
    /// This DNS name, in lower case.
    Dns(String),
    /// The DNS names of one label before this text, which begins with a dot.
    Label(String),
}

/// A name in a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateName<'a> {
    /// A URI.
    Uri(&'a str),
    /// A DNS name.
    Dns(&'a str),
}

/// Reads the list of patterns.
pub(crate) fn read(key: &Written<'_>) -> Result<Vec<CertificatePattern>, String> {
    const FORM: &str = "[\"spiffe://example.org/orders\", \"*.jobs.example.org\"]";
    let names = texts(key, FORM, |text| CertificatePattern::read(text).is_some())?;
    Ok(names.iter().filter_map(|text| CertificatePattern::read(text)).collect())
}

impl CertificatePattern {
    /// Reads a pattern; `None` if this is not one.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let plain =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'*' | b'"' | b'\\'));
        if text.contains("://") {
            let (scheme, rest) = text.split_once("://")?;
            let below = text.strip_suffix('*');
            // Of a URI only the end of its path is free: never its host, which is the trust domain of a SPIFFE id.
            let is_path = below.is_none_or(|below| below.ends_with('/') && rest.matches('/').count() >= 1);
            let sound = !scheme.is_empty() && !rest.is_empty() && !rest.starts_with(['/', '*']) && is_path;
            let text = below.unwrap_or(text);
            let read = if below.is_some() { Self::Below(text.into()) } else { Self::Uri(text.into()) };
            return (sound && plain(text) && (below.is_none() || is_simple(text))).then_some(read);
        }
        let (name, label) = text.strip_prefix('*').map_or((text, false), |name| (name, true));
        let labels = name.strip_prefix('.').unwrap_or(name);
        let is_label = |label: &str| {
            !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        let sound = labels.split('.').all(is_label) && label == name.starts_with('.');
        let name = name.to_ascii_lowercase();
        sound.then_some(if label { Self::Label(name) } else { Self::Dns(name) })
    }

    /// The pattern as it is written.
    pub fn text(&self) -> String {
        match self {
            Self::Uri(text) | Self::Dns(text) => text.clone(),
            Self::Below(text) => format!("{text}*"),
            Self::Label(text) => format!("*{text}"),
        }
    }

    /// Whether a certificate may have this name.
    pub fn matches(&self, name: CertificateName<'_>) -> bool {
        match (self, name) {
            (Self::Uri(text), CertificateName::Uri(uri)) => text == uri,
            (Self::Below(start), CertificateName::Uri(uri)) => {
                uri.len() > start.len() && uri.starts_with(start) && is_simple(uri)
            }
            (Self::Dns(text), CertificateName::Dns(name)) => name.eq_ignore_ascii_case(text),
            (Self::Label(end), CertificateName::Dns(name)) => {
                let name = name.to_ascii_lowercase();
                // A name of a certificate may have a `*` itself, for a server.
                name.strip_suffix(end.as_str()).is_some_and(|label| !label.is_empty() && !label.contains(['.', '*']))
            }
            (Self::Uri(_) | Self::Below(_), CertificateName::Dns(_))
            | (Self::Dns(_) | Self::Label(_), CertificateName::Uri(_)) => false,
        }
    }
}

/// Whether a URI has a path that is below another one if its text is: without `.`, `..`, empty or encoded segments, query and
/// fragment.
fn is_simple(uri: &str) -> bool {
    let path = uri.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
    let path = path.strip_suffix('/').unwrap_or(path);
    let segment = |segment: &str| !matches!(segment, "" | "." | "..");
    !uri.contains(['%', '?', '#', '\\']) && (path.is_empty() || path.split('/').all(segment))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_patterns() {
        let matches = |pattern: &str, name: &str| {
            let pattern = CertificatePattern::read(pattern).unwrap_or_else(|| panic!("{pattern}"));
            let name = if name.contains("://") { CertificateName::Uri(name) } else { CertificateName::Dns(name) };
            pattern.matches(name)
        };
        for (pattern, name, expected) in [
            ("spiffe://a.test/orders", "spiffe://a.test/orders", true),
            ("spiffe://a.test/orders", "spiffe://a.test/orders/x", false),
            ("spiffe://a.test/orders", "SPIFFE://a.test/orders", false),
            ("spiffe://a.test/*", "spiffe://a.test/orders", true),
            ("spiffe://a.test/*", "spiffe://a.test/", false),
            ("spiffe://a.test/*", "spiffe://a.test.evil/orders", false),
            ("spiffe://a.test/*", "spiffe://b.test/orders", false),
            ("spiffe://a.test/team-a/*", "spiffe://a.test/team-a/x/y", true),
            ("spiffe://a.test/team-a/*", "spiffe://a.test/team-a/../team-b/x", false),
            ("spiffe://a.test/team-a/*", "spiffe://a.test/team-a/%2e%2e/team-b", false),
            ("spiffe://a.test/team-a/*", "spiffe://a.test/team-a//x", false),
            ("spiffe://a.test/team-a/*", "spiffe://a.test/team-a/x?y", false),
            ("spiffe://a.test/team-a/*", "spiffe://a.test/team-ab/x", false),
            ("orders.test", "orders.test", true),
            ("orders.test", "ORDERS.Test", true),
            ("Orders.test", "orders.test", true),
            ("orders.test", "x.orders.test", false),
            ("*.jobs.test", "nightly.jobs.test", true),
            ("*.jobs.test", "a.nightly.jobs.test", false),
            ("*.jobs.test", "jobs.test", false),
            ("*.jobs.test", ".jobs.test", false),
            ("*.jobs.test", "*.jobs.test", false),
            ("*.jobs.test", "nightlyjobs.test", false),
            // A URI is no DNS name.
            ("orders.test", "spiffe://orders.test", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
        let wrong = [
            "",
            "*",
            "**",
            "*.",
            ".",
            "a..b",
            "a b",
            "spiffe://",
            "spiffe://*",
            "spiffe://a.test*",
            "spiffe:///x",
            "://a/x",
            "spiffe://a.test/x*",
            "spiffe://a.*/x",
            "spiffe://a.test/../*",
            "*jobs.test",
            "a.*.test",
            ".jobs.test",
            "a*",
        ];
        for text in wrong {
            assert_eq!(CertificatePattern::read(text), None, "{text}");
        }
        for text in ["spiffe://a.test/*", "*.jobs.test", "orders.test", "urn://x"] {
            assert_eq!(CertificatePattern::read(text).unwrap().text(), text);
        }
    }
}
