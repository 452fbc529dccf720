//! The budget of an engine's pool. The pool holds a fixed number of memories and tables, and most components need one
//! memory and two tables. A component that needs more takes units for the difference from this budget before it is
//! instantiated. So the pool never runs out, and all other components skip the check.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::ResourcesRequired;
use wasmtime::component::Component;

use crate::error::RunError;

/// What a sandbox has without units. A component from rustc, componentize-js or TinyGo has one memory and two tables:
/// its own, and the one through which wit-component links its imports.
const USUAL: Needs = Needs { components: 1, memories: 1, tables: 2 };
/// What each unit adds.
const UNIT: Needs = Needs { components: 1, memories: 1, tables: 2 };

/// The number of sandboxes for trials of new versions, besides the serving ones.
pub(crate) const TRIALS: usize = 16;

/// The budget of an engine.
pub(super) struct PoolBudget {
    units: Arc<Semaphore>,
    /// `engine.instances`, the most sandboxes that a component can take the space of.
    instances: u32,
}

/// The components, memories and tables of one sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Needs {
    components: u32,
    memories: u32,
    tables: u32,
}

/// The extra units of a component.
#[derive(Clone, Debug)]
pub(crate) struct ExtraUnits {
    units: Arc<Semaphore>,
    count: u32,
    needs: Needs,
}

/// The sizes of a pool for this many sandboxes, with one unit for each.
pub(super) struct Sizes {
    pub(super) sandboxes: u32,
    pub(super) components: u32,
    pub(super) memories: u32,
    pub(super) tables: u32,
}

impl Sizes {
    /// `sandboxes` of the usual size and as many units, so that every sandbox could take one.
    pub(super) fn of(sandboxes: u32) -> Self {
        let components = sandboxes.saturating_mul(USUAL.components + UNIT.components);
        let memories = sandboxes.saturating_mul(USUAL.memories + UNIT.memories);
        let tables = sandboxes.saturating_mul(USUAL.tables + UNIT.tables);
        Self { sandboxes, components, memories, tables }
    }
}

impl PoolBudget {
    /// The budget of a pool with these sizes, in a host with this many `engine.instances`.
    pub(super) fn new(sizes: &Sizes, instances: usize) -> Self {
        let units = usize::try_from(sizes.sandboxes).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { units: Arc::new(Semaphore::new(units)), instances: u32::try_from(instances).unwrap_or(u32::MAX) }
    }

    /// The extra units of a sandbox with these components; `None` for most.
    ///
    /// # Errors
    /// When it does not fit even alone: why, and the remedy.
    pub(super) fn extra(&self, parts: &[&Component]) -> Result<Option<ExtraUnits>, (String, String)> {
        // A component that imports core modules does not tell what it needs, and does not link here.
        let all: Option<Vec<_>> = parts.iter().map(|component| component.resources_required()).collect();
        let Some(all) = all else { return Ok(None) };
        let sum = |of: fn(&ResourcesRequired) -> u32| all.iter().map(of).fold(0, u32::saturating_add);
        let needs = Needs {
            components: u32::try_from(parts.len()).unwrap_or(u32::MAX),
            memories: sum(|required| required.num_memories),
            tables: sum(|required| required.num_tables),
        };
        let count = needs.units();
        if count == 0 {
            return Ok(None);
        }
        if count >= self.instances {
            let slots = count.saturating_add(1);
            let reason =
                format!("{needs} take the space of {slots} sandboxes, but engine.instances is {}", self.instances);
            return Err((reason, format!("raise engine.instances to {slots} or more")));
        }
        Ok(Some(ExtraUnits { units: Arc::clone(&self.units), count, needs }))
    }
}

impl Needs {
    /// The number of units beyond the usual.
    fn units(self) -> u32 {
        let components = self.components.saturating_sub(USUAL.components).div_ceil(UNIT.components);
        let memories = self.memories.saturating_sub(USUAL.memories).div_ceil(UNIT.memories);
        let tables = self.tables.saturating_sub(USUAL.tables).div_ceil(UNIT.tables);
        components.max(memories).max(tables)
    }
}

impl std::fmt::Display for Needs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let one_of = |count, one, many| if count == 1 { one } else { many };
        let (memories, tables) = (one_of(self.memories, "memory", "memories"), one_of(self.tables, "table", "tables"));
        write!(f, "its {} {memories} and {} {tables}", self.memories, self.tables)
    }
}

impl ExtraUnits {
    /// Takes the units of one sandbox, in the order of arrival. Dropping the permit returns them.
    ///
    /// # Errors
    /// [`RunError::PoolFull`] if they do not become free within `wait`.
    pub(crate) async fn take(&self, wait: Duration) -> Result<OwnedSemaphorePermit, RunError> {
        let taking = Arc::clone(&self.units).acquire_many_owned(self.count);
        match tokio::time::timeout(wait, taking).await {
            Ok(Ok(permit)) => Ok(permit),
            // The semaphore is never closed.
            _ => Err(RunError::PoolFull(format!(
                "{} take the space of {} sandboxes, which was not free; raise engine.instances",
                self.needs,
                self.count.saturating_add(1)
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_covers_a_memory_and_two_tables() {
        let units = |memories, tables| Needs { components: 1, memories, tables }.units();
        assert_eq!([units(0, 0), units(1, 2), units(1, 1)], [0; 3], "usual components take none");
        assert_eq!([units(2, 2), units(1, 3), units(2, 4), units(1, 4)], [1; 4]);
        assert_eq!([units(8, 1), units(8, 16), units(1, 16)], [7; 3]);
        // A part without a memory is an instance as well.
        assert_eq!(Needs { components: 3, memories: 1, tables: 2 }.units(), 2);
    }

    /// The pool has space for everything that the budget admits, in any combination.
    #[test]
    fn the_pool_never_runs_out() {
        let sizes = Sizes::of(40);
        let needs = |memories| {
            (0..=16).map(move |tables| (1..=9).map(move |components| Needs { components, memories, tables }))
        };
        for needs in (0..=8).flat_map(needs).flatten() {
            let heavy = sizes.sandboxes.checked_div(needs.units()).map_or(sizes.sandboxes, |most| most.min(40));
            let rest = sizes.sandboxes - heavy;
            assert!(heavy * needs.memories + rest * USUAL.memories <= sizes.memories, "{needs}");
            assert!(heavy * needs.components + rest * USUAL.components <= sizes.components, "{needs}");
            assert!(heavy * needs.tables + rest * USUAL.tables <= sizes.tables, "{needs}");
        }
    }

    #[tokio::test]
    async fn a_sandbox_waits_for_its_units() {
        let room = PoolBudget::new(&Sizes::of(4), 4);
        let extra = ExtraUnits {
            units: Arc::clone(&room.units),
            count: 3,
            needs: Needs { components: 1, memories: 4, tables: 0 },
        };
        let held = extra.take(Duration::ZERO).await.unwrap();
        let refused = extra.take(Duration::ZERO).await.unwrap_err();
        assert!(matches!(refused, RunError::PoolFull(_)), "{refused:?}");
        assert!(refused.detail().unwrap().contains("its 4 memories and 0 tables take the space of 4 sandboxes"));
        let waiting = extra.take(Duration::from_secs(60));
        let (taken, ()) = tokio::join!(waiting, async { drop(held) });
        assert_eq!(taken.unwrap().num_permits(), 3);
    }
}
