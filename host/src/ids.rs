//! Ids of requests, traces and spans: random enough that no two hosts make the same, made without a lock, and none tells
//! how many there were.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where ids come from.
pub struct Ids {
    /// Random, and different in every process.
    seeds: [u64; 2],
    next: AtomicU64,
}

impl Ids {
    /// A source that shares no id with others but by chance.
    #[expect(clippy::new_without_default, reason = "no two are alike")]
    pub fn new() -> Self {
        // Keyed by random bytes of the system's.
        let random = || RandomState::new().build_hasher().finish();
        Self { seeds: [random(), random()], next: AtomicU64::new(0) }
    }

    /// Never zero, which both W3C and B3 take for none.
    pub fn span(&self) -> u64 {
        let [seed, _] = self.seeds;
        mix(self.count().wrapping_add(seed)).max(1)
    }

    /// Never zero. All bits are mixed, so samplers can decide by any of them.
    pub fn trace(&self) -> u128 {
        let ([high, low], count) = (self.seeds, self.count());
        (u128::from(mix(count.wrapping_add(high))) << 64 | u128::from(mix(count.wrapping_add(low)))).max(1)
    }

    /// A request's: the 32 hexadecimal digits of one as traces have it.
    pub fn request(&self) -> Arc<str> {
        let (id, mut digits) = (self.trace(), [b'0'; 32]);
        for (n, digit) in digits.iter_mut().rev().enumerate() {
            let nibble = (id >> (4 * n)) as u8 & 0xf;
            *digit = if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
        }
        Arc::from(str::from_utf8(&digits).unwrap_or_default())
    }

    fn count(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

/// A number for a key, or for a name: the same in every host, process and version.
pub(crate) fn hash_of(bytes: &[u8]) -> u64 {
    // FNV-1a, whose high bits alone are poor.
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
}

/// The finaliser of splitmix64: a bijection, so two ids differ because two counts do.
pub(crate) fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_id_comes_twice() {
        let (one, other) = (Ids::new(), Ids::new());
        let spans: HashSet<_> = (0..10_000).flat_map(|_| [one.span(), other.span()]).collect();
        assert_eq!(spans.len(), 20_000);
        let traces: HashSet<_> = (0..10_000).flat_map(|_| [one.trace(), other.trace()]).collect();
        assert_eq!(traces.len(), 20_000);
        assert!(!spans.contains(&0) && !traces.contains(&0));
        let id = one.request();
        assert!(id.len() == 32 && u128::from_str_radix(&id, 16).is_ok() && *id != *one.request(), "{id}");
    }
}
