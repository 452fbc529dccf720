//! The hosts of a cluster that serve a service, as the cluster knows them. What it knows is believed at once, also that there are none.
//!
//! Whoever can write to the server of the state names these addresses, so some are refused: no host is at one of the link, where clouds
//! have their metadata, and none on this machine unless this host says that it is.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tokio::sync::watch;

use super::Endpoint;
use super::follow::{FileEntry, SourceTask, reconcile};
use crate::proxy::host_key::{HostKey, KeyDigest};
use lodge_base::address::is_public;
use lodge_manifest::spec::host_of;
use lodge_manifest::upstream::MOST_REPLICAS;
use lodge_manifest::upstream::protocol::Scheme;
use lodge_manifest::upstream::source::{Fixed, Source};

/// An address of the metadata of a cloud that is none of the link.
const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// A host that serves a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServingHost {
    /// Its name in the cluster.
    pub name: Arc<str>,
    /// Its address, as it says.
    pub fixed: Fixed,
    /// Whether it is in another zone than this host: others are preferred.
    pub is_far: bool,
}

/// The other hosts of a cluster by the services that they serve.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct HostsOfServices {
    /// The hosts of each service. A host is one value for all of its services.
    pub by_service: BTreeMap<String, Vec<Arc<ServingHost>>>,
    /// The names of all of them by their keys, also of those that serve nothing.
    pub keys: HashMap<KeyDigest, Arc<str>>,
    /// Whether hosts may be on this machine.
    pub on_loopback: bool,
}

/// What is known of the hosts of a cluster, or why nothing is. Clones share it.
#[derive(Clone, Debug)]
pub struct ServingHosts(Arc<SharedHosts>);

#[derive(Debug)]
struct SharedHosts {
    others: watch::Sender<Result<Arc<HostsOfServices>, &'static str>>,
    /// The key of this host, if it is in a cluster.
    own: OnceLock<HostKey>,
}

impl Default for ServingHosts {
    fn default() -> Self {
        let others = watch::Sender::new(Err("this host is in no cluster; set `cluster.name` in lodge.toml"));
        Self(Arc::new(SharedHosts { others, own: OnceLock::new() }))
    }
}

impl ServingHosts {
    /// Says that the host is in a cluster, of which nothing is known yet, and which key it has there.
    pub fn join(&self, own: HostKey) {
        let _first = self.0.own.set(own);
        let _before = self.0.others.send_replace(Err("the other hosts of the cluster are not known yet"));
    }

    /// Returns the key of this host, for what it forwards.
    pub fn own_key(&self) -> Option<&HostKey> {
        self.0.own.get()
    }

