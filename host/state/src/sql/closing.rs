//! Closing connections, which may wait for the disk.

use tokio::runtime::Handle;

/// Closes a connection on a thread that may wait for the disk.
pub(super) fn close<T: Send + 'static>(connection: T) {
    match Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(move || drop(connection))),
        Err(_) => drop(connection),
    }
}
