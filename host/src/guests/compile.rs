//! `GuestSpec` → [`Guest`]: two engines for the life of the host, bounded parallelism.
//!
//! A `Guest` is the proof that a component can be served: compiled, linked, exporting `wasi:http`, and instantiated
//! once under its own limits. Whatever fails on the way is a [`Refusal`] in words, and touches no other guest.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use wasmtime::component::{Component, Linker, types::ComponentItem};
use wasmtime::{Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};
use wasmtime_wasi_http::handler::ProxyPre;
use wasmtime_wasi_http::{p2, p3};

use super::load::{self, Digest, GuestSpec, Refusal};
use super::manifest::Isolation;
use crate::capabilities::{self, Ctx};
use crate::clock::{Clock, Ticker};
use crate::config;
use crate::config::limits::{Limits, MAX_TABLE_ELEMENTS};
use crate::error::RequestError;
use crate::request::instance::Instance;

/// In the name of every interface of WASI 0.3.
const WASI_03: &[u8] = b"@0.3.";
/// Core instances of one component. Rust has 3, a componentized Python about 30.
const CORE_INSTANCES: u32 = 100;
/// Memories and tables of one component.
const MEMORIES: u32 = 8;
const TABLES: u32 = 16;
/// Host frames below the WebAssembly stack of a fiber.
const HOST_STACK: usize = 1 << 20;
/// What an instantiation at load may take, however generous the service's own limits are.
const TRIAL: Duration = Duration::from_secs(10);

/// The engines, and what turns files into guests with them.
pub struct Compiler {
    /// For guests that only speak WASI 0.2. Without the bookkeeping of concurrent tasks each of their host calls is
    /// cheaper: 12.0 → 10.7 µs for a request to a warm instance, 21.3 → 19.0 µs to a fresh one.
    plain: Linked,
    /// For all the others.
    concurrent: Linked,
    clock: Clock,
    permits: Arc<Semaphore>,
    compile_time: Duration,
    warm: Arc<Semaphore>,
}

/// An engine, and the host as its guests see it.
struct Linked {
    engine: Engine,
    linker: Linker<Ctx>,
}

/// A component that can be served.
pub struct Guest {
    /// Service name.
    pub name: Arc<str>,
    /// What was on disk when it was compiled.
    pub spec: GuestSpec,
    /// What it imports and exports, as written in the component.
    pub interfaces: Interfaces,
    pub(crate) engine: Engine,
    pub(crate) pre: ProxyPre<Ctx>,
    pub(crate) clock: Clock,
    warm: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
    late_trap: AtomicBool,
}

/// The names of a component's imports and exports.
#[derive(Clone, Debug, Default)]
pub struct Interfaces {
    /// What it asks of the host.
    pub imports: Vec<String>,
    /// What it offers.
    pub exports: Vec<String>,
}

/// A warm instance between two requests.
struct Idle {
    instance: Instance,
    since: Instant,
    _place: tokio::sync::OwnedSemaphorePermit,
}

impl Compiler {
    /// Builds the engine and the linker, and starts the clock that interrupts guests.
    ///
    /// # Errors
    /// When the system does not give the address space that the configured sizes need.
    pub fn new(config: &config::Config) -> Result<(Self, Ticker), String> {
        let sizes = &config.engine;
        let threads = if sizes.compile_threads == 0 { cores() } else { sizes.compile_threads };
        let plain = Linked::new(sizes, threads, false)?;
        let concurrent = Linked::new(sizes, threads, true)?;
        let clock = Clock::new(sizes.tick);
        let engines = [plain.engine.weak(), concurrent.engine.weak()];
        let ticker = clock.start(move || {
            for engine in engines.iter().filter_map(wasmtime::EngineWeak::upgrade) {
                engine.increment_epoch();
            }
        });
        let ticker = ticker.map_err(|error| format!("the clock's thread does not start: {error}"))?;
        let compiler = Self {
            plain,
            concurrent,
            clock,
            permits: Arc::new(Semaphore::new(threads)),
            compile_time: sizes.compile_time,
            warm: Arc::new(Semaphore::new(sizes.warm)),
        };
        Ok((compiler, ticker))
    }

