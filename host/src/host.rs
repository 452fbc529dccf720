//! Assembles a host from its parts.
//!
//! [`Host::bind`] does what can fail: it binds the addresses and creates the engine. [`Host::run`] serves until the
//! host stops: after a drain, or when the grace period is over.

mod announcement;
mod housekeeping;
mod operator_keys;
mod sockets;
mod systemd;
mod tasks;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant, SystemTime};

use http::HeaderValue;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use self::announcement::announce;
use self::sockets::Sockets;
use self::tasks::RunningHost;
use crate::admin;
use crate::audit::AuditTrail;
use crate::certificates::Certificates;
use crate::certificates::acme::AcmeClient;
use crate::cluster::Cluster;
use crate::guests::builds::Builds;
use crate::guests::deployer::Deployer;
use crate::guests::publisher::Publisher;
use crate::guests::remote::RemoteServices;
use crate::guests::snapshot::Current;
use crate::guests::stores::Stores;
use crate::guests::trust;
use crate::listener::accept::{Listeners, accept};
use crate::listener::connection::Server;
use crate::listener::intake::Buffers;
use crate::listener::tls::TlsServer;
use crate::messages::ActiveTriggers;
use crate::registry::client::RegistryClient;
use crate::registry::follow::Pulls;
use crate::request::handler::Handler;
use lodge_base::budget::Budget;
use lodge_base::config::Config;
use lodge_base::config::acme::AcmeChallenge;
use lodge_base::config::tls::TlsListener;
use lodge_base::cpu::scheduler::{self, CpuScheduler};
use lodge_base::drain;
use lodge_base::files;
use lodge_base::ids::Ids;
use lodge_base::problems::HostProblems;
use lodge_base::telemetry::logs::Logs;
use lodge_base::telemetry::metrics::Metrics;
use lodge_base::telemetry::traces::{Exporting, Tracer};
use lodge_runtime::capabilities::messaging::MessageRequests;
use lodge_runtime::code_cache;
use lodge_runtime::compile::{Compiler, Reset};
use lodge_runtime::outgoing::{LocalCalls, Outgoing};
use lodge_traffic::admission::Concurrency;
use lodge_traffic::admission::rate::FailedAttempts;
use lodge_traffic::auth::api_keys::KeyRing;
use lodge_traffic::cache::ResponseCache;
use lodge_traffic::error_pages::PageSources;
use lodge_traffic::live_files::LiveValue;
use lodge_traffic::proxy::compression::memory::encoder_memory;
use lodge_traffic::service::Services;
use lodge_traffic::upstreams::SharedUpstreams;
use lodge_traffic::validation::room::ValidationRoom;

/// The number of open files besides the connections of clients: listeners, the directory, components that are read.
const OTHER_FILES: u64 = 200;

/// The most time for exporting spans after the last request.
const EXPORT: Duration = Duration::from_secs(5);

/// A host that has bound its addresses and is not serving yet.
pub struct Host {
    config: Arc<Config>,
    /// The path of the served directory, without symbolic links, and its device and inode.
    directory: [String; 2],
    listeners: Listeners,
    /// The certificates from an authority, if there are any.
    acme: Option<Arc<AcmeClient>>,
    admin: Option<TcpListener>,
    /// The cluster that the host is in, if it is in one.
    cluster: Option<Arc<Cluster>>,
    /// The keys of `admin_keys`.
    operator_keys: Option<Arc<LiveValue<KeyRing>>>,
    /// What is wrong now with files that settings name.
    problems: HostProblems,
    /// What the log says of settings that may not mean what they seem to, when the host starts.
    doubts: Vec<String>,
    deployer: Arc<Deployer>,
    /// How the memory of sandboxes is reset.
    reset: Reset,
    publisher: Publisher,
    /// The components in registries.
    pulls: Arc<Pulls>,
    handler: Arc<Handler>,
    slots: Arc<Concurrency>,
    logs: Arc<Logs>,
    tracer: Tracer,
    exporting: Exporting,
    started: SystemTime,
}

/// How a host ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every accepted request was finished.
    Drained,
    /// The grace period was over first.
    CutOff,
}

