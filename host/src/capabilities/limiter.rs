//! Memory and tables: wasmtime asks before each growth, and the answer is no once a sandbox has its share.

use wasmtime::ResourceLimiter;

use crate::config::limits::Limits;

/// Counts what a sandbox has, over all its memories and tables.
#[derive(Debug)]
pub struct Limiter {
    memory_left: usize,
    elements_left: usize,
    /// A growth was refused. A guest that traps afterwards most likely trapped because of it.
    pub refused: bool,
}

impl Limiter {
    /// A sandbox that has nothing yet.
    pub fn new(limits: &Limits) -> Self {
        Self { memory_left: limits.memory, elements_left: limits.table_elements, refused: false }
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(take(&mut self.memory_left, current, desired, maximum, &mut self.refused))
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(take(&mut self.elements_left, current, desired, maximum, &mut self.refused))
    }
}

fn take(left: &mut usize, current: usize, desired: usize, maximum: Option<usize>, refused: &mut bool) -> bool {
    // Over its own maximum it fails by itself, and must not be charged for it.
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
