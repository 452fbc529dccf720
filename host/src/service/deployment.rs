//! A version of a service as it is deployed: what is known of it whether a guest or replicas answer.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use super::{Service, Services};
use crate::config::limits::Limits;
use crate::manifest::cache::Edition;
use crate::manifest::digest::Digest;
use crate::manifest::route::Route;
use crate::manifest::spec::GuestSpec;
use crate::telemetry::metrics::judged::{Counts, Window};

/// A version of a service, from its files.
pub struct Deployment {
    /// Service name; a version beside the service itself is `service@label`.
    pub name: Arc<str>,
    /// Its version, in the 12 digits that tell it apart in a log.
    pub version: Arc<str>,
    /// What was on disk when it was deployed.
    pub spec: GuestSpec,
    /// What outlives it: the service of which it is a version.
    pub service: Arc<Service>,
    /// What its answers are kept under: the same for as long as nothing changes that they depend on.
    pub edition: Edition,
    /// When it began to serve, and what its service had been judged by until then.
    since: OnceLock<(SystemTime, Counts)>,
    /// Why it was taken out.
    withdrawn: OnceLock<String>,
}

impl Deployment {
    /// What these files are, as a version of one of `services`.
    pub(crate) fn new(spec: GuestSpec, services: &Services) -> Self {
        let service = services.get_or_create(&spec.name);
        let withdrawn = service.withdrawn(Self::file_identity(&spec)).map(OnceLock::from).unwrap_or_default();
        Self {
            name: Arc::clone(&service.name),
            version: Arc::from(spec.digest.short()),
            edition: Edition::of(&service.name, spec.digest, &spec.manifest),
            service,
            since: OnceLock::new(),
            withdrawn,
            spec,
        }
    }

    /// Its version.
    pub fn digest(&self) -> Digest {
        self.spec.digest
    }

    /// Where it answers, besides its host.
    pub fn routes(&self) -> &[Route] {
        &self.spec.manifest.routes
    }

    /// What it may use.
    pub fn limits(&self) -> &Limits {
        &self.spec.manifest.limits
    }

    /// CPU time that its service has used so far. Requests that are never caught by a tick count on average only.
    pub fn cpu(&self) -> Duration {
        self.service.share.cpu()
    }

    /// When it began to serve; `None` before.
    pub fn since(&self) -> Option<SystemTime> {
        self.since.get().map(|(since, _)| *since)
    }

    /// It is what its service serves from now on: with its weight, which a version on trial must not set.
    pub(crate) fn activate(&self) {
        self.service.share.set_weight(self.spec.manifest.cpu_weight);
        self.since.get_or_init(|| (SystemTime::now(), self.service.figures.judged.counts()));
    }

    /// What it is judged by, of the last minute: nothing of what it replaced is among that.
    pub fn window(&self) -> Window {
        self.since.get().map(|(_, counts)| self.service.figures.judged.window(counts)).unwrap_or_default()
    }

    /// Takes it out of its service's traffic for this reason, for as long as its files stay what they are. Says
    /// whether it was in until now.
    pub fn withdraw(&self, why: String) -> bool {
        self.service.withdraw(Self::file_identity(&self.spec), why.clone());
        self.withdrawn.set(why).is_ok()
    }

    /// Its own files, which a change of its service's manifest leaves alone.
    fn file_identity(spec: &GuestSpec) -> (Digest, u64) {
        (spec.digest, spec.manifest.share.as_ref().map_or(0, |share| share.text))
    }

    /// Why it was taken out, if it was.
    pub fn withdrawn(&self) -> Option<&str> {
        self.withdrawn.get().map(String::as_str)
    }

    /// Whether it takes its part of its service's traffic.
    pub fn is_in_rotation(&self) -> bool {
        self.withdrawn.get().is_none() && !self.service.is_disabled()
    }
}
