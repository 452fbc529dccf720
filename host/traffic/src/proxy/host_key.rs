//! The secret by which the hosts of a cluster know that a request comes from one of them.
//!
//! Each process makes one, says it in its record, which only who can read the server of the state can read, and sends it with what it
//! forwards. It appears in no log, no list and no request of a service.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use lodge_base::ids::Ids;

/// The digits of a key: 128 random bits in hexadecimal.
const DIGITS: usize = 32;

/// The key of a host.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostKey(Arc<str>);

/// The SHA-256 of a key. Keys are compared by it: how long that takes says something about digests, and nothing about keys.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct KeyDigest([u8; 32]);

impl HostKey {
    /// Makes a key for this process.
    pub fn random() -> Self {
        Self(Ids::new().request())
    }

    /// Reads a key; `None` if it is none.
    pub fn read(text: &str) -> Option<Self> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == DIGITS && text.bytes().all(is_digit)).then(|| Self(text.into()))
    }

    /// Returns the text of the key, for the header and the record.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Returns its digest.
    pub fn digest(&self) -> KeyDigest {
        KeyDigest(Sha256::digest(self.0.as_bytes()).into())
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostKey(…)")
    }
}

impl TryFrom<String> for HostKey {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        Self::read(&text).ok_or("it is no key of a host")
    }
}

impl From<HostKey> for String {
    fn from(key: HostKey) -> Self {
        key.0.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_random_and_hidden() {
        let (one, other) = (HostKey::random(), HostKey::random());
        assert_ne!(one, other);
        assert_eq!(HostKey::read(one.text()), Some(one.clone()));
        assert!(!format!("{one:?}").contains(one.text()) && one.digest() != other.digest());
        for text in [
            "",
            "0123456789abcdef0123456789abcde",
            "0123456789ABCDEF0123456789abcdef",
            "0123456789abcdef0123456789abcdefa",
        ] {
            assert_eq!(HostKey::read(text), None, "{text}");
        }
    }
}
