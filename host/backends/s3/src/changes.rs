//! The changes of keys that run on this host.
//!
//! What a change frees is found by a request before it. Two changes of one key at a time may find the same object, and only one of
//! them frees it. So neither gives anything back then, and the next count says what there is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The keys that are being changed.
#[derive(Debug, Default)]
pub(crate) struct ObjectChanges(Mutex<HashMap<String, RunningChanges>>);

/// The changes of a key that run.
#[derive(Debug, Default)]
struct RunningChanges {
    number: usize,
    /// Whether there were two at a time since the first one began.
    overlap: bool,
}

/// A change of a key that runs until this is dropped.
#[derive(Debug)]
pub(crate) struct ObjectChange {
    changes: Arc<ObjectChanges>,
    key: String,
}

impl ObjectChanges {
    fn running(&self) -> MutexGuard<'_, HashMap<String, RunningChanges>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a change, before the request that finds out what it frees.
    pub(crate) fn begin(self: &Arc<Self>, key: &str) -> ObjectChange {
        let mut running = self.running();
        let changes = running.entry(key.to_owned()).or_default();
        changes.overlap |= changes.number > 0;
        changes.number = changes.number.saturating_add(1);
        ObjectChange { changes: Arc::clone(self), key: key.to_owned() }
    }
}

impl ObjectChange {
    /// Whether no other change of the key has run at the same time until now.
    pub(crate) fn is_alone(&self) -> bool {
        !self.changes.running().get(&self.key).is_some_and(|changes| changes.overlap)
    }
}

impl Drop for ObjectChange {
    fn drop(&mut self) {
        let mut running = self.changes.running();
        if let Some(changes) = running.get_mut(&self.key) {
            changes.number = changes.number.saturating_sub(1);
            if changes.number == 0 {
                running.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_one_key_at_a_time_know_that() {
        let changes = Arc::new(ObjectChanges::default());
        let one = changes.begin("a");
        let elsewhere = changes.begin("b");
        assert!(one.is_alone());
        let other = changes.begin("a");
        assert!(!one.is_alone() && !other.is_alone() && elsewhere.is_alone());
        drop(one);
        assert!(!other.is_alone() && !changes.begin("a").is_alone());
        drop(other);
        assert!(changes.begin("a").is_alone());
        drop(elsewhere);
        assert!(changes.running().is_empty());
    }
}
