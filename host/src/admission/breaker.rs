//! A circuit breaker over a window of time: a service that mostly fails, or is mostly slow, gets no requests for a while.
//!
//! *Closed*, it admits every request and counts. When too large a part of the window's calls failed or was slow, it
//! *opens* and refuses every request. After a while it is *half open*: a few probes are admitted. When all of them
//! are good it closes, and at the first that is not it opens again. Requests that were in flight when it changed are not
//! counted. A probe of which nothing is learned, because its client left or it was refused later, makes room for another.
//!
//! Every state ends by time: an open breaker after `open`, by the setting that holds now, and a half-open one, whose probes
//! may never come back, admits as many others after the same time again.

mod window;

use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Release};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::base::lock::lock;
use crate::manifest::breaker::Settings;
use window::Window;
pub use window::{Call, Counts};

/// What it does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Everybody passes.
    Closed,
    /// A few pass, to see how it goes.
    HalfOpen,
    /// Nobody passes.
    Open,
}

/// A breaker at work.
#[derive(Debug)]
pub struct Breaker {
    settings: Settings,
    state: Arc<State>,
}

/// What it knows. Outlives edits of the manifest, but not the component that it judges.
#[derive(Debug)]
struct State {
    /// [`Inner::generation`], doubled, and one more while it is closed: passing a closed breaker takes no lock.
    word: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Those of the manifest that is served, also for requests that came under another.
    settings: Settings,
    /// Grows with every change of phase: what was let through before it tells nothing of now.
    generation: u64,
    phase: Phase,
    window: Window,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    Open {
        since: Instant,
    },
    /// Probes are `out` since then, and so many before them were good: always fewer than close it.
    HalfOpen {
        since: Instant,
        out: u32,
        good: u32,
    },
}

/// Proof that a breaker let a request through. Tell it how that went.
#[derive(Debug)]
pub struct Pass {
    breaker: Arc<Breaker>,
    generation: u64,
    /// It holds the slot of a probe.
    probe: bool,
}

/// What a call has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is open now, after these calls.
    Opened(Counts),
    /// It is closed again.
    Closed,
}

impl Breaker {
    /// A closed breaker that knows nothing.
    pub fn new(settings: Settings, now: Instant) -> Self {
        let window = Window::new(settings.window, now);
        let inner = Inner { settings, generation: 0, phase: Phase::Closed, window };
        Self { settings, state: Arc::new(State { word: AtomicU64::new(1), inner: Mutex::new(inner) }) }
    }

    /// This breaker under other settings, which hold once it [takes over](Self::activate): what it knows stays.
    pub fn with_settings(&self, settings: Settings) -> Self {
        Self { settings, state: Arc::clone(&self.state) }
    }

    /// Its settings hold from now on. Where fewer good probes are enough now, and there were so many, that closes it.
    pub fn activate(&self) -> Option<Change> {
        self.change(|inner| inner.reconfigure(self.settings))
    }

    /// Lets a request through.
    ///
    /// # Errors
    /// When it is open; how long that lasts at least.
    pub fn admit(self: &Arc<Self>, now: Instant) -> Result<Pass, Duration> {
        let word = self.state.word.load(Acquire);
        let (generation, probe) =
            if word & 1 == 1 { (word >> 1, false) } else { self.change(|inner| inner.admit(now))? };
        Ok(Pass { breaker: Arc::clone(self), generation, probe })
    }

    /// How it is set.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What it does now.
    pub fn state(&self, now: Instant) -> BreakerState {
        let inner = lock(&self.state.inner);
        match inner.phase {
            Phase::Closed => BreakerState::Closed,
            Phase::Open { since } if inner.time_left(since, now).is_some() => BreakerState::Open,
            Phase::Open { .. } | Phase::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Calls in the window.
    pub fn counts(&self, now: Instant) -> Counts {
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

    fn reconfigure(&mut self, settings: Settings) -> Option<Change> {
        self.window.resize(settings.window);
        self.settings = settings;
        let enough = matches!(self.phase, Phase::HalfOpen { good, .. } if good >= settings.probes);
        enough.then(|| {
            self.transition(Phase::Closed);
            Change::Closed
        })
    }

    /// What is left of the time for which it is open, or waits for probes, since then.
    fn time_left(&self, since: Instant, now: Instant) -> Option<Duration> {
        let left = self.settings.open.checked_sub(now.saturating_duration_since(since));
        left.filter(|left| !left.is_zero())
    }

    /// The generation of a request that is admitted, and whether it is a probe.
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
                // The probes are on their way, and most likely back soon.
                Some(left) => return Err(left.min(Duration::from_secs(1))),
                // They may never come back: whatever becomes of them, others find out.
                None => self.transition(Phase::HalfOpen { since: now, out: 1, good }),
            },
        }
        Ok((self.generation, true))
    }

    /// Counts a call of this generation. `probe` gives its slot back.
    fn record(&mut self, generation: u64, probe: bool, failed: bool, took: Duration, now: Instant) -> Option<Change> {
        if generation != self.generation {
            return None;
        }
        let call = Call { failed, slow: self.settings.slow.is_some_and(|slow| took > slow) };
        match self.phase {
            Phase::Closed => {
                self.window.add(call, now);
                let counts = self.window.counts(now);
                self.settings.trips(counts).then(|| {
                    self.transition(Phase::Open { since: now });
                    Change::Opened(counts)
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
                    Change::Closed
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

impl Settings {
    /// Whether these calls are enough to open it.
    fn trips(&self, counts: Counts) -> bool {
        let over = |part: u32, most: u32| u64::from(part) * 100 >= u64::from(counts.calls) * u64::from(most);
        let slow = self.slow.is_some() && over(counts.slow, self.slow_calls);
        counts.calls >= self.calls && (over(counts.failed, self.failures) || slow)
    }
}

impl Pass {
    /// The call has failed, or it has not; its response took so long to begin. A call whose response breaks off later is
    /// told of a second time.
    pub fn record(&mut self, failed: bool, took: Duration, now: Instant) -> Option<Change> {
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
    /// In a word.
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
