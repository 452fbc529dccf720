//! What has a bucket of its own in a rate limit.

use std::borrow::Cow;
use std::hash::Hash;

use sha2::{Digest, Sha256};

/// The key of a bucket.
#[derive(Hash)]
pub(super) enum BucketKey<'a> {
    /// All requests have the same bucket.
    Service,
    /// An address, as [`key_of`](super::key_of) returns it.
    Client(u64),
    /// A service of another host that calls, and the address of that host.
    Calling(u64, &'a str),
    /// The value of the header of the limit; empty for requests without it.
    Header(&'a [u8]),
    /// How a sender was verified, by whom, and its name.
    Identity([&'a str; 3]),
    /// The value of the claim of the limit.
    Claim(Cow<'a, str>),
}

impl BucketKey<'_> {
    /// Returns the id of the bucket in a limit that begins with `limit`: the same on every host and in every version, so it does not
    /// depend on `std`. Two keys have one id only if SHA-256 fails.
    pub(super) fn id(&self, limit: &Sha256) -> u128 {
        let mut hash = limit.clone();
        // A limit by claims counts requests without the claim by sender, or by client.
        let kind = match self {
            Self::Service => 0,
            Self::Client(_) => 1,
            Self::Header(_) => 2,
            Self::Identity(_) => 3,
            Self::Claim(_) => 4,
            Self::Calling(..) => 5,
        };
        hash.update([kind]);
        match self {
            Self::Service => {}
            Self::Client(address) => part(&mut hash, &address.to_be_bytes()),
            Self::Calling(address, service) => {
                part(&mut hash, &address.to_be_bytes());
                part(&mut hash, service.as_bytes());
            }
            Self::Header(value) => part(&mut hash, value),
            Self::Identity(all) => all.iter().for_each(|text| part(&mut hash, text.as_bytes())),
            Self::Claim(value) => part(&mut hash, value.as_bytes()),
        }
        let digest: [u8; 32] = hash.finalize().into();
        digest.into_iter().take(16).fold(0, |id, byte| id << 8 | u128::from(byte))
    }
}

/// Returns the beginning of all ids of a limit.
pub(super) fn limit_of(parts: [&str; 3]) -> Sha256 {
    let mut hash = Sha256::new();
    parts.iter().for_each(|text| part(&mut hash, text.as_bytes()));
    hash
}

/// Adds bytes with their number, so that no other parts are the same bytes together.
fn part(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_be_bytes());
    hash.update(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_the_same_on_every_host() {
        let id = BucketKey::Header(b"a").id(&limit_of(["users", "", "header:x-api-key"]));
        assert_eq!(format!("{id:032x}"), "45e47e6e537bbe32adf5712c53988d28");
        let limits = [["users", "", "client"], ["user", "s", "client"], ["users", "/a", "client"]].map(limit_of);
        let keys = || {
            [
                BucketKey::Service,
                BucketKey::Client(0),
                BucketKey::Client(1),
                BucketKey::Calling(1, ""),
                BucketKey::Calling(1, "users"),
                BucketKey::Header(b""),
                BucketKey::Header(b"service"),
                BucketKey::Header(&[0; 8]),
                BucketKey::Identity(["a", "bc", "d"]),
                BucketKey::Identity(["ab", "c", "d"]),
                BucketKey::Claim("a".into()),
                BucketKey::Claim("abcd".into()),
            ]
        };
        let ids: std::collections::HashSet<_> =
            limits.iter().flat_map(|limit| keys().map(|key| key.id(limit))).collect();
        assert_eq!(ids.len(), 3 * keys().len());
    }
}
