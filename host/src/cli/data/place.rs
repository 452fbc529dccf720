//! Where data is: at a running host, or in the file or server that its configuration names.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;

use crate::cli::client::{AdminClient, encoded};
use crate::cli::out::CliError;
use crate::data::{
    DeletedKey, EntryPage, ImportCount, KeyList, ServiceData, StoreDetails, StoreStatus, StoredEntry, WrittenKey,
};
use crate::guests::scan::{FileState, Scanner};
use crate::guests::stores::Stores;
use lodge_base::config::key::nearest;
use lodge_base::config::{Config, Resolved};
use lodge_state::{Error, Quota};

/// Where data is.
pub(super) enum DataPlace {
    /// A running host, by its API.
    Host(AdminClient),
    /// The store itself, which no host uses.
    Offline(Box<Offline>),
}

/// A store that this process has opened.
pub(super) struct Offline {
    runtime: Runtime,
    stores: Arc<Stores>,
    config: Config,
    /// Whether the command may create a namespace.
    creates: bool,
}

impl DataPlace {
    /// Returns the place that the arguments say. `creates` says whether the command stores anything.
    ///
    /// # Errors
    /// If there is no such place.
    pub(super) fn new(resolved: &Resolved, offline: bool, creates: bool) -> Result<Self, CliError> {
        let config = resolved.config.clone();
        if !offline {
            let admin = config.admin.ok_or_else(|| {
                CliError::new(
                    "the setting admin is `off`, so no host can be reached; use --offline while it does not run",
                )
            })?;
            return AdminClient::new(admin, config.admin_token).map(Self::Host);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| CliError::new(format!("cannot start the runtime: {error}")))?;
        let stores = Arc::new(Stores::new(&config));
        if config.state.url.is_none() {
            let Some(file) = stores.file() else {
                return Err(CliError::new("state.path is `memory`: there is no data while no host runs"));
            };
            let shown = file.display();
            if file.exists() {
                if lodge_state::is_in_use(file) {
                    return Err(CliError::new(format!(
                        "{shown} is in use by a host; leave out --offline to ask that host (--admin says where it is), or stop it"
                    )));
                }
            } else if !creates {
                return Err(CliError::new(format!("there is no {shown}; {NO_FILE}")));
            }
            stores.create_directory().map_err(CliError::new)?;
        }
        Ok(Self::Offline(Box::new(Offline { runtime, stores, config, creates })))
    }

    /// Closes what was opened.
    pub(super) fn close(self) {
        if let Self::Offline(offline) = self {
            offline.runtime.block_on(offline.stores.close());
            offline.runtime.shutdown_timeout(crate::cli::EXIT_TIMEOUT);
        }
    }

    /// Returns what all services store.
    pub(super) fn services(&self) -> Result<Vec<StoreStatus>, CliError> {
        match self {
            Self::Host(client) => client.read(&client.get("/v1/data")?),
            Self::Offline(offline) => offline.services(),
        }
    }

    /// Returns what a service stores, and its buckets after `after`.
    pub(super) fn details(&self, service: &str, after: &str) -> Result<StoreDetails, CliError> {
        match self {
            Self::Host(client) => ask(client, "GET", service, &format!("?after={}", encoded(after)), None),
            Self::Offline(offline) => offline.run(service, async |data| data.details(after).await),
        }
    }

