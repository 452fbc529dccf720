//! Ids of requests, traces and spans: random numbers of a cryptographic generator, so that no id reveals another one or
//! the number of requests.
//!
//! The generator is [`rand::rng`], which each thread has for itself and which guests get their random numbers from too:
//! 12 rounds of ChaCha with a key of the system's, and another key every 64 KiB.

use std::sync::Arc;

/// A source of ids. All instances are alike.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ids;

impl Ids {
    /// Creates a source of ids.
    pub fn new() -> Self {
        Self
    }

    /// Returns a span id. Never zero, which means absent in W3C Trace Context and B3.
    pub fn span(&self) -> u64 {
        rand::random::<u64>().max(1)
    }

    /// Returns a trace id. Never zero. All its bits are random, so a sampler may use any of them.
    pub fn trace(&self) -> u128 {
        rand::random::<u128>().max(1)
    }

    /// Returns a request id: 32 hexadecimal digits, the form of a trace id.
    pub fn request(&self) -> Arc<str> {
        let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + (nibble - 10) };
        let mut digits = [[b'0'; 2]; 16];
        for (pair, byte) in digits.iter_mut().zip(self.trace().to_be_bytes()) {
            *pair = [digit(byte >> 4), digit(byte & 0xf)];
        }
        Arc::from(str::from_utf8(digits.as_flattened()).unwrap_or_default())
    }
}

/// Hashes bytes: the result is the same in every process, on every host and in every version.
pub fn hash_of(bytes: &[u8]) -> u64 {
    // FNV-1a, whose high bits are weak, so the result is mixed.
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
}

/// Mixes the bits of a number: the finalizer of splitmix64, a bijection.
pub fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_unique() {
        let (one, other) = (Ids::new(), Ids::new());
        let spans: HashSet<_> = (0..10_000).flat_map(|_| [one.span(), other.span()]).collect();
        assert_eq!(spans.len(), 20_000);
        let traces: HashSet<_> = (0..10_000).flat_map(|_| [one.trace(), other.trace()]).collect();
        assert_eq!(traces.len(), 20_000);
        assert!(!spans.contains(&0) && !traces.contains(&0));
        let id = one.request();
        assert!(id.len() == 32 && u128::from_str_radix(&id, 16).is_ok() && *id != *one.request(), "{id}");
    }

    /// Ids are not a counter behind a mixing function: undoing the mix gives no numbers that are close together.
    #[test]
    fn ids_are_unpredictable() {
        let ids = Ids::new();
        let inverse = |value: u64| {
            let unshift = |value: u64, by: u32| (0..=64 / by).fold(value, |found, _| value ^ (found >> by));
            let value = unshift(value, 31).wrapping_mul(0x3196_42b2_d24d_8ec3);
            unshift(unshift(value, 27).wrapping_mul(0x96de_1b17_3f11_9089), 30)
        };
        assert_eq!(inverse(mix(0x5eed)), 0x5eed);
        let halves = |id: u128| [(id >> 64) as u64, id as u64].map(inverse);
        let mut ids = (0..1_000).map(|_| halves(ids.trace()));
        let first = ids.next().unwrap();
        // Values of a counter would be close together.
        let near = |(one, other): (u64, u64)| one.wrapping_sub(other) < 1 << 20 || other.wrapping_sub(one) < 1 << 20;
        assert!(!ids.any(|next| first.into_iter().zip(next).any(near)));
    }
}
