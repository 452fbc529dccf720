//! Flags, `LODGE_*` variables, `lodge.toml` and `OTEL_*` variables become one [`Config`], or a list of everything that is wrong with them.
//!
//! Pure: the sources come in as text and nothing is read from the process. A value is in range and agrees with
//! the others, or there is no `Config`. It never changes after the start.

pub mod key;
pub mod keys;
pub mod limits;
pub mod otel;
mod sources;
pub mod traces;

pub use sources::{plain, read_environment, read_file};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use key::nearest;
use keys::KEYS;
use limits::{LIMITS, Limits};
use traces::{TRACES, Traces};

/// Bytes that a connection to a replica takes at most, over HTTP/1.1: what it has read and what it has not written.
const CONNECTION: usize = 128 << 10;

/// How the host runs. Fields are named as their keys are.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Address that serves guests.
    pub listen: SocketAddr,
    /// Address of what operators ask; `None` when it is `off`.
    pub admin: Option<SocketAddr>,
    /// What they must show to use the API; without one, only connections from this machine may.
    pub admin_token: Option<String>,
    /// The directory that is served.
    pub guests: PathBuf,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// A `tracing` filter such as `info` or `lodge=debug`.
    pub log_level: String,
    /// Whether every request has a line in the log.
    pub log_requests: bool,
    /// Request headers that this line shows.
    pub log_headers: Vec<http::HeaderName>,
    /// Query parameters and headers whose values are not shown.
    pub log_mask: Vec<String>,
    /// Peers whose `Forwarded`, `X-Forwarded-*` and `X-Request-Id` are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Which clients may use the hosts that services have by their names.
    pub service_hosts: ServiceHosts,
    /// What a stop waits for.
    pub stop: Stop,
    /// Bounds on what a client may do to the listener.
    pub listener: Listener,
    /// The WebAssembly engine.
    pub engine: Engine,
    /// How services call each other.
    pub calls: Calls,
    /// Replicas elsewhere, of all services together.
    pub upstreams: Upstreams,
    /// Bytes of memory that the process may use, as far as anybody has said.
    pub memory: Option<usize>,
    /// How the directory is watched.
    pub watch: Watch,
    /// Compiled components on disk.
    pub cache: Cache,
    /// Answers that are kept, for the routes whose manifest says `cache`.
    pub responses: Responses,
    /// What a service may use, unless its manifest says otherwise.
    pub limits: Limits,
    /// Which requests are traced, and where that goes.
    pub traces: Traces,
    /// What the program that runs the host decides, and no key does.
    pub program: Program,
}

/// What the program that runs the host decides, and no key does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// The program to compile in, which is `lodge` itself; the host's own process if there is none.
    pub compiler: Option<PathBuf>,
    /// Which compilers are used.
    pub tiers: Tiers,
    /// Whether clients are told why a file is refused: they are its developers.
    pub explains: bool,
}

/// Which compilers are used for components that take long to compile; the others are always optimised at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tiers {
    /// The optimising one.
    #[default]
    Optimised,
    /// The fast one, and the optimising one while the service answers.
    Both,
    /// The fast one.
    Baseline,
}

/// Which clients may use `<name>.localhost`: every path and method of a service or a version, whatever its routes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceHosts {
    /// Those on this machine, if they come through no proxy.
    Local,
    /// All.
    All,
    /// None.
    Off,
}

impl ServiceHosts {
    /// Whether a client may that is `local` or not.
    pub fn admits(self, local: bool) -> bool {
        match self {
            Self::Local => local,
            Self::All => true,
            Self::Off => false,
        }
    }
}

/// Bounds of a graceful stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Between `/readyz` turning 503 and the listener closing.
    pub delay: Duration,
    /// For running requests, before they are cut off.
    pub grace: Duration,
}

/// Bounds of the listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Connections open at once; further ones wait in the kernel's backlog.
    pub connections: usize,
    /// From accept to the first byte.
    pub first_byte: Duration,
    /// From the first byte of a request head to its last.
    pub header_read: Duration,
    /// Between two requests; also how long a client may take to take 16 KiB of a response, or all there is.
    pub idle: Duration,
    /// Bytes of a request head.
    pub head: usize,
    /// Header fields of a request.
    pub headers: usize,
    /// Concurrent HTTP/2 streams of a connection.
    pub streams: usize,
    /// Bytes of complete responses that their clients have not taken yet, all connections together.
    pub unsent: usize,
    /// Bytes of what clients send that are in memory, all connections together.
    pub memory: usize,
}

/// Sizes of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engine {
    /// Sandboxes at work at once, all services together.
    pub instances: usize,
    /// Requests of all services waiting for one of those.
    pub queue: usize,
    /// Warm instances kept, all services together.
    pub warm: usize,
    /// The most memory that any manifest may give a sandbox.
    pub max_memory: usize,
    /// Bytes that all free sandboxes together keep of the memory that they had.
    pub resident: usize,
    /// WebAssembly stack of a sandbox.
    pub stack: usize,
    /// A guest that computes gives its thread back this often.
    pub tick: Duration,
    /// Size of a component file.
    pub max_file: usize,
    /// Components compiled at once; 0 is one per core but one.
    pub compile_threads: usize,
    /// CPU time that one component may take to compile.
    pub compile_time: Duration,
    /// Bytes of address space that one compiler may take.
    pub compile_memory: usize,
    /// How long nobody asks for a service until its machine code leaves memory; zero is for ever.
    pub idle_unload: Duration,
}

