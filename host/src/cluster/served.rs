//! The services that a host serves. A short list stands in the record of the host. A long one is an entry of its own, which has the name
//! of its digest: hosts that serve the same share it, and each of the others reads it once and not with every record.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lodge_manifest::digest::Digest;
use lodge_manifest::spec::{is_label, is_name, split};
use lodge_state::{Error, Expiry, Key, Set, Store, Ttl, Value};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::time::Instant;

/// The most bytes of a record, and of a list of services.
pub(super) const MOST_BYTES: usize = 64 << 10;

/// The most bytes of the version of a host or of a service.
const MOST_VERSION: usize = 64;

/// The most services of a list.
pub(super) const MOST_SERVICES: usize = 2_000;

/// The times of `cluster.ttl` after which a list is written again, and those for which it lasts.
const AGAIN: u32 = 4;
const LASTS: u32 = 12;

/// The most bytes of a list that stands in a record.
const SHORT: usize = 1 << 10;

/// The most bytes of a service and its digest in a list: two names with `@`, 12 digits, quotes and punctuation.
const MOST_ENTRY: usize = 63 + 1 + 63 + 12 + 6;

/// The services and versions of a host, with the first digits of their digests. Hosts with the same list share it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServedServices(Arc<BTreeMap<String, String>>);

/// A list that is an entry of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LongList {
    /// Its name: the digest of its bytes in hexadecimal.
    pub(crate) digest: String,
    pub(crate) bytes: Bytes,
}

/// Writes the long list of a host.
#[derive(Debug)]
pub(super) struct ListWriter {
    bucket: String,
    ttl: Duration,
    /// The digest of the last list, and when it was written.
    last: Option<(String, Instant)>,
}

impl ListWriter {
    /// Creates the writer of a host that writes into `bucket`, in a cluster whose records last for `ttl`.
    pub(super) fn new(bucket: String, ttl: Duration) -> Self {
        Self { bucket, ttl, last: None }
    }

    /// Writes the list, unless that was done a short time ago: it lasts for several records.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn write(&mut self, store: &dyn Store, list: LongList, deadline: Instant) -> Result<(), Error> {
        let now = Instant::now();
        if self.last.as_ref().is_some_and(|(digest, at)| *digest == list.digest && now < *at + self.ttl * AGAIN) {
            return Ok(());
        }
        let (key, value) = (Key::new(&self.bucket, &list.digest)?, Value::new(list.bytes)?);
        let lasting = Set { expiry: Expiry::After(Ttl::new(self.ttl * LASTS)?), if_absent: false };
        store.set(key, value, lasting, deadline).await?;
        self.last = Some((list.digest, now));
        Ok(())
    }

    /// Lets the next list be written in any case, because the store may have lost it.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }
}

impl ServedServices {
    /// Leaves out services until the list is within the bounds, and returns how many.
    pub(super) fn shorten(&mut self, room: usize) -> u64 {
        let (all, mut left_out) = (Arc::make_mut(&mut self.0), 0);
        loop {
            let (bytes, count) = (serde_json::to_vec(all).unwrap_or_default().len(), all.len());
            if bytes <= room && count <= MOST_SERVICES {
                return left_out;
            }
            // Each is at least this much of the excess.
            let excess = (bytes.saturating_sub(room) / MOST_ENTRY).max(count.saturating_sub(MOST_SERVICES)).max(1);
            for _ in 0..excess {
                left_out += u64::from(all.pop_last().is_some());
            }
        }
    }

    /// Returns the list as an entry of its own, if it is too long for a record.
    pub(super) fn long(&self) -> Option<LongList> {
        let bytes = Bytes::from(serde_json::to_vec(self).unwrap_or_default());
        (bytes.len() > SHORT).then(|| LongList { digest: Digest::of(&bytes).to_string(), bytes })
    }

    /// Reads the list with this name; `None` if it is another one, too large, or no list.
    pub(super) fn read(digest: &str, bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MOST_BYTES || Digest::of(bytes).to_string() != digest {
            return None;
        }
        serde_json::from_slice::<Self>(bytes).ok().filter(Self::is_sound)
    }

    /// Whether it is within the bounds, and all texts are plain.
    pub(super) fn is_sound(&self) -> bool {
        self.len() <= MOST_SERVICES
            && self.iter().all(|(name, digest)| is_service(name) && is_hex(digest) && is_version(digest))
    }

    /// Whether both are the same list, without a look at long ones that differ.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || (self.len() == other.len() && self == other)
    }
}

/// Whether this is the name of a service, or of a version of one.
fn is_service(name: &str) -> bool {
    let (service, label) = split(name);
    is_name(service) && label.is_none_or(is_label)
}

/// Whether all of it are hexadecimal digits.
pub(super) fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether this is a version, such as `1.2.0-rc.1+build`.
pub(super) fn is_version(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte);
    (1..=MOST_VERSION).contains(&text.len()) && text.bytes().all(plain)
}

impl Deref for ServedServices {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl FromIterator<(String, String)> for ServedServices {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(all: I) -> Self {
        Self(Arc::new(all.into_iter().collect()))
    }
}

impl Serialize for ServedServices {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ServedServices {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(|all| Self(Arc::new(all)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services(count: usize, name: &str) -> ServedServices {
        (0..count).map(|n| (format!("{name}{n:05}"), "0123456789ab".to_owned())).collect()
    }

    /// A long list is read under its own name only, and no text in it can forge a line.
    #[test]
    fn long_lists_have_the_name_of_their_digest() {
        assert_eq!(services(20, "s").long(), None);
        let all = services(1_000, "s");
        let long = all.long().unwrap();
        assert_eq!(ServedServices::read(&long.digest, &long.bytes), Some(all));
        assert_eq!(ServedServices::read(&services(999, "s").long().unwrap().digest, &long.bytes), None);
        for bytes in [&b""[..], b"[]", br#"{"a\nb":"00"}"#, br#"{"a":"\u001b[2J"}"#, &[b' '; MOST_BYTES + 1]] {
            assert_eq!(ServedServices::read(&Digest::of(bytes).to_string(), bytes), None);
        }
        let many = serde_json::to_vec(&services(MOST_SERVICES + 1, "s")).unwrap();
        assert_eq!(ServedServices::read(&Digest::of(&many).to_string(), &many), None);
    }
}
