//! The containers and objects of one service.

use std::fs::{self, File, Metadata};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::disk::{blocking, create, finished, size};
use super::path::{self, ObjectPath};
use super::temporary::{TemporaryFile, TemporaryFiles};
use super::usage::{BlobAccount, BlobQuota, BlobUsage};
use super::{BlobError, MAX_NAMES, MAX_OPEN};
use crate::mutex::lock;
use crate::sqlite::Durability;

/// Operations of a service that run at the same time.
const RUNNING: usize = 8;

/// What is known of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobInfo {
    /// Its bytes.
    pub bytes: u64,
    /// When its content was written.
    pub created: SystemTime,
}

/// The containers and objects of one service. No name leads to those of another.
pub struct BlobSpace {
    pub(super) directory: PathBuf,
    durability: Durability,
    temporary: Arc<TemporaryFiles>,
    pub(super) account: Arc<BlobAccount>,
    /// Held while files get their names or lose them, on threads that may wait, so that the account is exact.
    names: Mutex<()>,
    /// The places of running operations: of the service and of the host.
    running: [Arc<Semaphore>; 2],
    /// The places of open files.
    open: Arc<Semaphore>,
}

impl BlobSpace {
    /// Opens the directory of a service, creates it if there is none, and counts what is in it. Waits for the disk.
    pub(super) fn open(
        directory: PathBuf,
        durability: Durability,
        temporary: Arc<TemporaryFiles>,
        running: Arc<Semaphore>,
        quota: BlobQuota,
    ) -> Result<Arc<Self>, BlobError> {
        create(&directory)?;
        let mut usage = BlobUsage::count(&directory)?;
        usage.containers = fs::read_dir(&directory)?.count() as u64;
        Ok(Arc::new(Self {
            directory,
            durability,
            temporary,
            account: Arc::new(BlobAccount::new(usage, quota)),
            names: Mutex::default(),
            running: [Arc::new(Semaphore::new(RUNNING)), running],
            open: Arc::new(Semaphore::new(MAX_OPEN)),
        }))
    }

    /// How much the service has.
    pub fn usage(&self) -> BlobUsage {
        self.account.usage()
    }

    /// A temporary file that is about to be created.
    pub(super) fn temporary_file(&self) -> TemporaryFile {
        TemporaryFile::new(self.temporary.path(), &self.account)
    }