    /// Returns a page of keys with a prefix.
    pub(super) fn keys(
        &self,
        service: &str,
        (bucket, prefix): (&str, &str),
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<KeyList, CliError> {
        match self {
            Self::Host(client) => {
                let (bucket, prefix, cursor) = (encoded(bucket), encoded(prefix), parameter(cursor));
                let path = format!("/keys?bucket={bucket}&prefix={prefix}&limit={limit}{cursor}");
                ask(client, "GET", service, &path, None)
            }
            Self::Offline(offline) => offline.run(service, async |data| data.keys(bucket, prefix, cursor, limit).await),
        }
    }

    /// Returns a page of entries.
    pub(super) fn entries(&self, service: &str, bucket: &str, cursor: Option<&str>) -> Result<EntryPage, CliError> {
        match self {
            Self::Host(client) => {
                let path = format!("/entries?bucket={}{}", encoded(bucket), parameter(cursor));
                ask(client, "GET", service, &path, None)
            }
            Self::Offline(offline) => offline.run(service, async |data| data.entries(bucket, cursor).await),
        }
    }

    /// Returns an entry.
    pub(super) fn get(&self, service: &str, bucket: &str, key: &str) -> Result<Option<StoredEntry>, CliError> {
        let client = match self {
            Self::Host(client) => client,
            Self::Offline(offline) => return offline.run(service, async |data| data.get(bucket, key).await),
        };
        let path = format!("/v1/services/{}/data/entry{}", encoded(service), entry(bucket, key));
        let response = client.exchange("GET", &path, None)?;
        match response.status {
            200 => client.read(&response.text).map(Some),
            404 if response.is("no-key") => Ok(None),
            _ => Err(client.failure_of(service, &path, &response)),
        }
    }

    /// Stores a value.
    pub(super) fn set(
        &self,
        service: &str,
        (bucket, key): (&str, &str),
        value: Vec<u8>,
        ttl: Option<Duration>,
        absent: bool,
    ) -> Result<WrittenKey, CliError> {
        match self {
            Self::Host(client) => {
                let ttl = ttl.map_or(String::new(), |ttl| format!("&ttl={}ms", ttl.as_millis()));
                let path = format!("/entry{}{ttl}&if_absent={absent}", entry(bucket, key));
                ask(client, "PUT", service, &path, Some(&value))
            }
            Self::Offline(offline) => {
                offline.run(service, async |data| data.set((bucket, key), value.into(), ttl, absent).await)
            }
        }
    }

    /// Deletes a key.
    pub(super) fn delete(&self, service: &str, bucket: &str, key: &str) -> Result<DeletedKey, CliError> {
        match self {
            Self::Host(client) => ask(client, "DELETE", service, &format!("/entry{}", entry(bucket, key)), None),
            Self::Offline(offline) => offline.run(service, async |data| data.delete(bucket, key).await),
        }
    }

    /// Stores entries, which must fit into a batch.
    pub(super) fn import(&self, service: &str, entries: &[StoredEntry]) -> Result<ImportCount, CliError> {
        match self {
            Self::Host(client) => {
                let lines: Result<Vec<_>, _> = entries.iter().map(serde_json::to_string).collect();
                let lines = lines.map_err(|error| CliError::new(error.to_string()))?;
                ask(client, "POST", service, "/entries", Some(lines.join("\n").as_bytes()))
            }
            Self::Offline(offline) => offline.run(service, async |data| data.import(entries, SystemTime::now()).await),
        }
    }
}

/// What to do when there is no file.
const NO_FILE: &str =
    "--guests and --state-path say where it is, and services create it when they first store something";

fn parameter(cursor: Option<&str>) -> String {
    cursor.map_or(String::new(), |cursor| format!("&cursor={}", encoded(cursor)))
}

fn entry(bucket: &str, key: &str) -> String {
    format!("?bucket={}&key={}", encoded(bucket), encoded(key))
}

/// Sends a request about the data of a service, and reads the response.
fn ask<T: DeserializeOwned>(
    client: &AdminClient,
    method: &str,
    service: &str,
    path: &str,
    body: Option<&[u8]>,
) -> Result<T, CliError> {
    let path = format!("/v1/services/{{}}/data{path}");
    client.read(&client.of_service_with(method, &path, service, body)?)
}

impl Offline {
    /// Does `work` with the data of a service.
    fn run<T>(&self, service: &str, work: impl AsyncFnOnce(&ServiceData) -> Result<T, Error>) -> Result<T, CliError> {
        let quota = self.quota(service)?;
        self.runtime.block_on(async {
            let database = self.stores.open_database().await.map_err(CliError::new)?;
            if let (Some(database), false) = (database, self.creates) {
                let all: Vec<_> = database.namespaces().into_iter().map(|(name, _)| name).collect();
                if !all.iter().any(|name| name.as_str() == service) {
                    let near = nearest(service, all.iter().map(|name| name.as_str()));
                    let hint = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
                    return Err(CliError::new(format!("no service `{service}` has stored anything here{hint}")));
                }
            }
            let store = self.stores.store(service, quota.unwrap_or_default()).await.map_err(CliError::new)?;
            let data = ServiceData { service: service.to_owned(), store, quota: quota.unwrap_or_default() };
            work(&data).await.map_err(|error| CliError::new(format!("{service}: {error}")))
        })
    }

    /// Returns the quota of a service by its manifest; `None` if there is no such service.
    ///
    /// # Errors
    /// If state is in a server, where a quota of another size would take the place of the right one, and there is no manifest.
    fn quota(&self, service: &str) -> Result<Option<Quota>, CliError> {
        let quota = quota(&self.config, &self.config.guests, service);
        if quota.is_none() && self.config.state.url.is_some() {
            let directory = self.config.guests.display();
            return Err(CliError::new(format!(
                "{directory} has no service `{service}` with [keyvalue]; --guests names the directory of the service"
            )));
        }
        Ok(quota)
    }

    fn services(&self) -> Result<Vec<StoreStatus>, CliError> {
        let database = self.runtime.block_on(self.stores.open_database()).map_err(CliError::new)?;
        let Some(database) = database else {
            return Err(CliError::new("a server has no list of services; name one: `lodge data list NAME`"));
        };
        let status = |(name, usage): (lodge_state::Namespace, lodge_state::Usage)| {
            let quota = quota(&self.config, &self.config.guests, name.as_str());
            StoreStatus {
                most_keys: quota.map(|quota| quota.keys),
                most_bytes: quota.map(|quota| quota.bytes),
                ..StoreStatus::without_service(name.as_str(), usage)
            }
        };
        Ok(database.namespaces().into_iter().map(status).collect())
    }
}

/// Returns what the manifest of a service in `directory` grants.
fn quota(config: &Config, directory: &Path, service: &str) -> Option<Quota> {
    let component = directory.join(format!("{service}.wasm"));
    let scan = Scanner::new(&component).scan(config).ok()?;
    let grant = scan.found.into_values().find_map(|found| match found.state {
        FileState::Ready(spec) => spec.manifest.keyvalue,
        _ => None,
    })?;
    Some(Quota { keys: grant.keys, bytes: grant.bytes })
}
