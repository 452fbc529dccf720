//! Splits the traffic of a service among its versions. Pure: draws come from a counter.
//!
//! In this order: a rule of a version, which names a header or a cookie and its value; the value that the service's
//! `sticky` names, whose hash selects the same version on every host; else each version gets its share, evenly spread.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use http::HeaderMap;

use lodge_base::ids::hash_of;
use lodge_manifest::key::RequestKey;
use lodge_manifest::percent::Percent;
use lodge_manifest::share::TrafficShare;

/// The versions of a service beside the service itself.
pub struct Split<T> {
    versions: Vec<Version<T>>,
    sticky: Option<RequestKey>,
    drawn: AtomicU32,
    mirrored: AtomicU32,
    /// Some version has automatic rollback, so results are compared.
    judges: bool,
    /// Where versions are judged and clients can choose their version through the `sticky` value.
    sticky_window: Option<StickyWindow>,
}

/// The version that a request goes to.
pub struct Choice<'a, T> {
    /// The version; `None` is the service itself.
    pub version: Option<&'a Arc<T>>,
    /// Whether the result counts in the comparison of versions. Results of drawn requests count. A rule is the client's
    /// own choice, and a client that fails or is slow on purpose could cause the version that it picks to be withdrawn; so
    /// results by rule count only for a version that gets no other requests. A client can choose its `sticky` value
    /// too, so each value counts once in a `WINDOW`.
    pub judged: bool,
}

struct Version<T> {
    share: TrafficShare,
    target: Arc<T>,
}

/// The step between draws. It shares no factor with 10,000, so every hundredth of a percent is drawn once in 10,000
/// draws, and it is close to their golden ratio, so draws are spread evenly.
const STEP: u32 = 6_181;

/// Seconds in which one `sticky` value counts once. At least the period over which versions are compared, which is a
/// minute and up to one sample.
const WINDOW: u32 = 75;

/// The number of slots for `sticky` values per version in a [`WINDOW`]; values share slots by their hashes.
const SLOTS: usize = 16 << 10;

/// The `sticky` values that counted recently: 64 KiB for each version.
struct StickyWindow {
    /// The time of the first request; times are relative to it.
    epoch: OnceLock<Instant>,
    /// For each version, and then the service, by the hash of the value: the second in which a value of the slot last
    /// counted, or 0. A slot in use is not given to another value: otherwise two values could alternate in it.
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
        // Other bits of the hash than those that selected the version.
        let at = (value / u64::from(Percent::ALL.0)) as usize % SLOTS;
        let free = |last: u32| (last == 0 || second.saturating_sub(last) >= WINDOW).then_some(second);
        self.slots.get(version * SLOTS + at).is_some_and(|slot| slot.fetch_update(Relaxed, Relaxed, free).is_ok())
    }
}

/// A version that can be taken out of rotation.
pub trait InRotation {
    /// Whether the version gets traffic.
    fn is_in_rotation(&self) -> bool;
}

impl<T: InRotation> Split<T> {
    /// Returns the split between these versions and the service itself; `None` without versions.
    pub fn new(versions: impl IntoIterator<Item = (TrafficShare, Arc<T>)>, sticky: Option<RequestKey>) -> Option<Self> {
        let versions: Vec<_> = versions.into_iter().map(|(share, target)| Version { share, target }).collect();
        let (drawn, mirrored) = (AtomicU32::new(0), AtomicU32::new(0));
        let judges = versions.iter().any(|version| version.share.rollback.is_some());
        let sticky_window = (judges && sticky.is_some()).then(|| StickyWindow::new(versions.len()));
        (!versions.is_empty()).then_some(Self { versions, sticky, drawn, mirrored, judges, sticky_window })
    }

    /// Returns the version for a request that arrived at `now`.
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
        // The share of a version that is out of rotation goes to the service.
        let drawn = self.draw(draw.unwrap_or_else(|| step(&self.drawn)));
        let drawn = drawn.filter(|(_, version)| version.target.is_in_rotation());
        let number = drawn.map_or(self.versions.len(), |(number, _)| number);
        let counts = |sticky_window: &StickyWindow| {
            self.client_chosen(value, client).is_none_or(|value| sticky_window.counts(number, value, now))
        };
        let judged = self.judges && self.sticky_window.as_ref().is_none_or(counts);
        Choice { version: drawn.map(|(_, version)| &version.target), judged }
    }

    /// Returns the version that `is` says, whatever its share, and whether the result counts. As with the rules of a version, its client
    /// may have chosen it, so that results count only for a version that gets no other requests. `None` if there is no such version,
    /// if it is out of rotation, or if it has copies of requests only.
    pub fn named(&self, is: impl Fn(&T) -> bool) -> Option<(&Arc<T>, bool)> {
        let only_mirrors =
            |share: &TrafficShare| share.mirror > Percent(0) && share.percent == Percent(0) && share.rules.is_empty();
        let version = self
            .versions
            .iter()
            .find(|version| is(&version.target) && version.target.is_in_rotation() && !only_mirrors(&version.share))?;
        Some((&version.target, self.judges && version.share.percent == Percent(0)))
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

    /// Returns the key under which a `sticky` value that the client can choose counts once, or `None` if it cannot
    /// choose it. A client cannot choose its IPv4 address, but any address of its IPv6 network, so there the network is
    /// the key.
    fn client_chosen(&self, value: Option<u64>, client: IpAddr) -> Option<u64> {
        match (self.sticky.as_ref()?, client.to_canonical()) {
            (RequestKey::Client, IpAddr::V4(_)) => None,
            (RequestKey::Client, IpAddr::V6(address)) => Some(hash_of(&(address.to_bits() >> 64).to_be_bytes())),
            _ => value,
        }
    }

    /// Returns the version that receives a mirrored copy, at most one. If mirror percentages exceed 100 %, versions
    /// earlier by name win.
    pub fn mirror(&self) -> Option<&Arc<T>> {
        let mut versions = self.versions.iter().filter(|version| version.share.mirror > Percent(0)).peekable();
        versions.peek()?;
        let mut draw = step(&self.mirrored);
        // Each version has a range of its own, one after another.
        let version = versions.find(|version| {
            let mirrored = draw < version.share.mirror.0;
            draw = draw.saturating_sub(version.share.mirror.0);
            mirrored
        })?;
        version.target.is_in_rotation().then_some(&version.target)
    }

    /// Returns all versions with their shares.
    pub fn versions(&self) -> impl Iterator<Item = (&TrafficShare, &Arc<T>)> {
        self.versions.iter().map(|version| (&version.share, &version.target))
    }
}

fn step(count: &AtomicU32) -> u32 {
    let drawn = count.fetch_add(1, Relaxed) % Percent::ALL.0;
    drawn * STEP % Percent::ALL.0
}

#[cfg(test)]
mod tests;
