//! Slots for work that waits or is done, of which each client has few.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use crate::lock::lock;

/// A bounded number of slots, and a smaller one for each key.
#[derive(Debug)]
pub struct Slots<K: Hash + Eq> {
    most: usize,
    most_of_key: usize,
    taken: Mutex<TakenSlots<K>>,
}

#[derive(Debug)]
struct TakenSlots<K> {
    all: usize,
    /// The slots of each key that has any.
    of_keys: HashMap<K, usize>,
}

/// A slot that is taken. Dropping it returns it.
pub struct TakenSlot<K: Hash + Eq> {
    slots: Arc<Slots<K>>,
    keys: Vec<K>,
}

impl<K: Hash + Eq + Clone> Slots<K> {
    /// Creates `most` slots, of which one key has at most `most_of_key`.
    pub fn new(most: usize, most_of_key: usize) -> Arc<Self> {
        let taken = Mutex::new(TakenSlots { all: 0, of_keys: HashMap::new() });
        Arc::new(Self { most, most_of_key, taken })
    }

    /// Takes a slot that is charged to these keys, which differ; `None` if there is none, or one of the keys has no more.
    pub fn take(self: &Arc<Self>, keys: Vec<K>) -> Option<TakenSlot<K>> {
        let mut taken = lock(&self.taken);
        let is_full = |key: &K| taken.of_keys.get(key).is_some_and(|count| *count >= self.most_of_key);
        if taken.all >= self.most || keys.iter().any(is_full) {
            return None;
        }
        taken.all += 1;
        keys.iter().for_each(|key| *taken.of_keys.entry(key.clone()).or_default() += 1);
        drop(taken);
        Some(TakenSlot { slots: Arc::clone(self), keys })
    }
}

impl<K: Hash + Eq> Drop for TakenSlot<K> {
    fn drop(&mut self) {
        let mut taken = lock(&self.slots.taken);
        taken.all = taken.all.saturating_sub(1);
        for key in &self.keys {
            if let Some(count) = taken.of_keys.get_mut(key) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    taken.of_keys.remove(key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_few_slots() {
        let slots = Slots::new(5, 2);
        let take = |keys: &[u8]| slots.take(keys.to_vec());
        let mut held: Vec<_> = std::iter::from_fn(|| take(&[1])).collect();
        assert_eq!(held.len(), 2);
        // What has two keys needs room for both, and takes nothing without it.
        assert!(take(&[2, 1]).is_none());
        held.extend([take(&[2, 3]), take(&[2]), take(&[3])].into_iter().flatten());
        assert_eq!(held.len(), 5);
        assert!(take(&[4]).is_none(), "a bound for all");
        held.pop();
        held.push(take(&[4]).unwrap());
        drop(held);
        assert!(lock(&slots.taken).all == 0 && lock(&slots.taken).of_keys.is_empty());
    }
}
