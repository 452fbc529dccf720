//! The containers and objects of one service.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures_util::stream::{self, StreamExt};
use lodge_state::blobs::{BlobError, BlobQuota, BlobUsage, MAX_OPEN};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::account::SharedAccount;
use crate::changes::{ObjectChange, ObjectChanges};
use crate::failure::{S3Failure, unavailable};
use crate::keys::ServiceKeys;
use crate::operations::ObjectHead;
use crate::places::ServicePlaces;
use crate::transport::S3Lane;
use crate::turns::ObjectMoves;

/// Containers of a service whose objects are being removed.
const REMOVALS: usize = 8;
/// Requests of a service at a time, for objects that are removed, and for records that are read.
pub(crate) const PARALLEL: usize = 16;
/// The most bytes of an object that S3 copies.
pub(crate) const MAX_COPY: u64 = 5 << 30;

const CONTAINER: BlobUsage = BlobUsage { containers: 1, objects: 0, bytes: 0 };
const OBJECT: BlobUsage = BlobUsage { containers: 0, objects: 1, bytes: 0 };

/// The containers and objects of one service.
pub(crate) struct S3Space {
    pub(crate) keys: ServiceKeys,
    pub(crate) lane: S3Lane,
    pub(crate) account: Arc<SharedAccount>,
    /// The places of containers whose objects are being removed.
    pub(crate) removals: Arc<Semaphore>,
    /// The ids whose objects are being removed, and whether the account has these.
    pub(crate) removing: Mutex<HashMap<String, bool>>,
    /// The records of containers, as the last count has found them.
    pub(crate) records: Mutex<KnownRecords>,
    /// The places of parts in memory.
    pub(crate) parts: Arc<ServicePlaces>,
    /// The places of objects and listings that are open.
    open: Arc<Semaphore>,
    /// The keys that are being changed.
    pub(crate) changes: Arc<ObjectChanges>,
    /// The moves that run.
    pub(crate) moves: ObjectMoves,
}

/// An object that another one is about to replace.
pub(crate) struct ReplacedObject {
    /// Its bytes, if there is one.
    before: Option<u64>,
    change: ObjectChange,
}

/// Runs an operation that changes something. It runs to its end, also if nobody waits for its result.
pub(crate) async fn run<T: Send + 'static>(
    operation: impl Future<Output = Result<T, BlobError>> + Send + 'static,
) -> Result<T, BlobError> {
    let stopped = |error| Err(unavailable(format!("the operation did not run: {error}")));
    tokio::spawn(operation).await.unwrap_or_else(stopped)
}

/// The records of containers that the last count has found, by their keys: their tags and ids.
pub(crate) type KnownRecords = HashMap<String, (String, String)>;

/// The container and the name of an object, for a task.
pub(crate) type OwnedName = (String, String);

/// An object of this many bytes.
pub(crate) fn object(bytes: u64) -> BlobUsage {
    BlobUsage { bytes, ..OBJECT }
}

impl S3Space {
    /// The space of a service with these places of parts.
    pub(crate) fn new(keys: ServiceKeys, lane: S3Lane, quota: BlobQuota, parts: Arc<ServicePlaces>) -> Self {
        let places = |number| Arc::new(Semaphore::new(number));
        Self {
            keys,
            lane,
            account: Arc::new(SharedAccount::new(quota)),
            removals: places(REMOVALS),
            removing: Mutex::default(),
            records: Mutex::default(),
            parts,
            changes: Arc::default(),
            moves: ObjectMoves::new(),
            open: places(MAX_OPEN),
        }
    }

    /// Waits for the place of an open object.
    pub(crate) async fn place(&self, deadline: Instant) -> Result<Option<OwnedSemaphorePermit>, BlobError> {
        let place = timeout_at(deadline, Arc::clone(&self.open).acquire_owned()).await;
        place.map(Result::ok).map_err(|_| BlobError::Timeout)
    }

