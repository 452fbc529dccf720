//! `GuestSpec` → [`Guest`]: a few engines for the life of the host, and bounded compilation beside it.
//!
//! A `Guest` is the proof that a component can be served: compiled, linked, exporting `wasi:http`, and instantiated
//! once under its own limits. Whatever fails on the way is a [`Refusal`] in words, and touches no other guest.
//!
//! Machine code comes from memory, from the [`cache`](crate::runtime::code_cache) or from a compiler, in this order; only the last one
//! waits for a place (`lane`). A compiler is a child process (`child`, [`worker`]). What would take long is compiled
//! twice (`tiers`): for speed of compiling first, and for speed of running while it serves.

mod build;
mod child;
mod engine;
mod explain;
mod job;
mod lane;
mod reset;
mod room;
mod source;
mod tiers;
pub mod worker;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use wasmtime::component::{Component, types::ComponentItem};
use wasmtime_wasi_http::handler::ProxyPre;
use wasmtime_wasi_http::{p2, p3};

use self::build::Bounds;
pub use self::build::this_program;
use self::engine::Linked;
use self::explain::{Handler, handler_of, misshapen, one_line, unlinkable, unready, unstartable};
pub use self::job::Kind;
use self::lane::Lane;
pub use self::reset::Reset;
pub(crate) use self::room::Extra;
use self::room::TRIALS;
use super::guest::Guest;
use crate::base::clock::Clock;
use crate::base::lock::lock;
use crate::capabilities::Ctx;
use crate::config::{self, Tiers};
use crate::cpu::scheduler;
use crate::cpu::scheduler::CpuScheduler;
use crate::manifest::digest::Digest;
use crate::manifest::refusal::Refusal;
use crate::manifest::refusal::file_name;
use crate::manifest::spec::GuestSpec;
use crate::outgoing::Outgoing;
use crate::runtime::code_cache::{Cache, Stamp};
use crate::runtime::instance::Instance;
use crate::service::Services;
use crate::telemetry::metrics::Metrics;
use crate::upstreams;

/// The engine's version, which it does not tell by itself; a test holds it against Cargo.lock.
pub const WASMTIME: &str = "48.0.8";

/// What an instantiation at load may take, however generous the service's own limits are.
const TRIAL: Duration = Duration::from_secs(10);

/// Versions that are not ready yet and whose machine code stays in memory until they are.
const UNREADY: usize = 16;

/// The engines, and what turns files into guests with them.
pub struct Compiler {
    /// For guests that only speak WASI 0.2. Without the bookkeeping of concurrent tasks each of their host calls is
    /// cheaper: 12.0 → 10.7 µs for a request to a warm instance, 21.3 → 19.0 µs to a fresh one.
    plain: Arc<Linked>,
    /// For all the others.
    concurrent: Arc<Linked>,
    /// For baseline code, made when there is some and dropped with the last of it.
    baseline: [Mutex<Weak<Linked>>; 2],
    /// Every engine, for the clock.
    engines: Arc<Mutex<Vec<wasmtime::EngineWeak>>>,
    sizes: config::Engine,
    pub(crate) clock: Clock,
    pub(crate) services: Services,
    /// What services need that are elsewhere.
    pub(crate) upstreams: upstreams::SharedUpstreams,
    /// What their guests can reach.
    pub(crate) outgoing: Outgoing,
    /// What was counted of all this.
    pub metrics: Arc<Metrics>,
    bounds: Bounds,
    tiers: Tiers,
    /// For components that compile in a moment: they never wait for one that does not.
    short: Arc<Lane>,
    /// For all others. One at a time has all the cores that there are.
    long: Arc<Lane>,
    /// For those that are served already, while a better version of their code is made.
    optimising: Arc<Lane>,
    /// The guests that wait for better code, by digest.
    upgrades: Mutex<HashMap<Digest, Vec<Weak<Guest>>>>,
    /// For who reads machine code from disk.
    loads: Arc<Semaphore>,
    /// Sandboxes in which new versions are tried; the pool has room for so many beside those that serve.
    trials: Semaphore,
    /// How the memory of sandboxes is made clean.
    pub reset: Reset,
    /// What is in memory already, for two services of one component and for a manifest that changes.
    known: Mutex<HashMap<Digest, Weak<Compiled>>>,
    /// Code of versions that are asked again and again whether they are ready, and are not compiled each time.
    unready: Mutex<VecDeque<(Digest, Arc<Compiled>)>>,
    cache: Option<Cache>,
    /// The names of the engines in the cache.
    stamps: [OnceLock<Option<Stamp>>; 4],
    /// Places for warm instances.
    pub(crate) warm: Arc<Semaphore>,
    /// A service that nobody asked for so long has its machine code dropped; never when this is zero.
    pub(crate) idle_unload: Duration,
}

