//! Receivers of messages that look again and again, since the server does not tell that there are some.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lodge_state::limits::MAX_PAUSE;
use lodge_state::messages::{Fault, Received, Settlement};
use lodge_state::{Error, Namespace};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// How long a host is known to receive for a consumer. It says so again after a third of this.
pub const PRESENCE: Duration = Duration::from_secs(60 * 60);
/// The longest time that a receiver waits for the server.
pub const RECEIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The first and the longest pause of a receiver that waits.
const POLLS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// What the receivers of each consumer of this host wait for.
#[derive(Default)]
pub struct Receivers(Mutex<HashMap<Namespace, watch::Sender<ConsumerChanges>>>);

/// What has happened to a consumer on this host.
#[derive(Clone, Copy, Default)]
struct ConsumerChanges {
    /// Changes with its messages.
    messages: u64,
    /// Changes when its receivers have to return.
    interrupted: u64,
}

impl Receivers {
    /// Receives what `take` finds, together with the time until there is more. It looks when that time is over, when this host knows
    /// of a message, and after a pause that grows up to a second; until there is something, or until `until`.
    ///
    /// # Errors
    /// Those of `take`.
    pub async fn receive<F>(
        &self,
        consumer: &Namespace,
        until: Instant,
        take: impl Fn() -> F,
    ) -> Result<Received, Error>
    where
        F: Future<Output = Result<(Received, Option<Duration>), Error>>,
    {
        let mut changes = self.watch(consumer);
        let mut before = changes.borrow().interrupted;
        let mut pause = POLLS.0;
        loop {
            changes.mark_unchanged();
            let (received, next) = take().await?;
            let now = Instant::now();
            let interrupted = changes.borrow().interrupted != before;
            if received != Received::default() || now >= until || interrupted {
                return Ok(received);
            }
            let wait = next.map_or(pause, |next| next.min(pause));
            match timeout_at(until.min(now + wait), changes.changed()).await {
                // Its subscription has ended.
                Ok(Err(_)) => {
                    changes = self.watch(consumer);
                    before = changes.borrow().interrupted;
                }
                Ok(Ok(())) => pause = POLLS.0,
                Err(_) => pause = (pause * 2).min(POLLS.1),
            }
        }
    }

    /// Lets the receivers of `consumer` look now.
    pub fn notify(&self, consumer: &Namespace) {
        self.change(consumer, |changes| changes.messages = changes.messages.wrapping_add(1));
    }

    /// Lets the receivers of `consumer` return with what they have.
    pub fn interrupt(&self, consumer: &Namespace) {
        self.change(consumer, |changes| changes.interrupted = changes.interrupted.wrapping_add(1));
    }

    /// Lets the receivers of `consumer` look once more, and forgets it: its subscription has ended.
    pub fn remove(&self, consumer: &Namespace) {
        self.notify(consumer);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(consumer);
    }

    fn watch(&self, consumer: &Namespace) -> watch::Receiver<ConsumerChanges> {
        let mut changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        changes.entry(consumer.clone()).or_default().subscribe()
    }

    fn change(&self, consumer: &Namespace, change: impl FnOnce(&mut ConsumerChanges)) {
        let changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(changes) = changes.get(consumer) {
            changes.send_modify(change);
        }
    }
}

impl fmt::Debug for Receivers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receivers").finish_non_exhaustive()
    }
}

/// A [`Settlement`] as the arguments of a script or a function on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettlementArguments {
    /// What becomes of the message: `done`, `again` or `dead`. If `again` was its last delivery, it is dead.
    pub kind: &'static str,
    /// The pause before it is delivered again.
    pub pause: Duration,
    /// How many of its deliveries do not count.
    pub uncounted: u8,
    /// Why it is dead, if it is.
    pub fault: String,
}

impl From<Settlement> for SettlementArguments {
    fn from(settlement: Settlement) -> SettlementArguments {
        let (kind, pause, uncounted, fault) = match settlement {
            Settlement::Acknowledge => ("done", Duration::ZERO, 0, Fault::Unsettled),
            Settlement::Retry(pause, fault) => ("again", pause.min(MAX_PAUSE), 0, fault),
            Settlement::Release(pause) => ("again", pause.min(MAX_PAUSE), 1, Fault::Unsettled),
            Settlement::Reject(fault) => ("dead", Duration::ZERO, 0, fault),
        };
        SettlementArguments { kind, pause, uncounted, fault: fault.code() }
    }
}
