//! References to components in registries: `oci://registry.example/team/users:1.4@sha256:…`. Pure.

use std::fmt;

use crate::digest::Digest;

/// How a reference begins.
pub const SCHEME: &str = "oci://";

/// The most characters of a repository's name (OCI Distribution Specification).
const MOST_NAME: usize = 255;

/// The most characters of a tag.
const MOST_TAG: usize = 128;

/// How references are written, for messages.
const FORM: &str = "write it like oci://registry.example/team/users:1.4, or with @sha256: and 64 hexadecimal digits";

/// A reference to a component in a registry. It has a tag, a digest or both; with both, the digest decides.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// Host of the registry, with its port if that is written.
    pub registry: String,
    /// Name of the repository.
    pub repository: String,
    /// The tag.
    pub tag: Option<String>,
    /// The digest of the manifest in the registry.
    pub digest: Option<Digest>,
}

impl Reference {
    /// Reads a reference.
    ///
    /// # Errors
    /// What is wrong, and the form.
    pub fn read(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("`{text}`: {what}; {FORM}");
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| wrong("it does not begin with oci://"))?;
        let (registry, rest) = rest.split_once('/').ok_or_else(|| wrong("it names no repository"))?;
        let registry = registry.to_ascii_lowercase();
        if !is_registry(&registry) {
            return Err(wrong("the registry is not a host with an optional port"));
        }
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest.strip_prefix("sha256:").and_then(Digest::read);
                (rest, Some(digest.ok_or_else(|| wrong("the digest is not a SHA-256"))?))
            }
            None => (rest, None),
        };
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag.to_owned())),
            None => (rest, None),
        };
        if !is_repository(repository) {
            return Err(wrong(
                "the repository has other characters than lower-case letters, digits, `.`, `_`, `-` and `/`",
            ));
        }
        match &tag {
            Some(tag) if !is_tag(tag) => {
                return Err(wrong("the tag has other characters than letters, digits, `.`, `_` and `-`"));
            }
            None if digest.is_none() => return Err(wrong("it has neither a tag nor a digest")),
            _ => {}
        }
        Ok(Self { registry, repository: repository.to_owned(), tag, digest })
    }

    /// Returns what identifies the manifest in its repository: the digest or, without one, the tag.
    pub fn version(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => format!("sha256:{digest}"),
            (None, Some(tag)) => tag.clone(),
            (None, None) => String::new(),
        }
    }

    /// Returns the last part of the repository's name.
    pub fn name(&self) -> &str {
        self.repository.rsplit('/').next().unwrap_or_default()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@sha256:{digest}"),
            None => Ok(()),
        }
    }
}

/// Whether this is a host, as a name or an address, with an optional port.
pub fn is_registry(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let (host, rest) = match text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        Some((address, rest)) => (address.parse::<std::net::Ipv6Addr>().is_ok(), rest),
        None => {
            let (host, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
            (!host.is_empty() && host.bytes().all(plain) && !host.starts_with(['.', '-']), rest)
        }
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok() && !port.starts_with(['0', '+']);
    let port = rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
    host && port && text.len() <= MOST_NAME
}

/// Parts of letters and digits with `.`, `_`, `__` or any number of `-` between them, separated by `/`.
fn is_repository(text: &str) -> bool {
    let is_part = |part: &str| {
        let words: Vec<&str> = part.split(['.', '_', '-']).collect();
        let ends = [words.first(), words.last()].into_iter().flatten().all(|word| !word.is_empty());
        let plain =
            part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte));
        let mixed = ["..", "___", "._", "_.", "-.", ".-", "-_", "_-"].iter().any(|mixed| part.contains(mixed));
        ends && plain && !mixed
    };
    text.len() <= MOST_NAME && text.split('/').all(is_part)
}

fn is_tag(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=MOST_TAG).contains(&text.len()) && text.bytes().all(plain) && !text.starts_with(['.', '-'])
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn references_are_read_as_they_are_written() {
        for text in [
            "oci://registry.example/team/users:1.4".to_owned(),
            "oci://localhost:5000/users:latest".into(),
            "oci://[::1]:5000/a/b-c/d_e/f.g:V_1-x.2".into(),
            format!("oci://10.0.0.1/users@{DIGEST}"),
            format!("oci://registry.example:443/a--b/c__d:1@{DIGEST}"),
        ] {
            assert_eq!(Reference::read(&text).unwrap().to_string(), text);
        }
        let both = Reference::read(&format!("oci://R.example/team/users:1.4@{DIGEST}")).unwrap();
        assert_eq!((both.registry.as_str(), both.name(), both.version().as_str()), ("r.example", "users", DIGEST));
        assert_eq!(Reference::read("oci://r.example/users:1").unwrap().version(), "1");
    }

    #[test]
    fn wrong_references_are_explained() {
        for (text, what) in [
            ("https://r.example/users:1".to_owned(), "does not begin"),
            ("oci://users:1".into(), "no repository"),
            ("oci:///users:1".into(), "the registry is not"),
            ("oci://user@r.example/users:1".into(), "the registry is not"),
            ("oci://r.example:0/users:1".into(), "the registry is not"),
            ("oci://r.example:5000x/users:1".into(), "the registry is not"),
            ("oci://r.example:+5000/users:1".into(), "the registry is not"),
            ("oci://r.example:05000/users:1".into(), "the registry is not"),
            ("oci://[::1/users:1".into(), "the registry is not"),
            ("oci://r.example/Users:1".into(), "the repository"),
            ("oci://r.example/a//b:1".into(), "the repository"),
            ("oci://r.example/../b:1".into(), "the repository"),
            ("oci://r.example/a/:1".into(), "the repository"),
            ("oci://r.example/users:".into(), "the tag"),
            ("oci://r.example/users:a/b".into(), "the tag"),
            (format!("oci://r.example/users:{}", "x".repeat(129)), "the tag"),
            (format!("oci://r.example/{}:1", "x".repeat(256)), "the repository"),
            ("oci://r.example/users".into(), "neither a tag nor a digest"),
            ("oci://r.example/users@sha256:12".into(), "the digest"),
            ("oci://r.example/users@sha512:12".into(), "the digest"),
        ] {
            let problem = Reference::read(&text).unwrap_err();
            assert!(problem.contains(what) && problem.contains(FORM), "{problem}");
        }
    }
}
