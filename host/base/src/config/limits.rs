//! The limits of one service. Defaults come from the configuration (`limits.*`); `[limits]` of a manifest overrides
//! them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::key::{self, Key};

/// The limits of one service. All of them always apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Wall time of a request, from admission to the last byte of its response body.
    pub wall: Duration,
    /// CPU time of guest code in a request. Sampled in ticks of the engine, so accurate to about one tick.
    pub cpu: Duration,
    /// Bytes of linear memory of a sandbox, all memories together.
    pub memory: usize,
    /// Elements in the tables of a sandbox, all together.
    pub table_elements: usize,
    /// Handles that a sandbox may have at once: streams, bodies, header sets, pollables.
    pub resources: usize,
    /// Bytes of a request body.
    pub request_body: usize,
    /// Requests that the service handles at once.
    pub in_flight: usize,
    /// Requests that wait for a slot of `in_flight`.
    pub queue: usize,
    /// Time that a request may wait for its slot.
    pub queue_wait: Duration,
    /// Bytes of stdout and stderr of one request that become log lines; further bytes are counted and dropped.
    pub output: usize,
    /// Bytes of stdout and stderr of the whole service that become log lines, per second.
    pub output_rate: usize,
    /// Requests that a warm instance (`isolation = "service"`) handles before it is replaced.
    pub warm_uses: usize,
    /// Time that a warm instance may be idle.
    pub warm_idle: Duration,
    /// Length of a chain of calls between services, and times that replicas may lead a request back to this host.
    pub call_depth: usize,
    /// Requests of its guests to the world in flight at once.
    pub outgoing: usize,
    /// Requests of its guests to the world per second.
    pub outgoing_rate: usize,
}

const MS: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The most elements of a sandbox's tables, for which the pool reserves eight bytes of address space each.
pub const MAX_TABLE_ELEMENTS: usize = 200_000;

/// Every limit, in the order of the docs.
pub const LIMITS: &[Key<Limits>] = &[
    Key {
        name: "wall",
        default: "30s",
        help: "wall time of a request, until its response is complete",
        set: |l, text| key::duration(text, MS..=DAY).map(|value| l.wall = value),
    },
    Key {
        name: "cpu",
        default: "5s",
        help: "CPU time that guest code may use for a request",
        set: |l, text| key::duration(text, MS..=DAY).map(|value| l.cpu = value),
    },
    Key {
        name: "memory",
        default: "128MiB",
        help: "linear memory of one sandbox; at most `engine.max_memory`",
        set: |l, text| key::size(text, 64 << 10..=4 << 30).map(|value| l.memory = value),
    },
    Key {
        name: "table_elements",
        default: "50000",
        help: "elements in the tables of one sandbox",
        set: |l, text| key::count(text, 0..=MAX_TABLE_ELEMENTS).map(|value| l.table_elements = value),
    },
    Key {
        name: "resources",
        default: "1000",
        help: "handles (streams, bodies, header sets) that one sandbox has at once",
        set: |l, text| key::count(text, 16..=1_000_000).map(|value| l.resources = value),
    },
    Key {
        name: "request_body",
        default: "10MiB",
        help: "size of a request body",
        set: |l, text| key::size(text, 0..=1 << 50).map(|value| l.request_body = value),
    },
    Key {
        name: "in_flight",
        default: "256",
        help: "requests that the service handles at once",
        set: |l, text| key::count(text, 1..=1_000_000).map(|value| l.in_flight = value),
    },
    Key {
        name: "queue",
        default: "1024",
        help: "requests that wait for a slot of `limits.in_flight`",
        set: |l, text| key::count(text, 0..=1_000_000).map(|value| l.queue = value),
    },
    Key {
        name: "queue_wait",
        default: "5s",
        help: "time that a request waits for its slot",
        set: |l, text| key::duration(text, Duration::ZERO..=DAY).map(|value| l.queue_wait = value),
    },
    Key {
        name: "output",
        default: "64KiB",
        help: "stdout and stderr of one request that become log lines",
        set: |l, text| key::size(text, 0..=1 << 30).map(|value| l.output = value),
    },
    Key {
        name: "output_rate",
        default: "1MiB",
        help: "stdout and stderr of the whole service that become log lines, per second",
        set: |l, text| key::size(text, 0..=1 << 30).map(|value| l.output_rate = value),
    },
    Key {
        name: "warm_uses",
        default: "10000",
        help: "requests that a warm instance handles before it is replaced",
        set: |l, text| key::count(text, 1..=usize::MAX).map(|value| l.warm_uses = value),
    },
    Key {
        name: "warm_idle",
        default: "60s",
        help: "how long a warm instance may sit idle",
        set: |l, text| key::duration(text, MS..=DAY).map(|value| l.warm_idle = value),
    },
    Key {
        name: "call_depth",
        default: "8",
        help: "length of a chain of calls between services, and times that replicas may lead a request back to this host",
        set: |l, text| key::count(text, 0..=64).map(|value| l.call_depth = value),
    },
    Key {
        name: "outgoing",
        default: "64",
        help: "requests to the world in flight, all guests of the service together",
        set: |l, text| key::count(text, 0..=10_000).map(|value| l.outgoing = value),
    },
    Key {
        name: "outgoing_rate",
        default: "1000",
        help: "requests to the world per second, all guests of the service together",
        set: |l, text| key::count(text, 1..=1_000_000).map(|value| l.outgoing_rate = value),
    },
];

