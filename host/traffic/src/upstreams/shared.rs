//! What all upstreams of a host share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use rustls::{ClientConfig, RootCertStore};
use tokio::sync::watch;

use super::Upstream;
use super::cluster_calls::ClusterCalls;
use super::discover::cluster::ServingHosts;
use super::discover::kubernetes::{ServiceWatches, WatchPace};
use super::discover::{Pace, Resolver};
use super::replay::ReplayMemory;
use super::transport::ConnectionLimit;
use crate::proxy::via::Via;
use lodge_base::config;
use lodge_base::lock::lock;

/// What all upstreams of a host share. The resolver and the TLS configuration are made for the first upstream.
pub struct SharedUpstreams {
    /// The bound on the connections to all replicas.
    pub(super) total: Arc<ConnectionLimit>,
    pub(super) resolver: OnceLock<Arc<Resolver>>,
    /// How often sources are resolved.
    pub(super) pace: Pace,
    /// The watches of Services of Kubernetes.
    pub(super) watches: Arc<ServiceWatches>,
    /// The other hosts of the cluster.
    pub(super) hosts: ServingHosts,
    /// The requests that were sent to them.
    pub(super) calls: Arc<ClusterCalls>,
    pub(super) roots: OnceLock<Result<Arc<RootCertStore>, String>>,
    pub(super) tls: OnceLock<Result<Arc<ClientConfig>, String>>,
    pub(super) via: Arc<Via>,
    pub(super) replay_memory: Arc<ReplayMemory>,
    /// The number of open tunnels of all upstreams.
    pub(super) tunnels: watch::Sender<usize>,
    /// The latest upstream of each service: the next one takes over its state.
    pub(super) latest: Mutex<HashMap<Arc<str>, Weak<Upstream>>>,
}

impl SharedUpstreams {
    /// Creates the shared state for at most `connections` connections to replicas. One HTTP/2 connection counts as
    /// four. `kubernetes` says where Services of Kubernetes are known.
    pub fn new(connections: usize, kubernetes: &config::Kubernetes) -> Self {
        Self {
            total: ConnectionLimit::new(connections),
            resolver: OnceLock::new(),
            pace: Pace::default(),
            watches: Arc::new(ServiceWatches::new(kubernetes, WatchPace::default())),
            hosts: ServingHosts::default(),
            calls: Arc::default(),
            roots: OnceLock::new(),
            tls: OnceLock::new(),
            via: Arc::default(),
            replay_memory: Arc::default(),
            tunnels: watch::Sender::default(),
            latest: Mutex::default(),
        }
    }

    /// Returns the latest upstream of a service, unless it has been dropped.
    pub fn last(&self, service: &str) -> Option<Arc<Upstream>> {
        lock(&self.latest).get(service).and_then(Weak::upgrade)
    }

    /// Stores the latest upstream of a service for [`Self::last`].
    pub fn remember(&self, service: &Arc<str>, upstream: &Arc<Upstream>) {
        let mut latest = lock(&self.latest);
        latest.retain(|_, upstream| upstream.strong_count() > 0);
        latest.insert(Arc::clone(service), Arc::downgrade(upstream));
    }

    /// Returns what is known of the other hosts of the cluster, which the cluster replaces.
    pub fn serving_hosts(&self) -> ServingHosts {
        self.hosts.clone()
    }

    /// Returns the requests that were sent to other hosts of the cluster.
    pub fn cluster_calls(&self) -> Arc<ClusterCalls> {
        Arc::clone(&self.calls)
    }

    /// Returns the pseudonym of this host in `Via`.
    pub fn via(&self) -> Arc<Via> {
        Arc::clone(&self.via)
    }

    /// Waits until no tunnel is open.
    pub async fn wait_for_tunnels(&self) {
        // An error would mean that the sender is gone, but `self` holds it.
        let _ = self.tunnels.subscribe().wait_for(|open| *open == 0).await;
    }

    pub(super) fn resolver(&self) -> Arc<Resolver> {
        Arc::clone(self.resolver.get_or_init(|| Arc::new(Resolver::system())))
    }

    pub(super) fn roots(&self) -> Result<Arc<RootCertStore>, String> {
        self.roots.get_or_init(|| lodge_base::tls::system_roots().map(Arc::new)).clone()
    }

    /// The TLS of upstreams without `tls` of their own.
    pub(super) fn tls(&self) -> Result<Arc<ClientConfig>, String> {
        self.tls.get_or_init(|| self.roots().and_then(lodge_base::tls::client).map(Arc::new)).clone()
    }
}
