//! What a host knows of its cluster, and how that is shown.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::members::{KnownHost, KnownHosts};
use super::record::HostRecord;
use super::status::{ClusterMember, ClusterStatus};

/// What a host knows of its cluster.
#[derive(Default)]
pub(super) struct ClusterView {
    pub(super) members: KnownHosts,
    /// What this host says of itself.
    pub(super) own: HostRecord,
    /// The name that the newest leader has written.
    pub(super) leader: Option<String>,
    /// When this host has first tried to register.
    pub(super) started: Option<Instant>,
    /// When this host has last renewed its record, by the clock for ages and by that for people.
    pub(super) renewed: Option<(Instant, SystemTime)>,
    /// Why another process has the name of this host.
    pub(super) taken: Option<String>,
    /// Why the store cannot be used, and since when.
    pub(super) away: Option<(String, Instant)>,
    /// Whether this host has left.
    pub(super) left: bool,
}

impl ClusterView {
    /// Returns the name of the leader, if that is a known host.
    fn leader(&self, own: &str) -> Option<String> {
        self.leader.clone().filter(|name| name == own && !self.left || self.members.contains(name))
    }

    /// Returns what operators see.
    pub(super) fn status(&self, cluster: &str, own: &str, now: Instant) -> ClusterStatus {
        let state = match self {
            _ if self.left => "left",
            _ if self.away.is_some() => "away",
            _ if self.taken.is_some() => "name-taken",
            _ if self.renewed.is_none() => "joining",
            _ => "member",
        };
        let ago = |then: Instant| rounded(now.saturating_duration_since(then));
        let renewed = self.renewed.map(|(at, _)| at);
        let this = ClusterMember {
            this: true,
            known_seconds: self.started.map_or(0.0, ago),
            renewed_seconds: renewed.map_or(0.0, ago),
            ..described(own, &self.own)
        };
        let other = |(name, member): (&str, &KnownHost)| ClusterMember {
            known_seconds: ago(member.since),
            renewed_seconds: ago(member.renewed),
            ..described(name, &member.record)
        };
        let mut members: Vec<_> = self.members.iter().map(other).chain([this]).collect();
        members.sort_by(|a, b| a.name.cmp(&b.name).then(b.this.cmp(&a.this)));
        let away = self.away.as_ref().map(|(why, since)| {
            format!("the cluster cannot be reached for {}s, and what is shown may be out of date: {why}", ago(*since))
        });
        ClusterStatus {
            cluster: Some(cluster.to_owned()),
            host: own.to_owned(),
            state: state.into(),
            problem: away.or_else(|| self.taken.clone()),
            leader: self.leader(own),
            renewed_seconds: renewed.map(ago),
            read_seconds: self.members.read.map(ago),
            members,
            ignored: self.members.ignored,
            truncated: self.members.truncated,
        }
    }

    /// When the record of this host was last renewed, in seconds since 1970; 0 if it never was.
    pub(super) fn renewed_at(&self) -> f64 {
        let since = self.renewed.and_then(|(_, at)| at.duration_since(UNIX_EPOCH).ok());
        since.unwrap_or_default().as_secs_f64()
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
        services: record.services.clone(),
        more: record.more,
        ..ClusterMember::default()
    }
}

/// Seconds to a tenth.
fn rounded(age: Duration) -> f64 {
    (age.as_secs_f64() * 10.0).round() / 10.0
}
