//! The hosts of a cluster that serve a service, as the cluster knows them. What it knows is believed at once, also that there are none.
//!
//! Whoever can write to the server of the state names these addresses, so some are refused: no host is at one of the link, where clouds
//! have their metadata, and none on this machine unless this host says that it is.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::Endpoint;
use super::follow::{FileEntry, SourceTask, reconcile};
use lodge_manifest::spec::host_of;
use lodge_manifest::upstream::MOST_REPLICAS;
use lodge_manifest::upstream::protocol::Scheme;
use lodge_manifest::upstream::source::{Fixed, Source};

/// An address of the metadata of a cloud that is none of the link.
const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// A host that serves a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServingHost {
    /// Its address, as it says.
    pub fixed: Fixed,
    /// Whether it is in another zone than this host: others are preferred.
    pub is_far: bool,
}

/// The other hosts of a cluster by the services that they serve.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct HostsOfServices {
    /// The hosts of each service.
    pub by_service: BTreeMap<String, Vec<ServingHost>>,
    /// Whether hosts may be on this machine.
    pub on_loopback: bool,
}

/// What is known of the hosts of a cluster, or why nothing is. Clones share it.
#[derive(Clone, Debug)]
pub struct ServingHosts(Arc<watch::Sender<Result<Arc<HostsOfServices>, &'static str>>>);

impl Default for ServingHosts {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Err("this host is in no cluster; set `cluster.name` in lodge.toml"))))
    }
}

impl ServingHosts {
    /// Says that the host is in a cluster, of which nothing is known yet.
    pub fn join(&self) {
        let _before = self.0.send_replace(Err("the other hosts of the cluster are not known yet"));
    }

    /// Replaces what is known.
    pub fn replace(&self, all: HostsOfServices) {
        self.0.send_if_modified(|known| {
            let changed = known.as_ref().map_or(true, |known| **known != all);
            if changed {
                *known = Ok(Arc::new(all));
            }
            changed
        });
    }

    /// Returns the service for which calls to the host name `host` are, if another host serves it. With `tls_only`, only hosts count
    /// whose address is https.
    pub fn called(&self, host: &str, tls_only: bool) -> Option<Arc<str>> {
        let known = self.0.borrow().clone().ok()?;
        let is_served =
            |hosts: &[ServingHost]| hosts.iter().any(|host| !tls_only || host.fixed.scheme == Scheme::Https);
        let named = |(name, hosts): &(&String, &Vec<ServingHost>)| host_of(name) == host && is_served(hosts);
        known.by_service.iter().find(named).map(|(name, _)| Arc::from(name.as_str()))
    }

    /// Whether another host serves this service.
    pub fn serve(&self, service: &str) -> bool {
        self.0.borrow().as_ref().is_ok_and(|known| known.by_service.contains_key(service))
    }
}

impl SourceTask {
    /// Follows the hosts that serve `service` at addresses with `scheme`, for ever. Names of hosts are resolved as those in files.
    pub(super) async fn cluster(self, (scheme, service): (Scheme, Arc<str>), hosts: ServingHosts) {
        let source = Source::Cluster { scheme, service: Arc::clone(&service) };
        let (mut view, mut entries, mut far) = (hosts.0.subscribe(), Vec::<FileEntry>::new(), HashSet::new());
        let (mut first, mut on_loopback) = (true, false);
        loop {
            let known = view.borrow_and_update().clone();
            let problem = match &known {
                Err(why) => Some((*why).to_owned()),
                Ok(all) => {
                    let serving = all.by_service.get(&*service).into_iter().flatten();
                    let serving: Vec<_> =
                        serving.filter(|host| host.fixed.scheme == scheme).take(MOST_REPLICAS).collect();
                    on_loopback = all.on_loopback;
                    far = serving.iter().filter(|host| host.is_far).map(|host| host.fixed.to_string()).collect();
                    reconcile(&mut entries, serving.iter().map(|host| host.fixed.clone()).collect());
                    let at = if scheme == Scheme::Https { "https" } else { "http" };
                    entries
                        .is_empty()
                        .then(|| format!("no other host of the cluster serves {service} at an address with {at}"))
                }
            };
            self.resolve_due(&source, &mut entries).await;
            let mut refused = None;
            let found = entries.iter().flat_map(|entry| entry.state.known().iter().map(move |found| (entry, found)));
            let found = found.filter(|(entry, found)| {
                let is_admitted = is_admitted(found.target.address.ip(), on_loopback);
                if !is_admitted {
                    refused = Some(format!(
                        "{}: a host of a cluster cannot be at {}",
                        entry.fixed,
                        found.target.address.ip()
                    ));
                }
                is_admitted
            });
            let endpoint = |(entry, found): (&FileEntry, &Endpoint)| {
                let mut endpoint = Endpoint { is_far: far.contains(&entry.fixed.to_string()), ..found.clone() };
                endpoint.target.other = endpoint.target.other.filter(|other| is_admitted(other.ip(), on_loopback));
                endpoint
            };
            self.shared.put(self.at, found.map(endpoint).collect());
            let of_host =
                || entries.iter().find_map(|entry| Some(format!("{}: {}", entry.fixed, entry.error.as_ref()?)));
            self.shared.source_errors.put(self.at, problem.or(refused).or_else(of_host));
            if std::mem::take(&mut first) {
                self.shared.finish_first_round();
            }
            let named = entries.iter().filter(|entry| entry.fixed.address().is_none());
            let next = named.map(|entry| entry.next).min();
            let due = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next.max(Instant::now() + self.pace.file).into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = view.changed() => if changed.is_err() { std::future::pending::<()>().await },
                () = due => {}
            }
        }
    }
}

/// Whether a host of a cluster may be at this address.
fn is_admitted(ip: IpAddr, on_loopback: bool) -> bool {
    let ip = ip.to_canonical();
    let is_of_link = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip == METADATA,
    };
    !is_of_link && !ip.is_unspecified() && !ip.is_multicast() && (on_loopback || !ip.is_loopback())
}

#[cfg(test)]
mod tests;