    /// The host's coarse clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Makes a guest of a file. Waits for a place among those compiling.
    ///
    /// # Errors
    /// Why it cannot be served, and what to do.
    pub async fn compile(self: &Arc<Self>, spec: GuestSpec) -> Result<Guest, Refusal> {
        let file = load::file_name(&spec.path);
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let (this, source) = (Arc::clone(self), spec.clone());
        let compiling = tokio::task::spawn_blocking(move || {
            // Cranelift cannot be interrupted: a compilation that is given up runs on, and keeps its place.
            let _permit = permit;
            this.build(&source)
        });
        let (component, pre) = match tokio::time::timeout(self.compile_time, compiling).await {
            Ok(Ok(built)) => built?,
            Ok(Err(crash)) => return Err(Refusal::new(&file, format!("the compiler failed: {crash}"), "report it")),
            Err(_) => {
                let limit = humantime::format_duration(self.compile_time);
                return Err(Refusal::new(
                    &file,
                    format!("it took more than {limit} to compile"),
                    "raise engine.compile_time",
                ));
            }
        };
        let guest = Guest {
            name: Arc::from(spec.name.as_str()),
            interfaces: interfaces(&component),
            engine: component.engine().clone(),
            pre,
            clock: self.clock.clone(),
            warm: Arc::clone(&self.warm),
            idle: Mutex::new(Vec::new()),
            late_trap: AtomicBool::new(false),
            spec,
        };
        match Instance::new(&guest, Instant::now() + TRIAL.min(guest.limits().wall)).await {
            Ok(_) => Ok(guest),
            Err(error) => Err(unstartable(&file, &error)),
        }
    }

    fn build(&self, spec: &GuestSpec) -> Result<(Component, ProxyPre<Ctx>), Refusal> {
        let file = load::file_name(&spec.path);
        let bytes = load::read(spec)?;
        let (component, linker) = self.component(&bytes).map_err(|error| {
            Refusal::new(
                &file,
                format!("it does not compile: {}", one_line(&error)),
                "rebuild it with a current toolchain",
            )
        })?;
        let handler = handler_of(&interfaces(&component).exports, &file)?;
        let pre = linker.instantiate_pre(&component).map_err(|error| unlinkable(&file, &error))?;
        let pre = match handler {
            Handler::P2 => p2::bindings::ProxyPre::new(pre).map(ProxyPre::P2),
            Handler::P3 => p3::bindings::ServicePre::new(pre).map(ProxyPre::P3),
        };
        let pre = pre.map_err(|error| misshapen(&file, &one_line(&error)))?;
        Ok((component, pre))
    }

    /// Compiles for the plain engine if that can run it. The names of 0.3 interfaces stand in the file as they are;
    /// what else needs concurrency does not compile without it.
    fn component(&self, bytes: &[u8]) -> wasmtime::Result<(Component, &Linker<Ctx>)> {
        let speaks_03 = bytes.windows(WASI_03.len()).any(|window| window == WASI_03);
        if !speaks_03 && let Ok(component) = Component::new(&self.plain.engine, bytes) {
            return Ok((component, &self.plain.linker));
        }
        Ok((Component::new(&self.concurrent.engine, bytes)?, &self.concurrent.linker))
    }
}

impl Linked {
    fn new(sizes: &config::Engine, compile_threads: usize, concurrent: bool) -> Result<Self, String> {
        let engine = Engine::new(&engine_config(sizes, compile_threads, concurrent)).map_err(|error| {
            format!("the engine does not start: {error:#}; lower engine.instances or engine.max_memory")
        })?;
        let mut linker = Linker::new(&engine);
        capabilities::link(&mut linker, concurrent).map_err(|error| format!("linking the host: {error:#}"))?;
        Ok(Self { engine, linker })
    }
}

impl Guest {
    /// Its version.
    pub fn digest(&self) -> Digest {
        self.spec.digest
    }

    /// What it may use.
    pub fn limits(&self) -> &Limits {
        &self.spec.manifest.limits
    }

    /// A warm instance that is still fit to use, if there is one; the one used last, so that the others can go.
    pub(crate) fn take_warm(&self) -> Option<Instance> {
        let idle = self.idle().pop()?;
        (idle.since.elapsed() < self.limits().warm_idle).then_some(idle.instance)
    }

    /// Takes an instance back after a request that ended well, if there is a use and a place for it.
    pub(crate) fn keep_warm(&self, instance: Instance) {
        let fit = self.spec.manifest.isolation == Isolation::Service && instance.uses() < self.limits().warm_uses;
        let Some(place) = fit.then(|| Arc::clone(&self.warm).try_acquire_owned().ok()).flatten() else { return };
        self.idle().push(Idle { instance, since: Instant::now(), _place: place });
    }

    /// Whether this is the first time that this version trapped after a complete answer.
    pub(crate) fn first_late_trap(&self) -> bool {
        !self.late_trap.swap(true, Ordering::Relaxed)
    }

    /// Drops the warm instances that have been idle for too long.
    pub fn drop_idle(&self) {
        let limit = self.limits().warm_idle;
        let expired: Vec<_> = self.idle().extract_if(.., |idle| idle.since.elapsed() >= limit).collect();
        // Outside the lock: giving memory back takes a while.
        drop(expired);
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        capabilities::sandbox::lock(&self.idle)
    }
}

/// Which of the two HTTP worlds a component exports.
#[derive(Clone, Copy)]
enum Handler {
    P2,
    P3,
}

