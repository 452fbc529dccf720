//! The JSON of the data of services, in the admin API, in the output of commands and in exports.

use std::time::SystemTime;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use lodge_state::{Error, Usage};
use serde::{Deserialize, Serialize};

/// How much a service stores.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct StoreStatus {
    /// The name of the service.
    pub service: String,
    /// Its entries.
    pub keys: u64,
    /// The bytes of all buckets' names, keys and values.
    pub bytes: u64,
    /// The most keys that it may store; `None` if no service has this name now.
    pub most_keys: Option<u64>,
    /// The most bytes that it may store.
    pub most_bytes: Option<u64>,
}

impl StoreStatus {
    /// What is stored under the name of a service that is not served.
    pub fn without_service(name: &str, usage: Usage) -> Self {
        Self { service: name.to_owned(), keys: usage.keys, bytes: usage.bytes, most_keys: None, most_bytes: None }
    }
}

/// How much a service stores, and the names of its buckets.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct StoreDetails {
    /// How much it stores.
    #[serde(flatten)]
    pub status: StoreStatus,
    /// Names of buckets, in order.
    pub buckets: Vec<String>,
    /// The `after` of the next page; `None` on the last one.
    pub next: Option<String>,
}

/// A page of the keys of a bucket.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct KeyList {
    /// The bucket.
    pub bucket: String,
    /// Its keys.
    pub keys: Vec<String>,
    /// The `cursor` of the next page; `None` on the last one.
    pub next: Option<String>,
}

/// A page of the entries of a bucket.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct EntryPage {
    /// The entries.
    pub entries: Vec<StoredEntry>,
    /// The `cursor` of the next page; `None` on the last one.
    pub next: Option<String>,
}

/// A key with its value.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct StoredEntry {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
    /// The value in base64.
    pub value: String,
    /// The version, which every write changes. An import ignores it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// When the entry expires, in RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

impl StoredEntry {
    /// Returns the value.
    ///
    /// # Errors
    /// If it is not base64.
    pub fn bytes(&self) -> Result<Bytes, Error> {
        let invalid = Error::Invalid { what: "the value", problem: "is not base64 with its padding" };
        BASE64_STANDARD.decode(&self.value).map(Bytes::from).map_err(|_| invalid)
    }

    /// Returns when it expires.
    ///
    /// # Errors
    /// If that is not a time.
    pub(super) fn expiry(&self) -> Result<Option<SystemTime>, Error> {
        let invalid = |_| Error::Invalid { what: "the expiry", problem: "is not a time of RFC 3339 in UTC" };
        self.expires.as_deref().map(humantime::parse_rfc3339).transpose().map_err(invalid)
    }
}

/// A key that was written.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct WrittenKey {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
    /// The version of its new entry.
    pub version: u64,
}

/// A key that does not exist any more.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct DeletedKey {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
    /// Whether it existed.
    pub deleted: bool,
}

/// What an import has done.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct ImportCount {
    /// Entries that were stored.
    pub stored: u64,
    /// Entries that had expired, and were not stored.
    pub expired: u64,
}
