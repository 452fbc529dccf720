//! The turn of the events of all watches: they are parsed one after the other, not on threads of requests, and with pauses. A server that
//! sends events without end waits then, as its connection is full, and takes a tenth of a thread from the host.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::failure::WatchFailure;

/// The pause after the events of a piece of a stream, in times of what they took, and at most.
const REST: u32 = 9;
const MOST_REST: Duration = Duration::from_secs(2);

/// The turn. Fair: a watch with many events has it as often as one with few.
#[derive(Debug)]
pub(super) struct EventTurn(Arc<Semaphore>);

impl Default for EventTurn {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl EventTurn {
    /// Does some work in turn. The next one begins after the pause, for which nobody waits who has none.
    ///
    /// # Errors
    /// If the work panics.
    pub(super) async fn take<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, WatchFailure> {
        let ended = |why: String| WatchFailure::new(format!("an event could not be read: {why}"));
        let turn = Arc::clone(&self.0).acquire_owned().await.map_err(|error| ended(error.to_string()))?;
        let done = spawn_blocking(move || {
            let begun = Instant::now();
            // The turn is held until the work has ended, also if nobody waits for it any more.
            (work(), begun.elapsed(), turn)
        });
        let (done, took, turn) = done.await.map_err(|error| ended(error.to_string()))?;
        tokio::spawn(async move {
            tokio::time::sleep(rest(took)).await;
            drop(turn);
        });
        Ok(done)
    }
}

/// Returns the pause after work that took so long.
fn rest(took: Duration) -> Duration {
    took.saturating_mul(REST).min(MOST_REST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn events_are_parsed_in_turn_and_with_pauses() {
        let turn = EventTurn::default();
        let worked = turn.take(|| std::thread::current().id()).await.unwrap();
        assert_ne!(worked, std::thread::current().id(), "requests are handled by this thread");
        // The pause has begun, and nothing else could happen since.
        assert_eq!(turn.0.available_permits(), 0);
        assert!(turn.take(|| {}).await.is_ok());
        let why = turn.take(|| panic!("a test")).await.unwrap_err().why;
        assert!(why.contains("an event could not be read"), "{why}");
        assert!(turn.take(|| {}).await.is_ok(), "the turn is free after a panic");
        assert_eq!(rest(Duration::from_millis(30)), Duration::from_millis(270));
        assert_eq!(rest(Duration::from_secs(60)), MOST_REST);
    }

    /// Only sleeping advances this clock: the second event waits for the pause after the first one.
    #[tokio::test(start_paused = true)]
    async fn the_turn_is_held_during_the_pause() {
        let (turn, begun) = (EventTurn::default(), tokio::time::Instant::now());
        let work = || std::thread::park_timeout(Duration::from_millis(10));
        turn.take(work).await.unwrap();
        turn.take(|| {}).await.unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(10) * REST / 2, "{:?}", begun.elapsed());
    }
}
