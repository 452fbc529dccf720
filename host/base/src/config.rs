//! Reads flags, `LODGE_*` variables, `lodge.toml` and `OTEL_*` variables into one [`Config`], or a list of all
//! problems.
//!
//! Pure: the sources are passed in as text, and nothing is read from the process. Every value of a `Config` is in range
//! and consistent with the others. A `Config` never changes after the start.

pub mod acme;
pub mod audit;
mod cache;
mod calls;
pub mod cluster;
mod effect;
mod engine;
pub mod errors;
mod files;
pub mod key;
pub mod keys;
mod kubernetes;
pub mod limits;
mod listener;
mod origin;
pub mod otel;
pub mod pull;
mod resolve;
mod responses;
mod settings;
mod sources;
pub mod state;
mod stop;
pub mod tls;
pub mod traces;
pub mod trust;
mod upstreams;
mod watch;

pub use cache::{Cache, CacheDirectory};
pub use calls::Calls;
pub use cluster::Membership;
pub use engine::Engine;
pub use kubernetes::Kubernetes;
pub use listener::Listener;
pub use origin::{Origin, env_name, flag_name};
pub use resolve::{Resolved, Source, is_secret, resolve};
pub use responses::Responses;
pub use settings::described;
pub use sources::{read_environment, read_file};
pub use stop::Stop;
pub use upstreams::Upstreams;
pub use watch::Watch;

use std::net::SocketAddr;
use std::path::PathBuf;

use audit::Audit;
use errors::Errors;
use ipnet::IpNet;
use limits::Limits;
use pull::Pull;
use state::State;
use tls::TlsListener;
use traces::Traces;
use trust::Trust;

/// The configuration of the host. Fields have the names of their keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Address of the listener for services.
    pub listen: SocketAddr,
    /// Address of the admin listener; `None` if it is `off`.
    pub admin: Option<SocketAddr>,
    /// The token that the admin API requires. Without one, only connections from this machine may use the API.
    pub admin_token: Option<String>,
    /// A file with API keys that the admin API takes as well, each with its scopes.
    pub admin_keys: Option<PathBuf>,
    /// The directory of guests and manifests to serve.
    pub guests: PathBuf,
    /// The file with values that services may refer to, if there is one.
    pub shared_config: Option<PathBuf>,
    /// The format of log lines.
    pub log_format: LogFormat,
    /// A `tracing` filter such as `info` or `lodge=debug`.
    pub log_level: String,
    /// Whether every request is logged.
    pub log_requests: bool,
    /// Request headers that the log line of a request contains.
    pub log_headers: Vec<http::HeaderName>,
    /// Query parameters and headers whose values the log masks.
    pub log_mask: Vec<String>,
    /// Networks of proxies whose `Forwarded`, `X-Forwarded-*` and `X-Request-Id` headers are trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// The failed attempts at credentials that a client address may have per minute; zero for any number.
    pub auth_failures: usize,
    /// Which clients may use the hosts `<name>.localhost`.
    pub service_hosts: ServiceHosts,
    /// Bounds of a graceful stop.
    pub stop: Stop,
    /// Bounds of the listener.
    pub listener: Listener,
    /// HTTPS for the services.
    pub tls: TlsListener,
    /// Sizes of the WebAssembly engine.
    pub engine: Engine,
    /// Calls between services.
    pub calls: Calls,
    /// Connections to replicas, for all services together.
    pub upstreams: Upstreams,
    /// The cluster that the host is in.
    pub cluster: Membership,
    /// The API server of Kubernetes.
    pub kubernetes: Kubernetes,
    /// Bytes of memory that the process may use, if `memory` sets it.
    pub memory: Option<usize>,
    /// Watching of the directory.
    pub watch: Watch,
    /// The trail of what operators and senders did.
    pub audit: Audit,
    /// The signatures that components must have.
    pub trust: Trust,
    /// Components from registries.
    pub pull: Pull,
    /// The compile cache on disk.
    pub cache: Cache,
    /// The state of services.
    pub state: State,
    /// The response cache, for routes whose manifest sets `cache`.
    pub responses: Responses,
    /// The pages for errors.
    pub errors: Errors,
    /// The default limits of a service.
    pub limits: Limits,
    /// Distributed tracing.
    pub traces: Traces,
    /// Options that the embedding program sets. They have no keys.
    pub program: Program,
}

