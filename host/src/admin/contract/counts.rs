//! Parts of what is known of a service: its components, its calls, and what it has stored and refused.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// A name in `calls` that only services of other hosts of the cluster have.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct RemoteCall {
    /// The name.
    pub name: String,
    /// The hosts, and why calls do not go there, in words.
    pub state: String,
}

/// A component of a service with others in front of it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct CodePart {
    /// Its file, as in `middleware`; that of the service is the last.
    pub file: String,
    /// Its SHA-256, in hexadecimal.
    pub digest: String,
}

/// The stored responses of a service.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct CacheCounts {
    /// Stored responses.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Requests that the cache responded to.
    pub hits: u64,
    /// Requests that the service responded to.
    pub misses: u64,
}

/// What a service stores, and its quota.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct StoredCounts {
    /// Keys in its store.
    pub keys: u64,
    /// Bytes of all keys and values.
    pub bytes: u64,
    /// The most keys.
    pub most_keys: u64,
    /// The most bytes.
    pub most_bytes: u64,
}

/// The messages of a service.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct MessageCounts {
    /// Messages that wait.
    pub waiting: u64,
    /// Messages that are being processed.
    pub in_flight: u64,
    /// Dead messages that are kept.
    pub dead: u64,
    /// Bytes of those that wait or are being processed.
    pub bytes: u64,
    /// The age of the oldest of these, in milliseconds.
    pub oldest_ms: u64,
}

/// A request that was refused.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct LastRefusal {
    /// The time, in RFC 3339.
    pub at: String,
    /// The reason, as in the response.
    pub reason: Cow<'static, str>,
    /// What was wrong with its credentials, and the name of its API key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}
