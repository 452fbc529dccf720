//! `GuestSpec` → [`Guest`]: two engines for the life of the host, bounded parallelism.
//!
//! A `Guest` is the proof that a component can be served: compiled, linked, exporting `wasi:http`, and instantiated
//! once under its own limits. Whatever fails on the way is a [`Refusal`] in words, and touches no other guest.

mod engine;
mod explain;
mod reset;
mod room;

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use wasmtime::Engine;
use wasmtime::component::{Component, types::ComponentItem};
use wasmtime_wasi_http::handler::ProxyPre;
use wasmtime_wasi_http::{p2, p3};

use self::engine::{Linked, pool};
use self::explain::{Handler, handler_of, misshapen, one_line, uncompilable, unlinkable, unready, unstartable};
pub use self::reset::Reset;
pub(crate) use self::room::Extra;
use self::room::TRIALS;
use super::cache::Cache;
use super::digest::Digest;
use super::guest::Guest;
use super::load::{self, GuestSpec, Refusal};
use crate::capabilities::Ctx;
use crate::capabilities::sandbox::lock;
use crate::clock::Clock;
use crate::config;
use crate::config::CacheDirectory;
use crate::metrics::Metrics;
use crate::outgoing::Outgoing;
use crate::request::instance::Instance;
use crate::service::Services;
use crate::turns::{self, Turns};
use crate::upstreams;

/// The engine's version, which it does not tell by itself; a test holds it against Cargo.lock.
pub const WASMTIME: &str = "48.0.8";

/// In the name of every interface of WASI 0.3.
const WASI_03: &[u8] = b"@0.3.";
/// What an instantiation at load may take, however generous the service's own limits are.
const TRIAL: Duration = Duration::from_secs(10);

/// The engines, and what turns files into guests with them.
pub struct Compiler {
    /// For guests that only speak WASI 0.2. Without the bookkeeping of concurrent tasks each of their host calls is
    /// cheaper: 12.0 → 10.7 µs for a request to a warm instance, 21.3 → 19.0 µs to a fresh one.
    plain: Linked,
    /// For all the others.
    concurrent: Linked,
    pub(crate) clock: Clock,
    pub(crate) services: Services,
    /// What services need that are elsewhere.
    pub(crate) upstreams: upstreams::Shared,
    /// What their guests can reach.
    pub(crate) outgoing: Outgoing,
    /// What was counted of all this.
    pub metrics: Arc<Metrics>,
    /// Threads that give way to those that serve.
    pool: rayon::ThreadPool,
    permits: Arc<Semaphore>,
    /// Sandboxes in which new versions are tried; the pool has room for so many beside those that serve.
    trials: Semaphore,
    /// How the memory of sandboxes is made clean.
    pub reset: Reset,
    compile_time: Duration,
    /// What is in memory already, for two services of one component and for a manifest that changes.
    known: Mutex<HashMap<Digest, Weak<Compiled>>>,
    cache: Option<Cache>,
    /// Places for warm instances.
    pub(crate) warm: Arc<Semaphore>,
    /// A service that nobody asked for so long has its machine code dropped; never when this is zero.
    pub(crate) idle_unload: Duration,
}

/// What a component became: the same for every service that runs it.
pub struct Compiled {
    /// What it imports and exports, as written in the component.
    pub interfaces: Arc<Interfaces>,
    pub(crate) engine: Engine,
    pub(crate) pre: ProxyPre<Ctx>,
    /// What it takes of the engine's pool beyond what most components do.
    pub(crate) extra: Option<Extra>,
}

/// The names of a component's imports and exports.
#[derive(Clone, Debug, Default)]
pub struct Interfaces {
    /// What it asks of the host.
    pub imports: Vec<String>,
    /// What it offers.
    pub exports: Vec<String>,
}

