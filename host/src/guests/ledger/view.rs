//! What a ledger says of its services, and when it has to be looked at again.

use std::time::Instant;

use super::entry::LedgerEntry;
use super::{GONE, HELD, Ledger};
use lodge_manifest::Manifest;
use lodge_manifest::digest::Digest;
use lodge_manifest::refusal::Refusal;
use lodge_manifest::spec::GuestSpec;

/// A service that cannot serve.
pub struct Absent<'a> {
    /// The service.
    pub name: &'a str,
    /// Its manifest, if that is readable, whatever its other files are.
    pub manifest: Option<&'a Manifest>,
    /// Why it cannot serve; `None` while it is being compiled.
    pub refusal: Option<&'a Refusal>,
}

impl<G> LedgerEntry<G> {
    /// The manifest of what is not served: of what is compiled, of files that cannot be, of what was wanted before these, or
    /// of what does not start.
    pub(super) fn manifest(&self) -> Option<&Manifest> {
        let compiling = self.compiling.as_ref().map(|(spec, _)| &spec.manifest);
        let wanted = self.wanted.as_ref().map(|spec| &spec.manifest);
        let refused = self.refused.as_ref().and_then(|(spec, _)| Some(&spec.as_ref()?.manifest));
        compiling.or(self.manifest.as_deref()).or(wanted).or(refused)
    }
}

impl<G: Clone> Ledger<G> {
    /// The services that are served, by name.
    pub fn live(&self) -> impl Iterator<Item = G> + use<'_, G> {
        self.services.values().filter_map(|service| Some(service.live.as_ref()?.1.clone()))
    }

    /// The refusals of all files.
    pub fn refusals(&self) -> Vec<Refusal> {
        let refused = self.services.values().filter_map(|service| Some(&service.refused.as_ref()?.1));
        refused.chain(self.services.values().filter_map(|service| service.trouble.as_ref())).cloned().collect()
    }

    /// The services in the directory that cannot serve.
    pub fn absent(&self) -> impl Iterator<Item = Absent<'_>> {
        let services = self.services.iter().filter(|(_, service)| service.live.is_none());
        services.filter_map(|(name, service)| {
            let manifest = service.manifest();
            let refusal = service.refused.as_ref().map(|(_, refusal)| refusal);
            // Whatever happens to its other files: requests for a manifest in the directory are those of its service.
            let known = refusal.is_some() || service.held.is_some() || service.pulling || manifest.is_some();
            known.then_some(Absent { name, manifest, refusal })
        })
    }

    /// The services and versions that have a file in the directory, whatever their state is.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.services.keys().map(String::as_str)
    }

    /// Whether this is to be compiled, and was not until now.
    pub fn wants(&self, spec: &GuestSpec) -> bool {
        let compiling = self.services.get(&spec.name).and_then(|service| service.compiling.as_ref());
        compiling.is_some_and(|(wanted, _)| wanted == spec)
    }

    /// Whether a component is being tried, or will be tried again.
    pub fn tries(&self, digest: Digest) -> bool {
        let tried = |service: &&LedgerEntry<G>| service.compiling.is_some() || service.attempts.0 > 0;
        let mut wanted = self.services.values().filter(tried).filter_map(|service| service.wanted.as_ref());
        wanted.any(|spec| spec.code_digest() == digest)
    }

    /// Whether every service is served or refused, and none is being written, compiled, tried again or held back.
    pub fn is_settled(&self) -> bool {
        self.services.values().all(|service| {
            let tried = service.wanted.is_none() || service.refused.is_some();
            tried && service.compiling.is_none() && service.held.is_none() && !service.changing
        })
    }

    /// When to scan again even without a change: to remove a service whose file is gone, to repeat an attempt, or to
    /// serve a service without a manifest.
    pub fn next_look(&self) -> Option<Instant> {
        let leaving = self.services.values().filter(|service| service.live.is_some());
        let retried = self.services.values().filter(|service| service.compiling.is_none());
        let held = self.services.values().filter(|service| service.held.is_some());
        let gone = leaving.filter_map(|service| Some(service.gone? + GONE));
        let due = held.filter_map(|service| Some(service.bare? + HELD));
        let opens = self.services.values().filter_map(|service| service.opens);
        gone.chain(due).chain(opens).chain(retried.filter_map(|service| service.attempts.1)).min()
    }
}
