//! What handles the requests of a deployment: a guest on this host, replicas elsewhere, or files.

use std::sync::Arc;

use lodge_runtime::guest::Guest;
use lodge_traffic::service::deployment::Deployment;
use lodge_traffic::static_files::StaticFiles;
use lodge_traffic::upstreams::Upstream;

/// A deployment, and what handles its requests.
#[derive(Clone)]
pub struct Backend {
    /// The version of the service.
    pub deployment: Arc<Deployment>,
    /// What handles the requests.
    pub kind: BackendKind,
}

/// What handles the requests of a deployment.
#[derive(Clone)]
pub enum BackendKind {
    /// A component on this host.
    Guest(Arc<Guest>),
    /// Replicas elsewhere.
    Upstream(Arc<Upstream>),
    /// A directory of files.
    Files(Arc<StaticFiles>),
}

impl Backend {
    /// Whether the machine code is in memory. Always true for what has none.
    pub fn is_loaded(&self) -> bool {
        self.guest().is_none_or(|guest| guest.is_loaded())
    }

    /// The component, if it is one.
    pub fn guest(&self) -> Option<&Arc<Guest>> {
        if let BackendKind::Guest(guest) = &self.kind { Some(guest) } else { None }
    }

    /// The upstream, if it is one.
    pub fn upstream(&self) -> Option<&Arc<Upstream>> {
        if let BackendKind::Upstream(upstream) = &self.kind { Some(upstream) } else { None }
    }

    /// Whether it is a directory of files.
    pub fn is_files(&self) -> bool {
        matches!(self.kind, BackendKind::Files(_))
    }

    /// Whether the component, the directory or all replicas differ from `before`, so that the failures of `before` say nothing about
    /// this.
    pub fn is_another(&self, before: &Self) -> bool {
        match (&self.kind, &before.kind) {
            (BackendKind::Guest(_), BackendKind::Guest(_)) => {
                self.deployment.spec.code_digest() != before.deployment.spec.code_digest()
            }
            (BackendKind::Upstream(one), BackendKind::Upstream(other)) => !one.spec().shares_replicas(other.spec()),
            (BackendKind::Files(one), BackendKind::Files(other)) => !one.shares_root(other),
            _ => true,
        }
    }

    /// Whether it is a version beside this service.
    pub fn is_version_of(&self, service: &Self) -> bool {
        self.deployment.spec.version_of().is_some_and(|(of, _)| *of == *service.deployment.name)
    }

    /// Whether both are the same value.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.deployment, &other.deployment)
    }
}

impl From<Arc<Guest>> for Backend {
    fn from(guest: Arc<Guest>) -> Self {
        Self { deployment: Arc::clone(guest.deployment()), kind: BackendKind::Guest(guest) }
    }
}

impl From<Arc<Upstream>> for Backend {
    fn from(upstream: Arc<Upstream>) -> Self {
        Self { deployment: Arc::clone(upstream.deployment()), kind: BackendKind::Upstream(upstream) }
    }
}

impl From<Arc<StaticFiles>> for Backend {
    fn from(files: Arc<StaticFiles>) -> Self {
        Self { deployment: Arc::clone(files.deployment()), kind: BackendKind::Files(files) }
    }
}
