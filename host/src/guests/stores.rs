//! Stores of services: opens each in the host's backend, which is itself opened for the first of them.

mod server;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lodge_base::config::Config;
use lodge_base::config::state::{self, StatePath};
use lodge_manifest::keyvalue::KeyValueGrant;
use lodge_manifest::refusal::{Refusal, file_name};
use lodge_manifest::spec::split;
use lodge_runtime::capabilities::keyvalue::GrantedStore;
use lodge_state::{Backend, Durability, Memory, Namespace, Options, Quota, Sqlite, SystemClock};
use lodge_traffic::service::Service;
use tokio::sync::OnceCell;
use tokio::time::Instant;

/// The longest time that opening a store may take. If a server is unavailable, the next attempt to deploy connects again.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest time that closing the database may take: the disk writes a log of some megabytes.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of all entries in memory, without a database.
const MEMORY: u64 = 256 << 20;

/// Bytes of memory for entries that were read or written recently, of all services.
const RECENT: u64 = 16 << 20;

/// Threads that read the database.
const READERS: usize = 4;

/// The stores of all services of a host.
pub struct Stores {
    backend: OnceCell<Arc<dyn Backend>>,
    /// The URL of a server, which replaces the database.
    url: Option<String>,
    /// The file of the database; in memory without one.
    path: Option<PathBuf>,
    durability: Durability,
    timeout: Duration,
}

impl Stores {
    /// Creates the stores of a host. Nothing is opened before a service needs it.
    pub fn new(config: &Config) -> Self {
        let path = match &config.state.path {
            StatePath::Beside => Some(config.guests.join(".lodge").join("state.db")),
            StatePath::At(path) => Some(path.clone()),
            StatePath::Memory => None,
        };
        let durability = match config.state.durability {
            state::Durability::Process => Durability::Process,
            state::Durability::Power => Durability::Power,
        };
        Self {
            backend: OnceCell::new(),
            url: config.state.url.clone(),
            path,
            durability,
            timeout: config.state.timeout,
        }
    }

    /// Creates stores that end with the process.
    pub fn in_memory(config: &Config) -> Self {
        Self { url: None, path: None, ..Self::new(config) }
    }

    /// Opens the store of `service`, as the manifest beside `component` grants it.
    ///
    /// # Errors
    /// If the backend cannot be used. It is tried again.
    pub async fn open(
        &self,
        service: &Arc<Service>,
        grant: &KeyValueGrant,
        component: &Path,
    ) -> Result<Arc<GrantedStore>, Refusal> {
        let refused = |why: String| {
            let remedy = "the service starts as soon as its state can be used";
            Refusal::new(&file_name(component), &why, remedy).passing()
        };
        let backend = self.backend.get_or_try_init(|| self.backend()).await.map_err(refused)?;
        let deadline = Instant::now() + OPEN_TIMEOUT;
        let opened = async {
            let quota = Quota { keys: grant.keys, bytes: grant.bytes };
            // Versions share the state of their service.
            backend.open(&Namespace::new(split(&service.name).0)?, quota, deadline).await
        };
        let store = opened.await.map_err(|error| refused(format!("its store cannot be opened: {error}")))?;
        let (service, buckets) = (Arc::clone(service), grant.buckets.clone());
        Ok(Arc::new(GrantedStore { store, service, buckets, timeout: self.timeout }))
    }

    /// Does the writes that wait and closes the database, so that its file is complete without the log beside it.
    pub async fn close(&self) {
        if let Some(backend) = self.backend.get() {
            let closed = tokio::time::timeout(CLOSE_TIMEOUT, backend.close()).await;
            if !matches!(closed, Ok(Ok(()))) {
                tracing::warn!("the database of state was not closed in time; nothing is lost: the next start does it");
            }
        }
    }

    async fn backend(&self) -> Result<Arc<dyn Backend>, String> {
        if let Some(url) = &self.url {
            return server::connect(url);
        }
        let clock = Arc::new(SystemClock::new());
        let Some(path) = self.path.clone() else { return Ok(Arc::new(Memory::new(MEMORY, clock))) };
        let options = Options { path, durability: self.durability, readers: READERS, recent: RECENT, clock };
        let opened = tokio::task::spawn_blocking(move || {
            if let Some(directory) = options.path.parent() {
                private_directory(directory)
                    .map_err(|error| format!("{} cannot be created: {error}; set state.path", directory.display()))?;
            }
            Sqlite::open(options).map_err(|error| error.to_string())
        });
        let sqlite = opened.await.map_err(|error| format!("opening the database failed: {error}"))??;
        Ok(Arc::new(sqlite))
    }
}

/// Creates a directory that only its owner can read, unless it exists.
fn private_directory(path: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(path)
}