impl Host {
    /// Binds the addresses and creates the engine.
    ///
    /// # Errors
    /// One line: which address or size is not available, and which key to change.
    pub async fn bind(mut config: Config, logs: Arc<Logs>) -> Result<Self, String> {
        check(&config)?;
        let directory = path_and_identity(&config.guests);
        raise_file_limit(config.listener.connections);
        let Sockets { plain, secure, admin, mut doubts } = Sockets::open(&config).await?;
        doubts.extend(RegistryClient::doubt(&config.pull));
        // The port may have been chosen by the system.
        config.admin = admin.as_ref().and_then(|admin| admin.local_addr().ok());
        let compiler = Compiler::new(&config)?;
        let stores = Arc::new(Stores::new(&config));
        let acme = AcmeClient::new(&config, &compiler.metrics, &stores)?.map(Arc::new);
        let secure = match secure {
            Some(socket) => Some((socket, tls_server(&config.tls, acme.as_deref(), &compiler.metrics)?)),
            None => None,
        };
        let services = Services::new(CpuScheduler::new(scheduler::workers()));
        let upstreams = SharedUpstreams::new(config.upstreams.connections, &config.kubernetes);
        let (tracer, exporting) = Tracer::start(&config.traces)?;
        let slots = Arc::new(Concurrency::new(config.engine.instances, config.engine.queue, config.limits.queue_wait));
        let publisher = Publisher::new(Arc::clone(&slots));
        let handler = Arc::new(Handler {
            current: publisher.current(),
            trusted_proxies: config.trusted_proxies.clone(),
            remote: OnceLock::new(),
            cluster: config.cluster.name.is_some().then(|| upstreams.serving_hosts()),
            audit: AuditTrail::open(&config.audit)?,
            failed_attempts: FailedAttempts::new(config.auth_failures, Instant::now()),
            service_hosts: config.service_hosts,
            redirect: config.tls.redirect,
            proofs: acme.as_ref().map(|acme| Arc::clone(acme.proofs())),
            hsts: hsts(config.tls.hsts),
            explains: config.program.explains,
            responses: ResponseCache::new(config.responses.memory, config.responses.entry),
            unsent: Budget::new(config.listener.unsent),
            compression: encoder_memory(config.listener.compression),
            validation: ValidationRoom::new(config.listener.validation),
            pages: PageSources::default().open_host(&config.errors.pages).await?,
            ids: Ids::new(),
            via: upstreams.via(),
            unmatched: services.get_or_create(""),
            metrics: Arc::clone(&compiler.metrics),
            tracer: tracer.clone(),
            logs: Arc::clone(&logs),
        });
        let marks = !handler.trusted_proxies.is_empty();
        let calls: Weak<dyn LocalCalls> = Arc::<Handler>::downgrade(&handler);
        let outgoing = Outgoing::new(calls, Arc::clone(&handler.via), marks, &config.calls.suffix);
        let reset = compiler.reset;
        let requests: Weak<dyn MessageRequests> = Arc::<Handler>::downgrade(&handler);
        let mut deployer = Deployer::new(&config, compiler, services, upstreams, (outgoing, requests), stores);
        handler.audit.iter().for_each(|audit| deployer.audit_keys(audit));
        let operator_keys = operator_keys::read(&config, &deployer, &mut doubts).await?;
        let (config, deployer) = (Arc::new(config), Arc::new(deployer));
        if let Some(remote) = RemoteServices::new(&deployer, &config, publisher.shared_limits()) {
            let _ = handler.remote.set(remote);
        }
        let rates = Arc::clone(&publisher.shared_limits().rates);
        Ok(Self {
            cluster: Cluster::new(&config, &deployer.upstreams, rates)?,
            operator_keys,
            problems: HostProblems::default(),
            doubts,
            listeners: Listeners { plain, secure },
            acme,
            admin,
            pulls: Pulls::new(Arc::clone(&config), Arc::clone(&handler.metrics)),
            deployer,
            reset,
            publisher,
            handler,
            slots,
            config,
            directory,
            logs,
            tracer,
            exporting,
            started: SystemTime::now(),
        })
    }