    /// Runs `work` on a thread that may wait for the disk. It runs to its end, also if nobody waits for its result.
    pub(super) fn start<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Self>) -> Result<T, BlobError> + Send + 'static,
    ) -> JoinHandle<Result<T, BlobError>> {
        let space = Arc::clone(self);
        tokio::spawn(async move {
            let [own, host] = &space.running;
            // First that of the service, so that no service waits in the queue of the host with more than it could run. They
            // are never closed.
            let places = [Arc::clone(own).acquire_owned().await.ok(), Arc::clone(host).acquire_owned().await.ok()];
            let space = Arc::clone(&space);
            blocking(move || {
                let _places = places;
                work(&space)
            })
            .await
        })
    }

    /// Runs `work` like [`Self::start`], and waits for its result until the deadline.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        deadline: Instant,
        work: impl FnOnce(&Arc<Self>) -> Result<T, BlobError> + Send + 'static,
    ) -> Result<T, BlobError> {
        timeout_at(deadline, finished(self.start(work))).await.unwrap_or(Err(BlobError::Timeout))
    }

    /// Waits for the place of an open file.
    pub(super) async fn place(&self, deadline: Instant) -> Result<Option<OwnedSemaphorePermit>, BlobError> {
        let place = timeout_at(deadline, Arc::clone(&self.open).acquire_owned()).await;
        place.map(Result::ok).map_err(|_| BlobError::Timeout)
    }

    /// Creates a container.
    ///
    /// # Errors
    /// [`BlobError::ContainerExists`] if there is one, and those of every operation.
    pub async fn create_container(self: &Arc<Self>, name: &str, deadline: Instant) -> Result<(), BlobError> {
        let path = self.directory.join(path::container(name)?);
        let create = move |space: &Arc<Self>| {
            let _names = lock(&space.names);
            space.account.take_container()?;
            if let Err(error) = fs::create_dir(&path) {
                space.account.give_back(BlobUsage::container());
                return Err(match error.kind() {
                    ErrorKind::AlreadyExists => BlobError::ContainerExists,
                    _ => error.into(),
                });
            }
            space.settle([space.directory.as_path()])
        };
        self.run(deadline, create).await
    }

    /// Returns when a container was created; `None` if there is none.
    ///
    /// # Errors
    /// Those of every operation.
    pub async fn container(self: &Arc<Self>, name: &str, deadline: Instant) -> Result<Option<SystemTime>, BlobError> {
        let path = self.directory.join(path::container(name)?);
        let find = move |_: &Arc<Self>| match fs::symlink_metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.created().or_else(|_| metadata.modified())?)),
            Err(error) => match BlobError::NoContainer.absent(&error) {
                BlobError::NoContainer => Ok(None),
                other => Err(other),
            },
        };
        self.run(deadline, find).await
    }

    /// Deletes a container with all its objects.
    ///
    /// # Errors
    /// [`BlobError::NoContainer`] if there is none, and those of every operation.
    pub async fn delete_container(self: &Arc<Self>, name: &str, deadline: Instant) -> Result<(), BlobError> {
        self.empty(name, false, deadline).await
    }

    /// Deletes all objects of a container.
    ///
    /// # Errors
    /// [`BlobError::NoContainer`] if there is none, and those of every operation.
    pub async fn clear(self: &Arc<Self>, name: &str, deadline: Instant) -> Result<(), BlobError> {
        self.empty(name, true, deadline).await
    }

    async fn empty(self: &Arc<Self>, name: &str, again: bool, deadline: Instant) -> Result<(), BlobError> {
        let path = self.directory.join(path::container(name)?);
        let empty = move |space: &Arc<Self>| {
            let aside = space.temporary.path();
            {
                let _names = lock(&space.names);
                fs::rename(&path, &aside).map_err(|error| BlobError::NoContainer.absent(&error))?;
                if again {
                    fs::create_dir(&path)?;
                } else {
                    space.account.give_back(BlobUsage::container());
                }
            }
            let settled = space.settle([space.directory.as_path()]);
            // Nothing can be added to it any more.
            let removed = BlobUsage::count(&aside)?;
            fs::remove_dir_all(&aside)?;
            space.account.give_back(removed);
            settled
        };
        self.run(deadline, empty).await
    }

    /// Returns what is known of an object.
    ///
    /// # Errors
    /// [`BlobError::NoContainer`], [`BlobError::NoObject`], and those of every operation.
    pub async fn info(self: &Arc<Self>, of: (&str, &str), deadline: Instant) -> Result<BlobInfo, BlobError> {
        let place = self.object(of)?;
        self.run(deadline, move |_| {
            BlobInfo::read(&fs::symlink_metadata(&place.path).map_err(|error| place.unopened(&error))?)
        })
        .await
    }

    /// Deletes objects of a container, at most [`MAX_NAMES`]. It is no error if one does not exist.
    ///
    /// # Errors
    /// [`BlobError::NoContainer`], and those of every operation.
    pub async fn delete(
        self: &Arc<Self>,
        container: &str,
        objects: &[String],
        deadline: Instant,
    ) -> Result<(), BlobError> {
        if objects.len() > MAX_NAMES {
            return Err(BlobError::TooLarge { what: "the list", unit: "names", limit: MAX_NAMES });
        }
        let places: Vec<_> = objects.iter().map(|object| self.object((container, object))).collect::<Result<_, _>>()?;
        let container = self.directory.join(path::container(container)?);
        let delete = move |space: &Arc<Self>| {
            if !container.is_dir() {
                return Err(BlobError::NoContainer);
            }
            places.iter().try_for_each(|place| space.remove(place))?;
            space.settle([container.as_path()])
        };
        self.run(deadline, delete).await
    }

    fn remove(&self, place: &ObjectPath) -> Result<(), BlobError> {
        let _names = lock(&self.names);
        let Some(bytes) = size(&place.path)? else { return Ok(()) };
        fs::remove_file(&place.path)?;
        self.account.give_back(BlobUsage::object(bytes));
        place.prune();
        Ok(())
    }

    /// Copies an object, which replaces one at the other place. No bytes are copied where the file system has hard links:
    /// objects do not change.
    ///
    /// # Errors
    /// [`BlobError::NoContainer`], [`BlobError::NoObject`], and those of every operation.
    pub async fn copy(
        self: &Arc<Self>,
        from: (&str, &str),
        to: (&str, &str),
        deadline: Instant,
    ) -> Result<(), BlobError> {
        let (from, to) = (self.object(from)?, self.object(to)?);
        let copy = move |space: &Arc<Self>| {
            if from.path == to.path {
                return size(&from.path)?.map(drop).ok_or_else(|| from.missing());
            }
            let mut temporary = space.temporary_file();
            if fs::hard_link(&from.path, temporary.path()).is_err() {
                fs::copy(&from.path, temporary.path()).map_err(|error| from.unopened(&error))?;
                File::open(temporary.path())?.sync_all()?;
            }
            // Not those of the object before: another may have replaced it.
            temporary.charge(fs::symlink_metadata(temporary.path())?.len())?;
            space.publish(temporary, &to)
        };
        self.run(deadline, copy).await
    }

    /// Moves an object, which replaces one at the other place.
    ///
    /// # Errors
    /// [`BlobError::NoContainer`], [`BlobError::NoObject`], and those of every operation.
    pub async fn rename(
        self: &Arc<Self>,
        from: (&str, &str),
        to: (&str, &str),
        deadline: Instant,
    ) -> Result<(), BlobError> {
        let (from, to) = (self.object(from)?, self.object(to)?);
        let rename = move |space: &Arc<Self>| {
            {
                let _names = lock(&space.names);
                size(&from.path)?.ok_or_else(|| from.missing())?;
                if from.path == to.path {
                    return Ok(());
                }
                let before = to.prepare()?;
                fs::rename(&from.path, &to.path)?;
                if size(&from.path)?.is_some() {
                    // Both were links to one file, and a rename of those does nothing.
                    fs::remove_file(&from.path)?;
                }
                if let Some(bytes) = before {
                    space.account.give_back(BlobUsage::object(bytes));
                }
                from.prune();
            }
            space.settle(to.directories().chain([from.container.as_path()]))
        };
        self.run(deadline, rename).await
    }

    /// Gives a temporary file, whose content is on the disk, its name. Waits for the disk.
    pub(super) fn publish(&self, mut temporary: TemporaryFile, place: &ObjectPath) -> Result<(), BlobError> {
        {
            let _names = lock(&self.names);
            let before = place.prepare()?;
            if before.is_none() {
                // What was made for a long name counts as nothing, so it must not stay without its object.
                self.account.take_object().inspect_err(|_| place.prune())?;
            }
            if let Err(error) = fs::rename(temporary.path(), &place.path) {
                if before.is_none() {
                    self.account.give_back(BlobUsage::object(0));
                    place.prune();
                }
                return Err(error.into());
            }
            temporary.keep_bytes();
            self.account.give_back(BlobUsage::only_bytes(before.unwrap_or(0)));
        }
        self.settle(place.directories())
    }

    /// Waits until names that were given or taken in these directories survive a power cut, if they have to.
    fn settle<'a>(&self, directories: impl IntoIterator<Item = &'a Path>) -> Result<(), BlobError> {
        if self.durability == Durability::Power {
            for directory in directories {
                File::open(directory)?.sync_all()?;
            }
        }
        Ok(())
    }

    pub(super) fn object(&self, (container, object): (&str, &str)) -> Result<ObjectPath, BlobError> {
        ObjectPath::new(&self.directory, container, object)
    }
}

impl BlobInfo {
    fn read(metadata: &Metadata) -> Result<Self, BlobError> {
        Ok(Self { bytes: metadata.len(), created: metadata.modified()? })
    }
}
