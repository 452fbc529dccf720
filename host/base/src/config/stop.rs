//! `[stop]`: the bounds of a graceful stop.

use std::time::Duration;

use super::key::{Key, duration};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Bounds of a graceful stop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stop {
    /// Time between `/readyz` turning 503 and the end of accepting connections.
    pub delay: Duration,
    /// Time for running requests to finish before they are aborted.
    pub grace: Duration,
}

/// Every setting, in the order of the docs.
pub(super) const KEYS: &[Key<Stop>] = &[
    Key {
        name: "delay",
        default: "0s",
        help: "on SIGTERM, time to keep accepting connections after `/readyz` has turned 503",
        set: |c, text| duration(text, Duration::ZERO..=DAY).map(|value| c.delay = value),
    },
    Key {
        name: "grace",
        default: "30s",
        help: "on SIGTERM, time for running requests to finish",
        set: |c, text| duration(text, Duration::ZERO..=DAY).map(|value| c.grace = value),
    },
];
