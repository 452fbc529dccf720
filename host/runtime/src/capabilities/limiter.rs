//! Limits of memories and tables. wasmtime consults the limiter before each growth, and fails the growth when the
//! sandbox is at its limit.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use wasmtime::ResourceLimiter;

use super::sandbox::Sandbox;
use lodge_base::config::limits::Limits;

/// The remaining allowance of a sandbox, over all its memories and tables.
pub struct Limiter {
    memory: usize,
    memory_left: usize,
    sandbox: Arc<Sandbox>,
    elements_left: usize,
    /// A growth was refused. A guest that traps afterwards most likely traps because of that.
    pub refused: bool,
}

impl Limiter {
    /// Returns the limiter of a sandbox that has no memory yet.
    pub fn new(limits: &Limits, sandbox: Arc<Sandbox>) -> Self {
        Self {
            memory: limits.memory,
            memory_left: limits.memory,
            sandbox,
            elements_left: limits.table_elements,
            refused: false,
        }
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let granted = take(&mut self.memory_left, current, desired, maximum, &mut self.refused);
        let (has, most) = ((self.memory - self.memory_left) as u64, &self.sandbox.service.metrics.memory);
        // The load comes first, because all cores read the value and it hardly ever changes.
        if has > most.load(Relaxed) {
            most.fetch_max(has, Relaxed);
        }
        Ok(granted)
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(take(&mut self.elements_left, current, desired, maximum, &mut self.refused))
    }
}

fn take(left: &mut usize, current: usize, desired: usize, maximum: Option<usize>, refused: &mut bool) -> bool {
    // A growth over the memory's own maximum fails in any case, and must not be charged.
    if maximum.is_some_and(|maximum| desired > maximum) {
        return false;
    }
    match left.checked_sub(desired.saturating_sub(current)) {
        Some(rest) => {
            *left = rest;
            true
        }
        None => {
            *refused = true;
            false
        }
    }
}
