//! Names of namespaces, buckets and keys, as NATS accepts them.

use lodge_state::{Key, Namespace};

/// The digits of base 32, as in RFC 4648, but lower case.
const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The name of a key-value bucket: of at most 220 bytes, and different for all namespaces.
pub(crate) fn bucket(kind: &str, namespace: &Namespace) -> String {
    let name = namespace.as_str();
    if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return format!("lodge-{kind}-{name}");
    }
    // No plain name has `_`.
    format!("lodge-{kind}-_{}", base32(name.as_bytes()))
}

/// The name of a stream for the messages of a consumer. `number` has 8 digits.
pub(crate) fn messages(kind: &str, consumer: &Namespace, number: &str) -> String {
    format!("{}-{number}", bucket(kind, consumer))
}

fn base32(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(5) {
        let mut group = [0; 8];
        for (place, byte) in group.iter_mut().skip(3).zip(chunk) {
            *place = *byte;
        }
        let bits = u64::from_be_bytes(group);
        for digit in 0..(chunk.len() * 8).div_ceil(5) {
            let index = (bits >> (35 - 5 * digit)) & 31;
            text.push(DIGITS.get(index as usize).copied().unwrap_or(b'a').into());
        }
    }
    text
}

/// A name as one token of a subject: bytes that are not accepted become `=XX`.
pub(crate) fn token(name: &str) -> String {
    let mut token = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'/') {
            token.push(byte.into());
        } else {
            token.push_str(&format!("={byte:02X}"));
        }
    }
    token
}

/// The name of a token; `None` if [`token`] has not made it.
pub(crate) fn name(token: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(token.len());
    let mut rest = token.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first == b'=' {
            let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok())?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = after.get(2..)?;
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

/// A key, as a bucket of JetStream has it.
pub(crate) fn key(key: Key<'_>) -> String {
    format!("{}.{}", token(key.bucket()), token(key.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_unambiguous_and_harmless() {
        let names = ["a", "*", ">", "a.b", "a b", "=", "=2E", ".", "ä€😀", "\0", "a/b", "-_"];
        for text in names {
            let token = token(text);
            assert!(!token.contains(['.', '*', '>', ' ', '\0']) && token.is_ascii(), "{token}");
            assert_eq!(name(&token).as_deref(), Some(text));
        }
        for foreign in ["=", "=2", "=zz", "=FF", "=+1"] {
            assert!(name(foreign).is_none_or(|name| token(&name) != foreign), "{foreign}");
        }
        let longest = Key::new(&"\0".repeat(128), &"\0".repeat(1024)).map(key).unwrap();
        assert!(longest.len() < 3500, "subjects with NATS's own prefix have at most 4096 bytes");
    }

    #[test]
    fn buckets_of_namespaces_differ() {
        let names = ["a", "A", "_me", "a.b", "a b", "\u{e4}", "mfra", "state-a", &"\0".repeat(128), &"\0".repeat(127)];
        let buckets: std::collections::BTreeSet<_> =
            names.iter().map(|name| bucket("state", &Namespace::new(name).unwrap())).collect();
        assert_eq!(buckets.len(), names.len());
        assert!(buckets.iter().all(|bucket| bucket.len() <= 220), "a stream has at most 255");
        assert_eq!(base32(b"foobar"), "mzxw6ytboi");
        assert_eq!(base32(b"f"), "my");
    }
}
