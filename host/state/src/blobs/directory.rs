//! The directory with the objects of all services of a host.

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::sync::{OnceCell, Semaphore};

use super::BlobError;
use super::disk::{blocking, create};
use super::space::BlobSpace;
use super::temporary::TemporaryFiles;
use super::usage::BlobQuota;
use crate::file_name::file_name;
use crate::key::Namespace;
use crate::mutex::lock;
use crate::sqlite::Durability;

/// Operations of all services that run at the same time.
const RUNNING: usize = 32;

/// The file by which a process has the directory.
const LOCK: &str = ".lock";

/// How the objects of a host are kept.
#[derive(Clone, Debug)]
pub struct BlobOptions {
    /// The directory with a directory for each service. It is made when the first service needs it.
    pub directory: PathBuf,
    /// What a confirmed change survives. An object is never incomplete, whatever this is.
    pub durability: Durability,
}

/// The objects of all services of a host.
pub struct BlobDirectory {
    options: BlobOptions,
    claim: OnceCell<Claim>,
    spaces: Mutex<HashMap<Namespace, Arc<OnceCell<Arc<BlobSpace>>>>>,
    running: Arc<Semaphore>,
}

/// Proof that no other process uses the directory.
struct Claim {
    lock: File,
    temporary: Arc<TemporaryFiles>,
}

impl BlobDirectory {
    /// Creates the objects of a host. Nothing is opened before a service needs it.
    pub fn new(options: BlobOptions) -> Self {
        let running = Arc::new(Semaphore::new(RUNNING));
        Self { options, claim: OnceCell::new(), spaces: Mutex::default(), running }
    }

    /// Opens the objects of a service, and counts them the first time. `quota` holds from now on for all who have them.
    ///
    /// # Errors
    /// [`BlobError::Unavailable`] if the directory cannot be used, or another process uses it.
    pub async fn open(&self, service: &Namespace, quota: BlobQuota) -> Result<Arc<BlobSpace>, BlobError> {
        let directory = self.options.directory.clone();
        let claim = self.claim.get_or_try_init(|| blocking(move || Claim::take(&directory))).await?;
        let cell = Arc::clone(lock(&self.spaces).entry(service.clone()).or_default());
        let open = || {
            let directory = self.options.directory.join(file_name(service.as_str()));
            let (durability, temporary) = (self.options.durability, Arc::clone(&claim.temporary));
            let running = Arc::clone(&self.running);
            blocking(move || BlobSpace::open(directory, durability, temporary, running, quota))
        };
        let space = cell.get_or_try_init(open).await?;
        space.account.set_quota(quota);
        Ok(Arc::clone(space))
    }
}

impl Claim {
    /// Takes the directory, creates it if there is none, and removes temporary files. Waits for the disk.
    fn take(directory: &Path) -> Result<Self, BlobError> {
        create(directory)?;
        let mut options = File::options();
        let lock = options.create(true).truncate(false).write(true).mode(0o600).open(directory.join(LOCK))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let used = "another process uses the directory: end it, or set another `state.path`";
                return Err(BlobError::Unavailable(used.into()));
            }
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        Ok(Self { lock, temporary: Arc::new(TemporaryFiles::sweep(directory)?) })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Not only by closing the file: a process that is being started just now has a copy of every open file.
        let _ = self.lock.unlock();
    }
}
