//! The settings of engines, and the threads that compile with them.

use wasmtime::component::{Component, Linker};
use wasmtime::{Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::job::CodeKind;
use super::pool_budget::{ExtraUnits, PoolBudget, Sizes, TRIALS};
use super::reset::Reset;
use crate::capabilities::{self, Ctx};
use lodge_base::config;
use lodge_base::config::limits::MAX_TABLE_ELEMENTS;

/// The maximum number of core instances of a component. Rust needs 3, componentized Python about 30.
pub(super) const CORE_INSTANCES: u32 = 100;
/// The maximum number of memories and tables of a component. Those beyond the usual are counted: see [`PoolBudget`].
pub(super) const MEMORIES: u32 = 32;
pub(super) const TABLES: u32 = 64;
/// The bytes for host frames below the WebAssembly stack of a fiber.
const HOST_STACK: usize = 1 << 20;
/// The maximum number of stacks of an engine beyond one for each sandbox. Every stack is two mappings, of which Linux
/// allows a process 65,530.
const MORE_STACKS: u32 = 4_096;

/// The number of engines that exist as long as the host.
const LASTING: usize = 2;
/// The most that a memory and a table keep resident after a request.
const MEMORY_KEPT: usize = 2 << 20;
const TABLE_KEPT: usize = 100 << 10;
/// The largest page size of any system on this architecture.
const PAGE: usize = if cfg!(target_arch = "x86_64") { 4 << 10 } else { 64 << 10 };

/// An engine, and the linker with the host's functions.
pub(super) struct Linked {
    pub(super) engine: Engine,
    pub(super) linker: Linker<Ctx>,
    budget: PoolBudget,
}

impl Linked {
    pub(super) fn new(sizes: &config::Engine, reset: Reset, kind: CodeKind) -> Result<Self, String> {
        // The sandboxes that are busy, warm and on trial. Admission and semaphores keep their number within this.
        let sandboxes = sizes.instances.saturating_add(sizes.warm).saturating_add(TRIALS);
        let room = Sizes::of(u32::try_from(sandboxes).unwrap_or(u32::MAX));
        let engine = Engine::new(&engine_config(sizes, &room, reset, kind)).map_err(|error| {
            format!("cannot create the engine: {error:#}; lower engine.instances or engine.max_memory")
        })?;
        let mut linker = Linker::new(&engine);
        capabilities::link(&mut linker, kind.concurrent).map_err(|error| format!("linking the host: {error:#}"))?;
        Ok(Self { engine, linker, budget: PoolBudget::new(&room, sizes.instances) })
    }

    /// Returns the extra units of a sandbox with these components, if it needs any.
    ///
    /// # Errors
    /// When they can never fit: why, and the remedy.
    pub(super) fn extra(&self, parts: &[&Component]) -> Result<Option<ExtraUnits>, (String, String)> {
        self.budget.extra(parts)
    }
}

fn engine_config(sizes: &config::Engine, room: &Sizes, reset: Reset, kind: CodeKind) -> wasmtime::Config {
    let mut config = wasmtime::Config::new();
    kind.configure(&mut config);
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pooling(sizes, room, reset, kind)))
        .max_wasm_stack(sizes.stack)
        .async_stack_size(sizes.stack.saturating_add(HOST_STACK));
    config
}

fn pooling(sizes: &config::Engine, room: &Sizes, reset: Reset, kind: CodeKind) -> PoolingAllocationConfig {
    // A composed component that is called concurrently has a stack for each waiting part, and each part usually has a
    // memory.
    let more_stacks = if kind.concurrent { room.sandboxes.min(MORE_STACKS) } else { 0 };
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(room.components)
        .total_core_instances(room.components.saturating_mul(CORE_INSTANCES))
        .total_memories(room.memories)
        .total_tables(room.tables)
        .total_stacks(room.sandboxes.saturating_add(more_stacks))
        .max_core_instances_per_component(CORE_INSTANCES)
        .max_memories_per_component(MEMORIES)
        .max_tables_per_component(TABLES)
        .max_memories_per_module(MEMORIES)
        .max_tables_per_module(TABLES)
        .table_elements(MAX_TABLE_ELEMENTS)
        .max_memory_size(sizes.max_memory);
    // Without the scan, resident pages are copied whether they are dirty or not, which costs more than it saves.
    if reset == Reset::PagemapScan && !kind.baseline {
        let (memory, table) = kept(sizes.resident, room);
        pool.pagemap_scan(Enabled::Yes).linear_memory_keep_resident(memory).table_keep_resident(table);
    }
    pool
}

/// The bytes that each memory and each table of a pool keeps resident after a request, so that all that were in use
/// together keep at most `resident` bytes in all engines. A memory keeps its first dirty pages, which saves unmapping
/// and faulting them in again.
fn kept(resident: usize, room: &Sizes) -> (usize, usize) {
    let each = resident / LASTING;
    let share = |bytes: usize, slots: u32, most: usize| {
        // The engine rounds up.
        (bytes / (slots as usize).max(1)).min(most) / PAGE * PAGE
    };
    let tables = each / 8;
    (share(each - tables, room.memories, MEMORY_KEPT), share(tables, room.tables, TABLE_KEPT))
}

/// Threads of this niceness, for a host that cannot start a process to compile in. A burst of new services must not slow down
/// the serving threads.
pub(super) fn pool(threads: usize, niceness: i32) -> Result<rayon::ThreadPool, String> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|n| format!("compile-{n}"));
    // Only for this thread. Lowering the priority is always permitted.
    let pool = pool.start_handler(move |_| {
        let _ = rustix::process::setpriority_process(None, niceness);
    });
    pool.build().map_err(|error| format!("cannot start the compiler's threads: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lodge_base::config::{Origin, resolve};

    /// wasmtime 48.0.8 does not find a dirty page that is in swap, and so does not reset it.
    #[test]
    fn pages_are_not_scanned_where_swap_exists() {
        let config = resolve(&[(Origin::Default, Default::default())]).unwrap().config;
        let kind = CodeKind { concurrent: false, baseline: false };
        let scans = |reset| pooling(&config.engine, &Sizes::of(1), reset, kind).get_pagemap_scan();
        assert!(matches!(scans(Reset::PagemapScan), Enabled::Yes));
        assert!(matches!(scans(Reset::Swap), Enabled::No));
        assert!(matches!(scans(Reset::Kernel), Enabled::No));
    }

    /// Whatever the sizes are, all slots together keep no more than the limit.
    #[test]
    fn resident_memory_of_free_sandboxes_is_bounded() {
        for sandboxes in [1, 50, 1_266, 20_016] {
            for resident in [0, 4 << 20, 32 << 20, 2 << 30, 1 << 40] {
                let room = Sizes::of(sandboxes);
                let (memory, table) = kept(resident, &room);
                let all = memory as u64 * u64::from(room.memories) + table as u64 * u64::from(room.tables);
                assert!(all * LASTING as u64 <= resident as u64, "{sandboxes} {resident}: {memory} {table}");
                assert!(memory <= MEMORY_KEPT && table <= TABLE_KEPT);
            }
        }
        assert_eq!(kept(1 << 40, &Sizes::of(1_266)), (MEMORY_KEPT, TABLE_KEPT / PAGE * PAGE));
    }
}
