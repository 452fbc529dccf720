//! What handles the requests of a deployment: a guest on this host, or replicas elsewhere.

use std::ops::Deref;
use std::sync::Arc;

use lodge_runtime::guest::Guest;
use lodge_traffic::service::deployment::Deployment;
use lodge_traffic::upstreams::Upstream;

/// What handles the requests of a deployment.
#[derive(Clone)]
pub enum Backend {
    /// A component on this host.
    Guest(Arc<Guest>),
    /// Replicas elsewhere.
    Upstream(Arc<Upstream>),
}

impl Backend {
    /// Whether the machine code is in memory. Always true for replicas.
    pub fn is_loaded(&self) -> bool {
        self.guest().is_none_or(|guest| guest.is_loaded())
    }

    /// The component, if it is one.
    pub fn guest(&self) -> Option<&Arc<Guest>> {
        if let Self::Guest(guest) = self { Some(guest) } else { None }
    }

    /// The upstream, if it is one.
    pub fn upstream(&self) -> Option<&Arc<Upstream>> {
        if let Self::Upstream(upstream) = self { Some(upstream) } else { None }
    }

    /// Whether the component or all replicas differ from `before`, so that the failures of `before` say nothing about
    /// this.
    pub fn is_another(&self, before: &Self) -> bool {
        match (self, before) {
            (Self::Guest(one), Self::Guest(other)) => one.digest() != other.digest(),
            (Self::Upstream(one), Self::Upstream(other)) => !one.spec().shares_replicas(other.spec()),
            _ => true,
        }
    }

    /// Whether both are the same value.
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
