//! How much a service has, as far as this host knows: what was counted on the server, and what this host has changed since then.
//!
//! Changes of other hosts are known by the next count. Until then, the quota may be exceeded by what they have stored.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lodge_state::blobs::{BlobError, BlobQuota, BlobUsage, MAX_CONTAINERS};

/// How old a count may be when something is written, if it was short.
const FRESH: Duration = Duration::from_secs(60);
/// How old it may be when a quota refuses something, or after a request that may have changed something or not.
const FRESH_IF_FULL: Duration = Duration::from_secs(2);
/// The part of the time that counting may take.
const SHARE: u32 = 20;

/// The account of a service.
#[derive(Debug)]
pub(crate) struct SharedAccount(Mutex<Books>);

#[derive(Debug)]
struct Books {
    quota: BlobQuota,
    /// What is stored.
    stored: BlobUsage,
    /// Bytes of objects that are being written.
    writing: u64,
    /// When the last count began, and how long it took, also if it failed.
    counted: Option<(Instant, Duration)>,
    /// Whether what is stored may differ from what this host knows of its own changes.
    in_doubt: bool,
    /// When a count began that has not ended, and what was stored since then.
    counting: Option<(Instant, BlobUsage)>,
}

/// Bytes that an object takes which is being written. They are given back when this is dropped.
#[derive(Debug)]
pub(crate) struct BlobCharge {
    account: Arc<SharedAccount>,
    bytes: u64,
}

impl SharedAccount {
    pub(crate) fn new(quota: BlobQuota) -> Self {
        let stored = BlobUsage::default();
        Self(Mutex::new(Books { quota, stored, writing: 0, counted: None, in_doubt: false, counting: None }))
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn usage(&self) -> BlobUsage {
        let books = self.books();
        BlobUsage { bytes: books.stored.bytes.saturating_add(books.writing), ..books.stored }
    }

    pub(crate) fn set_quota(&self, quota: BlobQuota) {
        self.books().quota = quota;
    }

    /// Whether a count should begin now, which then must end by [`Self::end_count`]. `is_full` if a quota has refused something.
    pub(crate) fn begin_count(&self, is_full: bool) -> bool {
        let mut books = self.books();
        let due = match books.counted {
            None => true,
            Some((at, took)) => {
                let fresh = if is_full || books.in_doubt { FRESH_IF_FULL } else { FRESH };
                at.elapsed() > took.saturating_mul(SHARE).max(fresh)
            }
        };
        let begins = due && books.counting.is_none();
        if begins {
            books.begin_count();
        }
        begins
    }

    /// Begins the first count, or does so again after it has failed: without one, nothing can be stored.
    pub(crate) fn begin_first_count(&self) {
        self.books().begin_count();
    }

    /// Sets what was counted, if that has succeeded. What was stored meanwhile may be in it or not; it is added, so that a quota is
    /// not exceeded.
    pub(crate) fn end_count(&self, counted: Option<BlobUsage>) {
        let mut books = self.books();
        let Some((began, added)) = books.counting.take() else { return };
        // One that has failed was a load for the server as well.
        books.counted = Some((began, began.elapsed()));
        match counted {
            Some(counted) => books.stored = sum(counted, added),
            None => books.in_doubt = true,
        }
    }

    /// Makes the next count due soon: a request may have changed something or not.
    pub(crate) fn doubt(&self) {
        self.books().in_doubt = true;
    }

    #[cfg(test)]
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.books().in_doubt
    }

    /// Begins an object that is written.
    pub(crate) fn charge(self: &Arc<Self>) -> BlobCharge {
        BlobCharge { account: Arc::clone(self), bytes: 0 }
    }

    /// Takes the place of one more object or container.
    ///
    /// # Errors
    /// [`BlobError::Full`] if there is none.
    pub(crate) fn take(&self, one: BlobUsage) -> Result<(), BlobError> {
        let mut books = self.books();
        let full = |resource, limit| Err(BlobError::Full { resource, limit });
        if one.objects > 0 && books.stored.objects >= books.quota.objects {
            return full("objects", books.quota.objects);
        }
        if one.containers > 0 && books.stored.containers >= MAX_CONTAINERS {
            return full("containers", MAX_CONTAINERS);
        }
        books.add(one);
        Ok(())
    }

    /// Takes the place of the copy of an object that is moved. The last one may be beyond the quota: its original is about to be deleted.
    ///
    /// # Errors
    /// [`BlobError::Full`] if there are more objects than the quota has already.
    pub(crate) fn take_moved(&self, one: BlobUsage) -> Result<(), BlobError> {
        let mut books = self.books();
        if books.stored.objects > books.quota.objects {
            return Err(BlobError::Full { resource: "objects", limit: books.quota.objects });
        }
        books.add(one);
        Ok(())
    }

    /// Gives back what is not there any more.
    pub(crate) fn give_back(&self, less: BlobUsage) {
        let mut books = self.books();
        let stored = &mut books.stored;
        stored.containers = stored.containers.saturating_sub(less.containers);
        stored.objects = stored.objects.saturating_sub(less.objects);
        stored.bytes = stored.bytes.saturating_sub(less.bytes);
    }
}

impl Books {
    fn begin_count(&mut self) {
        // What is in doubt from now on may be missing in what is counted.
        self.in_doubt = false;
        self.counting = Some((Instant::now(), BlobUsage::default()));
    }

