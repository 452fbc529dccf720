//! `[listener]`: the bounds of the listener.

use std::time::Duration;

use super::key::{Key, count, duration, size, word};
use super::keys::SWITCH;

const MS: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Bounds of the listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listener {
    /// The most open connections; further ones wait in the kernel's backlog.
    pub connections: usize,
    /// Time from accept to the first byte.
    pub first_byte: Duration,
    /// Time from the first byte of a request head to its last.
    pub header_read: Duration,
    /// Time between two requests; also the time for a client to read 16 KiB of a response, or the rest of it.
    pub idle: Duration,
    /// The most bytes of a request head.
    pub head: usize,
    /// The most header fields of a request.
    pub headers: usize,
    /// The most concurrent HTTP/2 streams of a connection.
    pub streams: usize,
    /// The most bytes of complete responses that clients have not read yet, all connections together.
    pub unsent: usize,
    /// The most bytes of encoders that compress responses, all connections together.
    pub compression: usize,
    /// The most bytes of request bodies that are held while they are validated and until they are read, all connections together.
    pub validation: usize,
    /// The most bytes of received data in memory, all connections together.
    pub memory: usize,
    /// Whether connections begin with a header of the PROXY protocol.
    pub proxy_protocol: bool,
}

/// Every setting, in the order of the docs.
pub(super) const KEYS: &[Key<Listener>] = &[
    Key {
        name: "connections",
        default: "10000",
        help: "open connections; further ones wait to be accepted",
        set: |c, text| count(text, 1..=1_000_000).map(|value| c.connections = value),
    },
    Key {
        name: "first_byte",
        default: "10s",
        help: "time from accepting a connection to its first byte",
        set: |c, text| duration(text, MS..=DAY).map(|value| c.first_byte = value),
    },
    Key {
        name: "header_read",
        default: "10s",
        help: "time for a whole request head",
        set: |c, text| duration(text, MS..=DAY).map(|value| c.header_read = value),
    },
    Key {
        name: "idle",
        default: "60s",
        help: "time between requests, and for a client to take 16 KiB of a response, or what is left of it",
        set: |c, text| duration(text, MS..=DAY).map(|value| c.idle = value),
    },
    Key {
        name: "head",
        default: "64KiB",
        help: "size of a request head",
        set: |c, text| size(text, 8 << 10..=1 << 20).map(|value| c.head = value),
    },
    Key {
        name: "headers",
        default: "100",
        help: "header fields of a request",
        set: |c, text| count(text, 1..=10_000).map(|value| c.headers = value),
    },
    Key {
        name: "streams",
        default: "200",
        help: "concurrent HTTP/2 streams of a connection",
        set: |c, text| count(text, 1..=100_000).map(|value| c.streams = value),
    },
    Key {
        name: "unsent",
        default: "64MiB",
        help: "memory for complete responses that clients have not taken yet; beyond it, responses keep their slot",
        set: |c, text| size(text, 0..=1 << 40).map(|value| c.unsent = value),
    },
    Key {
        name: "compression",
        default: "64MiB",
        help: "memory for compressing responses; beyond it they are sent as they are, and with 0 always",
        set: |c, text| size(text, 0..=1 << 40).map(|value| c.compression = value),
    },
    Key {
        name: "validation",
        default: "64MiB",
        help: "memory for request bodies that are validated, until the service has read them; one client gets a quarter, and beyond it requests are refused",
        set: |c, text| size(text, 1 << 20..=1 << 40).map(|value| c.validation = value),
    },
    Key {
        name: "memory",
        default: "512MiB",
        help: "memory for connections, for requests in progress and in queues, and for received data that nothing has read yet",
        set: |c, text| size(text, 4 << 20..=1 << 40).map(|value| c.memory = value),
    },
    Key {
        name: "proxy_protocol",
        default: "off",
        help: "`on`: only `trusted_proxies` may connect, also to `tls.listen`, and begin with a header of the PROXY protocol (version 1 or 2), which names the client; or `off`",
        set: |c, text| word(text, &SWITCH).map(|value| c.proxy_protocol = value),
    },
];
