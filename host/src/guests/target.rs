//! The target of requests: a service or version with its admission.

use std::sync::Arc;

use crate::guests::backend::Backend;
use lodge_manifest::percent::Percent;
use lodge_manifest::refusal::Refusal;
use lodge_manifest::refusal::file_name;
use lodge_manifest::share::TrafficShare;
use lodge_traffic::admission::Admission;
use lodge_traffic::auth::Authentication;
use lodge_traffic::routing::split::{InRotation, Split};
use lodge_traffic::service::deployment::Deployment;
use lodge_traffic::validation::BodyChecks;

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

    /// What the bodies of its requests have to be: as with credentials, what those of its service have to be, for a version.
    pub fn bodies(&self) -> Option<&BodyChecks> {
        self.of.as_deref().unwrap_or(self.deployment()).bodies.as_ref()
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