/// Replicas elsewhere, of all services together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstreams {
    /// Connections to them; one over HTTP/2 counts as four.
    pub connections: usize,
}

/// How services call each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calls {
    /// The domain that they are below, in lower case and without a dot around it.
    pub suffix: String,
}

/// How the directory is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Between two looks when no event says that something changed.
    pub poll: Duration,
}

/// Compiled components on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    /// Where they are.
    pub directory: CacheDirectory,
    /// Where those are that were made with an image and are trusted by digest.
    pub sealed: Option<PathBuf>,
    /// Bytes of all of them together, without the sealed ones.
    pub size: usize,
}

/// Answers that are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Responses {
    /// Bytes of all of them together, those on their way among them; 0 keeps none.
    pub memory: usize,
    /// Bytes of one of them, head and body.
    pub entry: usize,
}

/// Where compiled components are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheDirectory {
    /// Where the system has caches of this user.
    Auto,
    /// Nowhere.
    Off,
    /// Here.
    At(PathBuf),
}

/// How log lines are written to stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where a value came from, the strongest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// A variable that OpenTelemetry defines.
    Otel,
    /// `lodge.toml`, or the file that `--config` names.
    File,
    /// A `LODGE_*` variable.
    Environment,
    /// A flag or the argument DIR.
    Flag,
}

/// What one source said: dotted key to text.
pub type Source = BTreeMap<String, String>;

/// A configuration, and who said what of it.
#[derive(Debug)]
pub struct Resolved {
    /// The values in force.
    pub config: Config,
    /// Every key with its text and origin, in the order of the docs.
    pub values: Vec<(String, String, Origin)>,
}

/// Merges the sources, later origins over earlier ones.
///
/// # Errors
/// Every unknown key, every bad value and every disagreement between values, each a line that names the place.
pub fn resolve(sources: &[(Origin, Source)]) -> Result<Resolved, Vec<String>> {
    let mut problems = unknown_keys(sources);
    let mut config = Config::blank();
    let mut values = Vec::new();
    for (name, default, set) in settings() {
        let said = sources.iter().filter_map(|(origin, source)| Some((*origin, source.get(&name)?)));
        let said = said.max_by_key(|(origin, _)| *origin);
        let (origin, text) = said.map_or((Origin::Default, default), |(origin, text)| (origin, text.as_str()));
        if let Err(expected) = set.apply(&mut config, text) {
            problems.push(format!("{}: {expected}", place(origin, &name)));
        }
        values.push((name, text.to_owned(), origin));
    }
    let cpu = values.iter_mut().find(|(name, _, origin)| name == "limits.cpu" && *origin == Origin::Default);
    if let Some((_, text, _)) = cpu.filter(|_| config.limits.cpu > config.limits.wall) {
        // A default must not stand in the way of what is written.
        config.limits.cpu = config.limits.wall;
        *text = humantime::format_duration(config.limits.cpu).to_string();
    }
    config.shrink(&mut values);
    if problems.is_empty() {
        problems.extend(config.disagreements());
    }
    if problems.is_empty() { Ok(Resolved { config, values }) } else { Err(problems) }
}

/// `listener.header_read` as a flag: `listener-header-read`.
pub fn flag_name(name: &str) -> String {
    name.replace(['.', '_'], "-")
}

/// `listener.header_read` as a variable: `LODGE_LISTENER_HEADER_READ`.
pub fn env_name(name: &str) -> String {
    format!("LODGE_{}", name.replace('.', "_").to_uppercase())
}

/// Name, default and help of every setting, in the order of the docs.
pub fn described() -> impl Iterator<Item = (String, &'static str, &'static str)> {
    let own = KEYS.iter().map(|key| (key.name.to_owned(), key.default, key.help));
    let limits = LIMITS.iter().map(|key| (format!("limits.{}", key.name), key.default, key.help));
    own.chain(limits).chain(TRACES.iter().map(|key| (format!("traces.{}", key.name), key.default, key.help)))
}

/// Whether the value of a setting is nobody's business, and not shown.
pub fn is_secret(name: &str) -> bool {
    ["admin_token", "traces.headers"].contains(&name)
}

/// How a setting of either table is written into a [`Config`].
enum Setter {
    Own(fn(&mut Config, &str) -> Result<(), String>),
    Limit(fn(&mut Limits, &str) -> Result<(), String>),
    Traces(fn(&mut Traces, &str) -> Result<(), String>),
}

impl Setter {
    fn apply(&self, config: &mut Config, text: &str) -> Result<(), String> {
        match self {
            Self::Own(set) => set(config, text),
            Self::Limit(set) => set(&mut config.limits, text),
            Self::Traces(set) => set(&mut config.traces, text),
        }
    }
}

