//! What services denied until now, so that no step of an edit takes it away: neither a manifest that is gone or empty, nor the
//! first part of one.
//!
//! A service that is served denies what its manifest in force says, whatever texts were refused since. What is not served
//! is remembered here: a service that is disabled, that was never compiled yet, or whose files are gone; and what was served before
//! a version whose routes may belong to others.

use std::collections::BTreeMap;

use super::ruling::Loss;
use crate::guests::scan::{FileState, ScannedService};
use lodge_manifest::Manifest;
use lodge_manifest::refusal::file_name;
use lodge_manifest::spec::{GuestSpec, split};

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

impl Former {
    fn is_partial(&self) -> bool {
        self.manifest.as_ref().is_some_and(|manifest| manifest.partial)
    }
}

impl Formers {
    /// Returns what the files of a service or version take away of what it denied, of which `live` is served.
    pub(super) fn loss(&self, name: &str, scanned: &ScannedService, live: Option<&GuestSpec>) -> Loss {
        let (former, is_version) = (self.services.get(name), split(name).1.is_some());
        let opens = |after: &Manifest| {
            live.is_some_and(|live| after.opens(&live.manifest))
                || former.is_some_and(|former| former.manifest.as_ref().is_none_or(|before| after.opens(before)))
        };
        let opens = match &scanned.state {
            FileState::Ready(spec) => opens(&spec.manifest),
            // Without a component of its own, a service is no service without its manifest. One whose component is gone ends.
            FileState::Orphan(_) if scanned.blank.is_none() => scanned.manifest.as_deref().is_some_and(opens),
            FileState::Orphan(_) => {
                let elsewhere = |live: &GuestSpec| file_name(&live.path).strip_suffix(".wasm") != Some(name);
                // Its versions would be served.
                let is_held = former.is_some_and(|former| !former.gone);
                live.map_or(is_held, |live| live.manifest.denies() && elsewhere(live))
            }
            FileState::Refused(_) | FileState::Disabled | FileState::Changing | FileState::Pulling => false,
        };
        // `blank` is about the manifest of the service. A version that was disabled is enabled by one of its own.
        let is_enabled = is_version && !scanned.bare && former.is_some_and(|former| former.manifest.is_none());
        match (live, former) {
            _ if !opens => Loss::Nothing,
            _ if is_enabled => Loss::Returning,
            (Some(_), _) => Loss::Known,
            (None, Some(former)) if former.gone => Loss::Returning,
            (None, Some(former)) if former.is_partial() => Loss::Partly,
            (None, Some(_)) => Loss::Known,
            (None, None) => Loss::Returning,
        }
    }

    /// Remembers a manifest that will be served once its component is compiled.
    pub(super) fn want(&mut self, name: &str, manifest: &Manifest) {
        if manifest.denies() {
            self.insert(name, Some(Box::new(manifest.clone())), false);
        }
    }

    /// Remembers the manifest of files that cannot be served, unless one that is remembered may deny more.
    pub(super) fn hold(&mut self, name: &str, manifest: &Manifest, is_sure: bool) {
        if !manifest.denies() {
            return;
        }
        match self.services.get_mut(name) {
            Some(former) if !former.manifest.as_ref().is_some_and(|before| manifest.follows(before, is_sure)) => {
                // There are files again.
                former.gone = false;
            }
            _ => self.insert(name, Some(Box::new(manifest.clone())), false),
        }
    }

    /// Takes in that a service has a manifest again, which waits: it may no longer return without one.
    pub(super) fn return_to(&mut self, name: &str) {
        self.services.get_mut(name).into_iter().for_each(|former| former.gone = false);
    }

    /// Remembers that a service is disabled.
    pub(super) fn disable(&mut self, name: &str) {
        self.insert(name, None, false);
    }

