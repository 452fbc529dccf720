//! SQL databases of services: where their files are, and which services may use them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lodge_base::config::Config;
use lodge_base::config::state::{self, StatePath};
use lodge_base::ids::Ids;
use lodge_manifest::refusal::{Refusal, file_name};
use lodge_manifest::spec::split;
use lodge_manifest::sqlite::SqliteGrant;
use lodge_runtime::capabilities::sqlite::GrantedDatabases;
use lodge_state::sql::{SqlDatabases, SqlOptions};
use lodge_state::{Durability, Namespace};
use lodge_traffic::service::Service;

/// Bytes that SQLite may use: at least, at most, and by default an eighth of the memory of the host.
const MEMORY: (usize, usize, usize) = (32 << 20, 128 << 20, 8);

/// The databases of all services of a host.
pub struct Databases {
    databases: SqlDatabases,
    /// The directory that is removed with this value, where state is kept in memory only.
    temporary: Option<PathBuf>,
}

impl Databases {
    /// Creates the databases of a host: in the directory of its state. Nothing is opened before a service needs it.
    pub fn new(config: &Config) -> Self {
        let beside = |path: &Path| path.parent().unwrap_or(Path::new(".")).join("sqlite");
        let (directory, temporary) = match &config.state.path {
            StatePath::Beside => (config.guests.join(".lodge").join("sqlite"), None),
            StatePath::At(path) => (beside(path), None),
            StatePath::Memory => {
                let directory = std::env::temp_dir().join(format!("lodge-{}", Ids::new().request()));
                (directory.clone(), Some(directory))
            }
        };
        let durability = match config.state.durability {
            state::Durability::Process => Durability::Process,
            state::Durability::Power => Durability::Power,
        };
        let (least, most, part) = MEMORY;
        let memory = config.memory.map_or(most, |memory| (memory / part).clamp(least, most)) as u64;
        // SQLite takes a relative path that begins with `file:` for a URL.
        let directory = std::path::absolute(&directory).unwrap_or(directory);
        Self { databases: SqlDatabases::new(SqlOptions { directory, durability, memory }), temporary }
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

impl Drop for Databases {
    fn drop(&mut self) {
        if let Some(directory) = &self.temporary {
            // There is none if no statement ran.
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}
