//! The target of requests: a service or version with its admission.

use std::sync::Arc;

use crate::guests::backend::Backend;
use lodge_manifest::headers::HeaderChanges;
use lodge_manifest::percent::Percent;
use lodge_manifest::refusal::Refusal;
use lodge_manifest::refusal::file_name;
use lodge_manifest::share::TrafficShare;
use lodge_traffic::admission::Admission;
use lodge_traffic::auth::Authentication;
use lodge_traffic::error_pages::PageSet;
use lodge_traffic::routing::split::{InRotation, Split};
use lodge_traffic::rules::RuleSet;
use lodge_traffic::service::deployment::Deployment;
use lodge_traffic::validation::{ManifestChanges, RequestChecks};

/// A service or version, with its admission.
pub struct Target {
    /// What handles the requests.
    pub backend: Backend,
    /// The policies and limits. Their state survives new versions: requests in flight, tokens of rates.
    pub admission: Arc<Admission>,
    /// The versions that get a share of its requests.
    pub split: Option<Split<Target>>,
    /// The slots for mirrored requests, which take none of those for clients.
    pub shadow: Option<Admission>,
    /// The version that is its service, for another version of that.
    pub of: Option<Arc<Deployment>>,
}

impl Target {
    /// The target of a service: the old one, if nothing has changed.
    pub(super) fn service(
        old: Option<&Arc<Self>>,
        backend: Backend,
        admission: Arc<Admission>,
        beside: Vec<(TrafficShare, Arc<Self>)>,
    ) -> Arc<Self> {
        let before = old.and_then(|old| old.split.as_ref()).into_iter().flat_map(Split::versions);
        let same =
            before.map(|(_, target)| Arc::as_ptr(target)).eq(beside.iter().map(|(_, target)| Arc::as_ptr(target)));
        match old.filter(|old| same && old.backend.is(&backend) && Arc::ptr_eq(&old.admission, &admission)) {
            Some(old) => Arc::clone(old),
            None => {
                let split = Split::new(beside, backend.deployment.spec.manifest.sticky.clone());
                Arc::new(Self { backend, admission, split, shadow: None, of: None })
            }
        }
    }

    /// Returns the version that handles the requests.
    pub fn deployment(&self) -> &Deployment {
        &self.backend.deployment
    }

    /// Whether an operator has disabled it. Disabling a service disables its versions.
    pub fn is_disabled(&self) -> bool {
        self.deployment().service.is_disabled() || self.of.as_ref().is_some_and(|of| of.service.is_disabled())
    }

    /// What its requests need to be identified: what those of its service need, for a version. As with the policies, an older
    /// version has no other rules.
    pub fn auth(&self) -> Option<&Authentication> {
        self.of.as_deref().unwrap_or(self.deployment()).auth.as_ref()
    }

    /// What its requests have to be: as with credentials, what those of its service have to be, for a version.
    pub fn validation(&self) -> Option<&RequestChecks> {
        self.of.as_deref().unwrap_or(self.deployment()).validation.as_ref()
    }

    /// The conditions on its requests: for a version, those of its service.
    pub fn rules(&self) -> Option<&RuleSet> {
        self.of.as_deref().unwrap_or(self.deployment()).rules.as_ref()
    }

    /// What the manifest makes of the headers of requests on the route with this number. `headers` is what `[headers]` does there.
    pub fn header_changes<'a>(&'a self, route: usize, headers: Option<&'a HeaderChanges>) -> ManifestChanges<'a> {
        ManifestChanges { auth: self.auth().map(|auth| (auth, route)), rules: self.rules(), headers }
    }

    /// The pages for errors on the route with this number: for a version, those of its service.
    pub fn pages(&self, route: usize) -> Option<&Arc<PageSet>> {
        self.of.as_deref().unwrap_or(self.deployment()).pages.as_ref()?.of_route(route)
    }

    /// Its share of its service's requests.
    pub(super) fn share(&self) -> TrafficShare {
        self.deployment().spec.manifest.share.clone().unwrap_or_default()
    }
}

impl InRotation for Target {
    fn is_in_rotation(&self) -> bool {
        self.deployment().is_in_rotation()
    }
}

/// The share of a version.
#[derive(Clone, Copy)]
pub(super) struct WantedShare {
    /// What it has, if it serves.
    pub(super) had: Option<Percent>,
    /// What its manifest says.
    pub(super) wants: Percent,
}

/// Returns which versions of a service get the shares that they want; for the others, what the other ones leave them. A version keeps
/// what it has and still wants; of what is left, those that serve get more before new ones get any, in their order.
pub(super) fn grant(versions: &[WantedShare]) -> Vec<Result<(), Percent>> {
    let kept = |version: &WantedShare| version.had.map_or(0, |had| had.0.min(version.wants.0));
    let mut left = versions.iter().map(kept).fold(Percent::ALL.0, |left, kept| left.saturating_sub(kept));
    let mut of = |version: &WantedShare| {
        let more = version.wants.0.saturating_sub(kept(version));
        let rest = left.checked_sub(more).ok_or(Percent(left + kept(version)))?;
        left = rest;
        Ok(())
    };
    let (serving, new): (Vec<_>, Vec<_>) = versions.iter().enumerate().partition(|(_, version)| version.had.is_some());
    let mut granted: Vec<_> = serving.into_iter().chain(new).map(|(at, version)| (at, of(version))).collect();
    granted.sort_by_key(|(at, _)| *at);
    granted.into_iter().map(|(_, granted)| granted).collect()
}

/// The refusal of a version whose share exceeds the rest that the others leave.
pub(super) fn too_much(target: &Target, left: Percent) -> Refusal {
    let wants = target.share().percent;
    let reason = format!("it wants {wants} of the requests, but other versions leave {left}");
    let spec = &target.deployment().spec;
    Refusal::new(&file_name(&spec.path), reason, "lower `percent` in one of their manifests").of(spec.digest)
}

/// The refusal of a version whose service is not served.
pub(super) fn alone(version: &Backend) -> Refusal {
    let (service, _) = version.deployment.spec.version_of().unwrap_or_default();
    let reason = format!("it is a version of {service}, which is not served");
    let remedy = format!("put {service}.wasm beside it, or rename it to that");
    let spec = &version.deployment.spec;
    Refusal::new(&file_name(&spec.path), reason, remedy).of(spec.digest)
}
