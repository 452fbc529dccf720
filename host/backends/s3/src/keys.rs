//! Keys of the bucket, from names that guests choose.
//!
//! All keys of a service begin with `PREFIX SERVICE/`. Below that, `c/CONTAINER` is the record of a container, `o/ID/OBJECT` an
//! object in the container that has this id, and `t/ID` an object whose name was not known while it was written.
//!
//! Keys consist of characters that no server changes or interprets: what is not a letter, a digit, `-`, `_` or `.` is encoded
//! as `~2f`. So no name leads to another prefix, and URLs and signatures have keys as they are. A name that needs more than 200
//! bytes is cut into parts, each ended by `~/`: many servers keep keys as paths of a file system, which has 255 bytes for each part.

use lodge_state::blobs::{BlobError, MAX_CONTAINER_NAME, MAX_OBJECT_NAME};

/// Bytes of a key. S3 has no longer ones.
const MAX_KEY: usize = 1024;
/// Bytes of the prefix of all keys.
pub(crate) const MAX_PREFIX: usize = 200;
/// Bytes of a part of a name.
const PART: usize = 200;
/// The end of a part that another one follows. No encoded name ends with `~`.
const CONTINUED: &str = "~/";
/// Digits of the id of a container.
const ID: usize = 16;

/// The keys of a service.
#[derive(Clone, Debug)]
pub(crate) struct ServiceKeys {
    root: String,
}

impl ServiceKeys {
    /// The keys of `service` below a prefix, which is empty or ends with `/`.
    pub(crate) fn new(prefix: &str, service: &str) -> Self {
        Self { root: format!("{prefix}{}/", encode(service)) }
    }

    /// What all keys of the service begin with.
    pub(crate) fn root(&self) -> &str {
        &self.root
    }

    /// What the records of all containers begin with.
    pub(crate) fn containers(&self) -> String {
        format!("{}c/", self.root)
    }

    /// The record of a container.
    pub(crate) fn container(&self, name: &str) -> Result<String, BlobError> {
        check("the name of the container", name, MAX_CONTAINER_NAME)?;
        Ok(format!("{}{}", self.containers(), encode(name)))
    }

    /// What the objects of all containers begin with.
    pub(crate) fn all_objects(&self) -> String {
        format!("{}o/", self.root)
    }

    /// What the objects of the container with this id begin with.
    pub(crate) fn objects(&self, id: &str) -> String {
        format!("{}{id}/", self.all_objects())
    }

    /// The key of an object in the container with this id.
    pub(crate) fn object(&self, id: &str, name: &str) -> Result<String, BlobError> {
        self.check_object(name)?;
        Ok(format!("{}{}", self.objects(id), encode_in_parts(name)))
    }

    /// What objects begin with that have no name yet.
    pub(crate) fn unnamed(&self) -> String {
        format!("{}t/", self.root)
    }

    /// Checks the name of an object.
    pub(crate) fn check_object(&self, name: &str) -> Result<(), BlobError> {
        check("the name of the object", name, MAX_OBJECT_NAME)?;
        let limit = MAX_KEY.saturating_sub(self.root.len()).saturating_sub("o//".len() + ID);
        if encode_in_parts(name).len() > limit {
            let what = "the name of the object, as it is encoded for S3,";
            return Err(BlobError::TooLarge { what, unit: "bytes", limit });
        }
        Ok(())
    }
}

fn check(what: &'static str, name: &str, limit: usize) -> Result<(), BlobError> {
    match name.len() {
        0 => Err(BlobError::Invalid { what, problem: "is empty" }),
        length if length > limit => Err(BlobError::TooLarge { what, unit: "bytes", limit }),
        _ => Ok(()),
    }
}

/// A random id.
pub(crate) fn random() -> Result<String, BlobError> {
    let number = getrandom::u64().map_err(|error| BlobError::Unavailable(format!("no random numbers: {error}")))?;
    Ok(format!("{number:0width$x}", width = ID))
}