impl Limits {
    /// Returns every limit by name, in the form of a manifest.
    pub fn shown(&self) -> BTreeMap<&'static str, String> {
        let time = |value: Duration| humantime::format_duration(value).to_string();
        let size = |value: usize| bytesize::ByteSize(value as u64).display().iec().to_string();
        BTreeMap::from([
            ("wall", time(self.wall)),
            ("cpu", time(self.cpu)),
            ("memory", size(self.memory)),
            ("table_elements", self.table_elements.to_string()),
            ("resources", self.resources.to_string()),
            ("request_body", size(self.request_body)),
            ("in_flight", self.in_flight.to_string()),
            ("queue", self.queue.to_string()),
            ("queue_wait", time(self.queue_wait)),
            ("output", size(self.output)),
            ("output_rate", size(self.output_rate)),
            ("warm_uses", self.warm_uses.to_string()),
            ("warm_idle", time(self.warm_idle)),
            ("call_depth", self.call_depth.to_string()),
            ("outgoing", self.outgoing.to_string()),
            ("outgoing_rate", self.outgoing_rate.to_string()),
        ])
    }

    /// Returns a value for [`LIMITS`] to fill in. It is never used as it is.
    pub fn blank() -> Self {
        Self {
            wall: Duration::ZERO,
            cpu: Duration::ZERO,
            memory: 0,
            table_elements: 0,
            resources: 0,
            request_body: 0,
            in_flight: 0,
            queue: 0,
            queue_wait: Duration::ZERO,
            output: 0,
            output_rate: 0,
            warm_uses: 0,
            warm_idle: Duration::ZERO,
            call_depth: 0,
            outgoing: 0,
            outgoing_rate: 0,
        }
    }
}

impl Limits {
    /// Returns the conflicts between limits, on a host whose sandboxes have at most `max_memory` bytes.
    pub fn disagreements(&self, max_memory: usize) -> Vec<String> {
        let mut problems = Vec::new();
        if self.memory > max_memory {
            let most = bytesize::ByteSize(max_memory as u64).display().iec();
            problems
                .push(format!("limits.memory: more than engine.max_memory, which is {most}; raise that or lower this"));
        }
        if self.cpu > self.wall {
            let wall = humantime::format_duration(self.wall);
            problems.push(format!(
                "limits.cpu: more than limits.wall ({wall}), so it could never be reached; lower it, or raise that"
            ));
        }
        problems
    }
}
