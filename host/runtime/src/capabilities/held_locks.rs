//! The locks that a request holds, which are released at its end.

use std::sync::{Arc, Mutex, Weak};

use lodge_base::lock::lock;
use lodge_state::Guard;

/// A place for a lock that a request holds or waits for; `None` before it is acquired and after it is released.
pub(super) type HeldSlot = tokio::sync::Mutex<Option<Guard>>;

/// The slots of the current request. A slot lives as long as its handle.
#[derive(Default)]
pub(super) struct HeldLocks(Mutex<Vec<Weak<HeldSlot>>>);

impl HeldLocks {
    /// Takes a slot, if the request has fewer than `most`.
    pub(super) fn take(&self, most: usize) -> Option<Arc<HeldSlot>> {
        let mut slots = lock(&self.0);
        if slots.len() >= most {
            slots.retain(|slot| slot.strong_count() > 0);
        }
        (slots.len() < most).then(|| {
            let slot = Arc::new(HeldSlot::default());
            slots.push(Arc::downgrade(&slot));
            slot
        })
    }

    /// Releases all locks at the end of a request.
    pub(super) fn release(&self) {
        let slots = std::mem::take(&mut *lock(&self.0));
        for slot in slots.iter().filter_map(Weak::upgrade) {
            // One that is in use is in an operation, which ends with the request.
            if let Ok(mut guard) = slot.try_lock() {
                drop(guard.take());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use lodge_state::{Backend, Lease, LockName, Locker, Memory, Namespace, SystemClock};

    #[tokio::test]
    async fn a_request_holds_as_many_as_it_may_and_none_after_its_end() {
        let memory = Memory::new(1 << 20, Arc::new(SystemClock::new()));
        let soon = || tokio::time::Instant::now() + Duration::from_secs(10);
        let locks = memory.locks(&Namespace::new("a").unwrap(), soon()).await.unwrap();
        let locker = Locker::new(locks, tokio::runtime::Handle::current());
        let lease = Lease::new(Duration::from_secs(600)).unwrap();
        let attempt = || locker.acquire(LockName::new("door").unwrap(), lease, tokio::time::Instant::now(), soon());
        let held = HeldLocks::default();
        let (first, second) = (held.take(2).unwrap(), held.take(2).unwrap());
        assert!(held.take(2).is_none());
        drop(second);
        let _second = held.take(2).unwrap();
        *first.lock().await = attempt().await.unwrap();
        assert!(attempt().await.unwrap().is_none(), "it is held");
        held.release();
        assert!(first.lock().await.is_none(), "the handle is void");
        assert!(attempt().await.unwrap().is_some(), "it is free");
        assert!(held.take(1).is_some(), "a handle of the last request does not count");
    }
}
