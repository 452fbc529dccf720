//! What one service may use. Defaults come from the configuration (`limits.*`), a manifest's `[limits]` overrides them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::key::{self, Key};

/// Bounds of one service, every one of them always in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Wall time of a request, from admission to the last byte of its body.
    pub wall: Duration,
    /// CPU time of guest code in a request. Sampled in ticks of the engine, so exact to about one tick.
    pub cpu: Duration,
    /// Linear memory of a sandbox in bytes, all its memories together.
    pub memory: usize,
    /// Elements of a sandbox's tables, all together.
    pub table_elements: usize,
    /// Handles that a sandbox may hold at once: streams, bodies, header sets, pollables.
    pub resources: usize,
    /// Bytes of a request body.
    pub request_body: usize,
    /// Requests being answered at once.
    pub in_flight: usize,
    /// Requests waiting for a place among those in flight.
    pub queue: usize,
    /// How long a request may wait for that place.
    pub queue_wait: Duration,
    /// Bytes of stdout and stderr that become log lines, per request; what is over is counted and dropped.
    pub output: usize,
    /// Bytes of stdout and stderr of all requests together that become log lines in a second.
    pub output_rate: usize,
    /// Requests that a warm instance (`isolation = "service"`) answers before it is replaced.
    pub warm_uses: usize,
    /// How long a warm instance may sit idle.
    pub warm_idle: Duration,
    /// Calls between services that may lead to a request, and times that it may come back from replicas.
    pub call_depth: usize,
    /// Requests that its guests may have under way to the world at once.
    pub outgoing: usize,
    /// Requests that they may send to the world in a second.
    pub outgoing_rate: usize,
}

const MS: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// What the pool's table slots are sized for: eight bytes of address space each.
pub const MAX_TABLE_ELEMENTS: usize = 200_000;

/// Every limit, in the order of the docs.
pub const LIMITS: &[Key<Limits>] = &[
    Key {
        name: "wall",
        default: "30s",
        help: "wall time of a request, until its answer is complete",
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
        help: "linear memory of one sandbox; at most engine.max_memory",
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
        help: "handles (streams, bodies, header sets) that one sandbox holds at once",
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
        help: "requests answered at once",
        set: |l, text| key::count(text, 1..=1_000_000).map(|value| l.in_flight = value),
    },
    Key {
        name: "queue",
        default: "1024",
        help: "requests waiting for a place among those in flight",
        set: |l, text| key::count(text, 0..=1_000_000).map(|value| l.queue = value),
    },
    Key {
        name: "queue_wait",
        default: "5s",
        help: "how long a request waits for its place",
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
        help: "stdout and stderr of the whole service that become log lines in a second",
        set: |l, text| key::size(text, 0..=1 << 30).map(|value| l.output_rate = value),
    },
    Key {
        name: "warm_uses",
        default: "10000",
        help: "requests that a warm instance answers before it is replaced",
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
        help: "calls from service to service that may lead to a request, and times that replicas may lead it back here",
        set: |l, text| key::count(text, 0..=64).map(|value| l.call_depth = value),
    },
    Key {
        name: "outgoing",
        default: "64",
        help: "requests to the world under way at once, all guests of the service together",
        set: |l, text| key::count(text, 0..=10_000).map(|value| l.outgoing = value),
    },
    Key {
        name: "outgoing_rate",
        default: "1000",
        help: "requests to the world in a second, all guests of the service together",
        set: |l, text| key::count(text, 1..=1_000_000).map(|value| l.outgoing_rate = value),
    },
];

impl Limits {
    /// Every limit by its name, as it would be written.
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

    /// Everything at zero: only a place for [`LIMITS`] to write to, never a value in use.
    pub(crate) fn blank() -> Self {
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
    /// What is wrong with these limits as a whole, in a host whose sandboxes have at most `max_memory` bytes.
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
