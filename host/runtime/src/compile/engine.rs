//! The engine's own settings, and the threads that compile with it.

use wasmtime::component::{Component, Linker};
use wasmtime::{Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::job::Kind;
use super::reset::Reset;
use super::room::{Extra, Room, Sizes, TRIALS};
use crate::capabilities::{self, Ctx};
use lodge_base::config;
use lodge_base::config::limits::MAX_TABLE_ELEMENTS;

/// The nice value of whatever compiles.
pub(super) const LEAST_PRIORITY: i32 = 19;
/// Core instances of one component. Rust has 3, a componentized Python about 30.
pub(super) const CORE_INSTANCES: u32 = 100;
/// Memories and tables of one component. What it has beyond the usual is counted: see [`Room`].
pub(super) const MEMORIES: u32 = 32;
pub(super) const TABLES: u32 = 64;
/// Host frames below the WebAssembly stack of a fiber.
const HOST_STACK: usize = 1 << 20;
/// Stacks of an engine beyond one for each sandbox. Every stack is two mappings, of which Linux allows a process 65,530.
const MORE_STACKS: u32 = 4_096;

/// Engines that exist for as long as the host.
const LASTING: usize = 2;
/// The most that a memory and a table keep after a request.
const MEMORY_KEPT: usize = 2 << 20;
const TABLE_KEPT: usize = 100 << 10;
/// The largest page of any system on this architecture.
const PAGE: usize = if cfg!(target_arch = "x86_64") { 4 << 10 } else { 64 << 10 };

/// An engine, and the host as its guests see it.
pub(super) struct Linked {
    pub(super) engine: Engine,
    pub(super) linker: Linker<Ctx>,
    room: Room,
}

impl Linked {
    pub(super) fn new(sizes: &config::Engine, reset: Reset, kind: Kind) -> Result<Self, String> {
        // Sandboxes at work, warm and on trial. Admission and semaphores keep their numbers within this.
        let sandboxes = sizes.instances.saturating_add(sizes.warm).saturating_add(TRIALS);
        let room = Sizes::of(u32::try_from(sandboxes).unwrap_or(u32::MAX));
        let engine = Engine::new(&engine_config(sizes, &room, reset, kind)).map_err(|error| {
            format!("the engine does not start: {error:#}; lower engine.instances or engine.max_memory")
        })?;
        let mut linker = Linker::new(&engine);
        capabilities::link(&mut linker, kind.concurrent).map_err(|error| format!("linking the host: {error:#}"))?;
        Ok(Self { engine, linker, room: Room::new(&room, sizes.instances) })
    }

    /// What this component takes of the pool beyond the usual, if it does.
    ///
    /// # Errors
    /// When it can never have that: why, and what to do.
    pub(super) fn extra(&self, component: &Component) -> Result<Option<Extra>, (String, String)> {
        self.room.extra(component)
    }
}

fn engine_config(sizes: &config::Engine, room: &Sizes, reset: Reset, kind: Kind) -> wasmtime::Config {
    let mut config = wasmtime::Config::new();
    kind.configure(&mut config);
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pooling(sizes, room, reset, kind)))
        .max_wasm_stack(sizes.stack)
        .async_stack_size(sizes.stack.saturating_add(HOST_STACK));
    config
}

fn pooling(sizes: &config::Engine, room: &Sizes, reset: Reset, kind: Kind) -> PoolingAllocationConfig {
    // A composed component that is called concurrently has a stack for each of its parts that waits; each of these has a
    // memory, as a rule.
    let more_stacks = if kind.concurrent { room.sandboxes.min(MORE_STACKS) } else { 0 };
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(room.sandboxes)
        .total_core_instances(room.sandboxes.saturating_mul(CORE_INSTANCES))
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
    // Without the scan, pages that are kept are copied whether anybody touched them or not, which costs more than it saves.
    // Baseline code serves for a while, with an engine of its own, whose sandboxes keep nothing.
    if reset == Reset::PagemapScan && !kind.baseline {
        let (memory, table) = kept(sizes.resident, room);
        pool.pagemap_scan(Enabled::Yes).linear_memory_keep_resident(memory).table_keep_resident(table);
    }
    pool
}

/// Bytes that each memory and each table of a pool may keep after a request, so that all that were ever in use together keep
/// at most `resident` bytes in all engines. A memory keeps its first dirty pages, which saves giving them back and
/// faulting them in again.
fn kept(resident: usize, room: &Sizes) -> (usize, usize) {
    let each = resident / LASTING;
    let share = |bytes: usize, slots: u32, most: usize| {
        // The engine rounds up.
        (bytes / (slots as usize).max(1)).min(most) / PAGE * PAGE
    };
    let tables = each / 8;
    (share(each - tables, room.memories, MEMORY_KEPT), share(tables, room.tables, TABLE_KEPT))
}

/// Threads at the lowest priority, for a host that cannot start a process to compile in: a burst of new services must
/// not be felt by those that serve.
pub(super) fn pool(threads: usize) -> Result<rayon::ThreadPool, String> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|n| format!("compile-{n}"));
    // Only for this thread, and never refused: it asks for less.
    let pool = pool.start_handler(|_| {
        let _ = rustix::process::setpriority_process(None, LEAST_PRIORITY);
    });
    pool.build().map_err(|error| format!("the compiler's threads do not start: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lodge_base::config::{Origin, resolve};

    /// wasmtime 48.0.8 does not reset a dirty page that is in swap when it scans for dirty pages.
    #[test]
    fn no_scan_where_memory_may_be_swapped_out() {
        let config = resolve(&[(Origin::Default, Default::default())]).unwrap().config;
        let kind = Kind { concurrent: false, baseline: false };
        let scans = |reset| pooling(&config.engine, &Sizes::of(1), reset, kind).get_pagemap_scan();
        assert!(matches!(scans(Reset::PagemapScan), Enabled::Yes));
        assert!(matches!(scans(Reset::Swap), Enabled::No));
        assert!(matches!(scans(Reset::Kernel), Enabled::No));
    }

    /// Whatever the sizes are, all slots together keep no more than they may.
    #[test]
    fn free_sandboxes_keep_what_there_is_for_them() {
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
