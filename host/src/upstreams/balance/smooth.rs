//! Smooth weighted round robin, as nginx has it: in a cycle each is chosen as often as its weight says, and its turns
//! are spread over the cycle instead of following one another.

use std::sync::Mutex;

use super::Candidate;
use crate::base::lock::lock;

/// What each replica is owed: every choice owes each candidate its weight, and the chosen one pays for all.
#[derive(Debug)]
pub struct SmoothRoundRobin {
    owed: Mutex<Vec<i64>>,
}

impl SmoothRoundRobin {
    /// Nobody is owed anything yet.
    pub(super) fn new(replicas: usize) -> Self {
        Self { owed: Mutex::new(vec![0; replicas]) }
    }

    /// Whoever is owed most. A choice is one pass under the lock.
    pub(super) fn pick(&self, candidates: impl Iterator<Item = Candidate>) -> Option<Candidate> {
        let mut owed = lock(&self.owed);
        let (mut total, mut best) = (0, None);
        for candidate in candidates {
            let Some(owed) = owed.get_mut(candidate.index) else { continue };
            *owed += i64::from(candidate.weight);
            total += i64::from(candidate.weight);
            if best.is_none_or(|(most, _)| *owed > most) {
                best = Some((*owed, candidate));
            }
        }
        let (_, best) = best?;
        *owed.get_mut(best.index)? -= total;
        Some(best)
    }
}