/// Options that the embedding program sets. They have no keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// The executable that compiles components, which is `lodge` itself; `None` compiles in the process of the host.
    pub compiler: Option<PathBuf>,
    /// The compilers in use.
    pub tiers: Tiers,
    /// Whether responses explain why a file is refused, for `lodge dev`, where the clients are the developers.
    pub explains: bool,
    /// The file that settings were read from, if there was one.
    pub file: Option<PathBuf>,
    /// The memory and CPUs of the process, for the log; `None` if the program has not looked.
    pub machine: Option<String>,
}

/// The compilers for components that take long to compile. All others are compiled with optimizations at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tiers {
    /// The optimizing compiler only.
    #[default]
    Optimised,
    /// The fast compiler first; the optimizing one runs while the service already handles requests.
    Both,
    /// The fast compiler only.
    Baseline,
}

/// The clients that may use the hosts `<name>.localhost`, which reach every path and method of a service or version,
/// whatever its routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceHosts {
    /// Clients on this machine that come through no proxy.
    Local,
    /// All clients.
    All,
    /// No client.
    Off,
}

impl ServiceHosts {
    /// Whether a client may use these hosts. `local` means that it is on this machine and comes through no proxy.
    pub fn admits(self, local: bool) -> bool {
        match self {
            Self::Local => local,
            Self::All => true,
            Self::Off => false,
        }
    }
}

/// The format of log lines on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object per line.
    Json,
}

impl Config {
    /// Returns a value for the settings to fill in. It is never used as it is.
    fn blank() -> Self {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        Self {
            listen: nowhere,
            admin: None,
            admin_token: None,
            admin_keys: None,
            guests: PathBuf::new(),
            shared_config: None,
            log_format: LogFormat::Text,
            auth_failures: 0,
            service_hosts: ServiceHosts::Local,
            log_level: String::new(),
            log_requests: false,
            log_headers: Vec::new(),
            log_mask: Vec::new(),
            trusted_proxies: Vec::new(),
            stop: Stop::default(),
            listener: Listener::default(),
            tls: TlsListener::default(),
            engine: Engine::default(),
            calls: Calls::default(),
            upstreams: Upstreams::default(),
            cluster: Membership::default(),
            kubernetes: Kubernetes::default(),
            memory: None,
            watch: Watch::default(),
            trust: Trust::default(),
            audit: Audit::default(),
            pull: Pull::default(),
            state: State::default(),
            cache: Cache::default(),
            responses: Responses::default(),
            errors: Errors::default(),
            limits: Limits::blank(),
            traces: Traces::blank(),
            program: Program::default(),
        }
    }

    fn disagreements(&self) -> Vec<String> {
        let mut problems = self.limits.disagreements(self.engine.max_memory);
        if self.admin.is_some_and(|admin| admin == self.listen && admin.port() != 0) {
            problems.push(format!("admin: {} is also the address of `listen`; give admin another port", self.listen));
        }
        if let Some(tls) = self.tls.listen.filter(|tls| tls.port() != 0) {
            let others = [("listen", Some(self.listen)), ("admin", self.admin)];
            for (name, _) in others.into_iter().filter(|(_, other)| *other == Some(tls)) {
                problems.push(format!("tls.listen: {tls} is also the address of `{name}`; give it another port"));
            }
        }
        problems.extend(self.tls.disagreements(self.state.url.is_some()));
        problems.extend(self.cluster.disagreements(self.state.url.is_some()));
        if self.listener.proxy_protocol && self.trusted_proxies.is_empty() {
            problems
                .push("listener.proxy_protocol: nobody could connect; name the proxies in `trusted_proxies`".into());
        }
        // At least a quarter of the memory is available for responses that are being recorded.
        if self.responses.memory > 0 && self.responses.entry > self.responses.memory / 4 {
            let most = bytesize::ByteSize(self.responses.memory as u64 / 4).display().iec();
            problems.push(format!("responses.entry: more than a quarter of responses.memory, which is {most}"));
        }
        problems
    }
}

#[cfg(test)]
mod tests;
