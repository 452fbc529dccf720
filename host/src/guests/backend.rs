//! What answers for a deployment: a guest here, or replicas elsewhere.

use std::ops::Deref;
use std::sync::Arc;

use lodge_runtime::guest::Guest;
use lodge_traffic::service::deployment::Deployment;
use lodge_traffic::upstreams::Upstream;

/// Who answers for a deployment.
#[derive(Clone)]
pub enum Backend {
    /// A component, here.
    Guest(Arc<Guest>),
    /// Replicas, elsewhere.
    Upstream(Arc<Upstream>),
}

impl Backend {
    /// Whether it is in memory. Replicas are not here at all, and ready all the same.
    pub fn is_loaded(&self) -> bool {
        self.guest().is_none_or(|guest| guest.is_loaded())
    }

    /// The component, if that is who answers.
    pub fn guest(&self) -> Option<&Arc<Guest>> {
        if let Self::Guest(guest) = self { Some(guest) } else { None }
    }

    /// The replicas, if they are who answers.
    pub fn upstream(&self) -> Option<&Arc<Upstream>> {
        if let Self::Upstream(upstream) = self { Some(upstream) } else { None }
    }

    /// Whether another component, or entirely other replicas, answer than with `before`: how those did says nothing of these.
    pub fn is_another(&self, before: &Self) -> bool {
        match (self, before) {
            (Self::Guest(one), Self::Guest(other)) => one.digest() != other.digest(),
            (Self::Upstream(one), Self::Upstream(other)) => !one.spec().shares_replicas(other.spec()),
            _ => true,
        }
    }

    /// Whether these are one and the same.
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Guest(one), Self::Guest(other)) => Arc::ptr_eq(one, other),
            (Self::Upstream(one), Self::Upstream(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl Deref for Backend {
    type Target = Deployment;

    fn deref(&self) -> &Deployment {
        match self {
            Self::Guest(guest) => guest,
            Self::Upstream(upstream) => upstream,
        }
    }
}
