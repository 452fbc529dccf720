//! What changes when a file of keys is read again, by the names of its keys.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The most names of keys in the text of a change.
const NAMES: usize = 20;

/// The keys of a file: a hash of everything that the file says of each, by its name.
pub type KeyMarks = BTreeMap<String, u64>;

/// A change of the keys of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChange {
    /// The file.
    pub file: PathBuf,
    /// Which keys were added, removed or changed.
    pub change: String,
}

impl KeyChange {
    /// Returns what differs between these keys of a file; `None` if nothing does.
    pub fn between(file: &Path, before: &KeyMarks, after: &KeyMarks) -> Option<Self> {
        let mut change = String::new();
        let mut add = |what: &str, names: Vec<&String>| {
            if !names.is_empty() {
                let separator = if change.is_empty() { "" } else { "; " };
                let _ = write!(change, "{separator}{what} ");
                let shown: Vec<_> = names.iter().take(NAMES).map(|name| name.as_str()).collect();
                change.push_str(&shown.join(", "));
                if let Some(more @ 1..) = names.len().checked_sub(NAMES) {
                    let _ = write!(change, " and {more} more");
                }
            }
        };
        add("added", after.keys().filter(|name| !before.contains_key(*name)).collect());
        add("removed", before.keys().filter(|name| !after.contains_key(*name)).collect());
        let is_changed = |(name, mark): &(&String, &u64)| before.get(*name).is_some_and(|old| old != *mark);
        add("changed", after.iter().filter(is_changed).map(|(name, _)| name).collect());
        (!change.is_empty()).then(|| Self { file: file.to_owned(), change })
    }
}

/// Where changes of keys go, beside the log.
#[derive(Clone, Default)]
pub struct KeyObserver(Option<Arc<dyn Fn(KeyChange) + Send + Sync>>);

impl KeyObserver {
    /// Returns an observer that calls this.
    pub fn new(observe: impl Fn(KeyChange) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(observe)))
    }

    /// Tells of a change, if there is one.
    pub fn observe(&self, change: Option<KeyChange>) {
        if let (Some(observe), Some(change)) = (&self.0, change) {
            observe(change);
        }
    }
}

impl fmt::Debug for KeyObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyObserver").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_by_name() {
        let marks = |names: &[(&str, u64)]| names.iter().map(|(name, mark)| ((*name).to_owned(), *mark)).collect();
        let change = |before: &KeyMarks, after: &KeyMarks| {
            KeyChange::between(Path::new("keys.list"), before, after).map(|change| change.change)
        };
        let before = marks(&[("ada", 1), ("bob", 2), ("eve", 3)]);
        assert_eq!(change(&before, &before), None);
        let after = marks(&[("ada", 1), ("bob", 9), ("kim", 4)]);
        assert_eq!(change(&before, &after).unwrap(), "added kim; removed eve; changed bob");
        assert_eq!(change(&before, &marks(&[])).unwrap(), "removed ada, bob, eve");
        let many: KeyMarks = (0..50).map(|number| (format!("key{number:02}"), number)).collect();
        let told = change(&KeyMarks::new(), &many).unwrap();
        assert!(told.starts_with("added key00, key01") && told.ends_with("key19 and 30 more"), "{told}");
    }
}
