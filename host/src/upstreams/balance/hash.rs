//! The same replica for the same key: weighted rendezvous hashing.
//!
//! Every replica has a draw for every key, and the best draw wins. When one goes, only its keys move, each to its second
//! best, so they spread over all others by weight; when a weight changes, only the share that changed moves. There is
//! no table to build again at every ejection (Maglev) nor a ring that is uneven unless it is large (ketama), and all
//! hosts agree without talking. It costs a look at every replica, which for the tens that there are is cheaper than a
//! cache miss in a table.

use super::Candidate;
use crate::base::ids::mix;

/// Each candidate waits a random time that is shorter the heavier it is (exponential, by weight); the first one wins, and
/// is first as often as its part of all weights.
pub(super) fn pick(candidates: impl Iterator<Item = Candidate>, key: u64) -> Option<Candidate> {
    let wait = |candidate: &Candidate| {
        // 53 bits, above 0 and up to 1.
        let draw = ((mix(key ^ candidate.seed) >> 11) + 1) as f64 / (1u64 << 53) as f64;
        -draw.ln() / f64::from(candidate.weight)
    };
    let draws = candidates.map(|candidate| (wait(&candidate), candidate));
    draws.min_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, candidate)| candidate)
}