    /// Returns the address of the services.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listeners.plain.listener.local_addr().ok()
    }

    /// Returns the address of the services over HTTPS, if `tls.listen` is set.
    pub fn https_address(&self) -> Option<SocketAddr> {
        self.listeners.secure.as_ref()?.0.listener.local_addr().ok()
    }

    /// Returns the address of the admin listener.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref()?.local_addr().ok()
    }

    /// Returns the state of builds, which `lodge dev` updates.
    pub fn builds(&self) -> Arc<Builds> {
        self.publisher.builds()
    }

    /// Returns the current snapshot, as it changes.
    pub fn current(&self) -> Current {
        self.publisher.current()
    }

    /// Serves until `stop`, then finishes accepted requests.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Ended {
        announce(&self.config, &self.listeners, self.admin.as_ref(), self.reset);
        self.doubts.iter().for_each(|doubt| tracing::warn!("{doubt}"));
        self.handler.audit.iter().for_each(|audit| audit.begin(&self.config.guests));
        let (mut stopper, drain) = drain::channel();
        let running = RunningHost {
            buffers: Buffers::new(self.config.listener.memory),
            stop_signal: drain.stop_signal().clone(),
            stop_requested: Arc::new(Notify::new()),
            consuming: ActiveTriggers::new(),
        };
        let (tasks, readiness) = (self.start_tasks(&running), self.readiness());
        let Self { config, listeners, deployer, handler, slots, exporting, cluster, .. } = self;
        let RunningHost { buffers, stop_requested, consuming, .. } = running;
        let audit = handler.audit.clone();
        let server = Arc::new(Server {
            // Kept until the end: guests may still send calls after their responses.
            handler,
            drain,
            bounds: config.listener.clone(),
            buffers,
        });
        let mut leaving = None;
        let delayed = async {
            tokio::select! {
                () = stop => {}
                () = stop_requested.notified() => {}
            }
            tracing::info!("stopping: running requests have {}", humantime::format_duration(config.stop.grace));
            stopper.stop();
            // A slow server of the state does not delay the end of accepting.
            leaving = cluster.map(|cluster| tokio::spawn(async move { cluster.leave().await }));
            tokio::time::sleep(config.stop.delay).await;
        };
        let start = sockets::started(listeners.are_shared(), readiness);
        accept(listeners, server, start, delayed).await;
        let finished = async {
            stopper.done().await;
            // Their messages are settled after the response.
            consuming.wait_until_none().await;
            // Work of guests after their responses holds a slot and no connection.
            slots.wait_until_free().await;
            // Tunnels hold neither.
            deployer.upstreams.wait_for_tunnels().await;
        };
        let ended = match tokio::time::timeout(config.stop.grace, finished).await {
            Ok(()) => Ended::Drained,
            Err(_) => Ended::CutOff,
        };
        if let Some(leaving) = leaving {
            let _ = leaving.await;
        }
        deployer.close().await;
        exporting.shutdown(EXPORT).await;
        drop(tasks);
        if let Some(audit) = audit {
            let drained = matches!(ended, Ended::Drained);
            let _ = tokio::task::spawn_blocking(move || audit.close(drained)).await;
        }
        ended
    }
}

/// Reads the certificates, and returns what the TLS listener needs.
fn tls_server(
    settings: &TlsListener,
    acme: Option<&AcmeClient>,
    metrics: &Arc<Metrics>,
) -> Result<Arc<TlsServer>, String> {
    let issued = acme.map_or_else(Vec::new, AcmeClient::files);
    let certificates = Arc::new(Certificates::new(settings.certificates.clone(), issued)?);
    let proofs = acme.filter(|acme| acme.challenge() == AcmeChallenge::TlsAlpn01).map(AcmeClient::proofs);
    TlsServer::new(settings, certificates, proofs, metrics).map(Arc::new)
}

/// Checks that there is a directory to serve, and that other settings do not contradict it.
fn check(config: &Config) -> Result<(), String> {
    check_directory(&config.guests)?;
    let problem = code_cache::misplaced(config).or_else(|| trust::misconfigured(config));
    problem.or_else(|| admin::misplaced(config)).map_or(Ok(()), Err)
}

/// Checks that there is a directory to serve.
fn check_directory(path: &std::path::Path) -> Result<(), String> {
    let shown = path.display();
    match (path.is_dir(), path.exists()) {
        (true, _) => Ok(()),
        (false, true) => {
            Err(format!("guests: `{shown}` is a file; serve the directory that it is in: `lodge serve DIR`"))
        }
        (false, false) => {
            Err(format!("guests: there is no directory `{shown}`; create it, or choose another: `lodge serve DIR`"))
        }
    }
}

/// Returns the path of a directory without symbolic links, and its device and inode.
fn path_and_identity(directory: &std::path::Path) -> [String; 2] {
    let path = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    let identity = directory.metadata().map(|metadata| files::identity(&metadata)).unwrap_or_default();
    [path.display().to_string(), identity]
}

/// Raises the limit of open files, of which each connection is one, to the most that the system allows; the usual limit is
/// 1,024. If that is less than the configured connections need, further connections wait to be accepted.
fn raise_file_limit(connections: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if most < connections as u64 + OTHER_FILES {
        tracing::warn!(
            "the limit of open files is {most}, too low for listener.connections = {connections}; raise it (`ulimit -Hn`)"
        );
    }
}

/// Returns the value of `Strict-Transport-Security`; `None` if browsers are not told.
fn hsts(time: Duration) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("max-age={}", time.as_secs())).ok().filter(|_| !time.is_zero())
}
