//! Machine code of components: a few engines that live as long as the host, and bounded compilation.
//!
//! Machine code comes from memory, from the [`code_cache`](super::code_cache) or from a compiler, in this order. Only
//! compiling waits for a permit (`lane`). A compiler is a child process (`child`, [`worker`]). A large component is
//! compiled twice (`tiers`): first by the faster compiler, then, while it serves, by the optimising one.

mod build;
mod child;
mod composition;
mod engine;
mod explain;
mod job;
mod lane;
mod one_line;
mod pool_budget;
mod reset;
mod source;
mod tiers;
pub mod worker;
mod worlds;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use tokio::sync::Semaphore;
use wasmtime::component::{Component, types::ComponentItem};

use self::build::Bounds;
pub use self::build::this_program;
use self::engine::Linked;
pub(crate) use self::explain::misshapen;
use self::explain::{handler_of, unlinkable};
pub use self::job::CodeKind;
pub(crate) use self::lane::{Lane, LanePermit};
use self::one_line::one_line;
pub(crate) use self::pool_budget::{ExtraUnits, TRIALS};
pub use self::reset::Reset;
pub use self::worlds::imports_whole_world;
use super::code_cache::{CodeCache, EngineStamp};
use crate::capabilities::absent;
use crate::error::backtrace::PartImages;
use crate::exports::{LinkedExports, is_message_handler};
use lodge_base::clock::Clock;
use lodge_base::config::{self, Tiers};
use lodge_base::cpu::scheduler;
use lodge_base::lock::lock;
use lodge_base::telemetry::metrics::Metrics;
use lodge_manifest::digest::Digest;
use lodge_manifest::refusal::{Refusal, file_name};
use lodge_manifest::spec::GuestSpec;

/// The version of wasmtime, which it does not report itself. A test compares it with Cargo.lock.
pub const WASMTIME: &str = "48.0.8";

/// The maximum number of versions that are not ready yet and whose machine code stays in memory until they are.
const UNREADY: usize = 16;

/// The engines, and the machine code for them.
pub struct Compiler {
    /// For guests that only use WASI 0.2. Without the bookkeeping of concurrent tasks their host calls are cheaper: a
    /// request to a warm instance takes 10.7 instead of 12.0 µs, to a fresh one 19.0 instead of 21.3 µs.
    plain: Arc<Linked>,
    /// For all other guests.
    concurrent: Arc<Linked>,
    /// For baseline code: created when there is some, and dropped with the last of it.
    baseline: [Mutex<Weak<Linked>>; 2],
    /// All engines, for the clock.
    engines: Arc<Mutex<Vec<wasmtime::EngineWeak>>>,
    sizes: config::Engine,
    pub(crate) clock: Clock,
    /// The metrics of compilation.
    pub metrics: Arc<Metrics>,
    bounds: Bounds,
    tiers: Tiers,
    /// For small components, so that they never wait for a large one.
    short: Arc<Lane>,
    /// For all others: one at a time, with all cores.
    long: Arc<Lane>,
    /// For reading machine code from disk.
    loads: Arc<Semaphore>,
    /// How the memory of sandboxes is reset.
    pub reset: Reset,
    /// Machine code in memory, for two services with one component and for a manifest that changes.
    known: Mutex<HashMap<Digest, Weak<Compiled>>>,
    /// Machine code of versions that are not ready, so that they are not compiled for every trial.
    unready: Mutex<VecDeque<(Digest, Arc<Compiled>)>>,
    cache: Option<CodeCache>,
    /// The names of the engines in the cache.
    stamps: [OnceLock<Option<EngineStamp>>; 4],
}

/// A compiled component, shared by all services that run it.
pub struct Compiled {
    /// The imports and exports, as written in the component.
    pub interfaces: Arc<Interfaces>,
    /// The kind of its machine code.
    pub(crate) kind: CodeKind,
    pub(crate) engine: wasmtime::Engine,
    /// What the outermost part exports.
    exports: LinkedExports,
    /// The parts behind it, in their order; none of a component without middleware.
    behind: Vec<LinkedExports>,
    /// The machine code of each part; `None` of a component without middleware.
    images: Option<Arc<PartImages>>,
    /// All parts of a composition with their digests. Others that use them share their code.
    parts: Vec<(Digest, Arc<Self>)>,
    component: Component,
    /// Its extra units of the engine's pool.
    pub(crate) extra: Option<ExtraUnits>,
    /// Keeps an engine for baseline code alive.
    _linked: Arc<Linked>,
}