    /// Replaces what is known.
    pub fn replace(&self, all: HostsOfServices) {
        self.0.others.send_if_modified(|known| {
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
        let known = self.0.others.borrow().clone().ok()?;
        let is_served =
            |hosts: &[Arc<ServingHost>]| hosts.iter().any(|host| !tls_only || host.fixed.scheme == Scheme::Https);
        let named = |(name, hosts): &(&String, &Vec<Arc<ServingHost>>)| host_of(name) == host && is_served(hosts);
        known.by_service.iter().find(named).map(|(name, _)| Arc::from(name.as_str()))
    }

    /// Returns the name of the other host with this key.
    pub fn host(&self, key: &HostKey) -> Option<Arc<str>> {
        let known = self.0.others.borrow();
        known.as_ref().ok()?.keys.get(&key.digest()).map(Arc::clone)
    }

    /// Whether the other host with this name serves a service.
    pub fn has(&self, service: &str, name: &str) -> bool {
        let known = self.0.others.borrow();
        let hosts = known.as_ref().ok().and_then(|known| known.by_service.get(service));
        hosts.is_some_and(|hosts| hosts.iter().any(|host| *host.name == *name))
    }

    /// Returns the hosts that serve the service for which calls to the host name `host` are.
    pub fn of(&self, host: &str) -> Vec<Arc<ServingHost>> {
        let Ok(known) = self.0.others.borrow().clone() else { return Vec::new() };
        let named = known.by_service.iter().find(|(name, _)| host_of(name) == host);
        named.map_or_else(Vec::new, |(_, hosts)| hosts.clone())
    }

    /// Whether another host serves this service.
    pub fn serve(&self, service: &str) -> bool {
        self.0.others.borrow().as_ref().is_ok_and(|known| known.by_service.contains_key(service))
    }
}

/// The hosts that serve a service at addresses with one scheme, as a source of replicas.
struct ClusterSource {
    task: SourceTask,
    scheme: Scheme,
    service: Arc<str>,
    entries: Vec<FileEntry>,
    /// The hosts in other zones, as they are written.
    far: HashSet<String>,
    on_loopback: bool,
    /// Why there are no replicas.
    problem: Option<String>,
}

/// Follows the hosts that serve services, for ever: a service and a scheme for each source. Names of hosts are resolved as those in files.
///
/// What changes in several sources is published at once: if a host with https leaves when one with http has joined, there is no moment
/// without any.
pub(super) async fn follow(sources: Vec<(SourceTask, Scheme, Arc<str>)>, hosts: ServingHosts) {
    let mut sources: Vec<_> = sources.into_iter().map(ClusterSource::new).collect();
    let Some(shared) = sources.first().map(|source| Arc::clone(&source.task.shared)) else { return };
    let (mut view, mut first) = (hosts.0.others.subscribe(), true);
    loop {
        let known = view.borrow_and_update().clone();
        let mut found = Vec::with_capacity(sources.len());
        for source in &mut sources {
            source.take(&known);
            source.resolve().await;
            found.push((source.task.at, source.endpoints()));
        }
        shared.put_all(found);
        for source in &sources {
            shared.source_errors.put(source.task.at, source.error());
            if first {
                shared.finish_first_round();
            }
        }
        first = false;
        let next = sources.iter().filter_map(ClusterSource::next).min();
        let due = async {
            match next {
                Some(next) => tokio::time::sleep_until(next.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = view.changed() => if changed.is_err() { std::future::pending::<()>().await },
            () = due => {}
        }
    }
}

impl ClusterSource {
    fn new((task, scheme, service): (SourceTask, Scheme, Arc<str>)) -> Self {
        let (entries, far) = (Vec::new(), HashSet::new());
        Self { task, scheme, service, entries, far, on_loopback: false, problem: None }
    }

    /// Takes over what is known of hosts. While nothing is, those before stay.
    fn take(&mut self, known: &Result<Arc<HostsOfServices>, &'static str>) {
        self.problem = match known {
            Err(why) => Some((*why).to_owned()),
            Ok(all) => {
                let serving = all.by_service.get(&*self.service).into_iter().flatten();
                let serving: Vec<_> =
                    serving.filter(|host| host.fixed.scheme == self.scheme).take(MOST_REPLICAS).collect();
                self.on_loopback = all.on_loopback;
                self.far = serving.iter().filter(|host| host.is_far).map(|host| host.fixed.to_string()).collect();
                reconcile(&mut self.entries, serving.iter().map(|host| host.fixed.clone()).collect());
                let (service, at) = (&self.service, if self.scheme == Scheme::Https { "https" } else { "http" });
                let is_empty = self.entries.is_empty();
                is_empty.then(|| format!("no other host of the cluster serves {service} at an address with {at}"))
            }
        };
    }

    async fn resolve(&mut self) {
        let source = Source::Cluster { scheme: self.scheme, service: Arc::clone(&self.service) };
        self.task.resolve_due(&source, &mut self.entries).await;
    }

    fn found(&self) -> impl Iterator<Item = (&FileEntry, &Endpoint)> {
        self.entries.iter().flat_map(|entry| entry.state.known().iter().map(move |found| (entry, found)))
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        let found = self.found().filter(|(_, found)| is_admitted(found.target.address.ip(), self.on_loopback));
        let endpoint = |(entry, found): (&FileEntry, &Endpoint)| {
            let mut endpoint = Endpoint { is_far: self.far.contains(&entry.fixed.to_string()), ..found.clone() };
            endpoint.target.other = endpoint.target.other.filter(|other| is_admitted(other.ip(), self.on_loopback));
            endpoint
        };
        found.map(endpoint).collect()
    }

    /// Returns why there are no replicas, or why not all hosts are.
    fn error(&self) -> Option<String> {
        let refused = || {
            let addresses = self.found().map(|(entry, found)| (entry, found.target.address.ip()));
            let refused = addresses.filter(|(_, ip)| !is_admitted(*ip, self.on_loopback)).last();
            refused.map(|(entry, ip)| format!("{}: a host of a cluster cannot be at {ip}", entry.fixed))
        };
        let of_host =
            || self.entries.iter().find_map(|entry| Some(format!("{}: {}", entry.fixed, entry.error.as_ref()?)));
        self.problem.clone().or_else(refused).or_else(of_host)
    }

    /// Returns when the next name is to be resolved, if there are names.
    fn next(&self) -> Option<Instant> {
        let named = self.entries.iter().filter(|entry| entry.fixed.address().is_none());
        named.map(|entry| entry.next).min().map(|next| next.max(Instant::now() + self.task.pace.file))
    }
}

/// Whether a host of a cluster may be at this address.
fn is_admitted(ip: IpAddr, on_loopback: bool) -> bool {
    let ip = ip.to_canonical();
    if ip.is_loopback() {
        return on_loopback;
    }
    match ip {
        IpAddr::V4(v4) => !(v4.is_link_local() || v4.is_broadcast() || v4.is_unspecified() || v4.is_multicast()),
        // Others are of the link, or contain an address of IPv4, by which a gateway or a kernel may lead anywhere.
        IpAddr::V6(v6) => is_public(ip) || (v6.is_unique_local() && v6 != METADATA),
    }
}

#[cfg(test)]
mod tests;