fn engine_config(sizes: &config::Engine, compile_threads: usize, concurrent: bool) -> wasmtime::Config {
    let narrow = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    // At work, idle and on trial: admission and the semaphores above keep within this, so the pool never runs out.
    let instances = narrow(sizes.instances + sizes.warm + compile_threads);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(CORE_INSTANCES))
        .total_memories(instances.saturating_mul(2))
        .total_tables(instances.saturating_mul(4))
        .total_stacks(instances)
        .max_core_instances_per_component(CORE_INSTANCES)
        .max_memories_per_component(MEMORIES)
        .max_tables_per_component(TABLES)
        .max_memories_per_module(MEMORIES)
        .max_tables_per_module(TABLES)
        .table_elements(MAX_TABLE_ELEMENTS)
        .max_memory_size(sizes.max_memory);
    if PoolingAllocationConfig::is_pagemap_scan_available() {
        // Dirty pages are found by the kernel and reset by memcpy instead of unmapped and faulted in again.
        // Without the ioctl the same settings copy pages that nobody touched, and cost more than they save.
        pool.pagemap_scan(Enabled::Yes).linear_memory_keep_resident(2 << 20).table_keep_resident(100 << 10);
    }
    let mut config = wasmtime::Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .epoch_interruption(true)
        .wasm_component_model_async(concurrent)
        .concurrency_support(concurrent)
        .max_wasm_stack(sizes.stack)
        .async_stack_size(sizes.stack + HOST_STACK);
    config
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

fn handler_of(exports: &[String], file: &str) -> Result<Handler, Refusal> {
    let version = |interface: &str| {
        exports.iter().find_map(|export| export.strip_prefix(interface)?.strip_prefix('@').map(str::to_owned))
    };
    let (new, old) = (version("wasi:http/handler"), version("wasi:http/incoming-handler"));
    match (new.as_deref(), old.as_deref()) {
        (Some(new), _) if is_final(new, "0.3.") => Ok(Handler::P3),
        (_, Some(old)) if is_final(old, "0.2.") => Ok(Handler::P2),
        (None, None) => Err(no_handler(exports, file)),
        (new, old) => {
            let version = new.or(old).unwrap_or_default();
            let kind = if version.contains('-') { "a pre-release" } else { "a version Lodge does not know" };
            let reason = format!("it exports wasi:http {version}, {kind}");
            Err(Refusal::new(file, reason, "rebuild it with a toolchain for WASI 0.2 or 0.3"))
        }
    }
}

fn no_handler(exports: &[String], file: &str) -> Refusal {
    let offers = |interface: &str| exports.iter().any(|export| export.starts_with(interface));
    let reason = if offers("wasi:cli/run") {
        "it is a command-line program: it exports wasi:cli/run and no HTTP handler".to_owned()
    } else if exports.is_empty() {
        "it exports nothing, so it is a library or a WIT package".to_owned()
    } else {
        format!("it exports no HTTP handler, only {}", exports.join(", "))
    };
    Refusal::new(file, reason, "export wasi:http/handler (0.3) or wasi:http/incoming-handler (0.2)")
}

fn is_final(version: &str, line: &str) -> bool {
    version.starts_with(line) && !version.contains('-')
}

fn misshapen(file: &str, detail: &str) -> Refusal {
    let reason = format!("its wasi:http export has another shape than the standard's: {detail}");
    Refusal::new(file, reason, "rebuild it against the WIT of wasi:http 0.2 or 0.3")
}

fn unstartable(file: &str, error: &RequestError) -> Refusal {
    let detail = error.detail().unwrap_or_default();
    // The types of the handler are only compared when it is looked up in an instance.
    if detail.contains("type mismatch") || detail.contains("expected `") {
        return misshapen(file, &detail);
    }
    let reason = format!("it does not start: {error}{}{detail}", if detail.is_empty() { "" } else { ": " });
    Refusal::new(file, reason, "its start code must finish within limits.cpu, limits.wall and limits.memory")
}

/// wasmtime names what is missing between backticks; say what that means here.
fn unlinkable(file: &str, error: &wasmtime::Error) -> Refusal {
    let text = one_line(error);
    let missing = text.split('`').nth(1).unwrap_or_default();
    let version = missing.rsplit_once('@').map_or("", |(_, version)| version);
    if missing.starts_with("wasi:") && version.contains('-') {
        let reason = format!("it imports {missing}, a pre-release that Lodge does not have");
        return Refusal::new(file, reason, "rebuild it with a toolchain for WASI 0.2 or 0.3");
    }
    if missing.contains(':') && text.contains("was not found") {
        return Refusal::new(
            file,
            format!("it imports {missing}, which Lodge does not have"),
            "build it without that import",
        );
    }
    Refusal::new(file, format!("it does not link: {text}"), "rebuild it against the WIT of WASI 0.2 or 0.3")
}

fn one_line(error: &wasmtime::Error) -> String {
    format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