/// The names of a component's imports and exports.
#[derive(Clone, Debug, Default)]
pub struct Interfaces {
    /// What the component needs from the host.
    pub imports: Vec<String>,
    /// What the component provides.
    pub exports: Vec<String>,
    /// The imports that Lodge does not have: their functions fail.
    pub absent: Vec<String>,
}

impl Interfaces {
    /// Whether the component handles messages, and no requests.
    pub fn only_messages(&self) -> bool {
        let exports = |name: &str| self.exports.iter().any(|export| export.starts_with(name));
        self.exports.iter().any(|export| is_message_handler(export))
            && !exports("wasi:http/handler@")
            && !exports("wasi:http/incoming-handler@")
    }
}

impl Compiler {
    /// Creates the engines and their linkers, and starts the clock that interrupts guests.
    ///
    /// # Errors
    /// When the system does not provide the address space for the configured sizes.
    pub fn new(config: &config::Config) -> Result<Self, String> {
        let sizes = &config.engine;
        let threads = if sizes.compile_threads == 0 { (scheduler::cores() - 1).max(1) } else { sizes.compile_threads };
        let reset = Reset::detect();
        let linked = |concurrent| Linked::new(sizes, reset, CodeKind { concurrent, baseline: false }).map(Arc::new);
        let (plain, concurrent) = (linked(false)?, linked(true)?);
        let clock = Clock::new(sizes.tick);
        let engines = Arc::new(Mutex::new(vec![plain.engine.weak(), concurrent.engine.weak()]));
        let ticked = Arc::clone(&engines);
        let ticking = clock.start(move || {
            let mut engines = lock(&ticked);
            engines.retain(|engine| engine.upgrade().inspect(wasmtime::Engine::increment_epoch).is_some());
            !engines.is_empty()
        });
        ticking.map_err(|error| format!("cannot start the clock's thread: {error}"))?;
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
            cache: CodeCache::open(&config.cache),
            stamps: Default::default(),
        })
    }

    /// Returns the machine code of a component from the fastest source. Also for a service whose code was dropped.
    ///
    /// # Errors
    /// Returns why there is none, and the remedy.
    pub async fn code(self: &Arc<Self>, spec: &GuestSpec) -> Result<Arc<Compiled>, Refusal> {
        if !spec.middleware.is_empty() {
            return self.composed(spec).await;
        }
        let code = self.of_component(spec).await?;
        if code.interfaces.passes_on() { Err(composition::alone(&file_name(&spec.path))) } else { Ok(code) }
    }

    /// Returns the machine code of a component without middleware.
    async fn of_component(self: &Arc<Self>, spec: &GuestSpec) -> Result<Arc<Compiled>, Refusal> {
        if let Some(code) = self.known(spec.digest) {
            return Ok(code);
        }
        // Outside of the lanes: reading compiled code does not wait for compilations.
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

    /// Whether the machine code can be dropped, because it can be loaded again.
    pub(crate) fn keeps(&self, code: &Compiled, digest: Digest) -> bool {
        let stamp = self.stamp(code.kind);
        let held = |cache: &CodeCache, stamp| match code.parts.is_empty() {
            true => cache.holds(stamp, digest),
            false => code.parts.iter().all(|(digest, _)| cache.holds(stamp, *digest)),
        };
        self.cache.as_ref().zip(stamp).is_some_and(|(cache, stamp)| held(cache, stamp))
    }

    /// Drops machine code of versions that are not `waits` any more.
    pub fn release(&self, waits: impl Fn(Digest) -> bool) {
        let mut unready = lock(&self.unready);
        let all = std::mem::take(&mut *unready);
        let (held, dropped) = all.into_iter().partition(|(digest, _)| waits(*digest));
        *unready = held;
        // Outside of the lock: unmapping memory takes a while.
        drop(unready);
        drop::<VecDeque<_>>(dropped);
    }

    /// Stores the machine code of a version that is not ready, for its next trial.
    pub fn hold(&self, digest: Digest, code: Arc<Compiled>) {
        let mut unready = lock(&self.unready);
        unready.retain(|(held, _)| *held != digest);
        unready.push_back((digest, code));
        if unready.len() > UNREADY {
            unready.pop_front();
        }
    }

    /// Drops the machine code that was stored for the next trial.
    pub fn unhold(&self, digest: Digest) {
        lock(&self.unready).retain(|(held, _)| *held != digest);
    }

    /// Whether this code is to be replaced by optimised code.
    pub(super) fn is_provisional(&self, code: &Compiled) -> bool {
        code.kind.baseline && self.tiers == Tiers::Both
    }

    /// Compiles a component a second time, with optimisations.
    ///
    /// # Errors
    /// Returns why that failed, and the remedy.
    pub(super) async fn optimised(
        self: &Arc<Self>,
        spec: &GuestSpec,
        permit: LanePermit,
    ) -> Result<Arc<Compiled>, Refusal> {
        Ok(self.remember(spec.digest, self.run(spec, permit, true).await?))
    }

    /// Returns optimised code for this component, if it is in memory.
    pub(super) fn known_optimised(&self, digest: Digest) -> Option<Arc<Compiled>> {
        self.known(digest).filter(|code| !code.kind.baseline)
    }

    /// Removes a component's baseline code from the cache, after `code` has replaced it.
    pub(super) fn remove_baseline(&self, code: &Compiled, digest: Digest) {
        if let Some(cache) = &self.cache {
            let old = self.stamp(CodeKind { baseline: true, ..code.kind });
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

    /// Returns the engine for machine code of this kind.
    ///
    /// # Errors
    /// When the system does not provide address space for another one.
    fn linked(&self, kind: CodeKind) -> Result<Arc<Linked>, String> {
        match kind {
            CodeKind { concurrent: false, baseline: false } => Ok(Arc::clone(&self.plain)),
            CodeKind { concurrent: true, baseline: false } => Ok(Arc::clone(&self.concurrent)),
            CodeKind { concurrent, .. } => {
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

    /// The name of this kind of machine code in the cache.
    fn stamp(&self, kind: CodeKind) -> Option<&EngineStamp> {
        let [a, b, c, d] = &self.stamps;
        let stamp = match (kind.concurrent, kind.baseline) {
            (false, false) => a,
            (true, false) => b,
            (false, true) => c,
            (true, true) => d,
        };
        // From an engine that only compiles. The others may not exist yet, and their pools do not matter.
        stamp.get_or_init(|| kind.engine().ok().map(|engine| EngineStamp::of(&engine))).as_ref()
    }

    /// Links machine code, so that it can be instantiated.
    fn link(
        &self,
        linked: Arc<Linked>,
        kind: CodeKind,
        component: &Component,
        file: &str,
    ) -> Result<Compiled, Refusal> {
        let mut interfaces = interfaces(component);
        let handler = handler_of(&interfaces.exports, file)?;
        let (pre, absent) = worlds::link(&linked.linker, component, &interfaces.imports).map_err(|error| {
            unlinkable(file, &error, |interface| absent::is_linked(&linked.linker, component, interface))
        })?;
        interfaces.absent = absent;
        let exports = LinkedExports::new(pre, handler).map_err(|error| misshapen(file, &one_line(&error)))?;
        let extra = linked.extra(&[component]).map_err(|(reason, remedy)| Refusal::new(file, reason, remedy))?;
        let (interfaces, engine) = (Arc::new(interfaces), component.engine().clone());
        let (behind, parts, component) = (Vec::new(), Vec::new(), component.clone());
        let images = None;
        Ok(Compiled { interfaces, kind, engine, exports, behind, images, parts, component, extra, _linked: linked })
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
        absent: Vec::new(),
    }
}
