//! Subscriptions of services that are served without `[consume]` now.
//!
//! An editor that saves a file in pieces, or a file that is taken back, leaves a manifest without that section for a moment. The
//! messages that wait outlive this, as they outlive the service itself.
//!
//! A host whose manifests never had that section ends nothing: on one server, another host may be the one that consumes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// How long the messages of a service that is served without `[consume]` are kept. Until then they count for its quota, so that
/// publishers are refused once it is used up.
pub(super) const KEPT: Duration = Duration::from_secs(60 * 60);

/// Since when which services have no `[consume]`, of those that had it on this host.
#[derive(Default)]
pub(super) struct LostSubscriptions {
    consumed: HashSet<Arc<str>>,
    since: HashMap<Arc<str>, Instant>,
}

impl LostSubscriptions {
    /// Records what is served now: the names of services, and whether each has `[consume]`. Of a service that is not served, nothing
    /// is known; its subscription ends by [`MAX_ABSENCE`](lodge_state::limits::MAX_ABSENCE).
    pub(super) fn served<'a>(&mut self, services: impl Iterator<Item = (&'a Arc<str>, bool)>, now: Instant) {
        let mut without = HashSet::new();
        for (name, consumes) in services {
            if consumes {
                self.consumed.insert(Arc::clone(name));
            } else if self.consumed.contains(name) {
                without.insert(name);
            }
        }
        self.since.retain(|name, _| without.contains(name));
        for name in without {
            self.since.entry(Arc::clone(name)).or_insert(now);
        }
    }

    /// Returns the services whose subscriptions end now.
    pub(super) fn due(&self, now: Instant) -> Vec<Arc<str>> {
        let is_due = |since: Instant| now.saturating_duration_since(since) >= KEPT;
        self.since.iter().filter(|(_, since)| is_due(**since)).map(|(name, _)| Arc::clone(name)).collect()
    }

    /// Records that the subscription of a service has ended, or that it is for another host to end it.
    pub(super) fn ended(&mut self, name: &str) {
        self.consumed.remove(name);
        self.since.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_ends_only_what_it_has_consumed() {
        let (web, start) = (Arc::<str>::from("web"), Instant::now());
        let mut lost = LostSubscriptions::default();
        lost.served([(&web, false)].into_iter(), start);
        assert_eq!(lost.due(start + Duration::from_secs(100_000)).len(), 0, "another host may consume for it");
        lost.served([(&web, true)].into_iter(), start);
        lost.served([(&web, false)].into_iter(), start);
        assert_eq!(lost.due(start + KEPT), [web]);
    }

    #[test]
    fn a_subscription_outlives_an_edit() {
        let (mail, start) = (Arc::<str>::from("mail"), Instant::now());
        let mut lost = LostSubscriptions::default();
        let mut at = |consumes: Option<bool>, seconds: u64| {
            let now = start + Duration::from_secs(seconds);
            lost.served(consumes.map(|consumes| (&mail, consumes)).into_iter(), now);
            lost.due(now).len()
        };
        assert_eq!(at(Some(true), 0), 0);
        assert_eq!(at(Some(false), 10), 0);
        assert_eq!(at(Some(false), 3609), 0);
        assert_eq!(at(Some(true), 3609), 0, "it is back");
        assert_eq!(at(Some(false), 3700), 0, "a time of its own");
        assert_eq!(at(None, 7200), 0, "it is not served");
        assert_eq!(at(Some(false), 7300), 0);
        assert_eq!(at(Some(false), 7300 + 3600), 1);
        lost.ended("mail");
        assert_eq!(lost.due(start + Duration::from_secs(100_000)).len(), 0, "it ends once");
        lost.served([(&mail, true)].into_iter(), start + Duration::from_secs(100_000));
        lost.served([(&mail, false)].into_iter(), start + Duration::from_secs(100_001));
        assert_eq!(lost.due(start + Duration::from_secs(200_000)), [mail], "and again after another one");
    }
}