impl Compiler {
    /// Builds the engine and the linker, for guests that can send nothing, and starts the clock that interrupts guests.
    ///
    /// # Errors
    /// When the system does not give the address space that the configured sizes need.
    pub fn new(config: &config::Config) -> Result<Self, String> {
        let sizes = &config.engine;
        let threads = if sizes.compile_threads == 0 { (turns::cores() - 1).max(1) } else { sizes.compile_threads };
        let reset = Reset::detect();
        let plain = Linked::new(sizes, reset, false)?;
        let concurrent = Linked::new(sizes, reset, true)?;
        let clock = Clock::new(sizes.tick);
        let engines = [plain.engine.weak(), concurrent.engine.weak()];
        let ticking = clock.start(move || {
            let mut needed = false;
            for engine in engines.iter().filter_map(wasmtime::EngineWeak::upgrade) {
                engine.increment_epoch();
                needed = true;
            }
            needed
        });
        ticking.map_err(|error| format!("the clock's thread does not start: {error}"))?;
        Ok(Self {
            plain,
            concurrent,
            clock,
            services: Services::new(Turns::new(turns::workers())),
            upstreams: upstreams::Shared::default(),
            outgoing: Outgoing::nowhere(),
            metrics: Arc::default(),
            pool: pool(threads)?,
            permits: Arc::new(Semaphore::new(threads)),
            trials: Semaphore::new(TRIALS),
            reset,
            compile_time: sizes.compile_time,
            known: Mutex::default(),
            cache: cache(config),
            warm: Arc::new(Semaphore::new(sizes.warm)),
            idle_unload: sizes.idle_unload,
        })
    }

    /// Its guests can send requests from now on.
    #[must_use]
    pub fn reaching(mut self, outgoing: Outgoing) -> Self {
        self.outgoing = outgoing;
        self
    }

    /// Makes a guest of a file. Waits for a place among those compiling.
    ///
    /// # Errors
    /// Why it cannot be served, and what to do.
    pub async fn compile(self: &Arc<Self>, spec: GuestSpec) -> Result<Arc<Guest>, Refusal> {
        let file = load::file_name(&spec.path);
        let code = match self.known(spec.digest) {
            Some(code) => code,
            None => self.translate(&spec).await?,
        };
        let guest = Arc::new(Guest::new(spec, code, self));
        // Its wait is no part of the trial. The semaphore is never closed.
        let _trial = self.trials.acquire().await;
        let deadline = Instant::now() + TRIAL.min(guest.limits().wall);
        let instance = Instance::new(&guest, deadline).await.map_err(|error| unstartable(&file, &error))?;
        // Without a host to send requests through it cannot be as ready as it will be.
        let alone = guest.sends() && self.outgoing.is_nowhere();
        if let Some(path) = guest.spec.manifest.ready.as_ref().filter(|_| !alone) {
            instance.ready(&guest, path, deadline).await.map_err(|why| unready(&file, path, &why))?;
        }
        Ok(guest)
    }

    /// Component to machine code, off the threads that serve.
    async fn translate(self: &Arc<Self>, spec: &GuestSpec) -> Result<Arc<Compiled>, Refusal> {
        let file = load::file_name(&spec.path);
        let _waiting = self.metrics.compiling();
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        // Another service of the same component may have been before this one in the queue.
        if let Some(code) = self.known(spec.digest) {
            return Ok(code);
        }
        let (this, source) = (Arc::clone(self), spec.clone());
        let (done, built) = tokio::sync::oneshot::channel();
        self.pool.spawn(move || {
            // Cranelift cannot be interrupted: a compilation that is given up runs on, and keeps its place.
            let _permit = permit;
            // Nobody listens when it was given up.
            let _ = done.send(this.build(&source));
        });
        let code = match tokio::time::timeout(self.compile_time, built).await {
            Ok(Ok(built)) => Arc::new(built?),
            Ok(Err(_)) => return Err(Refusal::new(&file, "the compiler failed on it", "report it to Lodge's authors")),
            Err(_) => {
                let limit = humantime::format_duration(self.compile_time);
                let reason = format!("it took more than {limit} to compile");
                return Err(Refusal::new(&file, reason, "raise engine.compile_time"));
            }
        };
        self.remember(spec.digest, &code);
        Ok(code)
    }

    /// Machine code that was dropped, from the cache; compiled again only if that has lost it.
    ///
    /// # Errors
    /// When the file is gone as well, or is another.
    pub(crate) async fn reload(self: &Arc<Self>, spec: &GuestSpec) -> Result<Arc<Compiled>, Refusal> {
        if let Some(code) = self.known(spec.digest) {
            return Ok(code);
        }
        let (this, source) = (Arc::clone(self), spec.clone());
        // Not on the threads that compile: they give way to everybody, and a request waits for this.
        let loading = tokio::task::spawn_blocking(move || {
            let (component, linked) = this.cached(source.digest)?;
            link(&component, linked, &load::file_name(&source.path)).ok()
        });
        match loading.await {
            Ok(Some(code)) => {
                let code = Arc::new(code);
                self.remember(spec.digest, &code);
                Ok(code)
            }
            _ => self.translate(spec).await,
        }
    }

