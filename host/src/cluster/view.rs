//! What a host knows of its cluster, and how that is shown.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lodge_manifest::upstream::source::{Fixed, Source};
use lodge_traffic::upstreams::cluster_calls::{ClusterCalls, HostCallCounts};
use lodge_traffic::upstreams::discover::cluster::{HostsOfServices, ServingHost};
use tokio::time::Instant;

use super::members::{KnownHost, KnownHosts};
use super::record::HostRecord;
use super::roster::ReadingPlace;
use super::status::{ClusterCall, ClusterMember, ClusterStatus, STATES};

/// The most services that are shown of all hosts together. Further ones are counted.
const MOST_SERVICES: usize = 20_000;

/// What can fail, and its places in lists of failures.
pub(super) const OPERATIONS: [&str; 4] = ["renew", "read", "elect", "rates"];
pub(super) const RENEW: usize = 0;
pub(super) const READ: usize = 1;
pub(super) const ELECT: usize = 2;
pub(super) const RATES: usize = 3;

/// What a host knows of its cluster.
#[derive(Default)]
pub(super) struct ClusterView {
    pub(super) members: KnownHosts,
    /// How far the readings have got.
    pub(super) reading: ReadingPlace,
    /// What this host says of itself.
    pub(super) own: Arc<HostRecord>,
    /// The name that the newest leader has written.
    pub(super) leader: Option<String>,
    /// When this host has first tried to register.
    pub(super) started: Option<Instant>,
    /// Whether the record of this host has said all that it serves, or could not because another process has its name
    /// that does not end.
    pub(super) announced: bool,
    /// When this host has last renewed its record, by the clock for ages and by that for people.
    pub(super) renewed: Option<(Instant, SystemTime)>,
    /// Why another process has the name of this host.
    pub(super) taken: Option<String>,
    /// Why each operation fails, and since when.
    pub(super) failing: [Option<(String, Instant)>; OPERATIONS.len()],
    /// Until when hosts stay known without their records.
    pub(super) unsettled: Option<Instant>,
    /// Until when this host does not lead, since the store has lost its record, and may have lost the lease of another host.
    pub(super) missed: Option<Instant>,
    /// Whether this host has left.
    pub(super) left: bool,
}

impl ClusterView {
    /// Whether hosts stay known without their records.
    pub(super) fn is_unsettled(&self, now: Instant) -> bool {
        self.unsettled.is_some_and(|until| now < until)
    }

    /// Whether the record of this host was renewed within `ttl`, and no other process has its name.
    pub(super) fn is_member(&self, ttl: Duration, now: Instant) -> bool {
        self.taken.is_none() && self.renewed.is_some_and(|(at, _)| now.saturating_duration_since(at) < ttl)
    }

    /// Known hosts, and this one unless another process has its name.
    pub(super) fn count(&self) -> u64 {
        self.members.len() as u64 + u64::from(self.taken.is_none())
    }

