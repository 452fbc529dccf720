//! Versions of a service, their shares of its requests, and the results of deployments and rollbacks.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// The share of its service's requests that a version gets.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct VersionShare {
    /// Percent of the requests that match no rule.
    pub percent: f64,
    /// The rules for requests that it gets in any case, as in the manifest.
    #[serde(rename = "match")]
    pub rules: Vec<String>,
    /// Percent of the other requests of which it gets a copy.
    pub mirror: f64,
    /// The margins beyond which the host withdraws it. Without margins, the host never does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback: Option<RollbackMargins>,
}

/// How much worse than its service a version may do before it is withdrawn.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct RollbackMargins {
    /// Percentage points by which its error rate may exceed that of the service.
    pub errors: f64,
    /// The factor by which its 99th percentile may exceed that of the service.
    pub p99: f64,
    /// The requests in the last minute that both need before they are compared.
    pub minimum: u64,
}

/// A version of a service.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct VersionStatus {
    /// Its name: `users@2`.
    pub name: String,
    /// Percent of the requests that match no rule.
    pub percent: f64,
    /// Its state. In any other than `serving`, `failing` and `unloaded`, the service gets its share.
    pub state: Cow<'static, str>,
}

/// By how much a version was judged since its files changed.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Judgement {
    /// Its requests that count.
    pub requests: u64,
    /// How often it was compared with its service: once a second while both have enough requests in the last minute.
    pub comparisons: u64,
}

/// The state of a service after an action of an operator.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct ActionResult {
    /// The service.
    pub service: String,
    /// Its state.
    pub state: Cow<'static, str>,
    /// The SHA-256 of the component that was placed, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The version that is served with it, if that is another one than the beginning of `digest`: with components in front of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Whether the same files were there before.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unchanged: bool,
    /// By how much a version that was promoted had been judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judged: Option<Judgement>,
}

/// How a manifest differs from that of a service.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct ManifestComparison {
    /// The keys with other values, those of a section as `limits.cpu`; at most 1,000.
    pub keys: Vec<String>,
}
