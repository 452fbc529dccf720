//! An upstream for people: how it is set, where its replicas are said to be, and how each of them does.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use serde::Serialize;

use super::Upstream;
use super::health::HealthStatus;
use super::replicas::Replica;
use super::transport::Pool;
use crate::base::time::rfc3339;
use crate::manifest::upstream::source::Source;
use crate::upstreams::transport::AnyBody;

/// What a replica is at the moment.
#[derive(Clone, Debug, Serialize)]
pub struct ReplicaStatus {
    /// Where it is.
    pub url: String,
    /// Its part beside the others'.
    pub weight: u32,
    /// `available`, `down` or `ejected`.
    pub state: &'static str,
    /// Why it is not available.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// When it is tried again, as RFC 3339, if it is ejected; one that is down has to pass its checks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Requests that it is answering.
    pub in_flight: usize,
    /// Connections to it.
    pub connections: usize,
}

/// How an upstream is set.
#[derive(Clone, Debug, Serialize)]
pub struct UpstreamStatus {
    /// Every key that counts, as it would be written.
    pub settings: BTreeMap<&'static str, String>,
    /// Where its replicas are said to be, as its manifest has it.
    pub sources: Vec<SourceStatus>,
}

/// Somebody who says where replicas are.
#[derive(Clone, Debug, Serialize)]
pub struct SourceStatus {
    /// Who it is.
    pub source: String,
    /// Why nothing can be learnt from it now. What it said before counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fails: Option<String>,
}

impl Upstream {
    /// Whether no replica is available: none is known, or each one is down or ejected.
    pub fn is_down(&self) -> bool {
        !self.replicas().iter().any(|replica| replica.state == "available")
    }

    /// Its replicas.
    pub fn replicas(&self) -> Vec<ReplicaStatus> {
        let (members, now) = (self.inner.members.load(), Instant::now());
        members
            .replicas
            .iter()
            .zip(&members.pools)
            .map(|((replica, weight), pool)| replica_status(replica, weight, pool, now))
            .collect()
    }

    /// How it is set, and what is wrong with what it was told.
    pub fn status(&self) -> UpstreamStatus {
        let spec = self.spec();
        let source_status = |(at, source): (usize, Source)| SourceStatus {
            source: match source {
                Source::File(path) => path.display().to_string(),
                named => named.to_string(),
            },
            fails: self.inner.source_errors.of(at),
        };
        let sources = spec.sources(Path::new("")).into_iter().enumerate().map(source_status).collect();
        UpstreamStatus { settings: spec.shown(), sources }
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
        state,
        why: if state == "available" { None } else { replica.cause() },
        until,
        in_flight: replica.in_flight(),
        connections: pool.open(),
    }
}
