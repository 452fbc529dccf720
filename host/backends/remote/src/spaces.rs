//! Namespaces that are open, with their quotas, and a bound on what they do at a time.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use lodge_state::{Error, Namespace, Quota};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Units of operations in progress, of all services and of one. So one service leaves room for the others.
const UNITS: (usize, usize) = (4096, 1024);
/// Bytes per unit. Every operation takes one unit, and one more for each of these that it sends: 64 MiB together.
const UNIT: u64 = 16 << 10;
/// Namespaces at a time. A host has one per service.
const MAX_NAMESPACES: usize = 10_000;

/// The namespaces of a backend.
pub struct RemoteSpaces {
    server: &'static str,
    units: Arc<Semaphore>,
    open: Mutex<HashMap<Namespace, Arc<RemoteSpace>>>,
}

/// A namespace.
pub struct RemoteSpace {
    server: &'static str,
    namespace: Namespace,
    quota: Mutex<Quota>,
    units: (Arc<Semaphore>, Arc<Semaphore>),
}

/// The right to do one operation. Dropping it gives its units back.
#[must_use = "the units are given back when the permit is dropped"]
#[derive(Debug)]
pub struct OperationPermit {
    _units: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

impl RemoteSpaces {
    /// No namespaces. `server` is what messages call it, as "Redis".
    pub fn new(server: &'static str) -> RemoteSpaces {
        RemoteSpaces { server, units: Arc::new(Semaphore::new(UNITS.0)), open: Mutex::default() }
    }

    /// Returns the namespace `namespace`. `quota` applies to all of its users from now on; `None` does not change it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if there are too many namespaces.
    pub fn open(&self, namespace: &Namespace, quota: Option<Quota>) -> Result<Arc<RemoteSpace>, Error> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let space = match open.get(namespace) {
            Some(space) => space.clone(),
            None if open.len() >= MAX_NAMESPACES => {
                let text = format!("{MAX_NAMESPACES} services have state already: restart the host");
                return Err(Error::unavailable(text));
            }
            None => {
                let units = (self.units.clone(), Arc::new(Semaphore::new(UNITS.1)));
                let (server, namespace) = (self.server, namespace.clone());
                let space = Arc::new(RemoteSpace { server, namespace, quota: Mutex::default(), units });
                open.entry(space.namespace.clone()).or_insert(space).clone()
            }
        };
        if let Some(quota) = quota {
            *space.quota.lock().unwrap_or_else(PoisonError::into_inner) = quota;
        }
        Ok(space)
    }
}

impl RemoteSpace {
    /// Its name.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its quota now.
    pub fn quota(&self) -> Quota {
        *self.quota.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Permits an operation that sends `bytes`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if too many operations are in progress: the server is too slow for them.
    pub fn enter(&self, bytes: u64) -> Result<OperationPermit, Error> {
        let units = (1 + bytes / UNIT).try_into().unwrap_or(u32::MAX);
        let server = self.server;
        let full = |whose: &str, units: usize| {
            Error::unavailable(format!(
                "too many operations {whose} wait for {server} (limit {units}): retry later, and use batches or fewer keys"
            ))
        };
        let own = self.units.1.clone().try_acquire_many_owned(units).map_err(|_| full("of this service", UNITS.1))?;
        let all = self.units.0.clone().try_acquire_many_owned(units).map_err(|_| full("of all services", UNITS.0))?;
        Ok(OperationPermit { _units: (own, all) })
    }
}

impl fmt::Debug for RemoteSpaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteSpaces").field("server", &self.server).finish_non_exhaustive()
    }
}

impl fmt::Debug for RemoteSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteSpace").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_service_leaves_room_for_others() {
        let spaces = RemoteSpaces::new("Redis");
        let open = |name| spaces.open(&Namespace::new(name).unwrap(), Some(Quota::default())).unwrap();
        let (one, other) = (open("one"), open("other"));
        let permits: Vec<_> = (0..UNITS.1).map(|_| one.enter(0).unwrap()).collect();
        let full = one.enter(0).unwrap_err().to_string();
        assert!(full.contains("of this service") && full.contains("Redis"), "{full}");
        drop(other.enter(0).unwrap());
        drop(permits);
        let large: Vec<_> = (0..7).map(|_| one.enter(2 << 20).unwrap()).collect();
        assert!(one.enter(2 << 20).is_err(), "bytes count");
        drop(large);
        // All users of the namespace share the quota.
        spaces.open(&Namespace::new("one").unwrap(), Some(Quota { keys: 1, bytes: 2 })).unwrap();
        assert_eq!(one.quota(), Quota { keys: 1, bytes: 2 });
        spaces.open(&Namespace::new("one").unwrap(), None).unwrap();
        assert_eq!(one.quota(), Quota { keys: 1, bytes: 2 });
    }
}
