//! (service, head) → version: which of several answers. Pure: what is drawn is a count.
//!
//! In this order: a rule of a version, which names a header or a cookie and its value; what the service's `sticky`
//! names, whose hash gives the same version again, on every host; else every version its part, evenly spread.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use http::HeaderMap;

use crate::manifest::key::Place;
use crate::manifest::share::{Percent, Rule, Share};

/// The versions beside a service.
pub struct Split<T> {
    versions: Vec<Version<T>>,
    sticky: Option<Place>,
    drawn: AtomicU32,
    shown: AtomicU32,
    /// Some of them may be withdrawn, so they are judged.
    judges: bool,
}

/// The version that a request is for.
pub struct Choice<'a, T> {
    /// The version; `None` is the service itself.
    pub version: Option<&'a Arc<T>>,
    /// Whether how it goes says something of how versions compare. It does when it was drawn. A rule is a client's own choice,
    /// and a client that fails or is slow on purpose could choose the version that it wants withdrawn; only of a version
    /// that gets nothing else, nothing else can be known.
    pub judged: bool,
}

struct Version<T> {
    share: Share,
    target: Arc<T>,
}

/// Steps through all 10,000 hundredths of a percent before it comes to one again (it shares no factor with them), and
/// never many times in a row into one part: it is close to the golden ratio of them.
const STEP: u32 = 6_181;

/// Something that can be taken out.
pub trait Part {
    /// Whether it is in.
    fn takes_part(&self) -> bool;
}

impl<T: Part> Split<T> {
    /// Between these versions and the service itself; `None` without any.
    pub fn new(versions: impl IntoIterator<Item = (Share, Arc<T>)>, sticky: Option<Place>) -> Option<Self> {
        let versions: Vec<_> = versions.into_iter().map(|(share, target)| Version { share, target }).collect();
        let (drawn, shown) = (AtomicU32::new(0), AtomicU32::new(0));
        let judges = versions.iter().any(|version| version.share.rollback.is_some());
        (!versions.is_empty()).then_some(Self { versions, sticky, drawn, shown, judges })
    }

    /// The version that answers a request.
    pub fn choose(&self, headers: &HeaderMap, client: IpAddr) -> Choice<'_, T> {
        let named = self
            .versions
            .iter()
            .find(|version| version.share.rules.iter().any(|rule| rule.holds(headers)) && version.target.takes_part());
        if let Some(version) = named {
            let judged = self.judges && version.share.percent == Percent(0);
            return Choice { version: Some(&version.target), judged };
        }
        Choice { version: self.draw(headers, client), judged: self.judges }
    }

    fn draw(&self, headers: &HeaderMap, client: IpAddr) -> Option<&Arc<T>> {
        let mut draw = self.stuck(headers, client).unwrap_or_else(|| step(&self.drawn));
        for version in &self.versions {
            match draw.checked_sub(version.share.percent.0) {
                Some(rest) => draw = rest,
                // The part of a version that is out is the service's.
                None => return version.target.takes_part().then_some(&version.target),
            }
        }
        None
    }

    /// Who is shown the request besides: one version at most. Of more than all of them together, the first by name get their part.
    pub fn mirror(&self) -> Option<&Arc<T>> {
        let mut versions = self.versions.iter().filter(|version| version.share.mirror > Percent(0)).peekable();
        versions.peek()?;
        let mut draw = step(&self.shown);
        // Each has a range of its own, one after another.
        let version = versions.find(|version| {
            let shown = draw < version.share.mirror.0;
            draw = draw.saturating_sub(version.share.mirror.0);
            shown
        })?;
        version.target.takes_part().then_some(&version.target)
    }

    /// All of them.
    pub fn versions(&self) -> impl Iterator<Item = (&Share, &Arc<T>)> {
        self.versions.iter().map(|version| (&version.share, &version.target))
    }

    fn stuck(&self, headers: &HeaderMap, client: IpAddr) -> Option<u32> {
        let hash = self.sticky.as_ref()?.key(client, headers)?;
        u32::try_from(hash % u64::from(Percent::ALL.0)).ok()
    }
}

impl Rule {
    fn holds(&self, headers: &HeaderMap) -> bool {
        self.place.value(headers) == Some(self.value.as_bytes())
    }
}

fn step(count: &AtomicU32) -> u32 {
    let drawn = count.fetch_add(1, Relaxed) % Percent::ALL.0;
    drawn * STEP % Percent::ALL.0
}

#[cfg(test)]
mod tests;
