//! Databases on PostgreSQL servers: which services may use them, and what connects to them.

use std::path::Path;
use std::sync::Arc;

use lodge_base::tls::pem;
use lodge_manifest::postgres::PostgresGrant;
use lodge_manifest::refusal::{Refusal, file_name};
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

    /// Returns the databases of `service`, as the manifest beside `component` grants them.
    ///
    /// # Errors
    /// If this program has no backend for them, or the file of authorities cannot be used.
    pub async fn open(
        &self,
        service: &Arc<Service>,
        grant: &PostgresGrant,
        component: &Path,
    ) -> Result<Arc<GrantedPostgres>, Refusal> {
        let refused = |why: &str, remedy: &str| Refusal::new(&file_name(component), why, remedy);
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
