//! `[watch]`: watching of the directory.

use std::time::Duration;

use super::key::{Key, duration};

const MS: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Watching of the directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// The interval of scans when no event reports a change.
    pub poll: Duration,
}

/// Every setting, in the order of the docs.
pub(super) const KEYS: &[Key<Watch>] = &[Key {
    name: "poll",
    default: "2s",
    help: "how often the directory is scanned when no event reports a change",
    set: |c, text| duration(text, 10 * MS..=DAY).map(|value| c.poll = value),
}];
