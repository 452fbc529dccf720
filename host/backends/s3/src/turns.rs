//! The turns of moves that run on this host.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as Turns, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

/// Moves of a service at a time.
const MOVES: usize = 16;

/// The moves of a service that run.
pub(crate) struct ObjectMoves {
    places: Arc<Semaphore>,
    /// Whose turn it is, for each key that moves have or wait for.
    turns: Mutex<HashMap<String, Weak<Turns<()>>>>,
}

/// The place of a move, and its turns with both keys.
pub(crate) type MovePlace = (Option<OwnedSemaphorePermit>, Vec<OwnedMutexGuard<()>>);

impl ObjectMoves {
    pub(crate) fn new() -> Self {
        Self { places: Arc::new(Semaphore::new(MOVES)), turns: Mutex::default() }
    }

    /// Waits for the turn with two keys. All moves wait for them in one order.
    pub(crate) async fn begin(&self, from: &str, to: &str) -> MovePlace {
        // It is never closed.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        let mut turns = Vec::with_capacity(2);
        for key in [from.min(to), from.max(to)] {
            let turn = self.turn(key);
            turns.push(turn.lock_owned().await);
        }
        (place, turns)
    }

    fn turn(&self, key: &str) -> Arc<Turns<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(key).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        turns.insert(key.to_owned(), Arc::downgrade(&turn));
        turn
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_key_has_one_move_at_a_time() {
        let moves = Arc::new(ObjectMoves::new());
        let one = moves.begin("b", "a").await;
        let waits = |from: &'static str, to: &'static str| {
            let moves = Arc::clone(&moves);
            async move { tokio::time::timeout(Duration::from_millis(20), moves.begin(from, to)).await.is_err() }
        };
        assert!(waits("b", "c").await && waits("a", "b").await && waits("c", "a").await);
        assert!(!waits("c", "d").await);
        drop(one);
        assert!(!waits("b", "c").await && !waits("a", "b").await);
        moves.turn("x");
        assert_eq!(moves.turns.lock().unwrap().len(), 1, "keys without a move are forgotten");
    }
}
