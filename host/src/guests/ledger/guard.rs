//! What services denied until now, so that no step of an edit takes it away: neither a manifest that is gone or empty, nor the
//! first part of one.
//!
//! A service that is served denies what its manifest in force says, whatever texts were refused since. What is not served
//! is remembered here: a service that is disabled, that was never compiled yet, or whose files are gone; and what was served before
//! a version whose routes may belong to others.

use std::collections::BTreeMap;

use crate::guests::scan::{FileState, ScannedService};
use lodge_manifest::Manifest;
use lodge_manifest::refusal::{Refusal, file_name};
use lodge_manifest::spec::GuestSpec;

/// How many services without files are remembered.
const MOST: usize = 1024;

/// Services that are not served and deny requests, by name.
#[derive(Default)]
pub(super) struct Formers {
    services: BTreeMap<String, Former>,
}

struct Former {
    /// The last manifest that could be served; `None` if that disabled it, so that all requests were denied.
    manifest: Option<Box<Manifest>>,
    /// Its files are gone, and so is the service: it may return without a manifest.
    gone: bool,
}

/// What becomes of the files of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ruling {
    /// They are followed.
    Follow,
    /// What they say is refused, and what is served stays.
    Refuse(Refusal),
    /// They may be incomplete for as long as their manifest is unsure.
    Wait,
}

impl Ruling {
    /// Returns this ruling on a version, or what follows from that on its service, of which `live` is served.
    pub(super) fn beside(self, scanned: &ScannedService, service: &Self, live: Option<&GuestSpec>) -> Self {
        match (&scanned.blank, live) {
            _ if self != Self::Follow => self,
            (Some(file), Some(live)) if live.manifest.denies() => Self::Refuse(withdrawn(file)),
            _ => service.clone(),
        }
    }
}

impl Formers {
    /// Rules on the files of a service, of which `live` is served.
    pub(super) fn rule(&self, name: &str, scanned: &ScannedService, live: Option<&GuestSpec>) -> Ruling {
        let former = self.services.get(name);
        let opens = |after: &Manifest| {
            live.is_some_and(|live| after.opens(&live.manifest))
                || former.is_some_and(|former| former.manifest.as_ref().is_none_or(|before| after.opens(before)))
        };
        let opens = match &scanned.state {
            FileState::Ready(spec) => opens(&spec.manifest),
            // Without a component of its own, a service is no service without its manifest. One whose component is gone ends.
            FileState::Orphan(_) => {
                let elsewhere = |live: &GuestSpec| file_name(&live.path).strip_suffix(".wasm") != Some(name);
                scanned.blank.is_some() && live.is_some_and(|live| live.manifest.denies() && elsewhere(live))
            }
            FileState::Refused(_) | FileState::Disabled | FileState::Changing | FileState::Pulling => false,
        };
        let stays = live.is_some() || former.is_some_and(|former| !former.gone);
        match &scanned.blank {
            Some(file) if opens && stays => Ruling::Refuse(withdrawn(file)),
            _ if opens && !scanned.unsure.is_zero() => Ruling::Wait,
            _ => Ruling::Follow,
        }
    }

    /// Remembers a manifest that will be served once its component is compiled.
    pub(super) fn want(&mut self, name: &str, manifest: &Manifest) {
        if manifest.denies() {
            self.insert(name, Some(Box::new(manifest.clone())), false);
        }
    }

    /// Remembers that a service is disabled.
    pub(super) fn disable(&mut self, name: &str) {
        self.insert(name, None, false);
    }

    /// Remembers a service whose files are gone.
    pub(super) fn remove(&mut self, spec: GuestSpec) {
        if spec.manifest.denies() {
            self.insert(&spec.name, Some(Box::new(spec.manifest)), true);
        }
    }

    /// Marks the services whose files are gone.
    pub(super) fn leave(&mut self, is_gone: impl Fn(&str) -> bool) {
        self.services.iter_mut().filter(|(name, _)| is_gone(name)).for_each(|(_, former)| former.gone = true);
        let gone = self.services.values().filter(|former| former.gone).count();
        for _ in MOST..gone {
            let first = self.services.iter().find(|(_, former)| former.gone).map(|(name, _)| name.clone());
            first.map(|name| self.services.remove(&name));
        }
    }

