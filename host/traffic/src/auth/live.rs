//! A value that is replaced while requests use it.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

/// The value.
#[derive(Debug)]
pub struct LiveValue<T>(ArcSwap<T>);

impl<T> LiveValue<T> {
    /// Returns a value that has not been replaced yet.
    pub(super) fn new(value: T) -> Self {
        Self(ArcSwap::from_pointee(value))
    }

    /// Replaces the value. Requests that have loaded the one before go on with that.
    pub(super) fn replace(&self, value: T) {
        self.0.store(Arc::new(value));
    }

    /// Returns the present value.
    pub fn load(&self) -> Guard<Arc<T>> {
        self.0.load()
    }
}
