//! The table of settings, except limits and traces. Flags, variables, `lodge.toml` and the docs derive from it.

use std::net::SocketAddr;
use std::time::Duration;

use tracing_subscriber::filter::{LevelFilter, Targets};

use super::key::{Key, count, duration, network, size, word};
use super::{CacheDirectory, Config, LogFormat, ServiceHosts};

const MS: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Every setting except limits and traces, in the order of the docs.
pub const KEYS: &[Key<Config>] = &[
    Key {
        name: "listen",
        default: "127.0.0.1:8080",
        help: "address of the listener for services; port 0 takes a free one",
        set: |c, text| address(text).map(|value| c.listen = value),
    },
    Key {
        name: "admin",
        default: "127.0.0.1:9090",
        help: "address of the admin listener: health, metrics, the page, the API; or `off`",
        set: |c, text| {
            c.admin = if text == "off" { None } else { Some(address(text)?) };
            Ok(())
        },
    },
    Key {
        name: "admin_token",
        default: "",
        help: "the token that the API requires, 16 or more printable characters; without one, only this machine may use the API",
        set: |c, text| {
            c.admin_token = (!text.is_empty()).then(|| text.to_owned());
            let sound = text.is_empty() || (text.len() >= 16 && text.bytes().all(|byte| byte.is_ascii_graphic()));
            if sound { Ok(()) } else { Err("must be 16 or more printable characters without spaces".into()) }
        },
    },
    Key {
        name: "guests",
        default: "guests",
        help: "directory to serve; the same as the argument DIR",
        set: |c, text| {
            c.guests = text.into();
            if text.is_empty() { Err("must name a directory".into()) } else { Ok(()) }
        },
    },
    Key {
        name: "log_format",
        default: "text",
        help: "`text` for people, `json` for machines",
        set: |c, text| {
            let words = [("text", LogFormat::Text), ("json", LogFormat::Json)];
            word(text, &words).map(|value| c.log_format = value)
        },
    },
    Key {
        name: "log_level",
        default: "info",
        help: "error, warn, info, debug, or a filter such as `lodge=debug`",
        set: |c, text| {
            c.log_level = text.to_owned();
            log_filter(text).map(drop)
        },
    },
    Key {
        name: "log_requests",
        default: "off",
        help: "`on` writes a line for every request; without it, followers of the log still see up to 200 requests per second",
        set: |c, text| word(text, &[("off", false), ("on", true)]).map(|value| c.log_requests = value),
    },
    Key {
        name: "log_headers",
        default: "",
        help: "request headers that the line of a request contains, comma-separated",
        set: |c, text| {
            let names =
                words(text).map(|name| name.parse().map_err(|_| format!("`{name}` is not the name of a header")));
            c.log_headers = names.collect::<Result<_, _>>()?;
            Ok(())
        },
    },
    Key {
        name: "log_mask",
        default: "token,access_token,refresh_token,id_token,api_key,key,password,secret,client_secret,code,assertion,client_assertion,sig,signature",
        help: "query parameters (also those of a Referer) and headers whose values the log masks, in addition to Authorization and cookies",
        set: |c, text| {
            c.log_mask = words(text).map(str::to_owned).collect();
            Ok(())
        },
    },
    Key {
        name: "trusted_proxies",
        default: "",
        help: "networks (CIDR), comma-separated, whose `Forwarded`, `X-Forwarded-*` and `X-Request-Id` are believed",
        set: |c, text| {
            c.trusted_proxies = words(text).map(network).collect::<Result<_, _>>()?;
            Ok(())
        },
    },
    Key {
        name: "service_hosts",
        default: "local",
        help: "which clients may use the hosts `NAME.localhost`: `local` clients that come through no proxy, `all`, or `off`",
        set: |c, text| {
            let words = [("local", ServiceHosts::Local), ("all", ServiceHosts::All), ("off", ServiceHosts::Off)];
            word(text, &words).map(|value| c.service_hosts = value)
        },
    },
    Key {
        name: "memory",
        default: "auto",
        help: "memory that the process may use; `auto` is the limit of its cgroup, or the memory of the machine. By default `listener.memory` is at most a quarter of it, `listener.unsent`, `responses.memory`, `engine.resident` and the buffers of `upstreams.connections` an eighth",
        set: |c, text| {
            c.memory = if text == "auto" { None } else { Some(size(text, 32 << 20..=1 << 50)?) };
            Ok(())
        },
    },
    Key {
        name: "stop.delay",
        default: "0s",
        help: "on SIGTERM, time to keep accepting connections after `/readyz` has turned 503",
        set: |c, text| duration(text, Duration::ZERO..=DAY).map(|value| c.stop.delay = value),
    },
    Key {
        name: "stop.grace",
        default: "30s",
        help: "on SIGTERM, time for running requests to finish",
        set: |c, text| duration(text, Duration::ZERO..=DAY).map(|value| c.stop.grace = value),
    },
    Key {
        name: "listener.connections",
        default: "10000",
        help: "open connections; further ones wait to be accepted",
        set: |c, text| count(text, 1..=1_000_000).map(|value| c.listener.connections = value),
    },
    Key {
        name: "listener.first_byte",
        default: "10s",
        help: "time from accepting a connection to its first byte",
        set: |c, text| duration(text, MS..=DAY).map(|value| c.listener.first_byte = value),
    },
    Key {
        name: "listener.header_read",
        default: "10s",
        help: "time for a whole request head",
        set: |c, text| duration(text, MS..=DAY).map(|value| c.listener.header_read = value),
    },
    Key {
        name: "listener.idle",
        default: "60s",
        help: "time between requests, and for a client to take 16 KiB of a response, or what is left of it",
        set: |c, text| duration(text, MS..=DAY).map(|value| c.listener.idle = value),
    },
    Key {
        name: "listener.head",
        default: "64KiB",
        help: "size of a request head",
        set: |c, text| size(text, 8 << 10..=1 << 20).map(|value| c.listener.head = value),
    },
    Key {
        name: "listener.headers",
        default: "100",
        help: "header fields of a request",
        set: |c, text| count(text, 1..=10_000).map(|value| c.listener.headers = value),
    },
    Key {
        name: "listener.streams",
        default: "200",
        help: "concurrent HTTP/2 streams of a connection",
        set: |c, text| count(text, 1..=100_000).map(|value| c.listener.streams = value),
    },
    Key {
        name: "listener.unsent",
        default: "64MiB",
        help: "memory for complete responses that clients have not taken yet; beyond it, responses keep their slot",
        set: |c, text| size(text, 0..=1 << 40).map(|value| c.listener.unsent = value),
    },
    Key {
        name: "listener.memory",
        default: "512MiB",
        help: "memory for connections, for requests in progress and in queues, and for received data that nothing has read yet",
        set: |c, text| size(text, 4 << 20..=1 << 40).map(|value| c.listener.memory = value),
    },
    Key {
        name: "engine.instances",
        default: "1000",
        help: "sandboxes in use at once, all services together",
        set: |c, text| count(text, 1..=10_000).map(|value| c.engine.instances = value),
    },
    Key {
        name: "engine.queue",
        default: "4096",
        help: "requests of all services waiting for a sandbox",
        set: |c, text| count(text, 0..=1_000_000).map(|value| c.engine.queue = value),
    },
    Key {
        name: "engine.warm",
        default: "250",
        help: "warm instances kept, all services together",
        set: |c, text| count(text, 0..=10_000).map(|value| c.engine.warm = value),
    },
    Key {
        name: "engine.max_memory",
        default: "1GiB",
        help: "the highest `limits.memory` that a manifest may set",
        set: |c, text| size(text, 1 << 20..=4 << 30).map(|value| c.engine.max_memory = value),
    },
    Key {
        name: "engine.resident",
        default: "2GiB",
        help: "memory that free sandboxes keep for their next request, all together; at most 2 MiB of each",
        set: |c, text| size(text, 0..=1 << 40).map(|value| c.engine.resident = value),
    },
    Key {
        name: "engine.stack",
        default: "512KiB",
        help: "WebAssembly stack of a sandbox",
        set: |c, text| size(text, 64 << 10..=64 << 20).map(|value| c.engine.stack = value),
    },
    Key {
        name: "engine.tick",
        default: "5ms",
        help: "how often a guest that computes yields its thread",
        set: |c, text| duration(text, MS..=MS * 100).map(|value| c.engine.tick = value),
    },
    Key {
        name: "engine.max_file",
        default: "100MiB",
        help: "size of a component file",
        set: |c, text| size(text, 1 << 10..=1 << 30).map(|value| c.engine.max_file = value),
    },
    Key {
        name: "engine.compile_threads",
        default: "0",
        help: "small components compiled at once, and threads of each compiler; 0 means one per core but one, and all cores",
        set: |c, text| count(text, 0..=256).map(|value| c.engine.compile_threads = value),
    },
    Key {
        name: "engine.compile_time",
        default: "5m",
        help: "CPU time that one component may take to compile, in whole seconds",
        set: |c, text| duration(text, MS..=DAY).map(|value| c.engine.compile_time = value),
    },
    Key {
        name: "engine.compile_memory",
        default: "2GiB",
        help: "address space of one compiler process",
        set: |c, text| size(text, 256 << 20..=1 << 40).map(|value| c.engine.compile_memory = value),
    },
    Key {
        name: "engine.idle_unload",
        default: "10m",
        help: "time without requests after which the machine code of a service leaves memory, if the cache has it; 0s is never",
        set: |c, text| duration(text, Duration::ZERO..=DAY).map(|value| c.engine.idle_unload = value),
    },
    Key {
        name: "calls.suffix",
        default: "internal",
        help: "the domain of services for each other: `http://users.internal/` is the service users",
        set: |c, text| {
            let text = text.trim_matches('.').to_ascii_lowercase();
            let sound = text.split('.').all(|label| {
                !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            });
            let problem = || format!("`{text}` is not a domain; write it like internal or svc.cluster.local");
            if !sound {
                return Err(problem());
            }
            c.calls.suffix = text;
            Ok(())
        },
    },
    Key {
        name: "upstreams.connections",
        default: "4096",
        help: "connections to the replicas of all services; an HTTP/2 connection counts as four. Beyond it idle ones are closed, then requests wait",
        set: |c, text| count(text, 4..=1_000_000).map(|value| c.upstreams.connections = value),
    },
    Key {
        name: "watch.poll",
        default: "2s",
        help: "how often the directory is scanned when no event reports a change",
        set: |c, text| duration(text, 10 * MS..=DAY).map(|value| c.watch.poll = value),
    },
    Key {
        name: "cache.directory",
        default: "auto",
        help: "the compile cache, in a directory of its own; `auto` is `~/.cache/lodge`, `off` disables it",
        set: |c, text| {
            c.cache.directory = match text {
                "auto" => CacheDirectory::Auto,
                "off" => CacheDirectory::Off,
                "" => return Err("must name a directory, or be `auto` or `off`".into()),
                path => CacheDirectory::At(path.into()),
            };
            Ok(())
        },
    },
    Key {
        name: "cache.sealed",
        default: "",
        help: "compiled components that came with an image (`lodge compile --seal`): only read, and trusted by digest",
        set: |c, text| {
            c.cache.sealed = (!text.is_empty()).then(|| text.into());
            Ok(())
        },
    },
    Key {
        name: "cache.size",
        default: "1GiB",
        help: "size of all compiled components on disk; the least recently used is removed first",
        set: |c, text| size(text, 0..=1 << 50).map(|value| c.cache.size = value),
    },
    Key {
        name: "responses.memory",
        default: "64MiB",
        help: "memory for stored responses, all services together; 0 stores none, whatever manifests say",
        set: |c, text| size(text, 0..=1 << 40).map(|value| c.responses.memory = value),
    },
    Key {
        name: "responses.entry",
        default: "1MiB",
        help: "size of a response that is stored; at most a quarter of `responses.memory`",
        set: |c, text| size(text, 1 << 10..=1 << 30).map(|value| c.responses.entry = value),
    },
];

/// Parses a filter of the log: a level, or levels of modules.
///
/// # Errors
/// What was expected. A misspelt level is an error; `tracing` itself would take it for the name of a module.
pub fn log_filter(text: &str) -> Result<Targets, String> {
    let known = |word: &str| word.parse::<LevelFilter>().is_ok();
    let sound = text.split(',').all(|part| known(part.rsplit('=').next().unwrap_or_default().trim()));
    text.parse().ok().filter(|_| sound).ok_or_else(|| {
        format!("`{text}` is not a level; write off, error, warn, info, debug, or a filter such as lodge=debug")
    })
}

/// Splits a comma-separated list, without empty items.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty())
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("`{text}` is not an address; write it like 127.0.0.1:8080 or [::1]:8080"))
}
