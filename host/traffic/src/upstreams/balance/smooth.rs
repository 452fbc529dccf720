//! Smooth weighted round robin, as in nginx: in each cycle a replica is selected as often as its weight says, and its
//! turns are spread over the cycle.

use std::sync::Mutex;

use super::Candidate;
use lodge_base::lock::lock;

/// The credit of each replica: a selection adds each candidate's weight to its credit and subtracts their sum from the
/// credit of the selected one.
#[derive(Debug)]
pub struct SmoothRoundRobin {
    owed: Mutex<Vec<i64>>,
}

impl SmoothRoundRobin {
    /// Creates the state with no credit.
    pub(super) fn new(replicas: usize) -> Self {
        Self { owed: Mutex::new(vec![0; replicas]) }
    }

    /// Returns the candidate with the highest credit, in one pass under the lock.
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
