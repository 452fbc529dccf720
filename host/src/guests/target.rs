//! Where requests go: who answers for a service, what stands before it, and the versions beside it.

use std::sync::Arc;

use crate::guests::backend::Backend;
use lodge_manifest::refusal::Refusal;
use lodge_manifest::refusal::file_name;
use lodge_manifest::share::{Percent, TrafficShare};
use lodge_traffic::admission::Admission;
use lodge_traffic::routing::split::{InRotation, Split};
use lodge_traffic::service::Service;

/// A service, and what stands before it.
pub struct Target {
    /// Who answers.
    pub backend: Backend,
    /// Who may ask. What it knows survives new versions: who is in flight, what is used of a rate.
    pub admission: Arc<Admission>,
    /// The versions beside it that answer a part of its requests.
    pub split: Option<Split<Target>>,
    /// Places for requests that it is only shown: they take none of those that clients wait for.
    pub shadow: Option<Admission>,
    /// The service, when it is a version of one.
    pub of: Option<Arc<Service>>,
}

impl Target {
    /// The service itself: the old target, if nothing about it is new.
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
                let split = Split::new(beside, backend.spec.manifest.sticky.clone());
                Arc::new(Self { backend, admission, split, shadow: None, of: None })
            }
        }
    }

    /// Whether an operator has said that it is not to be asked; with a service all its versions are not.
    pub fn is_disabled(&self) -> bool {
        self.backend.service.is_disabled() || self.of.as_ref().is_some_and(|service| service.is_disabled())
    }

    /// What it gets of its service's requests.
    pub(super) fn share(&self) -> TrafficShare {
        self.backend.spec.manifest.share.clone().unwrap_or_default()
    }
}

impl InRotation for Target {
    fn is_in_rotation(&self) -> bool {
        self.backend.is_in_rotation()
    }
}

/// A version that wants more than others leave.
pub(super) fn too_much(target: &Target, left: Percent) -> Refusal {
    let wants = target.share().percent;
    let reason = format!("it wants {wants} of the requests, and other versions leave {left}");
    Refusal::new(&file_name(&target.backend.spec.path), reason, "lower `percent` in one of their manifests")
}

/// A version of what is not served.
pub(super) fn alone(version: &Backend) -> Refusal {
    let (service, _) = version.spec.version_of().unwrap_or_default();
    let reason = format!("it is a version of {service}, which is not served");
    let remedy = format!("put {service}.wasm beside it, or rename it to that");
    Refusal::new(&file_name(&version.spec.path), reason, remedy)
}