fn settings() -> impl Iterator<Item = (String, &'static str, Setter)> {
    let own = KEYS.iter().map(|key| (key.name.to_owned(), key.default, Setter::Own(key.set)));
    let limits = LIMITS.iter().map(|key| (format!("limits.{}", key.name), key.default, Setter::Limit(key.set)));
    let traces = TRACES.iter().map(|key| (format!("traces.{}", key.name), key.default, Setter::Traces(key.set)));
    own.chain(limits).chain(traces)
}

fn names() -> impl Iterator<Item = String> {
    described().map(|(name, ..)| name)
}

fn unknown_keys(sources: &[(Origin, Source)]) -> Vec<String> {
    let names: Vec<String> = names().collect();
    let said = sources.iter().flat_map(|(origin, source)| source.keys().map(move |name| (*origin, name)));
    said.filter(|(_, name)| !names.contains(name))
        .map(|(origin, name)| {
            let near = nearest(name, names.iter().map(String::as_str));
            let hint = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
            format!("{}: there is no such key{hint}", place(origin, name))
        })
        .collect()
}

fn place(origin: Origin, name: &str) -> String {
    match origin {
        Origin::Default => format!("default of {name}"),
        Origin::Otel => format!("{name}, as a variable OTEL_* says it"),
        Origin::File => format!("lodge.toml: {name}"),
        Origin::Environment => env_name(name),
        Origin::Flag => format!("--{}", flag_name(name)),
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::Otel => "OTEL_*",
            Self::File => "lodge.toml",
            Self::Environment => "environment",
            Self::Flag => "flag",
        })
    }
}

impl Config {
    /// Only a place for [`KEYS`] to write to, never a value in use.
    fn blank() -> Self {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let zero = Duration::ZERO;
        Self {
            listen: nowhere,
            admin: None,
            admin_token: None,
            guests: PathBuf::new(),
            log_format: LogFormat::Text,
            service_hosts: ServiceHosts::Local,
            log_level: String::new(),
            log_requests: false,
            log_headers: Vec::new(),
            log_mask: Vec::new(),
            trusted_proxies: Vec::new(),
            stop: Stop { delay: zero, grace: zero },
            listener: Listener {
                connections: 0,
                first_byte: zero,
                header_read: zero,
                idle: zero,
                head: 0,
                headers: 0,
                streams: 0,
                unsent: 0,
                memory: 0,
            },
            engine: Engine {
                instances: 0,
                queue: 0,
                warm: 0,
                max_memory: 0,
                resident: 0,
                stack: 0,
                tick: zero,
                max_file: 0,
                compile_threads: 0,
                compile_time: zero,
                compile_memory: 0,
                idle_unload: zero,
            },
            calls: Calls { suffix: String::new() },
            upstreams: Upstreams { connections: 0 },
            memory: None,
            watch: Watch { poll: zero },
            cache: Cache { directory: CacheDirectory::Auto, sealed: None, size: 0 },
            responses: Responses { memory: 0, entry: 0 },
            limits: Limits::blank(),
            traces: Traces::blank(),
            program: Program::default(),
        }
    }

    /// Lowers the defaults of what would not fit into [`Config::memory`]: what clients send to a quarter of it, responses
    /// that are stored or not taken, what free sandboxes keep and the buffers of replicas to an eighth, and 4 MiB at least.
    fn shrink(&mut self, values: &mut [(String, String, Origin)]) {
        let Some(memory) = self.memory else { return };
        let sizes = [
            ("listener.memory", &mut self.listener.memory, 4),
            ("listener.unsent", &mut self.listener.unsent, 8),
            ("responses.memory", &mut self.responses.memory, 8),
            ("engine.resident", &mut self.engine.resident, 8),
        ];
        let mut lower = |name: &str, value: &mut usize, most: usize, show: fn(usize) -> String| {
            let shown = values.iter_mut().find(|(known, _, origin)| known == name && *origin == Origin::Default);
            if let Some((_, text, _)) = shown.filter(|_| *value > most) {
                *value = most;
                *text = show(most);
            }
        };
        for (name, size, part) in sizes {
            let show = |most| bytesize::ByteSize(most as u64).display().iec().to_string();
            lower(name, size, (memory / part).max(4 << 20), show);
        }
        let connections = (memory / 8).max(4 << 20) / CONNECTION;
        lower("upstreams.connections", &mut self.upstreams.connections, connections, |most| most.to_string());
    }

    fn disagreements(&self) -> Vec<String> {
        let mut problems = self.limits.disagreements(self.engine.max_memory);
        if self.admin.is_some_and(|admin| admin == self.listen && admin.port() != 0) {
            problems.push(format!("admin: {} is already what `listen` says; give it a port of its own", self.listen));
        }
        // A quarter is what answers that are being written down have at least.
        if self.responses.memory > 0 && self.responses.entry > self.responses.memory / 4 {
            let most = bytesize::ByteSize(self.responses.memory as u64 / 4).display().iec();
            problems.push(format!("responses.entry: more than a quarter of responses.memory, which is {most}"));
        }
        problems
    }
}

#[cfg(test)]
mod tests;
