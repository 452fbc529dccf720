//! What operators see of a cluster, as JSON and in metrics.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The states of a host in its cluster, as [`ClusterStatus::state`] explains them.
pub const STATES: [&str; 6] = ["none", "joining", "member", "name-taken", "away", "left"];

/// A cluster as one host knows it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct ClusterStatus {
    /// The name of the cluster; `None` if the host is in none.
    pub cluster: Option<String>,
    /// The name of the host in it.
    pub host: String,
    /// `member`; `joining` before the first renewal; `name-taken` while another process has the name; `away` while the server
    /// of `state.url` cannot be used; `left` while the host stops; `none` without a cluster.
    pub state: Cow<'static, str>,
    /// What is wrong, and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The host that leads, if it is known.
    pub leader: Option<String>,
    /// Seconds since the host has renewed its record.
    pub renewed_seconds: Option<f64>,
    /// Seconds since it has read the records of the others.
    pub read_seconds: Option<f64>,
    /// All hosts, this one included unless another process has its name, in the order of their names.
    pub members: Vec<ClusterMember>,
    /// What this host has sent to services of others since it has started, by service and host.
    pub calls: Vec<ClusterCall>,
    /// Records of other hosts that could not be read.
    pub ignored: usize,
    /// Whether there may be more hosts than are shown: some records were not read yet, or there is no room for them.
    pub truncated: bool,
}

/// A host of a cluster.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct ClusterMember {
    /// Its name.
    pub name: String,
    /// Whether it is the host that responds.
    pub this: bool,
    /// The URL at which others reach its services.
    pub address: Option<String>,
    /// Its zone.
    pub zone: Option<String>,
    /// The version of Lodge.
    pub version: String,
    /// Requests in flight when it last renewed its record.
    pub in_flight: u64,
    /// The most requests in flight.
    pub slots: u64,
    /// Seconds for which the responding host has known it.
    pub known_seconds: f64,
    /// Seconds since the responding host has seen a renewal of its record; `None` if it has seen none.
    pub renewed_seconds: Option<f64>,
    /// The services and versions that it serves, with the first digits of their digests.
    pub services: BTreeMap<String, String>,
    /// How many services it serves beyond these.
    #[serde(skip_serializing_if = "is_zero")]
    pub more: u64,
}

/// The requests for one service that were sent to one host.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct ClusterCall {
    /// The service.
    pub service: String,
    /// The URL of the host; `(others)` for what is beyond the 200 that are counted by themselves.
    pub address: String,
    /// The name of the host, if it is known at present.
    pub host: Option<String>,
    /// Requests, each try as one.
    pub sent: u64,
    /// Those that were sent after another try of the same request.
    pub retried: u64,
    /// Those without a response, or with a status of 500 or more.
    pub failed: u64,
    /// The average time to the head of the response.
    pub mean_seconds: f64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The numbers of a cluster for `/metrics`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterNumbers {
    /// Known hosts, this one included unless another process has its name.
    pub members: u64,
    /// The state of this host, as its place in [`STATES`].
    pub state: u64,
    /// Whether this host leads.
    pub leads: bool,
    /// When the record of this host was last renewed, in seconds since 1970.
    pub renewed: f64,
    /// Records of other hosts that could not be read.
    pub ignored: u64,
    /// Failed operations on the store, by name.
    pub failures: [(&'static str, u64); 4],
    /// Keys of rate limits that are charged at the store.
    pub rate_keys: u64,
    /// Exchanges with the store about such keys.
    pub rate_exchanges: u64,
    /// Whether this host has only its share of rates, because the store cannot be used.
    pub divides_rates: bool,
}
