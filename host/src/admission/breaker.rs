//! Asks nobody who mostly fails, or is mostly slow: a circuit breaker over a window of time.
//!
//! *Closed*, it lets everybody through and counts. When too large a part of the window's calls failed or was slow, it
//! *opens*: everybody is turned away. After a while it is *half open*: a few probes are let through. When all of them
//! are good it closes, and at the first that is not it opens again. What is in flight when it changes is not counted
//! any more. A probe of which nothing is learnt, because its client left or it was turned away later, makes room for another.

mod window;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Release};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::capabilities::sandbox::lock;
use window::Window;
pub use window::{Call, Counts};

/// When it opens, for how long, and what closes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// It opens when this part of the calls failed, in percent.
    pub failures: u32,
    /// A call is slow when its answer took longer to begin.
    pub slow: Option<Duration>,
    /// It opens when this part of the calls was slow, in percent.
    pub slow_calls: u32,
    /// Fewer calls than this say nothing.
    pub calls: u32,
    /// Calls of this last while count.
    pub window: Duration,
    /// How long it is open before it tries again.
    pub open: Duration,
    /// So many good calls close it.
    pub probes: u32,
}

/// What it does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
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
    /// [`Inner::generation`], doubled, and one more while it is closed: who passes a closed breaker takes no lock.
    word: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Grows with every change of phase: what was let through before it tells nothing of now.
    generation: u64,
    phase: Phase,
    window: Window,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    Open { until: Instant },
    HalfOpen { out: u32, good: u32 },
}

/// Proof that a breaker let a request through. Tell it how that went.
#[derive(Debug)]
pub struct Pass {
    breaker: Arc<Breaker>,
    generation: u64,
    /// It holds the place of a probe.
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
        let inner = Inner { generation: 0, phase: Phase::Closed, window: Window::new(settings.window, now) };
        Self { settings, state: Arc::new(State { word: AtomicU64::new(1), inner: Mutex::new(inner) }) }
    }

    /// This breaker under other settings: what it knows stays.
    pub fn renewed(&self, settings: Settings) -> Self {
        Self { settings, state: Arc::clone(&self.state) }
    }

    /// Lets a request through.
    ///
    /// # Errors
    /// When it is open; how long that lasts at least.
    pub fn pass(self: &Arc<Self>, now: Instant) -> Result<Pass, Duration> {
        let word = self.state.word.load(Acquire);
        let (generation, probe) =
            if word & 1 == 1 { (word >> 1, false) } else { self.change(|inner| inner.enter(&self.settings, now))? };
        Ok(Pass { breaker: Arc::clone(self), generation, probe })
    }

    /// How it is set.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What it does now.
    pub fn position(&self, now: Instant) -> Position {
        match lock(&self.state.inner).phase {
            Phase::Closed => Position::Closed,
            Phase::Open { until } if now < until => Position::Open,
            Phase::Open { .. } | Phase::HalfOpen { .. } => Position::HalfOpen,
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
    fn turn(&mut self, phase: Phase) {
        self.generation += 1;
        self.phase = phase;
        self.window.clear();
    }

    /// The generation of who is let through, and whether as a probe.
    fn enter(&mut self, settings: &Settings, now: Instant) -> Result<(u64, bool), Duration> {
        match &mut self.phase {
            Phase::Closed => return Ok((self.generation, false)),
            Phase::Open { until } if now < *until => return Err(*until - now),
            Phase::Open { .. } => self.turn(Phase::HalfOpen { out: 1, good: 0 }),
            Phase::HalfOpen { out, good } if *out + *good < settings.probes => *out += 1,
            // The probes are on their way, and will soon be back.
            Phase::HalfOpen { .. } => return Err(Duration::from_secs(1)),
        }
        Ok((self.generation, true))
    }

    /// Counts a call of this generation. `probe` gives its place back.
    fn learn(&mut self, generation: u64, probe: bool, call: Call, settings: &Settings, now: Instant) -> Option<Change> {
        if generation != self.generation {
            return None;
        }
        match &mut self.phase {
            Phase::Closed => {
                self.window.add(call, settings.window, now);
                let counts = self.window.counts(now);
                if !settings.trips(counts) {
                    return None;
                }
                self.turn(Phase::Open { until: now + settings.open });
                Some(Change::Opened(counts))
            }
            Phase::HalfOpen { .. } if call.failed || call.slow => {
                self.turn(Phase::Open { until: now + settings.open });
                None
            }
            Phase::HalfOpen { out, good } => {
                *out = out.saturating_sub(u32::from(probe));
                *good += u32::from(probe);
                if *good < settings.probes {
                    return None;
                }
                self.turn(Phase::Closed);
                Some(Change::Closed)
            }
            Phase::Open { .. } => None,
        }
    }

    fn lost(&mut self, generation: u64) {
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
    /// The call has failed, or it has not; its answer took so long to begin. A call whose answer breaks off later is told
    /// of a second time.
    pub fn learn(&mut self, failed: bool, took: Duration, now: Instant) -> Option<Change> {
        let settings = &self.breaker.settings;
        let call = Call { failed, slow: settings.slow.is_some_and(|slow| took > slow) };
        let probe = std::mem::take(&mut self.probe);
        self.breaker.change(|inner| inner.learn(self.generation, probe, call, settings, now))
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.probe {
            self.breaker.change(|inner| inner.lost(self.generation));
        }
    }
}

impl Position {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half open",
            Self::Open => "open",
        }
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = humantime::format_duration;
        write!(f, "{}% failures", self.failures)?;
        if let Some(slow) = self.slow {
            write!(f, " or {}% over {}", self.slow_calls, time(slow))?;
        }
        write!(f, " of {} calls or more in {}, ", self.calls, time(self.window))?;
        write!(f, "open for {}, {} probes", time(self.open), self.probes)
    }
}

#[cfg(test)]
mod tests;
