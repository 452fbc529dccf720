//! A deployed version of a service: what guests and upstreams have in common.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use super::{Service, Services};
use crate::auth::Authentication;
use crate::error_pages::ServicePages;
use crate::rules::RuleSet;
use crate::validation::RequestChecks;
use lodge_base::config::limits::Limits;
use lodge_base::telemetry::metrics::judged::{JudgedCounts, LastMinute};
use lodge_manifest::digest::Digest;
use lodge_manifest::edition::Edition;
use lodge_manifest::route::Route;
use lodge_manifest::spec::GuestSpec;

/// A version of a service, made from its files.
pub struct Deployment {
    /// The service's name; `service@label` for a version beside the service itself.
    pub name: Arc<str>,
    /// The version: the first 12 hexadecimal digits of the digest of its code.
    pub version: Arc<str>,
    /// The files as they were on disk at deployment.
    pub spec: GuestSpec,
    /// The service, which outlives this version.
    pub service: Arc<Service>,
    /// The checks of credentials; `None` where no request needs any.
    pub auth: Option<Authentication>,
    /// The conditions on requests; `None` without any.
    pub rules: Option<RuleSet>,
    /// What requests have to be; `None` if any will do.
    pub validation: Option<RequestChecks>,
    /// The pages for errors; `None` until they are read, and if the manifest has none.
    pub pages: Option<ServicePages>,
    /// The key under which the cache stores this version's responses. It changes when something changes that they
    /// depend on.
    pub edition: Edition,
    /// When the version was activated, and the service's counts of judged requests at that time.
    since: OnceLock<(SystemTime, JudgedCounts)>,
    /// How often the version was compared with its service.
    comparisons: AtomicU64,
    /// The reason why the version was withdrawn.
    withdrawn: OnceLock<String>,
}

impl Deployment {
    /// Returns the deployment of these files, as a version of one of `services`.
    pub fn new(spec: GuestSpec, services: &Services) -> Self {
        let service = services.get_or_create(&spec.name);
        let withdrawn = service.withdrawn(Self::file_identity(&spec)).map(OnceLock::from).unwrap_or_default();
        Self {
            name: Arc::clone(&service.name),
            version: Arc::from(spec.code_digest().short()),
            edition: Edition::of(&service.name, spec.code_digest(), &spec.manifest),
            service,
            auth: Authentication::new(
                spec.version_of().map_or(&spec.name, |(service, _)| service),
                &spec.manifest.policies,
            ),
            rules: RuleSet::new(&spec.manifest.policies),
            validation: RequestChecks::new(&spec.manifest.policies),
            pages: None,
            since: OnceLock::new(),
            comparisons: AtomicU64::new(0),
            withdrawn,
            spec,
        }
    }

    /// Returns the digest of the version.
    pub fn digest(&self) -> Digest {
        self.spec.digest
    }

    /// Returns the routes that the version has besides its host.
    pub fn routes(&self) -> &[Route] {
        &self.spec.manifest.routes
    }

    /// Returns the version's limits.
    pub fn limits(&self) -> &Limits {
        &self.spec.manifest.limits
    }

    /// Returns the CPU time that the service has used. Requests that are too short for the sampling tick are right only
    /// on average.
    pub fn cpu(&self) -> Duration {
        self.service.share.cpu()
    }

    /// Returns when the version was activated; `None` before.
    pub fn since(&self) -> Option<SystemTime> {
        self.since.get().map(|(since, _)| *since)
    }

    /// Makes this the active version of its service. Sets the service's CPU weight, which a version on trial must not
    /// change.
    pub fn activate(&self) {
        self.service.share.set_weight(self.spec.manifest.cpu_weight);
        self.since.get_or_init(|| (SystemTime::now(), self.service.metrics.judged.counts()));
    }

    /// Returns the results of the last minute by which the version is judged. Results of the version that it replaced
    /// are not included.
    pub fn window(&self) -> LastMinute {
        self.since.get().map(|(_, counts)| self.service.metrics.judged.window(counts)).unwrap_or_default()
    }

    /// Returns how many requests count for the judgement of the version since it was activated.
    pub fn judged_requests(&self) -> u64 {
        let judged = &self.service.metrics.judged;
        self.since.get().map_or(0, |(_, counts)| judged.counts().requests_since(counts))
    }

    /// Returns how often the version was compared with its service, since its files or those of the service changed.
    pub fn comparisons(&self) -> u64 {
        self.comparisons.load(Relaxed)
    }

    /// Counts a comparison of the version with its service.
    pub fn count_comparison(&self) {
        self.comparisons.fetch_add(1, Relaxed);
    }

    /// Takes the version out of rotation for as long as its files do not change. Returns whether it was in rotation
    /// before.
    pub fn withdraw(&self, why: String) -> bool {
        self.service.withdraw(Self::file_identity(&self.spec), why.clone());
        self.withdrawn.set(why).is_ok()
    }

    /// Returns the digest of the version's own files. A change of its service's manifest does not affect it.
    fn file_identity(spec: &GuestSpec) -> (Digest, u64) {
        (spec.code_digest(), spec.manifest.share.as_ref().map_or(0, |share| share.text))
    }

    /// Returns why the version was withdrawn, if it was.
    pub fn withdrawn(&self) -> Option<&str> {
        self.withdrawn.get().map(String::as_str)
    }

    /// Whether the version gets its share of the service's traffic.
    pub fn is_in_rotation(&self) -> bool {
        self.withdrawn.get().is_none() && !self.service.is_disabled()
    }
}
