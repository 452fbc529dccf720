//! The engine's own settings, and the threads that compile with it.

use wasmtime::component::Linker;
use wasmtime::{Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::capabilities::{self, Ctx};
use crate::config;
use crate::config::limits::MAX_TABLE_ELEMENTS;

/// The nice value of the threads that compile.
const LEAST_PRIORITY: i32 = 19;
/// Core instances of one component. Rust has 3, a componentized Python about 30.
const CORE_INSTANCES: u32 = 100;
/// Memories and tables of one component.
const MEMORIES: u32 = 8;
const TABLES: u32 = 16;
/// Host frames below the WebAssembly stack of a fiber.
const HOST_STACK: usize = 1 << 20;
/// An engine, and the host as its guests see it.
pub(super) struct Linked {
    pub(super) engine: Engine,
    pub(super) linker: Linker<Ctx>,
}

impl Linked {
    pub(super) fn new(sizes: &config::Engine, compile_threads: usize, concurrent: bool) -> Result<Self, String> {
        let engine = Engine::new(&engine_config(sizes, compile_threads, concurrent)).map_err(|error| {
            format!("the engine does not start: {error:#}; lower engine.instances or engine.max_memory")
        })?;
        let mut linker = Linker::new(&engine);
        capabilities::link(&mut linker, concurrent).map_err(|error| format!("linking the host: {error:#}"))?;
        Ok(Self { engine, linker })
    }
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

/// Threads at the lowest priority: a burst of new services must not be felt by those that serve.
pub(super) fn pool(threads: usize) -> Result<rayon::ThreadPool, String> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|n| format!("compile-{n}"));
    // Only for this thread, and never refused: it asks for less.
    let pool = pool.start_handler(|_| {
        let _ = rustix::process::setpriority_process(None, LEAST_PRIORITY);
    });
    // A panic of the compiler drops its oneshot, and the file is refused.
    let pool = pool.panic_handler(|_| {}).build();
    pool.map_err(|error| format!("the compiler's threads do not start: {error}"))
}
