//! The status of an upstream for operators: its settings, its sources, and its replicas.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::Upstream;
use super::health::HealthStatus;
use super::replicas::Replica;
use super::tls::ReplicaTls;
use super::transport::Pool;
use crate::live_files::OF_SERVICE;
use crate::upstreams::transport::AnyBody;
use lodge_base::time::rfc3339;
use lodge_manifest::upstream::source::Source;

impl Upstream {
    /// Returns why files and names of replicas cannot be used now, a line each, with what is in force.
    pub fn problems(&self) -> Vec<String> {
        let tls = self.inner.tls.as_ref().and_then(ReplicaTls::problem).map(|why| format!("{why}; {OF_SERVICE}"));
        let directory = self.deployment.spec.path.parent().unwrap_or(Path::new(""));
        let sources = self.spec().sources(directory).into_iter().enumerate();
        let unresolved = sources.filter_map(|(at, source)| {
            let (source, why) = (shown(source), self.inner.source_errors.of(at)?);
            Some(format!("upstream: {source}: {why}; the addresses that were found before stay in use"))
        });
        tls.into_iter().chain(unresolved).collect()
    }
}

fn shown(source: Source) -> String {
    match source {
        Source::File(path) => path.display().to_string(),
        named => named.to_string(),
    }
}

/// The current state of a replica.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct ReplicaStatus {
    /// Its URL, with its address if that differs.
    pub url: String,
    /// Its share of the requests, relative to the weights of the others.
    pub weight: u32,
    /// `available`, `down` or `ejected`.
    pub state: Cow<'static, str>,
    /// Why it is not available.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// When an ejected replica is tried again, in RFC 3339. A replica that is down has no such time: its checks have to
    /// pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Requests in flight at it.
    pub in_flight: usize,
    /// Open connections to it.
    pub connections: usize,
}

/// The settings and sources of an upstream.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct UpstreamStatus {
    /// Every effective key, in the form in which a manifest writes it.
    pub settings: BTreeMap<Cow<'static, str>, String>,
    /// The sources of its replicas, as in the manifest.
    pub sources: Vec<SourceStatus>,
    /// The certificate of this host for the replicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<UpstreamCertificate>,
    /// Why the present files of `tls` cannot be used. Those before remain in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_fails: Option<String>,
}

/// The certificate of this host for the replicas of an upstream.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct UpstreamCertificate {
    /// Its subject.
    pub subject: String,
    /// The URIs and DNS names that it is for.
    pub names: Vec<String>,
    /// When it expires, or another certificate of its chain, in RFC 3339.
    pub expires: String,
}

/// A source of replica addresses: a fixed URL, a DNS name, a Service of Kubernetes, or a file.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct SourceStatus {
    /// The source, as in the manifest.
    pub source: String,
    /// Why the last lookup failed. The addresses that were found before remain in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fails: Option<String>,
}

impl Upstream {
    /// Returns whether no replica is available: none is known, or each one is down or ejected.
    pub fn is_down(&self) -> bool {
        !self.replicas().iter().any(|replica| replica.state == "available")
    }

    /// Returns the state of each replica.
    pub fn replicas(&self) -> Vec<ReplicaStatus> {
        let (members, now) = (self.inner.members.load(), Instant::now());
        members
            .replicas
            .iter()
            .zip(&members.pools)
            .map(|((replica, weight), pool)| replica_status(replica, weight, pool, now))
            .collect()
    }

    /// Returns how many sources have an error.
    pub fn failing_sources(&self) -> usize {
        self.inner.source_errors.len()
    }

    /// Returns the settings and the state of each source.
    pub fn status(&self) -> UpstreamStatus {
        let spec = self.spec();
        let source_status = |(at, source): (usize, Source)| SourceStatus {
            source: shown(source),
            fails: self.inner.source_errors.of(at),
        };
        let sources = spec.sources(Path::new("")).into_iter().enumerate().map(source_status).collect();
        let settings = spec.shown().into_iter().map(|(key, value)| (Cow::Borrowed(key), value));
        let certificate = self.certificate().map(|own| UpstreamCertificate {
            subject: own.names.subject,
            names: own.names.uris.into_iter().chain(own.names.dns).collect(),
            expires: rfc3339(UNIX_EPOCH + Duration::from_secs(u64::try_from(own.not_after).unwrap_or_default())),
        });
        let tls_fails = self.inner.tls.as_ref().and_then(ReplicaTls::problem);
        UpstreamStatus { settings: settings.collect(), sources, certificate, tls_fails }
    }
}

fn replica_status(replica: &Arc<Replica>, weight: u32, pool: &Pool<AnyBody>, now: Instant) -> ReplicaStatus {
    let (state, until) = match replica.status(now) {
        HealthStatus::Available => ("available", None),
        HealthStatus::Down => ("down", None),
        HealthStatus::Ejected(left) => ("ejected", SystemTime::now().checked_add(left).map(rfc3339)),
    };
    ReplicaStatus {
        url: replica.address.to_string(),
        weight,
        state: state.into(),
        why: if state == "available" { None } else { replica.cause() },
        until,
        in_flight: replica.in_flight(),
        connections: pool.open(),
    }
}
