//! Stores and locks of services: opens them in the host's backend, which is itself opened for the first of them.

mod server;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use lodge_base::config::Config;
use lodge_base::config::state::{State, StatePath};
use lodge_base::lock::lock;
use lodge_manifest::keyvalue::{BucketOf, KeyValueGrant};
use lodge_manifest::lock::LockGrant;
use lodge_manifest::refusal::{Refusal, file_name};
use lodge_manifest::spec::split;
use lodge_runtime::capabilities::keyvalue::GrantedStore;
use lodge_runtime::capabilities::keyvalue::shared::{ForeignBucket, SharedStore, SharedStores};
use lodge_runtime::capabilities::lock::GrantedLocks;
use lodge_state::{
    Backend, Durability, Error, Locker, Locks, Memory, MessageQueue, Namespace, Options, Quota, Sqlite, Store,
    SystemClock,
};
use lodge_traffic::service::Service;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::state_directory::durability;

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

/// The namespace of schedules. No service has such a name.
const SCHEDULES: &str = "@schedules";

/// The stores of all services of a host.
pub struct Stores {
    backend: OnceCell<Arc<dyn Backend>>,
    /// The same, if it is a database in a file.
    database: OnceLock<Arc<Sqlite>>,
    /// What services share with each other.
    shared: Arc<SharedStores>,
    /// The lockers of services that have locks or had some, by namespace: all versions of a service wait in one order.
    lockers: Mutex<HashMap<Namespace, Locker>>,
    /// The settings, of which `url` replaces the database.
    settings: State,
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
        Self {
            backend: OnceCell::new(),
            database: OnceLock::new(),
            shared: Arc::default(),
            lockers: Mutex::default(),
            settings: config.state.clone(),
            path,
            durability: durability(config),
            timeout: config.state.timeout,
        }
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
        let backend = self.opened(component).await?;
        let deadline = Instant::now() + OPEN_TIMEOUT;
        let opened = async {
            let quota = Quota { keys: grant.keys, bytes: grant.bytes };
            backend.open(&namespace(service)?, quota, deadline).await
        };
        let store =
            opened.await.map_err(|error| refused(component, &format!("its store cannot be opened: {error}")))?;
        let shared = Arc::new(SharedStore { store: Arc::clone(&store), shared: grant.shared.clone() });
        let user: Arc<str> = split(&service.name).0.into();
        let foreign = |(own, bucket): (&String, &BucketOf)| {
            let (stores, user, bucket) = (Arc::clone(&self.shared), Arc::clone(&user), bucket.clone());
            (own.clone(), Arc::new(ForeignBucket { stores, user, bucket }))
        };
        let foreign = grant.from.iter().map(foreign).collect();
        let (service, buckets) = (Arc::clone(service), grant.buckets.clone());
        Ok(Arc::new(GrantedStore { store, service, buckets, timeout: self.timeout, shared, foreign }))
    }

    /// Lets other services use what this one shares from now on, instead of what it has shared before.
    pub fn share(&self, service: &Service, granted: Option<&Arc<GrantedStore>>) {
        self.shared.replace(&service.name, granted.map(|granted| &granted.shared));
    }

    /// Opens the locks of `service`, as the manifest beside `component` grants them.
    ///
    /// # Errors
    /// If the backend cannot be used. It is tried again.
    pub async fn locks(
        &self,
        service: &Arc<Service>,
        grant: &LockGrant,
        component: &Path,
    ) -> Result<Arc<GrantedLocks>, Refusal> {
        let backend = self.opened(component).await?;
        let deadline = Instant::now() + OPEN_TIMEOUT;
        let opened = async {
            let namespace = namespace(service)?;
            let locks = backend.locks(&namespace, deadline).await?;
            let new = || Locker::new(locks, tokio::runtime::Handle::current());
            Ok(lock(&self.lockers).entry(namespace).or_insert_with(new).clone())
        };
        let locker =
            opened.await.map_err(|error: Error| refused(component, &format!("its locks cannot be opened: {error}")))?;
        let (service, timeout, LockGrant { lease, held }) = (Arc::clone(service), self.timeout, *grant);
        Ok(Arc::new(GrantedLocks { locker, service, timeout, lease, held }))
    }

    /// Returns the backend, which the first service opens.
    async fn opened(&self, component: &Path) -> Result<&Arc<dyn Backend>, Refusal> {
        self.backend.get_or_try_init(|| self.backend()).await.map_err(|why| refused(component, &why))
    }

    /// Opens the store of the service with this name, without its grant. `quota` holds for all who have it.
    ///
    /// # Errors
    /// If the backend cannot be used, or its store.
    pub async fn store(&self, service: &str, quota: Quota) -> Result<Arc<dyn Store>, String> {
        let backend = self.backend.get_or_try_init(|| self.backend()).await?;
        let deadline = Instant::now() + OPEN_TIMEOUT;
        let store = async { backend.open(&Namespace::new(service)?, quota, deadline).await };
        store.await.map_err(|error| format!("its store cannot be opened: {error}"))
    }

    /// Opens the store of a service that is not served any more, if the database in a file has something of it.
    ///
    /// # Errors
    /// If its store cannot be opened.
    pub async fn left_behind(&self, service: &str, quota: Quota) -> Result<Option<Arc<dyn Store>>, String> {
        let all = self.database().map(|database| database.namespaces()).unwrap_or_default();
        if !all.iter().any(|(name, _)| name.as_str() == service) {
            return Ok(None);
        }
        self.store(service, quota).await.map(Some)
    }

    /// The file of the database; `None` if state is in memory or in a server.
    pub fn file(&self) -> Option<&Path> {
        self.path.as_deref().filter(|_| self.settings.url.is_none())
    }

    /// Creates the directory of the database, if there is none, for a command. Creates no directory above it, since the path may be
    /// mistyped.
    ///
    /// # Errors
    /// Why it cannot be created.
    pub fn create_directory(&self) -> Result<(), String> {
        let Some(file) = self.file() else { return Ok(()) };
        let directory = file.parent().filter(|directory| !directory.as_os_str().is_empty());
        let above = directory.and_then(Path::parent).filter(|above| !above.as_os_str().is_empty());
        if let Some(missing) = above.filter(|above| !above.is_dir()) {
            let missing = missing.display();
            return Err(format!(
                "there is no directory {missing}; --guests and --state-path say where the data belongs; create the directory if it \
                 is the right one"
            ));
        }
        create_directory_of(file)
    }

    /// The database in a file, if it is open.
    pub fn database(&self) -> Option<Arc<Sqlite>> {
        self.database.get().cloned()
    }

    /// Opens the backend, and returns the database if it is one in a file.
    ///
    /// # Errors
    /// If the backend cannot be used.
    pub async fn open_database(&self) -> Result<Option<Arc<Sqlite>>, String> {
        self.backend.get_or_try_init(|| self.backend()).await?;
        Ok(self.database())
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

    /// Returns the messages of all services, for a service that publishes or consumes. `unstored` says that it consumes those that the
    /// server does not store.
    ///
    /// # Errors
    /// If the backend cannot be used, or has no such messages.
    pub async fn messages(&self, component: &Path, unstored: bool) -> Result<Arc<dyn MessageQueue>, Refusal> {
        let backend = self.opened(component).await?;
        let queue = if unstored { backend.unstored_messages().and(backend.messages()) } else { backend.messages() };
        queue.map_err(|error| refused(component, &error.to_string()))
    }

    /// Opens the state of schedules, which all hosts share that have one backend.
    ///
    /// # Errors
    /// If the backend cannot be used.
    pub async fn schedules(&self, deadline: Instant) -> Result<(Arc<dyn Store>, Arc<dyn Locks>), String> {
        self.of_hosts(SCHEDULES, Quota::default(), deadline).await
    }

    /// Opens a namespace of the hosts themselves, whose name no service has.
    ///
    /// # Errors
    /// If the backend cannot be used.
    pub async fn of_hosts(
        &self,
        namespace: &str,
        quota: Quota,
        deadline: Instant,
    ) -> Result<(Arc<dyn Store>, Arc<dyn Locks>), String> {
        let backend = self.backend.get_or_try_init(|| self.backend()).await?;
        let opened = async {
            let namespace = Namespace::new(namespace)?;
            let store = backend.open(&namespace, quota, deadline).await?;
            Ok((store, backend.locks(&namespace, deadline).await?))
        };
        opened.await.map_err(|error: lodge_state::Error| error.for_operators())
    }

    /// Returns the messages of all services, or those that the server does not store, if any service has needed the backend yet.
    pub fn opened_messages(&self, unstored: bool) -> Option<Arc<dyn MessageQueue>> {
        let backend = self.backend.get()?;
        if unstored { backend.unstored_messages().ok() } else { backend.messages().ok() }
    }

    /// Returns the longest time that an operation may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    async fn backend(&self) -> Result<Arc<dyn Backend>, String> {
        if let Some(url) = &self.settings.url {
            return server::read(url, &self.settings).map(server::connect);
        }
        let clock = Arc::new(SystemClock::new());
        let Some(path) = self.path.clone() else { return Ok(Arc::new(Memory::new(MEMORY, clock))) };
        let options = Options { path, durability: self.durability, readers: READERS, recent: RECENT, clock };
        let opened = tokio::task::spawn_blocking(move || {
            create_directory_of(&options.path)?;
            Sqlite::open(options).map_err(|error| error.to_string())
        });
        let sqlite = opened.await.map_err(|error| format!("opening the database failed: {error}"))??;
        Ok(Arc::clone(self.database.get_or_init(|| Arc::new(sqlite))) as Arc<dyn Backend>)
    }
}

/// Returns why the server of `state.url` can never be used as it is configured, and names the key.
pub fn misconfigured(config: &Config) -> Option<String> {
    config.state.url.as_ref().and_then(|url| server::read(url, &config.state).err())
}

/// Returns the namespace of a service. Its versions share the state.
fn namespace(service: &Service) -> Result<Namespace, Error> {
    Namespace::new(split(&service.name).0)
}

/// Returns the refusal of a component whose state cannot be used.
fn refused(component: &Path, why: &str) -> Refusal {
    let remedy = "the service starts as soon as its state can be used";
    Refusal::new(&file_name(component), why, remedy).passing()
}

/// Creates the directory of a file, if there is none, so that only its owner can read it.
fn create_directory_of(path: &Path) -> Result<(), String> {
    let Some(directory) = path.parent() else { return Ok(()) };
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    let created = builder.recursive(true).create(directory);
    created.map_err(|error| format!("{} cannot be created: {error}; set state.path", directory.display()))
}