/// Whether a text has the form of an id.
pub(crate) fn is_id(text: &str) -> bool {
    text.len() == ID && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Encodes a name. Two names never have one key, and none is `.` or `..`.
pub(crate) fn encode(name: &str) -> String {
    let plain =
        |at: usize, byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || (byte == b'.' && at > 0);
    let mut encoded = String::with_capacity(name.len());
    for (at, byte) in name.bytes().enumerate() {
        if plain(at, byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("~{byte:02x}"));
        }
    }
    encoded
}

/// The same, cut into parts.
fn encode_in_parts(name: &str) -> String {
    let encoded = encode(name);
    let mut parts = Vec::new();
    let mut rest = encoded.as_str();
    while let Some((part, more)) = rest.split_at_checked(PART).filter(|(_, more)| !more.is_empty()) {
        parts.push(part);
        rest = more;
    }
    parts.push(rest);
    parts.join(CONTINUED)
}

/// Returns the name of an object that was encoded; `None` for what is no encoded name.
pub(crate) fn decode(encoded: &str) -> Option<String> {
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
    let joined = encoded.replace(CONTINUED, "");
    let (mut bytes, mut rest) = (Vec::with_capacity(joined.len()), joined.bytes());
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'~' => u8::try_from(digit(rest.next())?.checked_mul(16)?.checked_add(digit(rest.next())?)?).ok()?,
            plain => plain,
        });
    }
    String::from_utf8(bytes).ok().filter(|name| encode_in_parts(name) == encoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_key_of_its_own() {
        let names = [
            "a", "A", "..", ".", "a/b", "a/../b", "a\\b", "\0", "a~2fb", "~", "é", "e\u{301}", "+", " ", "a.jpg", "%2f",
        ];
        let mut all = Vec::new();
        for name in names {
            let encoded = encode(name);
            let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
            assert!(encoded.bytes().all(valid) && !encoded.starts_with('.'), "{encoded}");
            assert_eq!(decode(&encoded).as_deref(), Some(name));
            all.push(encoded);
        }
        all.sort();
        all.dedup();
        assert_eq!(all.len(), names.len());
        for long in ["x".repeat(201), "x".repeat(1000), "é".repeat(150), format!("{}/", "x".repeat(199))] {
            let encoded = encode_in_parts(&long);
            assert!(encoded.split('/').all(|part| part.len() <= PART + 1) && encoded.contains('/'), "{encoded}");
            assert_eq!(decode(&encoded), Some(long));
        }
        for foreign in ["a~/b", "~/", ".", "~4", "~4A", "~61", "~zz", "~ff", "a/b", "a b"] {
            assert_eq!(decode(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn no_service_has_the_prefix_of_another() {
        let roots: Vec<_> =
            ["a", "a/c", "a/", "A", ".."].iter().map(|name| ServiceKeys::new("p/", name).root().to_owned()).collect();
        for (at, one) in roots.iter().enumerate() {
            for (other_at, other) in roots.iter().enumerate() {
                assert!(at == other_at || !other.starts_with(one.as_str()), "{one} {other}");
            }
        }
    }

    #[test]
    fn keys_are_no_longer_than_those_of_s3() {
        let keys = ServiceKeys::new(&"p".repeat(MAX_PREFIX), &"s".repeat(100));
        let longest =
            (1..=MAX_OBJECT_NAME).rev().find(|length| keys.check_object(&"x".repeat(*length)).is_ok()).unwrap();
        assert_eq!(keys.object(&"0".repeat(ID), &"x".repeat(longest)).unwrap().len(), MAX_KEY);
        assert!(keys.check_object(&"/".repeat(longest / 2)).is_err());
        assert!(keys.check_object("").is_err() && keys.container("").is_err());
        assert!(keys.container(&"c".repeat(MAX_CONTAINER_NAME + 1)).is_err());
    }
}
