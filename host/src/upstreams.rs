//! Replicas elsewhere that answer for a service: other hosts of Lodge, or the containers that are still there.

use std::ops::Deref;

use crate::guests::deployment::Deployment;

/// Replicas elsewhere, as one backend.
pub struct Upstream {
    deployment: Deployment,
}

impl Deref for Upstream {
    type Target = Deployment;

    fn deref(&self) -> &Deployment {
        &self.deployment
    }
}
