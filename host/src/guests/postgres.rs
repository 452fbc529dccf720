//! Databases on PostgreSQL servers: which services may use them, and what connects to them.

use std::path::Path;
use std::sync::Arc;

use lodge_base::tls::pem;
use lodge_manifest::postgres::{PostgresGrant, has_password};
use lodge_manifest::refusal::{Refusal, file_name};
use lodge_runtime::capabilities::config::{ConfigReading, Configuration};
use lodge_runtime::capabilities::postgres::{GrantedPostgres, PostgresAccess};
use lodge_state::postgres::PostgresServers;
use lodge_traffic::service::Service;

/// The databases on servers of all services of a host.
pub struct PostgresAccounts {
    servers: Option<Arc<dyn PostgresServers>>,
}

impl PostgresAccounts {
    /// Connects to nothing. A program without the backend has no servers.
    pub fn of_this_build() -> Self {
        Self { servers: servers() }
    }

    /// Returns the databases of `service`, as the manifest beside `component` grants them. `config` has their URLs.
    ///
    /// # Errors
    /// If this program has no backend for them, the file of authorities cannot be used, or a password is not secret.
    pub async fn open(
        &self,
        service: &Arc<Service>,
        grant: &PostgresGrant,
        component: &Path,
        config: Option<&Configuration>,
    ) -> Result<Arc<GrantedPostgres>, Refusal> {
        let refused = |why: &str, remedy: &str| Refusal::new(&file_name(component), why, remedy);
        if let Some(name) = config.and_then(|config| open_password(&grant.databases, &config.reading())) {
            let why = format!(
                "config.{name}: its URL has a password, which is a secret and would be shown as any other value"
            );
            let remedy =
                format!("mark it: `{name} = {{ file = \"PATH\", secret = true }}`, in the manifest that has the value");
            return Err(refused(&why, &remedy).passing());
        }
        if self.servers.is_none() {
            let why = "its manifest has [postgres], and this program has no backend for PostgreSQL";
            return Err(refused(
                why,
                "build it with `--features postgres`, as the image is built, or remove the section",
            ));
        }
        let authorities =
            match &grant.ca {
                None => None,
                Some(path) => {
                    let path = component.parent().unwrap_or(Path::new("")).join(path);
                    let read = tokio::task::spawn_blocking(move || authorities(&path)).await;
                    let read = read.map_err(|error| error.to_string()).flatten();
                    Some(read.map_err(|why| {
                        refused(&format!("postgres.ca: {why}"), "correct the file or the key").passing()
                    })?)
                }
            };
        let PostgresGrant { databases, connections, timeout, .. } = grant.clone();
        let access = PostgresAccess { databases, authorities, connections, timeout };
        Ok(Arc::new(GrantedPostgres::new(access, Arc::clone(service), self.servers.clone())))
    }
}

/// Returns a database whose URL has a password and is not masked.
fn open_password<'a>(databases: &'a [String], reading: &ConfigReading) -> Option<&'a String> {
    databases.iter().find(|name| reading.config.get(*name).is_some_and(|url| !url.secret && has_password(&url.text)))
}

fn authorities(path: &Path) -> Result<Arc<[u8]>, String> {
    let text = pem::read(path)?;
    pem::authorities(&text).map_err(|why| format!("{}: {why}", path.display()))?;
    Ok(text.into())
}

#[cfg(feature = "postgres")]
#[expect(clippy::unnecessary_wraps, reason = "without the feature there are none")]
fn servers() -> Option<Arc<dyn PostgresServers>> {
    Some(Arc::new(lodge_postgres::PostgresDatabases::new(tokio::runtime::Handle::current())))
}

#[cfg(not(feature = "postgres"))]
fn servers() -> Option<Arc<dyn PostgresServers>> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use lodge_base::cpu::scheduler::CpuScheduler;
    use lodge_runtime::capabilities::config::ConfigValue;

    /// A password that is not marked as a secret would be in lists of values, and in lines of the log.
    #[tokio::test]
    async fn passwords_are_secrets() {
        let service = Arc::new(Service::new("shop", CpuScheduler::new(1).share()));
        let grant = PostgresGrant {
            databases: vec!["database".into()],
            connections: 1,
            timeout: std::time::Duration::from_secs(1),
            ca: None,
        };
        let open = async |text: &str, secret| {
            let config = [("database".to_owned(), ConfigValue { text: text.to_owned(), secret })].into();
            let config = Configuration::new(ConfigReading { config, ..ConfigReading::default() });
            let accounts = PostgresAccounts::of_this_build();
            let opened = accounts.open(&service, &grant, Path::new("shop.wasm"), Some(&config));
            opened.await.err().map(|refusal| (refusal.to_string(), refusal.passing)).unwrap_or_default()
        };
        let url = "postgres://me:hunter2@db/shop";
        let (refused, passing) = open(url, false).await;
        assert!(refused.contains("config.database: its URL has a password"), "{refused}");
        assert!(refused.contains("secret = true") && !refused.contains("hunter2") && passing, "{refused}");
        for (text, secret) in [(url, true), ("postgres://me@db/shop", false)] {
            let (refused, _) = open(text, secret).await;
            assert!(!refused.contains("password"), "{refused}");
        }
    }
}
