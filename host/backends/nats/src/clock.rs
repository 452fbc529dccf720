//! The clock of the server: entries expire by it, so that all hosts agree.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lodge_state::Timestamp;
use tokio::time::Instant;

/// How long a reading of the clock is used. Clocks drift by some milliseconds a minute at most.
const FRESH: Duration = Duration::from_secs(60);

/// The clock of the server, as it was read last, and continued with the monotonic clock of this host.
#[derive(Debug, Default)]
pub(crate) struct ServerClock(Mutex<Option<(Timestamp, Instant)>>);

impl ServerClock {
    /// The time; `None` if the clock must be read again.
    pub(crate) fn now(&self) -> Option<Timestamp> {
        let read = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        read.filter(|(_, at)| at.elapsed() < FRESH).map(|(time, at)| {
            let passed = at.elapsed().as_millis().try_into().unwrap_or(0);
            Timestamp::new(time.milliseconds().saturating_add(passed))
        })
    }

    /// Takes a time that the server has said in response to a request that was sent at `sent`. It was read in between; half
    /// of the time that the request took is the smallest error.
    pub(crate) fn read(&self, text: &str, sent: Instant) {
        let Some(time) = timestamp(text) else { return };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((time, sent + sent.elapsed() / 2));
    }
}

/// A time as NATS writes it.
pub(crate) fn timestamp(text: &str) -> Option<Timestamp> {
    let time = humantime::parse_rfc3339(text).ok()?;
    let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(Timestamp::new(since.as_millis().try_into().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_time_goes_on_and_becomes_stale() {
        let clock = ServerClock::default();
        assert_eq!(clock.now(), None);
        let sent = Instant::now();
        tokio::time::advance(Duration::from_millis(10)).await;
        clock.read("2026-11-29T08:06:25.123456789Z", sent);
        let read = clock.now().unwrap();
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(clock.now().unwrap().since(read), Duration::from_secs(59));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(clock.now(), None);
        clock.read("garbage", sent);
        assert_eq!(clock.now(), None);
    }
}
