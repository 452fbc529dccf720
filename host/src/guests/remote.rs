//! Services that only other hosts of the cluster have, for calls of guests of this one.
//!
//! Each is an upstream whose replicas are these hosts, with the default limits. It is in no snapshot: clients of this host cannot reach
//! it, and no other host takes it for a service of this one.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::deployer::Deployer;
use super::target::Target;
use lodge_base::config::Config;
use lodge_base::config::cluster::RemoteCalls;
use lodge_base::lock::lock;
use lodge_manifest::Manifest;
use lodge_manifest::digest::Digest;
use lodge_manifest::spec::GuestSpec;
use lodge_manifest::upstream::protocol::Scheme;
use lodge_traffic::admission::{Admission, SharedLimits};
use lodge_traffic::upstreams::discover::cluster::ServingHosts;

/// The most services of other hosts that are called.
const MOST_SERVICES: usize = 1_000;

/// The most hosts that a text names.
const SHOWN: usize = 8;

/// The least time between two log lines about calls of one service that lead nowhere.
const QUIET: Duration = Duration::from_secs(60);

/// Where services are that only other hosts of the cluster have, and whether calls go there.
#[derive(Clone)]
pub struct ServicesElsewhere {
    hosts: ServingHosts,
    calls: RemoteCalls,
}

/// A service that only other hosts of the cluster have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceElsewhere {
    /// The hosts with their addresses, as texts; the first ones.
    pub hosts: Vec<String>,
    /// Why calls do not go there, and what to set.
    pub problem: Option<&'static str>,
}

impl ServicesElsewhere {
    /// Returns what is known of these hosts, for a host with these settings.
    pub fn new(hosts: ServingHosts, config: &Config) -> Self {
        Self { hosts, calls: config.cluster.calls }
    }

    /// Returns where the service is that calls to the host name `host` are for, if other hosts have it.
    pub fn find(&self, host: &str) -> Option<ServiceElsewhere> {
        let hosts = self.hosts.of(host);
        let over_tls = hosts.iter().any(|host| host.fixed.scheme == Scheme::Https);
        let problem = match self.calls {
            _ if hosts.is_empty() => return None,
            RemoteCalls::Off if over_tls => Some("`cluster.calls` is off; set it to \"https\" in lodge.toml"),
            RemoteCalls::Off => {
                Some("`cluster.calls` is off, and its address is http; set it to \"any\" in lodge.toml")
            }
            RemoteCalls::Https if !over_tls => {
                Some("`cluster.calls` is \"https\", and its address is http; set \"any\" in lodge.toml")
            }
            RemoteCalls::Https | RemoteCalls::Any => None,
        };
        let hosts = hosts.iter().take(SHOWN).map(|host| format!("{} ({})", host.name, host.fixed)).collect();
        Some(ServiceElsewhere { hosts, problem })
    }
}

impl fmt::Display for ServiceElsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.hosts.len() == 1 { "" } else { "s" };
        write!(f, "on host{s} {}", self.hosts.join(", "))?;
        self.problem.map_or(Ok(()), |problem| write!(f, ", but {problem}"))
    }
}

/// The services of other hosts that guests have called.
pub struct RemoteServices {
    deployer: Arc<Deployer>,
    config: Arc<Config>,
    shared_limits: Arc<SharedLimits>,
    hosts: ServingHosts,
    elsewhere: ServicesElsewhere,
    /// When the log was last told of calls that lead nowhere, by their hosts.
    told: Mutex<HashMap<String, Instant>>,
    /// The targets by the hosts of calls.
    targets: Mutex<HashMap<String, Arc<Target>>>,
    /// Held while a target is made, so that each is made once.
    making: tokio::sync::Mutex<()>,
}

impl RemoteServices {
    /// Returns them for a host of a cluster.
    pub fn new(deployer: &Arc<Deployer>, config: &Arc<Config>, shared_limits: Arc<SharedLimits>) -> Option<Self> {
        config.cluster.name.is_some().then(|| Self {
            deployer: Arc::clone(deployer),
            config: Arc::clone(config),
            shared_limits,
            hosts: deployer.upstreams.serving_hosts(),
            elsewhere: ServicesElsewhere::new(deployer.upstreams.serving_hosts(), config),
            told: Mutex::default(),
            targets: Mutex::default(),
            making: tokio::sync::Mutex::default(),
        })
    }

    /// Returns the target of calls to the host name `host`, which no service of this host has; `None` if no other host of the
    /// cluster serves it at an address to which calls may go. The log says so if one does at another address.
    pub async fn target(&self, host: &str) -> Option<Arc<Target>> {
        if let Some(known) = self.known(host) {
            return Some(known);
        }
        let is_off = self.config.cluster.calls == RemoteCalls::Off;
        let Some(service) = self.hosts.called(host, self.is_tls_only()).filter(|_| !is_off) else {
            self.tell(host);
            return None;
        };
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

    /// Writes a line about calls to `host` that lead nowhere although other hosts serve it: once a minute.
    fn tell(&self, host: &str) {
        let Some(elsewhere) = self.elsewhere.find(host) else { return };
        let mut told = lock(&self.told);
        if told.get(host).is_some_and(|at| at.elapsed() < QUIET) {
            return;
        }
        if told.len() >= MOST_SERVICES {
            told.clear();
        }
        told.insert(host.to_owned(), Instant::now());
        tracing::warn!("calls to {host} are 404: the service is {elsewhere} (said once a minute)");
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
            middleware: Vec::new(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use lodge_manifest::spec::host_of;
    use lodge_manifest::upstream::source::Source;
    use lodge_traffic::upstreams::discover::cluster::{HostsOfServices, ServingHost};

    #[test]
    fn services_elsewhere_in_words() {
        let hosts = ServingHosts::default();
        let find = |calls, host: &str| {
            ServicesElsewhere { hosts: hosts.clone(), calls }.find(host).map(|found| found.to_string())
        };
        assert_eq!(find(RemoteCalls::Any, "users.internal"), None, "in no cluster");
        let host = |name: &str, url: &str| {
            let Ok(Source::Fixed(fixed)) = Source::parse(url) else { panic!("{url}") };
            Arc::new(ServingHost { name: name.into(), fixed, is_far: false })
        };
        let by_service = [
            ("users".to_owned(), vec![host("vm", "http://10.0.0.2:8080")]),
            ("orders".to_owned(), vec![host("vm", "http://10.0.0.2:8080"), host("w", "https://10.0.0.3:8443")]),
        ];
        hosts.replace(HostsOfServices { by_service: by_service.into(), ..HostsOfServices::default() });
        let (users, orders) = (host_of("users"), host_of("orders"));
        let on_vm = "on host vm (http://10.0.0.2:8080";
        let said = |calls, host: &str| find(calls, host).unwrap();
        assert!(said(RemoteCalls::Any, &users).starts_with(on_vm) && !said(RemoteCalls::Any, &users).contains("but"));
        let https = said(RemoteCalls::Https, &users);
        assert!(https.contains("), but `cluster.calls` is \"https\", and its address is http; set \"any\""), "{https}");
        let off = said(RemoteCalls::Off, &users);
        assert!(off.contains("is off, and its address is http; set it to \"any\" in lodge.toml"), "{off}");
        assert!(said(RemoteCalls::Off, &orders).contains("is off; set it to \"https\""));
        let both = said(RemoteCalls::Https, &orders);
        assert!(
            both.starts_with("on hosts vm (http")
                && both.contains(", w (https://10.0.0.3:8443")
                && !both.contains("but")
        );
        assert_eq!(find(RemoteCalls::Any, &host_of("nobody")), None);
    }
}