    /// Remembers what was served until a version that may be refused beside other services.
    pub(super) fn replaced(&mut self, spec: &GuestSpec) {
        if spec.manifest.denies() && !self.services.contains_key(&spec.name) {
            self.insert(&spec.name, Some(Box::new(spec.manifest.clone())), false);
        }
    }

    /// Forgets services.
    pub(super) fn retain(&mut self, stays: impl Fn(&str) -> bool) {
        self.services.retain(|name, _| stays(name));
    }

    fn insert(&mut self, name: &str, manifest: Option<Box<Manifest>>, gone: bool) {
        self.services.insert(name.to_owned(), Former { manifest, gone });
    }
}

/// The refusal of a manifest that is gone or empty.
fn withdrawn(file: &str) -> Refusal {
    let reason = "it is gone or empty, and the one before denied requests (by `auth`, `allow`, `deny`, `rules`, `rate`, `validate`, `digest`, \
                  `enabled`, or the hosts, methods or absence of `routes`)";
    Refusal::new(file, reason, "write it again; a comment is enough to take everybody's requests")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::guests::ledger::Ledger;
    use lodge_base::config;
    use lodge_manifest::digest::Digest;

    fn found(name: &str, text: &str, unsure: Duration) -> BTreeMap<String, ScannedService> {
        let limits = config::resolve(&[]).unwrap().config.limits;
        let manifest = Manifest::read(name, text, &limits, 1 << 30).unwrap();
        let path = format!("{name}.wasm").into();
        let spec = GuestSpec { name: name.into(), path, content: None, digest: Digest::of(b""), size: 1, manifest };
        let blank = text.is_empty().then(|| format!("{name}.toml"));
        [(name.to_owned(), ScannedService { blank, unsure, ..ScannedService::of(FileState::Ready(spec)) })].into()
    }

    /// What cannot be compiled was never in force, and what was never compiled is no reason to serve everybody.
    #[test]
    fn only_what_is_served_ends_what_was_denied() {
        let (deny, now) = ("deny = ['10.0.0.0/8']", Instant::now());
        for served in [true, false] {
            let mut ledger = Ledger::<()>::default();
            for spec in ledger.see(found("a", deny, Duration::ZERO), now).0 {
                let fails = Refusal::new("a.wasm", "it is bad", "make it good");
                ledger.compiled(spec, if served { Ok(()) } else { Err(fails) });
                ledger.published(|_| true);
            }
            for spec in ledger.see(found("a", "env.N = '2'", Duration::ZERO), now).0 {
                ledger.compiled(spec, Err(Refusal::new("a.wasm", "it is bad", "make it good")));
            }
            assert_eq!(ledger.see(found("a", "", Duration::ZERO), now).0.len(), 0, "served: {served}");
            assert!(ledger.refusals()[0].reason.contains("gone or empty"), "{:?}", ledger.refusals());
            let wait = Duration::from_secs(1);
            assert_eq!(ledger.see(found("a", "env.N = '3'", wait), now).0.len(), 0);
            assert_eq!(ledger.next_look(), Some(now + wait));
            let wanted = ledger.see(found("a", "env.N = '3'", Duration::ZERO), now).0;
            assert_eq!(wanted.len(), 1);
            wanted.into_iter().for_each(|spec| drop(ledger.compiled(spec, Ok(()))));
            // Its routes belong to another service.
            ledger.published(|_| false);
            assert_eq!(ledger.see(found("a", "", Duration::ZERO), now).0.len(), 0, "served: {served}");
            // Now it is in force.
            ledger.published(|_| true);
            assert_eq!(ledger.see(found("a", "", wait), now).0.len(), 1);
        }
    }

    #[test]
    fn services_without_files_are_bounded() {
        let mut formers = Formers::default();
        (0..MOST * 2).for_each(|number| formers.disable(&number.to_string()));
        formers.leave(|_| false);
        assert_eq!(formers.services.len(), MOST * 2);
        formers.leave(|name| name != "7");
        assert_eq!(formers.services.len(), MOST + 1);
        assert!(formers.services.contains_key("7"));
    }
}
