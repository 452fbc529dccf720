//! What all sandboxes of a version have in common: names for the log, and what was logged.

use std::sync::Arc;

use super::logged_denials::LoggedDenials;
use lodge_traffic::service::deployment::Deployment;

/// A version of a service, as its sandboxes know it.
#[derive(Debug, Default)]
pub struct SandboxVersion {
    /// The first digits of the digest of its code.
    pub name: Arc<str>,
    /// The denials that were logged for it.
    pub denials: LoggedDenials,
    /// The files of the components in front of that of the service, the outermost first.
    middleware: Vec<String>,
}

impl SandboxVersion {
    /// Returns the version of this deployment, of which nothing was logged yet.
    pub(crate) fn new(deployment: &Deployment) -> Self {
        Self {
            name: Arc::clone(&deployment.version),
            denials: LoggedDenials::default(),
            middleware: deployment.spec.manifest.middleware.clone(),
        }
    }

    /// Returns the file of the part at this position; `None` for the component of the service, which is behind all others.
    pub(super) fn middleware(&self, position: usize) -> Option<&str> {
        self.middleware.get(position).map(String::as_str)
    }

    /// Returns the files of the parts at these positions; `None` if the component of the service is the only one.
    pub(crate) fn part(&self, positions: &[usize]) -> Option<Box<str>> {
        let named = positions.iter().any(|position| self.middleware(*position).is_some());
        let names = positions.iter().map(|position| self.middleware(*position).unwrap_or("the service"));
        named.then(|| names.collect::<Vec<_>>().join(" or ").into())
    }
}