    /// Remembers a service that ends because its files are gone or have another name; or its component alone, if a manifest is `left`.
    pub(super) fn remove(&mut self, spec: GuestSpec, left: Option<&Manifest>) {
        let (gone, GuestSpec { name, manifest, .. }) = (left.is_none(), spec);
        match self.services.get_mut(&name) {
            // It was in force, and what ends was not.
            Some(former) => former.gone = gone,
            None if manifest.denies() => self.insert(&name, Some(Box::new(manifest)), gone),
            None => {}
        }
        // It may be the first part of a text.
        left.into_iter().for_each(|manifest| self.hold(&name, manifest, false));
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;
    use crate::guests::ledger::{GONE, Ledger};
    use lodge_base::config;
    use lodge_manifest::digest::Digest;
    use lodge_manifest::refusal::Refusal;

    fn found(name: &str, text: &str, unsure: Duration) -> BTreeMap<String, ScannedService> {
        let limits = config::resolve(&[]).unwrap().config.limits;
        let manifest = Manifest::read(name, text, &limits, 1 << 30).unwrap();
        let path = format!("{name}.wasm").into();
        let spec = GuestSpec {
            name: name.into(),
            path,
            content: None,
            digest: Digest::of(b""),
            size: 1,
            middleware: Vec::new(),
            manifest,
        };
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

    /// What a directory has for a service: a component, and a manifest that denies or not, or that disables it; or files that cannot be
    /// served, of which the manifest can be read or not.
    #[derive(Clone, Copy, Debug)]
    enum OnDisk {
        Nothing,
        Disabled,
        Blank { component: u8 },
        Text { component: u8, denies: bool, is_sure: bool },
        Broken { is_orphan: bool, denies: bool, is_partial: bool, is_sure: bool },
    }

    impl OnDisk {
        fn scan(self, name: &str) -> Option<ScannedService> {
            let (text, unsure) = match self {
                Self::Nothing => return None,
                Self::Disabled => return Some(ScannedService::of(FileState::Disabled)),
                Self::Blank { .. } => ("", false),
                Self::Text { denies: true, is_sure, .. } | Self::Broken { denies: true, is_sure, .. } => {
                    ("deny = ['10.0.0.0/8']", !is_sure)
                }
                Self::Text { is_sure, .. } | Self::Broken { is_sure, .. } => ("env.N = '1'", !is_sure),
            };
            let unsure = if unsure { Duration::from_secs(5) } else { Duration::ZERO };
            let mut scanned = found(name, text, unsure).remove(name)?;
            let FileState::Ready(spec) = &mut scanned.state else { return None };
            match self {
                Self::Blank { component } | Self::Text { component, .. } => spec.digest = Digest::of(&[component]),
                Self::Broken { is_orphan, is_partial, .. } => {
                    let manifest = Manifest { partial: is_partial, ..spec.manifest.clone() };
                    scanned.manifest = Some(Box::new(manifest));
                    let refusal = Refusal::new("a.wasm", "it is bad", "make it good");
                    let state = if is_orphan { FileState::Orphan } else { FileState::Refused };
                    scanned.state = state(refusal);
                }
                Self::Nothing | Self::Disabled => {}
            }
            Some(scanned)
        }

        /// Whether it says something that must not be lost, although it cannot be served.
        fn restricts(self) -> bool {
            matches!(self, Self::Broken { denies: true, .. } | Self::Broken { is_partial: true, .. })
        }
    }

    fn on_disk() -> impl Strategy<Value = OnDisk> {
        let text = (0..2u8, any::<bool>(), prop::bool::weighted(0.2));
        let broken = (any::<bool>(), any::<bool>(), any::<bool>(), prop::bool::weighted(0.5));
        prop_oneof![
            3 => Just(OnDisk::Nothing),
            1 => Just(OnDisk::Disabled),
            2 => (0..2u8).prop_map(|component| OnDisk::Blank { component }),
            3 => broken.prop_map(|(is_orphan, denies, is_partial, is_sure)| OnDisk::Broken { is_orphan, denies, is_partial, is_sure }),
            6 => text.prop_map(|(component, denies, is_sure)| OnDisk::Text { component, denies, is_sure }),
        ]
    }

    proptest! {
        /// Whatever a host starts with, and whatever services are deleted, renamed, disabled, copied or refused, alone or beside others:
        /// what was denied last under a name ends by a text that is complete.
        #[test]
        fn what_was_denied_ends_by_a_complete_text(
            steps in prop::collection::vec((0..2usize, on_disk(), 1..5u32, any::<bool>()), 1..24),
        ) {
            const NAMES: [&str; 2] = ["a", "b"];
            let (mut ledger, mut now) = (Ledger::<bool>::default(), Instant::now());
            let (mut disk, mut before) = ([OnDisk::Nothing; 2], [(false, false, None), (false, false, None)]);
            for (index, files, scans, is_published) in steps {
                disk[index] = files;
                for _ in 0..scans {
                    let look = |(name, on_disk): (&&str, &OnDisk)| Some(((*name).to_owned(), on_disk.scan(name)?));
                    for spec in ledger.see(NAMES.iter().zip(&disk).filter_map(look).collect(), now).0 {
                        let denies = spec.manifest.denies();
                        ledger.compiled(spec, Ok(denies));
                    }
                    ledger.published(|_| is_published);
                    for ((name, on_disk), (denied, gone, last)) in NAMES.iter().zip(disk).zip(&mut before) {
                        let live = ledger.services.get(*name).and_then(|service| service.live.clone());
                        let denies = live.as_ref().map(|(_, denies)| *denies);
                        // A service that is gone may return without a manifest.
                        let is_complete = match on_disk {
                            OnDisk::Text { is_sure, .. } => is_sure,
                            OnDisk::Blank { .. } => *gone,
                            _ => false,
                        };
                        let opens = denies == Some(false) && live != *last;
                        prop_assert!(is_complete || !*denied || !opens, "{} is open", name);
                        *gone = match on_disk {
                            OnDisk::Nothing => live.is_none(),
                            OnDisk::Disabled | OnDisk::Text { .. } => false,
                            OnDisk::Broken { .. } => *gone && !on_disk.restricts(),
                            OnDisk::Blank { .. } => *gone && live.is_none(),
                        };
                        *denied = match on_disk {
                            OnDisk::Disabled => true,
                            _ if live.is_none() && on_disk.restricts() => true,
                            // What is refused beside others ends nothing.
                            _ if denies == Some(true) || is_published => denies.unwrap_or(*denied),
                            _ => *denied,
                        };
                        *last = live;
                    }
                    now += GONE / 2;
                }
            }
        }
    }

    /// Each edit that waits has one line.
    #[test]
    fn an_edit_that_waits_is_logged_once() {
        let (mut ledger, now) = (Ledger::<()>::default(), Instant::now());
        for spec in ledger.see(found("a", "deny = ['10.0.0.0/8']", Duration::ZERO), now).0 {
            ledger.compiled(spec, Ok(()));
        }
        let left = Duration::from_millis(4_500);
        let mut lines = |text: &str, unsure| {
            let changes = ledger.see(found("a", text, unsure), now).1;
            changes.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let first = lines("env.N = '1'", left);
        assert!(
            first[0].starts_with("a.toml may take requests that the manifest before it denies: it is in force in 5 s,"),
            "{first:?}"
        );
        assert_eq!(lines("env.N = '1'", left / 2), [""; 0]);
        assert_eq!(lines("deny = ['10.0.0.0/8', '::/0']", left), [""; 0], "it denies more");
        assert_eq!(lines("env.N = '2'", left).len(), 1);
        assert_eq!(lines("env.N = '2'", Duration::ZERO), [""; 0]);
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