    fn add(&mut self, more: BlobUsage) {
        self.stored = sum(self.stored, more);
        if let Some((_, added)) = &mut self.counting {
            *added = sum(*added, more);
        }
    }
}

impl BlobCharge {
    /// Takes more bytes.
    ///
    /// # Errors
    /// [`BlobError::Full`] if the quota does not have them.
    pub(crate) fn take(&mut self, bytes: u64) -> Result<(), BlobError> {
        self.take_beside(bytes, bytes)
    }

    /// Takes the bytes of the copy of an object that is moved. The last one may be beyond the quota: its original is about to be deleted.
    ///
    /// # Errors
    /// [`BlobError::Full`] if there are more bytes than the quota has already.
    pub(crate) fn take_moved(&mut self, bytes: u64) -> Result<(), BlobError> {
        self.take_beside(bytes, 0)
    }

    /// Takes bytes, if the quota has room for `new` more.
    fn take_beside(&mut self, bytes: u64, new: u64) -> Result<(), BlobError> {
        let mut books = self.account.books();
        let all = books.stored.bytes.saturating_add(books.writing).saturating_add(new);
        if bytes > 0 && all > books.quota.bytes {
            return Err(BlobError::Full { resource: "bytes", limit: books.quota.bytes });
        }
        books.writing = books.writing.saturating_add(bytes);
        self.bytes = self.bytes.saturating_add(bytes);
        Ok(())
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The bytes are those of an object that is stored from now on.
    pub(crate) fn keep(self) {
        self.account.books().add(BlobUsage { bytes: self.bytes, ..BlobUsage::default() });
    }
}

impl Drop for BlobCharge {
    fn drop(&mut self) {
        let mut books = self.account.books();
        books.writing = books.writing.saturating_sub(self.bytes);
    }
}

fn sum(one: BlobUsage, other: BlobUsage) -> BlobUsage {
    BlobUsage {
        containers: one.containers.saturating_add(other.containers),
        objects: one.objects.saturating_add(other.objects),
        bytes: one.bytes.saturating_add(other.bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: BlobUsage = BlobUsage { objects: 1, bytes: 0, containers: 0 };

    #[test]
    fn what_is_stored_during_a_count_is_not_forgotten() {
        let account = Arc::new(SharedAccount::new(BlobQuota { objects: 3, bytes: 100 }));
        assert!(account.begin_count(false) && !account.begin_count(false), "one at a time");
        account.take(OBJECT).unwrap();
        let mut charge = account.charge();
        charge.take(40).unwrap();
        charge.keep();
        account.end_count(Some(BlobUsage { containers: 1, objects: 1, bytes: 50 }));
        assert_eq!(account.usage(), BlobUsage { containers: 1, objects: 2, bytes: 90 });
        assert!(!account.begin_count(false) && !account.begin_count(true), "it is fresh");
        let mut charge = account.charge();
        assert_eq!(charge.take(11), Err(BlobError::Full { resource: "bytes", limit: 100 }));
        charge.take(10).unwrap();
        assert_eq!(account.usage().bytes, 100);
        drop(charge);
        assert_eq!(account.usage().bytes, 90);
        account.take(OBJECT).unwrap();
        assert_eq!(account.take(OBJECT), Err(BlobError::Full { resource: "objects", limit: 3 }));
        // One that fails changes nothing.
        account.begin_first_count();
        account.end_count(None);
        assert_eq!(account.usage().objects, 3);
    }

    /// A full service moves one object at a time, and one that has more than its quota none.
    #[test]
    fn moves_exceed_a_quota_by_one_copy() {
        let account = Arc::new(SharedAccount::new(BlobQuota { objects: 1, bytes: 100 }));
        let put = |bytes| {
            let mut charge = account.charge();
            account.take(OBJECT).and_then(|()| charge.take(bytes)).map(|()| charge.keep())
        };
        put(100).unwrap();
        let (mut one, mut other) = (account.charge(), account.charge());
        one.take_moved(100).unwrap();
        account.take_moved(OBJECT).unwrap();
        assert_eq!(other.take_moved(1), Err(BlobError::Full { resource: "bytes", limit: 100 }));
        assert_eq!(account.take_moved(OBJECT), Err(BlobError::Full { resource: "objects", limit: 1 }));
        one.keep();
        assert!(other.take_moved(1).is_err(), "the original is still there");
        account.give_back(BlobUsage { bytes: 100, ..OBJECT });
        other.take_moved(100).unwrap();
        account.take_moved(OBJECT).unwrap();
    }

    #[test]
    fn counts_take_a_part_of_the_time_only_whatever_happens() {
        let account = SharedAccount::new(BlobQuota { objects: 3, bytes: 100 });
        let ago = |seconds, took| {
            let at = Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
            account.books().counted = Some((at, Duration::from_millis(took)));
        };
        account.begin_first_count();
        account.end_count(None);
        assert!(!account.begin_count(true), "one has just failed");
        ago(3, 1_000);
        account.doubt();
        assert!(!account.begin_count(false) && !account.begin_count(true), "it took a second");
        ago(3, 1);
        assert!(account.begin_count(false), "something is in doubt");
        account.doubt();
        account.end_count(Some(BlobUsage::default()));
        ago(3, 1);
        assert!(account.begin_count(false), "something is in doubt since the count began");
        account.end_count(Some(BlobUsage::default()));
        ago(3, 1);
        assert!(!account.begin_count(false), "nothing is");
        assert!(account.begin_count(true));
    }
}
