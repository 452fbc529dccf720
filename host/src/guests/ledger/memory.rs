//! What services deny that are not served, and what is ruled on their files by it.

use super::Ledger;
use super::entry::LedgerEntry;
use super::ruling::{GuardState, Ruling, Verdict, unknown, withdrawn};
use crate::guests::scan::ScannedService;
use lodge_manifest::Manifest;
use lodge_manifest::spec::{GuestSpec, split};

impl<G: Clone> Ledger<G> {
    /// Remembers what a service denies that is not served, as a scan has found it. `is_sure` is whether its text is complete.
    pub(super) fn remember(&mut self, name: &str, is_sure: bool) {
        let Some(service) = self.services.get(name) else { return };
        if service.ruling == Ruling::Wait {
            self.formers.return_to(name);
        }
        if let (None, Some(manifest)) = (&service.live, &service.manifest) {
            self.formers.hold(name, manifest, is_sure);
        }
    }

    /// Rules on the files of a service or version. A version has the policies of its service, and so waits for them.
    pub(super) fn rule(&self, name: &str, scanned: &ScannedService) -> Ruling {
        let live = |name: &str| self.services.get(name)?.live.as_ref().map(|(spec, _)| spec);
        let denies = |name: &str| live(name).is_some_and(|live: &GuestSpec| live.manifest.denies());
        let (service, version) = split(name);
        let state = GuardState {
            loss: self.formers.loss(name, scanned, live(name)),
            is_blank: scanned.blank.is_some(),
            is_sure: scanned.unsure.is_zero(),
            service: version.map(|_| denies(service)),
        };
        match (state.verdict(), &scanned.blank) {
            (Verdict::Withdrawn, Some(file)) => Ruling::Refuse(withdrawn(file)),
            (Verdict::Unknown, Some(file)) => Ruling::Refuse(unknown(file)),
            (Verdict::Wait, _) => Ruling::Wait,
            (Verdict::AsService, _) => {
                let known = self.services.get(service).map(|service| service.ruling.clone());
                known.unwrap_or_else(|| self.rule(service, scanned))
            }
            (Verdict::Withdrawn | Verdict::Unknown | Verdict::Follow, _) => Ruling::Follow,
        }
    }
}

impl<G> LedgerEntry<G> {
    /// Keeps what is restricted until something is served: what this manifest says or, if there is none, or it may end what was denied
    /// and is not sure, what the one before said. Returns whether that stays.
    pub(super) fn keep(&mut self, manifest: Option<Box<Manifest>>, is_sure: bool) -> bool {
        let before = self.manifest().cloned().map(Box::new);
        let next = manifest.filter(|after| before.as_ref().is_none_or(|before| after.follows(before, is_sure)));
        let stays = next.is_none() && before.is_some();
        self.manifest = next.or(before);
        stays
    }

    /// Returns the manifest that is left of it if its component alone is gone.
    pub(super) fn left(&self) -> Option<&Manifest> {
        self.manifest.as_deref().filter(|_| self.orphan)
    }
}