    /// Whether the machine code could be dropped: it would be found again.
    pub(crate) fn keeps(&self, code: &Compiled, digest: Digest) -> bool {
        self.cache.as_ref().is_some_and(|cache| cache.holds(&code.engine, digest))
    }

    fn remember(&self, digest: Digest, code: &Arc<Compiled>) {
        let mut known = lock(&self.known);
        known.retain(|_, code| code.strong_count() > 0);
        known.insert(digest, Arc::downgrade(code));
    }

    fn known(&self, digest: Digest) -> Option<Arc<Compiled>> {
        lock(&self.known).get(&digest).and_then(Weak::upgrade)
    }

    fn build(&self, spec: &GuestSpec) -> Result<Compiled, Refusal> {
        let file = load::file_name(&spec.path);
        let (component, linked) = match self.cached(spec.digest) {
            Some(cached) => cached,
            None => self.component(&load::read(spec)?, spec.digest).map_err(|error| uncompilable(&file, &error))?,
        };
        link(&component, linked, &file)
    }

    /// From the disk, if it was compiled before.
    fn cached(&self, digest: Digest) -> Option<(Component, &Linked)> {
        let cache = self.cache.as_ref()?;
        let load = |linked: &'_ Linked| cache.load(&linked.engine, digest);
        let found = load(&self.plain)
            .map(|component| (component, &self.plain))
            .or_else(|| Some((load(&self.concurrent)?, &self.concurrent)));
        let count = if found.is_some() { &self.metrics.cache_hits } else { &self.metrics.cache_misses };
        count.fetch_add(1, Relaxed);
        found
    }

    /// Compiles for the plain engine if that can run it. The names of 0.3 interfaces stand in the file as they are;
    /// what else needs concurrency does not compile without it.
    fn component(&self, bytes: &[u8], digest: Digest) -> wasmtime::Result<(Component, &Linked)> {
        let start = Instant::now();
        let speaks_03 = bytes.windows(WASI_03.len()).any(|window| window == WASI_03);
        let plain = if speaks_03 { None } else { Component::new(&self.plain.engine, bytes).ok() };
        let (component, linked) = match plain {
            Some(component) => (component, &self.plain),
            None => (Component::new(&self.concurrent.engine, bytes)?, &self.concurrent),
        };
        self.metrics.compiled.record(start.elapsed());
        if let Some(cache) = &self.cache {
            cache.store(&linked.engine, digest, &component);
        }
        Ok((component, linked))
    }
}

fn link(component: &Component, linked: &Linked, file: &str) -> Result<Compiled, Refusal> {
    let interfaces = interfaces(component);
    let handler = handler_of(&interfaces.exports, file)?;
    let pre = linked.linker.instantiate_pre(component).map_err(|error| unlinkable(file, &error))?;
    let pre = match handler {
        Handler::P2 => p2::bindings::ProxyPre::new(pre).map(ProxyPre::P2),
        Handler::P3 => p3::bindings::ServicePre::new(pre).map(ProxyPre::P3),
    };
    let pre = pre.map_err(|error| misshapen(file, &one_line(&error)))?;
    let extra = linked.extra(component).map_err(|(reason, remedy)| Refusal::new(file, reason, remedy))?;
    Ok(Compiled { interfaces: Arc::new(interfaces), engine: component.engine().clone(), pre, extra })
}

fn interfaces(component: &Component) -> Interfaces {
    let (ty, engine) = (component.component_type(), component.engine());
    Interfaces {
        imports: ty.imports(engine).map(|(name, _)| name.to_owned()).collect(),
        exports: ty
            .exports(engine)
            .filter(|(_, item)| !matches!(item.ty, ComponentItem::Type(_)))
            .map(|(name, _)| name.to_owned())
            .collect(),
    }
}

fn cache(config: &config::Config) -> Option<Cache> {
    if config.cache.directory == CacheDirectory::Off {
        return None;
    }
    let opened = Cache::open(&config.cache);
    opened.inspect_err(|why| tracing::warn!("no compile cache, every start compiles: {why}")).ok()
}