    /// Returns the state of this host, one of [`STATES`].
    pub(super) fn state(&self) -> &'static str {
        match self {
            _ if self.left => "left",
            _ if self.failing.iter().any(Option::is_some) => "away",
            _ if self.taken.is_some() => "name-taken",
            _ if self.renewed.is_none() => "joining",
            _ => "member",
        }
    }

    /// Returns the place of the state in [`STATES`].
    pub(super) fn state_number(&self) -> u64 {
        STATES.iter().position(|state| *state == self.state()).unwrap_or_default() as u64
    }

    /// Returns the name of the leader, if that is a known host. `leads` says whether this host leads.
    fn leader(&self, own: &str, leads: bool) -> Option<String> {
        self.leader.clone().filter(|name| match name == own && self.taken.is_none() {
            true => leads,
            false => self.members.contains(name),
        })
    }

    /// Returns what operators see, without copying what hosts serve.
    pub(super) fn shown(&self, cluster: &str, own: &str, leads: bool, now: Instant) -> ShownCluster {
        let ago = |then: Instant| rounded(now.saturating_duration_since(then));
        let renewed = self.renewed.map(|(at, _)| at);
        let this = ClusterMember {
            this: true,
            known_seconds: self.started.map_or(0.0, ago),
            renewed_seconds: renewed.map(ago),
            ..described(own, &self.own)
        };
        let this = self.taken.is_none().then(|| (this, Arc::clone(&self.own)));
        let other = |(name, member): (&str, &KnownHost)| {
            let shown = ClusterMember {
                known_seconds: ago(member.since),
                renewed_seconds: Some(ago(member.renewed)),
                ..described(name, &member.record)
            };
            (shown, Arc::clone(&member.record))
        };
        // The record under the name of this host is that of the process which has the name.
        let others = self.members.iter().filter(|(name, _)| this.is_none() || *name != own).map(other);
        let mut members: Vec<_> = others.chain(this.clone()).collect();
        members.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        let (members, records) = members.into_iter().unzip();
        let failing = self
            .failing
            .iter()
            .flatten()
            .min_by_key(|(_, since)| *since)
            .map(|(why, since)| format!("for {}s, {why}; what is shown may be out of date", ago(*since)));
        let status = ClusterStatus {
            cluster: Some(cluster.to_owned()),
            host: own.to_owned(),
            state: self.state().into(),
            problem: failing.or_else(|| self.taken.clone()),
            leader: self.leader(own, leads),
            renewed_seconds: renewed.map(ago),
            read_seconds: self.members.read.map(ago),
            members,
            calls: Vec::new(),
            ignored: self.members.ignored,
            truncated: self.members.truncated,
        };
        ShownCluster { status, records }
    }

    /// Returns which other hosts serve what, for a host in `zone` with the address `own`.
    pub(super) fn serving(&self, zone: Option<&str>, own: Option<&str>) -> HostsOfServices {
        let on_loopback = own.and_then(place).is_some_and(|own| match own.address() {
            Some(ip) => ip.is_loopback(),
            None => &*own.host == "localhost",
        });
        let mut all = HostsOfServices { on_loopback, ..HostsOfServices::default() };
        for (name, host) in self.members.iter() {
            let (name, address) =
                (Arc::<str>::from(name), host.record.address.as_deref().filter(|address| Some(*address) != own));
            all.keys.extend(host.record.key.as_ref().map(|key| (key.digest(), Arc::clone(&name))));
            let Some(fixed) = address.and_then(place) else { continue };
            let is_far = zone.is_some_and(|zone| host.record.zone.as_deref() != Some(zone));
            let serving = Arc::new(ServingHost { name, fixed, is_far });
            // Requests are for a service, which gives its versions their shares.
            for service in host.record.services.keys().filter(|name| !name.contains('@')) {
                match all.by_service.get_mut(service) {
                    Some(hosts) => hosts.push(Arc::clone(&serving)),
                    None => drop(all.by_service.insert(service.clone(), vec![Arc::clone(&serving)])),
                }
            }
        }
        all
    }

    /// When the record of this host was last renewed, in seconds since 1970; 0 if it never was.
    pub(super) fn renewed_at(&self) -> f64 {
        let since = self.renewed.and_then(|(_, at)| at.duration_since(UNIX_EPOCH).ok());
        since.unwrap_or_default().as_secs_f64()
    }
}

/// What operators see of a cluster. What hosts serve is shared with the records until [`status`](Self::status) copies it.
pub(super) struct ShownCluster {
    status: ClusterStatus,
    /// The records of the members.
    records: Vec<Arc<HostRecord>>,
}

impl ShownCluster {
    /// Adds what this host has sent to others.
    pub(super) fn with_calls(mut self, calls: &ClusterCalls) -> Self {
        let is_at = |member: &&ClusterMember, url: &str| {
            member.address.as_deref().is_some_and(|address| address.trim_end_matches('/') == url)
        };
        let call = |(service, address, counts): (Arc<str>, String, Arc<HostCallCounts>)| {
            let (sent, seconds) = counts.sent();
            ClusterCall {
                service: service.to_string(),
                host: self
                    .status
                    .members
                    .iter()
                    .find(|member| is_at(member, &address))
                    .map(|member| member.name.clone()),
                address,
                sent,
                retried: counts.retried.load(Relaxed),
                failed: counts.failed.load(Relaxed),
                mean_seconds: if sent == 0 { 0.0 } else { seconds / sent as f64 },
            }
        };
        self.status.calls = calls.read().into_iter().map(call).collect();
        self
    }

    /// Returns all of it. Services beyond the bound for all hosts are counted.
    pub(super) fn status(mut self) -> ClusterStatus {
        let mut room = MOST_SERVICES;
        for (member, record) in self.status.members.iter_mut().zip(&self.records) {
            member.services = record.services.iter().take(room).map(|(name, id)| (name.clone(), id.clone())).collect();
            room -= member.services.len();
            let left_out = record.services.len() - member.services.len();
            member.more = record.more.saturating_add(left_out as u64);
        }
        self.status
    }
}

fn described(name: &str, record: &HostRecord) -> ClusterMember {
    ClusterMember {
        name: name.to_owned(),
        address: record.address.clone(),
        zone: record.zone.clone(),
        version: record.version.clone(),
        in_flight: record.in_flight,
        slots: record.slots,
        ..ClusterMember::default()
    }
}

/// Returns where the URL of a host leads.
fn place(url: &str) -> Option<Fixed> {
    match Source::parse(url).ok()? {
        Source::Fixed(fixed) => Some(fixed),
        _ => None,
    }
}

/// Seconds to a tenth.
fn rounded(age: Duration) -> f64 {
    (age.as_secs_f64() * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests;
