//! A circuit breaker over a sliding window: a service that mostly fails, or is mostly slow, gets no requests for a
//! while.
//!
//! A *closed* breaker admits every request and counts. When too large a part of the calls in the window failed or were
//! slow, it *opens* and refuses every request. After a while it is *half open* and admits a few probes. When all of
//! them succeed it closes; at the first one that does not, it opens again. Requests that were in flight when the state
//! changed are not counted. A probe without a result, because its client left or a later check refused it, makes room
//! for another.
//!
//! No state lasts for ever: an open breaker ends after `open`, by the present setting, and a half-open breaker, whose
//! probes may never end, admits the same number again after the same time.

mod window;

use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Release};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lodge_base::lock::lock;
use lodge_manifest::breaker::Settings;
use lodge_manifest::percent::Percent;
use window::CallWindow;
pub use window::{CallCounts, CallResult};

/// The state of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Every request passes.
    Closed,
    /// A few probes pass.
    HalfOpen,
    /// No request passes.
    Open,
}

/// A circuit breaker with its settings.
#[derive(Debug)]
pub struct Breaker {
    settings: Settings,
    state: Arc<State>,
}

/// The state that versions of a manifest share. Another component gets a new one.
#[derive(Debug)]
struct State {
    /// [`Inner::generation`] shifted left by one; the lowest bit is 1 while the breaker is closed. A request passes a
    /// closed breaker without taking the lock.
    word: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// The settings of the active manifest. They also apply to requests that were admitted under earlier ones.
    settings: Settings,
    /// Grows with every change of phase. Results of requests from earlier generations are ignored.
    generation: u64,
    phase: Phase,
    window: CallWindow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    Open {
        since: Instant,
    },
    /// `out` probes are in flight, the first since `since`, and `good` have succeeded: always fewer than are needed to
    /// close the breaker.
    HalfOpen {
        since: Instant,
        out: u32,
        good: u32,
    },
}

/// Proof that a breaker admitted a request. It takes the request's result.
#[derive(Debug)]
pub struct Pass {
    breaker: Arc<Breaker>,
    generation: u64,
    /// The request is a probe whose result is not known yet.
    probe: bool,
}

/// A change that a result caused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// The breaker opened, after these calls.
    Opened(CallCounts),
    /// The breaker closed.
    Closed,
}

impl Breaker {
    /// Returns a closed breaker with an empty window.
    pub fn new(settings: Settings, now: Instant) -> Self {
        let window = CallWindow::new(settings.window, now);
        let inner = Inner { settings, generation: 0, phase: Phase::Closed, window };
        Self { settings, state: Arc::new(State { word: AtomicU64::new(1), inner: Mutex::new(inner) }) }
    }

    /// Returns this breaker with other settings, which apply after [`activate`](Self::activate). Both share one state.
    pub fn with_settings(&self, settings: Settings) -> Self {
        Self { settings, state: Arc::clone(&self.state) }
    }

    /// Applies these settings. Closes a half-open breaker that already has as many successful probes as they ask for.
    pub fn activate(&self) -> Option<Transition> {
        self.change(|inner| inner.reconfigure(self.settings))
    }

    /// Admits a request.
    ///
    /// # Errors
    /// When the breaker is open: how long it stays so at least.
    pub fn admit(self: &Arc<Self>, now: Instant) -> Result<Pass, Duration> {
        let word = self.state.word.load(Acquire);
        let (generation, probe) =
            if word & 1 == 1 { (word >> 1, false) } else { self.change(|inner| inner.admit(now))? };
        Ok(Pass { breaker: Arc::clone(self), generation, probe })
    }

