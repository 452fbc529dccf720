//! Whether a host that starts is ready for requests, as `/readyz`, the API and systemd are told.

use std::sync::Arc;

use crate::cluster::Cluster;
use crate::guests::snapshot::Current;

/// What a host that starts waits for.
#[derive(Clone)]
pub struct HostReadiness {
    /// The current snapshot.
    pub current: Current,
    /// The cluster that the host is in, if it is in one.
    pub cluster: Option<Arc<Cluster>>,
}

impl HostReadiness {
    /// Returns what the host still does; `None` once it is ready.
    pub fn missing(&self) -> Option<&'static str> {
        if !self.current.snapshot().complete {
            return Some("reading and compiling files");
        }
        let is_settled = self.cluster.as_ref().is_none_or(|cluster| cluster.is_settled());
        (!is_settled).then_some("joining the cluster")
    }
}
