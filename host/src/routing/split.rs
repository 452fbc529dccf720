//! (service, head) → version: which of several answers. Pure: what is drawn is a count.
//!
//! In this order: a rule of a version, which names a header or a cookie and its value; what the service's `sticky`
//! names, whose hash gives the same version again, on every host; else every version its part, evenly spread.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use http::HeaderMap;

use crate::base::ids::hash_of;
use crate::manifest::key::RequestKey;
use crate::manifest::share::{Percent, Rule, TrafficShare};

/// The versions beside a service.
pub struct Split<T> {
    versions: Vec<Version<T>>,
    sticky: Option<RequestKey>,
    drawn: AtomicU32,
    mirrored: AtomicU32,
    /// Some of them may be withdrawn, so they are judged.
    judges: bool,
    /// Where clients can choose their versions by what `sticky` names, and versions are judged.
    sticky_window: Option<StickyWindow>,
}

/// The version that a request is for.
pub struct Choice<'a, T> {
    /// The version; `None` is the service itself.
    pub version: Option<&'a Arc<T>>,
    /// Whether how it goes says something of how versions compare. It does when it was drawn. A rule is a client's own choice,
    /// and a client that fails or is slow on purpose could choose the version that it wants withdrawn; only of a version
    /// that gets nothing else, nothing else can be known. Of requests with one value of `sticky`, which a client can choose as
    /// well, one counts in a `WINDOW`.
    pub judged: bool,
}

struct Version<T> {
    share: TrafficShare,
    target: Arc<T>,
}

/// Steps through all 10,000 hundredths of a percent before it comes to one again (it shares no factor with them), and
/// never many times in a row into one part: it is close to the golden ratio of them.
const STEP: u32 = 6_181;

/// Seconds in which one value of `sticky` counts once: no less than the stretch of time over which versions are compared,
/// which is a minute and up to one sample.
const WINDOW: u32 = 75;

/// Values of `sticky` that can count for one version in a [`WINDOW`]; they share so many slots by their hashes.
const SLOTS: usize = 16 << 10;

/// Which values of `sticky` have counted lately: 64 KiB for each version.
struct StickyWindow {
    /// When the first request came; times are counted from there.
    epoch: OnceLock<Instant>,
    /// For each version, and then the service, by the hash of the value: the second in which one has counted, or 0. A place
    /// that is taken is not given to another value, or two values could take turns.
    slots: Box<[AtomicU32]>,
}

impl StickyWindow {
    fn new(versions: usize) -> Self {
        Self {
            epoch: OnceLock::new(),
            slots: (0..=versions).flat_map(|_| 0..SLOTS).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// Whether a request with this value counts for the version with this number.
    fn counts(&self, version: usize, value: u64, now: Instant) -> bool {
        let passed = now.saturating_duration_since(*self.epoch.get_or_init(|| now)).as_secs();
        let second = u32::try_from(passed).unwrap_or(u32::MAX).saturating_add(1);
        // Other bits than those that have chosen the version.
        let at = (value / u64::from(Percent::ALL.0)) as usize % SLOTS;
        let free = |last: u32| (last == 0 || second.saturating_sub(last) >= WINDOW).then_some(second);
        self.slots.get(version * SLOTS + at).is_some_and(|slot| slot.fetch_update(Relaxed, Relaxed, free).is_ok())
    }
}

/// Something that can be taken out.
pub trait InRotation {
    /// Whether it is in.
    fn is_in_rotation(&self) -> bool;
}

impl<T: InRotation> Split<T> {
    /// Between these versions and the service itself; `None` without any.
    pub fn new(versions: impl IntoIterator<Item = (TrafficShare, Arc<T>)>, sticky: Option<RequestKey>) -> Option<Self> {
        let versions: Vec<_> = versions.into_iter().map(|(share, target)| Version { share, target }).collect();
        let (drawn, mirrored) = (AtomicU32::new(0), AtomicU32::new(0));
        let judges = versions.iter().any(|version| version.share.rollback.is_some());
        let sticky_window = (judges && sticky.is_some()).then(|| StickyWindow::new(versions.len()));
        (!versions.is_empty()).then_some(Self { versions, sticky, drawn, mirrored, judges, sticky_window })
    }

    /// The version that answers a request that came at `now`.
    pub fn choose(&self, headers: &HeaderMap, client: IpAddr, now: Instant) -> Choice<'_, T> {
        let named = self.versions.iter().find(|version| {
            version.share.rules.iter().any(|rule| rule.matches(headers)) && version.target.is_in_rotation()
        });
        if let Some(version) = named {
            let judged = self.judges && version.share.percent == Percent(0);
            return Choice { version: Some(&version.target), judged };
        }
        let value = self.sticky.as_ref().and_then(|sticky| sticky.key(client, headers));
        let draw = value.and_then(|value| u32::try_from(value % u64::from(Percent::ALL.0)).ok());
        // The part of a version that is out is the service's.
        let drawn = self.draw(draw.unwrap_or_else(|| step(&self.drawn)));
        let drawn = drawn.filter(|(_, version)| version.target.is_in_rotation());
        let number = drawn.map_or(self.versions.len(), |(number, _)| number);
        let counts = |sticky_window: &StickyWindow| {
            self.client_chosen(value, client).is_none_or(|value| sticky_window.counts(number, value, now))
        };
        let judged = self.judges && self.sticky_window.as_ref().is_none_or(counts);
        Choice { version: drawn.map(|(_, version)| &version.target), judged }
    }

    fn draw(&self, mut draw: u32) -> Option<(usize, &Version<T>)> {
        self.versions.iter().enumerate().find(|(_, version)| match draw.checked_sub(version.share.percent.0) {
            Some(rest) => {
                draw = rest;
                false
            }
            None => true,
        })
    }

    /// What a client has chosen of the value by which its version was found: not an IPv4 address, which it has to be
    /// reached at, and of an IPv6 address what is not the network's.
    fn client_chosen(&self, value: Option<u64>, client: IpAddr) -> Option<u64> {
        match (self.sticky.as_ref()?, client.to_canonical()) {
            (RequestKey::Client, IpAddr::V4(_)) => None,
            (RequestKey::Client, IpAddr::V6(address)) => Some(hash_of(&(address.to_bits() >> 64).to_be_bytes())),
            _ => value,
        }
    }

    /// Who is mirrored the request besides: one version at most. Of more than all of them together, the first by name get their part.
    pub fn mirror(&self) -> Option<&Arc<T>> {
        let mut versions = self.versions.iter().filter(|version| version.share.mirror > Percent(0)).peekable();
        versions.peek()?;
        let mut draw = step(&self.mirrored);
        // Each has a range of its own, one after another.
        let version = versions.find(|version| {
            let mirrored = draw < version.share.mirror.0;
            draw = draw.saturating_sub(version.share.mirror.0);
            mirrored
        })?;
        version.target.is_in_rotation().then_some(&version.target)
    }

    /// All of them.
    pub fn versions(&self) -> impl Iterator<Item = (&TrafficShare, &Arc<T>)> {
        self.versions.iter().map(|version| (&version.share, &version.target))
    }
}

impl Rule {
    fn matches(&self, headers: &HeaderMap) -> bool {
        self.place.value(headers) == Some(self.value.as_bytes())
    }
}

fn step(count: &AtomicU32) -> u32 {
    let drawn = count.fetch_add(1, Relaxed) % Percent::ALL.0;
    drawn * STEP % Percent::ALL.0
}

#[cfg(test)]
mod tests;