    /// Returns the settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns the state at `now`.
    pub fn state(&self, now: Instant) -> BreakerState {
        let inner = lock(&self.state.inner);
        match inner.phase {
            Phase::Closed => BreakerState::Closed,
            Phase::Open { since } if inner.time_left(since, now).is_some() => BreakerState::Open,
            Phase::Open { .. } | Phase::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Returns the calls in the window.
    pub fn counts(&self, now: Instant) -> CallCounts {
        lock(&self.state.inner).window.counts(now)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = lock(&self.state.inner);
        let changed = change(&mut inner);
        let closed = u64::from(inner.phase == Phase::Closed);
        self.state.word.store(inner.generation << 1 | closed, Release);
        changed
    }
}

impl Inner {
    fn transition(&mut self, phase: Phase) {
        self.generation += 1;
        self.phase = phase;
        self.window.clear();
    }

    fn reconfigure(&mut self, settings: Settings) -> Option<Transition> {
        self.window.resize(settings.window);
        self.settings = settings;
        let enough = matches!(self.phase, Phase::HalfOpen { good, .. } if good >= settings.probes);
        enough.then(|| {
            self.transition(Phase::Closed);
            Transition::Closed
        })
    }

    /// Returns what is left of the `open` time that began at `since`; `None` when it is over.
    fn time_left(&self, since: Instant, now: Instant) -> Option<Duration> {
        let left = self.settings.open.checked_sub(now.saturating_duration_since(since));
        left.filter(|left| !left.is_zero())
    }

    /// Returns the generation of an admitted request and whether it is a probe; an error says how long to wait.
    fn admit(&mut self, now: Instant) -> Result<(u64, bool), Duration> {
        match self.phase {
            Phase::Closed => return Ok((self.generation, false)),
            Phase::Open { since } => match self.time_left(since, now) {
                Some(left) => return Err(left),
                None => self.transition(Phase::HalfOpen { since: now, out: 1, good: 0 }),
            },
            Phase::HalfOpen { since, out, good } if out.saturating_add(good) < self.settings.probes => {
                self.phase = Phase::HalfOpen { since, out: out + 1, good };
            }
            Phase::HalfOpen { since, good, .. } => match self.time_left(since, now) {
                // The probes are in flight, and most likely end soon.
                Some(left) => return Err(left.min(Duration::from_secs(1))),
                // The probes may never end, so others take their place.
                None => self.transition(Phase::HalfOpen { since: now, out: 1, good }),
            },
        }
        Ok((self.generation, true))
    }

    /// Records the result of a call of this generation. A probe makes room for another.
    fn record(
        &mut self,
        generation: u64,
        probe: bool,
        failed: bool,
        took: Duration,
        now: Instant,
    ) -> Option<Transition> {
        if generation != self.generation {
            return None;
        }
        let call = CallResult { failed, slow: self.settings.slow.is_some_and(|slow| took > slow) };
        match self.phase {
            Phase::Closed => {
                self.window.add(call, now);
                let counts = self.window.counts(now);
                trips(&self.settings, counts).then(|| {
                    self.transition(Phase::Open { since: now });
                    Transition::Opened(counts)
                })
            }
            Phase::HalfOpen { .. } if call.failed || call.slow => {
                self.transition(Phase::Open { since: now });
                None
            }
            Phase::HalfOpen { since, out, good } => {
                let (out, good) = (out.saturating_sub(u32::from(probe)), good + u32::from(probe));
                self.phase = Phase::HalfOpen { since, out, good };
                (good >= self.settings.probes).then(|| {
                    self.transition(Phase::Closed);
                    Transition::Closed
                })
            }
            Phase::Open { .. } => None,
        }
    }

    fn release_probe(&mut self, generation: u64) {
        if let Phase::HalfOpen { out, .. } = &mut self.phase
            && generation == self.generation
        {
            *out = out.saturating_sub(1);
        }
    }
}

/// Returns whether these calls open a closed breaker.
fn trips(settings: &Settings, counts: CallCounts) -> bool {
    let reached = |most: Percent, part: u32| most.is_reached(u64::from(part), u64::from(counts.calls));
    let slow = settings.slow.is_some() && reached(settings.slow_calls, counts.slow);
    counts.calls >= settings.calls && (reached(settings.failures, counts.failed) || slow)
}

impl Pass {
    /// Records whether the call failed, and how long it took until its response began. A call whose response breaks off
    /// later is recorded a second time.
    pub fn record(&mut self, failed: bool, took: Duration, now: Instant) -> Option<Transition> {
        let probe = std::mem::take(&mut self.probe);
        self.breaker.change(|inner| inner.record(self.generation, probe, failed, took, now))
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.probe {
            self.breaker.change(|inner| inner.release_probe(self.generation));
        }
    }
}

impl BreakerState {
    /// Returns the name that operators see.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half open",
            Self::Open => "open",
        }
    }
}

#[cfg(test)]
mod tests;
