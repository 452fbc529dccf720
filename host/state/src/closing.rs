//! Closing files and connections, which may wait for the disk.

use tokio::runtime::Handle;

/// Drops `value` on a thread that may wait for the disk.
pub(crate) fn close<T: Send + 'static>(value: T) {
    match Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(move || drop(value))),
        Err(_) => drop(value),
    }
}
