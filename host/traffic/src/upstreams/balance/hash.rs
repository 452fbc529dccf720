//! Weighted rendezvous hashing: the same replica for the same key.
//!
//! Every replica has a score for every key, and the best score wins. When a replica goes away, only its keys move, each
//! to its second best replica, so they spread over all others by weight. When a weight changes, only the difference
//! moves. Unlike Maglev, no table has to be rebuilt at every ejection, and unlike ketama, no large ring is needed for
//! an even spread. All hosts agree without communication. The cost is one hash per replica, which for tens of replicas
//! is less than a cache miss in a table.

use super::Candidate;
use lodge_base::ids::mix;

/// Returns the candidate with the shortest random wait. Waits are exponentially distributed by weight, so a candidate
/// wins in proportion to its weight.
pub(super) fn pick(candidates: impl Iterator<Item = Candidate>, key: u64) -> Option<Candidate> {
    let wait = |candidate: &Candidate| {
        // A number of 53 bits, greater than 0 and at most 1.
        let draw = ((mix(key ^ candidate.seed) >> 11) + 1) as f64 / (1u64 << 53) as f64;
        -draw.ln() / f64::from(candidate.weight)
    };
    let draws = candidates.map(|candidate| (wait(&candidate), candidate));
    draws.min_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, candidate)| candidate)
}
