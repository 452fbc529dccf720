//! `[state]`: where the state of services is kept.

use std::path::PathBuf;
use std::time::Duration;

use super::key::{Key, duration, word};

const LEAST_TIMEOUT: Duration = Duration::from_millis(10);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// Where and how the state of services is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The URL of a server, which replaces the file.
    pub url: Option<String>,
    /// The place without a server.
    pub path: StatePath,
    /// What a confirmed write survives.
    pub durability: Durability,
    /// The longest time that one operation may take.
    pub timeout: Duration,
}

/// The place of the state of services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StatePath {
    /// `.lodge/state.db` in the directory of guests.
    #[default]
    Beside,
    /// This file.
    At(PathBuf),
    /// The memory of the process, with which it ends.
    Memory,
}

/// What a confirmed write survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The end of the process, however it ends.
    #[default]
    Process,
    /// A power cut as well: every group of writes waits for the disk.
    Power,
}

/// Every setting, in the order of the docs.
pub(super) const KEYS: &[Key<State>] = &[
    Key {
        name: "url",
        default: "",
        help: "a server that keeps the state instead of a file, so that several hosts share it: `redis://`, `rediss://`, `nats://`, `tls://` (NATS) or `postgres://`",
        set: |c, text| {
            c.url = (!text.is_empty()).then(|| text.into());
            Ok(())
        },
    },
    Key {
        name: "path",
        default: "beside",
        help: "the file with the state of all services; `beside` is `.lodge/state.db` in the directory of guests, `memory` keeps nothing",
        set: |c, text| {
            c.path = match text {
                "beside" => StatePath::Beside,
                "memory" => StatePath::Memory,
                "" => return Err("must name a file, or be `beside` or `memory`".into()),
                path => StatePath::At(path.into()),
            };
            Ok(())
        },
    },
    Key {
        name: "durability",
        default: "process",
        help: "what a confirmed write survives: the end of the `process`, or a `power` cut as well, which waits for the disk",
        set: |c, text| {
            word(text, &[("process", Durability::Process), ("power", Durability::Power)])
                .map(|value| c.durability = value)
        },
    },
    Key {
        name: "timeout",
        default: "2s",
        help: "the longest time of one operation of a guest on its state",
        set: |c, text| duration(text, LEAST_TIMEOUT..=LONGEST_TIMEOUT).map(|value| c.timeout = value),
    },
];