/// What a component became: the same for every service that runs it.
pub struct Compiled {
    /// What it imports and exports, as written in the component.
    pub interfaces: Arc<Interfaces>,
    /// What it was compiled for.
    pub(crate) kind: Kind,
    pub(crate) engine: wasmtime::Engine,
    pub(crate) pre: ProxyPre<Ctx>,
    /// What it takes of the engine's pool beyond what most components do.
    pub(crate) extra: Option<Extra>,
    /// An engine for baseline code lives for as long as some of its code does.
    _linked: Arc<Linked>,
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
        let threads = if sizes.compile_threads == 0 { (scheduler::cores() - 1).max(1) } else { sizes.compile_threads };
        let reset = Reset::detect();
        let linked = |concurrent| Linked::new(sizes, reset, Kind { concurrent, baseline: false }).map(Arc::new);
        let (plain, concurrent) = (linked(false)?, linked(true)?);
        let clock = Clock::new(sizes.tick);
        let engines = Arc::new(Mutex::new(vec![plain.engine.weak(), concurrent.engine.weak()]));
        let ticked = Arc::clone(&engines);
        let ticking = clock.start(move || {
            let mut engines = lock(&ticked);
            engines.retain(|engine| engine.upgrade().inspect(wasmtime::Engine::increment_epoch).is_some());
            !engines.is_empty()
        });
        ticking.map_err(|error| format!("the clock's thread does not start: {error}"))?;
        Ok(Self {
            plain,
            concurrent,
            baseline: Default::default(),
            engines,
            sizes: sizes.clone(),
            clock,
            services: Services::new(CpuScheduler::new(scheduler::workers())),
            upstreams: upstreams::SharedUpstreams::new(config.upstreams.connections),
            outgoing: Outgoing::disabled(),
            metrics: Arc::default(),
            bounds: Bounds::new(config),
            tiers: config.program.tiers,
            short: Lane::new(threads),
            long: Lane::new(1),
            optimising: Lane::new(1),
            upgrades: Mutex::default(),
            loads: Arc::new(Semaphore::new(scheduler::cores())),
            trials: Semaphore::new(TRIALS),
            reset,
            known: Mutex::default(),
            unready: Mutex::default(),
            cache: Cache::open(&config.cache),
            stamps: Default::default(),
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

    /// Makes a guest of a file. Waits for a place among those compiling, if there is no machine code yet.
    ///
    /// # Errors
    /// Why it cannot be served, and what to do.
    pub async fn compile(self: &Arc<Self>, spec: GuestSpec) -> Result<Arc<Guest>, Refusal> {
        let digest = spec.digest;
        let code = self.code(&spec).await?;
        let guest = Arc::new(Guest::new(spec, Arc::clone(&code), self));
        if let Err(refusal) = self.try_out(&guest, &code).await {
            if refusal.passing {
                self.hold(digest, code);
            }
            return Err(refusal);
        }
        lock(&self.unready).retain(|(held, _)| *held != digest);
        if code.kind.baseline && self.tiers == Tiers::Both {
            self.improve(&guest);
        }
        Ok(guest)
    }

    /// Instantiates it once, and asks it whether it is ready.
    async fn try_out(&self, guest: &Arc<Guest>, code: &Arc<Compiled>) -> Result<(), Refusal> {
        let file = file_name(&guest.spec.path);
        // Its wait is no part of the trial. The semaphore is never closed.
        let _trial = self.trials.acquire().await;
        let deadline = Instant::now() + TRIAL.min(guest.limits().wall);
        let instance = Instance::of(guest, code, deadline).await.map_err(|error| unstartable(&file, &error))?;
        // Without a host to send requests through it cannot be as ready as it will be.
        let alone = guest.sends() && self.outgoing.is_disabled();
        if let Some(path) = guest.spec.manifest.ready.as_ref().filter(|_| !alone) {
            instance.ready(guest, path, deadline).await.map_err(|why| unready(&file, path, &why))?;
        }
        Ok(())
    }

    /// Machine code of a component, from wherever it is had soonest. Also for a service whose code was dropped.
    ///
    /// # Errors
    /// Why there is none, and what to do.
    pub(crate) async fn code(self: &Arc<Self>, spec: &GuestSpec) -> Result<Arc<Compiled>, Refusal> {
        if let Some(code) = self.known(spec.digest) {
            return Ok(code);
        }
        // Not where components are compiled: a service that was compiled before waits for none that was not.
        if self.cache.is_some() {
            let _load = Arc::clone(&self.loads).acquire_owned().await;
            let (this, source) = (Arc::clone(self), spec.clone());
            let loading = tokio::task::spawn_blocking(move || this.cached(&source));
            if let Ok(Some(code)) = loading.await {
                return Ok(self.remember(spec.digest, code));
            }
        }
        self.translate(spec).await
    }

    /// Whether the machine code could be dropped: it would be found again.
    pub(crate) fn keeps(&self, code: &Compiled, digest: Digest) -> bool {
        let stamp = self.stamp(code.kind);
        self.cache.as_ref().zip(stamp).is_some_and(|(cache, stamp)| cache.holds(stamp, digest))
    }

    /// Lets machine code go that was only held for versions which `waits` no longer says to be waiting.
    pub(crate) fn release(&self, waits: impl Fn(Digest) -> bool) {
        let mut unready = lock(&self.unready);
        let all = std::mem::take(&mut *unready);
        let (held, dropped) = all.into_iter().partition(|(digest, _)| waits(*digest));
        *unready = held;
        // Outside the lock: giving memory back takes a while.
        drop(unready);
        drop::<VecDeque<_>>(dropped);
    }

    fn hold(&self, digest: Digest, code: Arc<Compiled>) {
        let mut unready = lock(&self.unready);
        unready.retain(|(held, _)| *held != digest);
        unready.push_back((digest, code));
        if unready.len() > UNREADY {
            unready.pop_front();
        }
    }

    fn remember(&self, digest: Digest, code: Compiled) -> Arc<Compiled> {
        let code = Arc::new(code);
        let mut known = lock(&self.known);
        known.retain(|_, code| code.strong_count() > 0);
        known.insert(digest, Arc::downgrade(&code));
        code
    }

    fn known(&self, digest: Digest) -> Option<Arc<Compiled>> {
        lock(&self.known).get(&digest).and_then(Weak::upgrade)
    }

    /// The engine for machine code of this kind.
    ///
    /// # Errors
    /// When the system has no address space for one more.
    fn linked(&self, kind: Kind) -> Result<Arc<Linked>, String> {
        match kind {
            Kind { concurrent: false, baseline: false } => Ok(Arc::clone(&self.plain)),
            Kind { concurrent: true, baseline: false } => Ok(Arc::clone(&self.concurrent)),
            Kind { concurrent, .. } => {
                let [plain, both] = &self.baseline;
                let mut place = lock(if concurrent { both } else { plain });
                if let Some(linked) = place.upgrade() {
                    return Ok(linked);
                }
                let linked = Arc::new(Linked::new(&self.sizes, self.reset, kind)?);
                lock(&self.engines).push(linked.engine.weak());
                *place = Arc::downgrade(&linked);
                Ok(linked)
            }
        }
    }

    /// What machine code of this kind is called in the cache.
    fn stamp(&self, kind: Kind) -> Option<&Stamp> {
        let [a, b, c, d] = &self.stamps;
        let stamp = match (kind.concurrent, kind.baseline) {
            (false, false) => a,
            (true, false) => b,
            (false, true) => c,
            (true, true) => d,
        };
        // Of an engine that only compiles: the others may not exist yet, and their pools are no part of it.
        stamp.get_or_init(|| kind.engine().ok().map(|engine| Stamp::of(&engine))).as_ref()
    }

    /// Ready to be instantiated.
    fn link(&self, linked: Arc<Linked>, kind: Kind, component: &Component, file: &str) -> Result<Compiled, Refusal> {
        let interfaces = interfaces(component);
        let handler = handler_of(&interfaces.exports, file)?;
        let pre = linked.linker.instantiate_pre(component).map_err(|error| unlinkable(file, &error))?;
        let pre = match handler {
            Handler::P2 => p2::bindings::ProxyPre::new(pre).map(ProxyPre::P2),
            Handler::P3 => p3::bindings::ServicePre::new(pre).map(ProxyPre::P3),
        };
        let pre = pre.map_err(|error| misshapen(file, &one_line(&error)))?;
        let extra = linked.extra(component).map_err(|(reason, remedy)| Refusal::new(file, reason, remedy))?;
        let (interfaces, engine) = (Arc::new(interfaces), component.engine().clone());
        Ok(Compiled { interfaces, kind, engine, pre, extra, _linked: linked })
    }
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