    async fn removal(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, BlobError> {
        let place = timeout_at(deadline, Arc::clone(&self.removals).acquire_owned()).await;
        place.map_err(|_| BlobError::Timeout)?.map_err(unavailable)
    }

    /// Takes the place of an object or a container, and counts if there seems to be none: other hosts may have deleted some.
    pub(crate) fn take(self: &Arc<Self>, one: BlobUsage) -> Result<(), BlobError> {
        let taken = self.account.take(one);
        self.count_if_due(taken.is_err());
        taken
    }

    /// Gives back what a request was to store, and makes a count due if it may have stored it.
    pub(crate) fn undo(&self, taken: BlobUsage, error: &BlobError) {
        self.account.give_back(taken);
        if matches!(error, BlobError::Timeout | BlobError::Unavailable(_)) {
            self.account.doubt();
        }
    }

    pub(crate) async fn create_container(self: Arc<Self>, name: String, deadline: Instant) -> Result<(), BlobError> {
        self.take(CONTAINER)?;
        self.create(&name, deadline).await.inspect_err(|error| self.undo(CONTAINER, error))
    }

    pub(crate) async fn delete_container(self: Arc<Self>, name: String, deadline: Instant) -> Result<(), BlobError> {
        let place = self.removal(deadline).await?;
        let change = self.changes.begin(&self.keys.container(&name)?);
        let id = self.delete_record(&name, deadline).await?;
        let counted = self.give_back(CONTAINER, &change);
        self.remove_objects(id, counted, place);
        Ok(())
    }

    pub(crate) async fn clear(self: Arc<Self>, name: String, deadline: Instant) -> Result<(), BlobError> {
        let place = self.removal(deadline).await?;
        let change = self.changes.begin(&self.keys.container(&name)?);
        let id = self.renew(&name, deadline).await?;
        let counted = self.give_back(BlobUsage::default(), &change);
        self.remove_objects(id, counted, place);
        Ok(())
    }

    pub(crate) async fn delete(
        self: Arc<Self>,
        container: String,
        names: Vec<String>,
        deadline: Instant,
    ) -> Result<(), BlobError> {
        let id = self.find(&container, deadline).await?.id;
        let mut keys: Vec<_> = names.iter().map(|name| self.keys.object(&id, name)).collect::<Result<_, _>>()?;
        keys.sort_unstable();
        keys.dedup();
        let remove = |key: String| {
            let space = Arc::clone(&self);
            async move {
                let change = space.changes.begin(&key);
                if let Some(head) = space.lane.head(&key, deadline).await? {
                    space.lane.remove(&key, deadline).await?;
                    space.give_back(object(head.bytes), &change);
                }
                Ok::<_, BlobError>(())
            }
        };
        let mut removals = stream::iter(keys).map(remove).buffer_unordered(PARALLEL);
        while let Some(removed) = removals.next().await {
            removed?;
        }
        Ok(())
    }

    /// The keys of two objects.
    pub(crate) async fn both(
        &self,
        from: &OwnedName,
        to: &OwnedName,
        deadline: Instant,
    ) -> Result<(String, String), BlobError> {
        let source = self.find(&from.0, deadline).await?;
        let target = if from.0 == to.0 { source.clone() } else { self.find(&to.0, deadline).await? };
        Ok((self.keys.object(&source.id, &from.1)?, self.keys.object(&target.id, &to.1)?))
    }

    pub(crate) async fn copy(
        self: Arc<Self>,
        from: OwnedName,
        to: OwnedName,
        deadline: Instant,
    ) -> Result<(), BlobError> {
        let (from, to) = self.both(&from, &to, deadline).await?;
        let mut changes = 0;
        loop {
            let head = self.lane.head(&from, deadline).await?.ok_or(BlobError::NoObject)?;
            if from == to {
                return Ok(());
            }
            let mut charge = self.account.charge();
            charge.take(head.bytes).inspect_err(|_| self.count_if_due(true))?;
            match self.place_copy((&from, &head), &to, false, deadline).await {
                Ok(()) => {
                    charge.keep();
                    return Ok(());
                }
                Err(S3Failure::Changed) if changes < 3 => changes += 1,
                Err(other) => return Err(other.or(BlobError::NoObject)),
            }
        }
    }

    /// Copies an object by its key, and counts the object that it replaces or adds, but for the bytes of the copy. With `moves` a quota
    /// may be exceeded by the copy, since the original is about to be deleted.
    pub(crate) async fn place_copy(
        self: &Arc<Self>,
        (from, head): (&str, &ObjectHead),
        to: &str,
        moves: bool,
        deadline: Instant,
    ) -> Result<(), S3Failure> {
        if head.bytes > MAX_COPY {
            let what = "the object that S3 must copy";
            return Err(BlobError::TooLarge { what, unit: "bytes", limit: MAX_COPY as usize }.into());
        }
        let replaced = self.find_replaced(to, deadline).await?;
        if replaced.before.is_none() {
            let taken = if moves { self.account.take_moved(OBJECT) } else { self.account.take(OBJECT) };
            self.count_if_due(taken.is_err());
            taken?;
        }
        let copied = self.lane.duplicate((from, &head.tag), to, deadline).await;
        self.settle(replaced, copied)
    }

    async fn find_replaced(&self, key: &str, deadline: Instant) -> Result<ReplacedObject, BlobError> {
        let change = self.changes.begin(key);
        let before = self.lane.head(key, deadline).await?.map(|head| head.bytes);
        Ok(ReplacedObject { before, change })
    }

    /// The object that another one is about to replace; without one, takes the place of one more.
    pub(crate) async fn replaced(self: &Arc<Self>, key: &str, deadline: Instant) -> Result<ReplacedObject, BlobError> {
        let replaced = self.find_replaced(key, deadline).await?;
        if replaced.before.is_none() {
            self.take(OBJECT)?;
        }
        Ok(replaced)
    }

    /// Counts what [`Self::replaced`] has returned, when the object was stored or was not.
    pub(crate) fn settle<T>(&self, replaced: ReplacedObject, stored: Result<T, S3Failure>) -> Result<T, S3Failure> {
        let ReplacedObject { before, change } = replaced;
        match &stored {
            Ok(_) => {
                self.give_back(BlobUsage { bytes: before.unwrap_or_default(), ..BlobUsage::default() }, &change);
            }
            Err(failure) => {
                let taken = if before.is_none() { OBJECT } else { BlobUsage::default() };
                self.undo(taken, &failure.clone().or(BlobError::NoObject));
            }
        }
        stored
    }

    /// Gives back what a change has freed; false if it may have been another change of the same key. Then the next count says it.
    pub(crate) fn give_back(&self, freed: BlobUsage, change: &ObjectChange) -> bool {
        let alone = change.is_alone();
        if alone {
            self.account.give_back(freed);
        } else {
            self.account.doubt();
        }
        alone
    }
}
