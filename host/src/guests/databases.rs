//! SQL databases of services: where their files are, and which services may use them.

use std::path::Path;
use std::sync::Arc;

use lodge_base::config::Config;
use lodge_manifest::refusal::{Refusal, file_name};
use lodge_manifest::spec::split;
use lodge_manifest::sqlite::SqliteGrant;
use lodge_runtime::capabilities::sqlite::GrantedDatabases;
use lodge_state::Namespace;
use lodge_state::sql::{SqlDatabases, SqlOptions};
use lodge_traffic::service::Service;

use super::state_directory::{StateDirectory, durability};

/// Bytes that SQLite may use: at least, at most, and by default an eighth of the memory of the host.
const MEMORY: (usize, usize, usize) = (32 << 20, 128 << 20, 8);

/// The databases of all services of a host.
pub struct Databases {
    databases: SqlDatabases,
    _directory: StateDirectory,
}

impl Databases {
    /// Creates the databases of a host: in the directory of its state. Nothing is opened before a service needs it.
    pub fn new(config: &Config) -> Self {
        let directory = StateDirectory::new(config, "sqlite");
        let (least, most, part) = MEMORY;
        let memory = config.memory.map_or(most, |memory| (memory / part).clamp(least, most)) as u64;
        let options = SqlOptions { directory: directory.path.clone(), durability: durability(config), memory };
        Self { databases: SqlDatabases::new(options), _directory: directory }
    }

    /// Returns the databases of `service`, as the manifest beside `component` grants them.
    ///
    /// # Errors
    /// If the name of the service is too long for a namespace.
    pub fn open(
        &self,
        service: &Arc<Service>,
        grant: &SqliteGrant,
        component: &Path,
    ) -> Result<Arc<GrantedDatabases>, Refusal> {
        // Versions share the databases of their service.
        let namespace = Namespace::new(split(&service.name).0)
            .map_err(|error| Refusal::new(&file_name(component), error.to_string(), "rename the service"))?;
        let databases = self.databases.of(&namespace, &grant.databases, grant.bytes);
        Ok(Arc::new(GrantedDatabases { databases, service: Arc::clone(service), timeout: grant.timeout }))
    }
}
