//! Services that only other hosts of the cluster have, for calls of guests of this one.
//!
//! Each is an upstream whose replicas are these hosts, with the default limits. It is in no snapshot: clients of this host cannot reach
//! it, and no other host takes it for a service of this one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::deployer::Deployer;
use super::target::Target;
use lodge_base::config::Config;
use lodge_base::config::cluster::RemoteCalls;
use lodge_base::lock::lock;
use lodge_manifest::Manifest;
use lodge_manifest::digest::Digest;
use lodge_manifest::spec::GuestSpec;
use lodge_traffic::admission::{Admission, SharedLimits};
use lodge_traffic::upstreams::discover::cluster::ServingHosts;

/// The most services of other hosts that are called.
const MOST_SERVICES: usize = 1_000;

/// The services of other hosts that guests have called.
pub struct RemoteServices {
    deployer: Arc<Deployer>,
    config: Arc<Config>,
    shared_limits: Arc<SharedLimits>,
    hosts: ServingHosts,
    /// The targets by the hosts of calls.
    targets: Mutex<HashMap<String, Arc<Target>>>,
    /// Held while a target is made, so that each is made once.
    making: tokio::sync::Mutex<()>,
}

impl RemoteServices {
    /// Returns them for a host whose guests may call such services.
    pub fn new(deployer: &Arc<Deployer>, config: &Arc<Config>, shared_limits: Arc<SharedLimits>) -> Option<Self> {
        let is_on = config.cluster.name.is_some() && config.cluster.calls != RemoteCalls::Off;
        is_on.then(|| Self {
            deployer: Arc::clone(deployer),
            config: Arc::clone(config),
            shared_limits,
            hosts: deployer.upstreams.serving_hosts(),
            targets: Mutex::default(),
            making: tokio::sync::Mutex::default(),
        })
    }

    /// Returns the target of calls to the host name `host`, which no service of this host has; `None` if no other host of the
    /// cluster serves it.
    pub async fn target(&self, host: &str) -> Option<Arc<Target>> {
        if let Some(known) = self.known(host) {
            return Some(known);
        }
        let service = self.hosts.called(host, self.is_tls_only())?;
        let _making = self.making.lock().await;
        if let Some(known) = self.known(host) {
            return Some(known);
        }
        if self.is_full() {
            tracing::warn!(service = &*service, "{service} of other hosts is not called: {MOST_SERVICES} others are");
            return None;
        }
        let made = self.make(&service).await.inspect_err(|why| {
            tracing::warn!(service = &*service, "{service} of other hosts cannot be called: {why}");
        });
        let target = made.ok()?;
        lock(&self.targets).insert(host.to_owned(), Arc::clone(&target));
        Some(target)
    }

    fn known(&self, host: &str) -> Option<Arc<Target>> {
        lock(&self.targets).get(host).cloned()
    }

    /// Whether there is no room for another target, also without those that no host serves any more.
    fn is_full(&self) -> bool {
        let mut targets = lock(&self.targets);
        if targets.len() >= MOST_SERVICES {
            targets.retain(|_, target| self.hosts.serve(&target.deployment().name));
        }
        targets.len() >= MOST_SERVICES
    }

    fn is_tls_only(&self) -> bool {
        self.config.cluster.calls == RemoteCalls::Https
    }

    async fn make(&self, service: &str) -> Result<Arc<Target>, String> {
        let plain = if self.is_tls_only() { String::new() } else { format!(", \"cluster://{service}\"") };
        let text = format!("[upstream]\nreplicas = [\"cluster+https://{service}\"{plain}]\n");
        let manifest = Manifest::read(service, &text, &self.config.limits, self.config.engine.max_memory);
        let spec = GuestSpec {
            name: service.to_owned(),
            path: self.config.guests.join(format!("{service}.toml")),
            content: None,
            digest: Digest::of(text.as_bytes()),
            size: 0,
            manifest: manifest.map_err(|problems| problems.join("; "))?,
        };
        let backend = self.deployer.deploy(spec).await.map_err(|refusal| refusal.to_string())?;
        let deployment = &backend.deployment;
        let said = (deployment.limits(), &deployment.spec.manifest.policies);
        let admission = Admission::new(&deployment.name, said, &self.shared_limits, None, Instant::now());
        admission.activate();
        Ok(Target::service(None, backend, Arc::new(admission), Vec::new()))
    }
}
