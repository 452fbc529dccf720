//! `[engine]`: the sizes of the WebAssembly engine.

use std::time::Duration;

use super::key::{Key, count, duration, size};

const MS: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Sizes of the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Engine {
    /// The most sandboxes in use at once, all services together.
    pub instances: usize,
    /// The most requests of all services that wait for a sandbox.
    pub queue: usize,
    /// The most warm instances, all services together.
    pub warm: usize,
    /// The highest `limits.memory` that a manifest may set, in bytes.
    pub max_memory: usize,
    /// Bytes of memory that free sandboxes keep for their next request, all together.
    pub resident: usize,
    /// WebAssembly stack of a sandbox in bytes.
    pub stack: usize,
    /// The interval at which a guest that computes yields its thread.
    pub tick: Duration,
    /// The largest component file in bytes.
    pub max_file: usize,
    /// Components compiled at once; 0 means cores - 1, at least one.
    pub compile_threads: usize,
    /// CPU time for compiling one component.
    pub compile_time: Duration,
    /// Bytes of address space of one compiler process.
    pub compile_memory: usize,
    /// Time without requests after which the machine code of a service leaves memory; zero is never.
    pub idle_unload: Duration,
}

/// Every setting, in the order of the docs.
pub(super) const KEYS: &[Key<Engine>] = &[
    Key {
        name: "instances",
        default: "1000",
        help: "sandboxes in use at once, all services together",
        set: |c, text| count(text, 1..=10_000).map(|value| c.instances = value),
    },
    Key {
        name: "queue",
        default: "4096",
        help: "requests of all services waiting for a sandbox",
        set: |c, text| count(text, 0..=1_000_000).map(|value| c.queue = value),
    },
    Key {
        name: "warm",
        default: "250",
        help: "warm instances kept, all services together",
        set: |c, text| count(text, 0..=10_000).map(|value| c.warm = value),
    },
    Key {
        name: "max_memory",
        default: "1GiB",
        help: "the highest `limits.memory` that a manifest may set",
        set: |c, text| size(text, 1 << 20..=4 << 30).map(|value| c.max_memory = value),
    },
    Key {
        name: "resident",
        default: "2GiB",
        help: "memory that free sandboxes keep for their next request, all together; at most 2 MiB of each",
        set: |c, text| size(text, 0..=1 << 40).map(|value| c.resident = value),
    },
    Key {
        name: "stack",
        default: "512KiB",
        help: "WebAssembly stack of a sandbox",
        set: |c, text| size(text, 64 << 10..=64 << 20).map(|value| c.stack = value),
    },
    Key {
        name: "tick",
        default: "5ms",
        help: "how often a guest that computes yields its thread",
        set: |c, text| duration(text, MS..=MS * 100).map(|value| c.tick = value),
    },
    Key {
        name: "max_file",
        default: "100MiB",
        help: "size of a component file",
        set: |c, text| size(text, 1 << 10..=1 << 30).map(|value| c.max_file = value),
    },
    Key {
        name: "compile_threads",
        default: "0",
        help: "small components compiled at once, and threads of each compiler; 0 means one per core but one, and all cores",
        set: |c, text| count(text, 0..=256).map(|value| c.compile_threads = value),
    },
    Key {
        name: "compile_time",
        default: "5m",
        help: "CPU time that one component may take to compile, in whole seconds",
        set: |c, text| duration(text, MS..=DAY).map(|value| c.compile_time = value),
    },
    Key {
        name: "compile_memory",
        default: "2GiB",
        help: "address space of one compiler process",
        set: |c, text| size(text, 256 << 20..=1 << 40).map(|value| c.compile_memory = value),
    },
    Key {
        name: "idle_unload",
        default: "10m",
        help: "time without requests after which the machine code of a service leaves memory, if the cache has it; 0s is never",
        set: |c, text| duration(text, Duration::ZERO..=DAY).map(|value| c.idle_unload = value),
    },
];
