//! Machine code of components: a few engines for the life of the host, and bounded compilation for them.
//!
//! Machine code comes from memory, from the [`code_cache`](super::code_cache) or from a compiler, in this order; only the
//! last one waits for a place (`lane`). A compiler is a child process (`child`, [`worker`]). A large component is compiled
//! twice (`tiers`): first by the faster compiler, and for speed of running while it serves.

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

use tokio::sync::Semaphore;
use wasmtime::component::{Component, types::ComponentItem};
use wasmtime_wasi_http::handler::ProxyPre;
use wasmtime_wasi_http::{p2, p3};

use self::build::Bounds;
pub use self::build::this_program;
use self::engine::Linked;
pub(crate) use self::explain::misshapen;
use self::explain::{Handler, handler_of, one_line, unlinkable};
pub use self::job::Kind;
pub(crate) use self::lane::{Lane, Place};
pub use self::reset::Reset;
pub(crate) use self::room::{Extra, TRIALS};
use super::code_cache::{Cache, Stamp};
use crate::capabilities::Ctx;
use lodge_base::clock::Clock;
use lodge_base::config::{self, Tiers};
use lodge_base::cpu::scheduler;
use lodge_base::lock::lock;
use lodge_base::telemetry::metrics::Metrics;
use lodge_manifest::digest::Digest;
use lodge_manifest::refusal::Refusal;
use lodge_manifest::spec::GuestSpec;

/// The engine's version, which it does not tell by itself; a test holds it against Cargo.lock.
pub const WASMTIME: &str = "48.0.8";

/// Versions that are not ready yet and whose machine code stays in memory until they are.
const UNREADY: usize = 16;

/// The engines, and the machine code for them.
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
    /// What was counted of all this.
    pub metrics: Arc<Metrics>,
    bounds: Bounds,
    tiers: Tiers,
    /// For components that compile in a moment: they never wait for one that does not.
    short: Arc<Lane>,
    /// For all others. One at a time has all the cores that there are.
    long: Arc<Lane>,
    /// For who reads machine code from disk.
    loads: Arc<Semaphore>,
    /// How the memory of sandboxes is made clean.
    pub reset: Reset,
    /// What is in memory already, for two services of one component and for a manifest that changes.
    known: Mutex<HashMap<Digest, Weak<Compiled>>>,
    /// Code of versions that are asked again and again whether they are ready, and are not compiled each time.
    unready: Mutex<VecDeque<(Digest, Arc<Compiled>)>>,
    cache: Option<Cache>,
    /// The names of the engines in the cache.
    stamps: [OnceLock<Option<Stamp>>; 4],
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
    /// Builds the engines and their linkers, and starts the clock that interrupts guests.
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
            metrics: Arc::default(),
            bounds: Bounds::new(config),
            tiers: config.program.tiers,
            short: Lane::new(threads),
            long: Lane::new(1),
            loads: Arc::new(Semaphore::new(scheduler::cores())),
            reset,
            known: Mutex::default(),
            unready: Mutex::default(),
            cache: Cache::open(&config.cache),
            stamps: Default::default(),
        })
    }

    /// Machine code of a component, from wherever it is had soonest. Also for a service whose code was dropped.
    ///
    /// # Errors
    /// Why there is none, and what to do.
    pub async fn code(self: &Arc<Self>, spec: &GuestSpec) -> Result<Arc<Compiled>, Refusal> {
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
    pub fn release(&self, waits: impl Fn(Digest) -> bool) {
        let mut unready = lock(&self.unready);
        let all = std::mem::take(&mut *unready);
        let (held, dropped) = all.into_iter().partition(|(digest, _)| waits(*digest));
        *unready = held;
        // Outside the lock: giving memory back takes a while.
        drop(unready);
        drop::<VecDeque<_>>(dropped);
    }

    /// Keeps the machine code of a version that is not ready, for the next time that it is tried.
    pub fn hold(&self, digest: Digest, code: Arc<Compiled>) {
        let mut unready = lock(&self.unready);
        unready.retain(|(held, _)| *held != digest);
        unready.push_back((digest, code));
        if unready.len() > UNREADY {
            unready.pop_front();
        }
    }

    /// Forgets machine code that was kept for the next trial.
    pub fn unhold(&self, digest: Digest) {
        lock(&self.unready).retain(|(held, _)| *held != digest);
    }

    /// Whether this code is to be replaced by optimised code.
    pub(super) fn is_provisional(&self, code: &Compiled) -> bool {
        code.kind.baseline && self.tiers == Tiers::Both
    }

    /// Compiles a component a second time, for speed of running.
    ///
    /// # Errors
    /// Why that failed, and what to do.
    pub(super) async fn optimised(self: &Arc<Self>, spec: &GuestSpec, place: Place) -> Result<Arc<Compiled>, Refusal> {
        Ok(self.remember(spec.digest, self.run(spec, place, true).await?))
    }

    /// Returns optimised code for this component, if it is in memory.
    pub(super) fn known_optimised(&self, digest: Digest) -> Option<Arc<Compiled>> {
        self.known(digest).filter(|code| !code.kind.baseline)
    }

    /// Removes the baseline code of a component from the cache, where it was replaced by `code`.
    pub(super) fn remove_baseline(&self, code: &Compiled, digest: Digest) {
        if let Some(cache) = &self.cache {
            let old = self.stamp(Kind { baseline: true, ..code.kind });
            old.into_iter().for_each(|stamp| cache.remove(stamp, digest));
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
