//! What a guest gets when its sandbox has as many handles, streams and futures as `limits.resources` allows: the error of the interface,
//! where that has one. Otherwise its request ends, and this is the reason.

use wasmtime::component::ResourceTableError;

/// The error of an interface that gives handles, when a guest has as many as `limits.resources` allows.
pub(crate) const TOO_MANY_HANDLES: &str = "too many handles are open; drop some, or raise limits.resources";

/// Returns `None` for what could not be made because the guest has too many handles.
///
/// # Errors
/// All other errors.
pub(super) fn made<T>(made: wasmtime::Result<T>) -> wasmtime::Result<Option<T>> {
    match made {
        Err(error) if is_full(&error) => Ok(None),
        made => made.map(Some),
    }
}

/// Whether an error is that of a guest with too many handles.
pub(crate) fn is_full(error: &wasmtime::Error) -> bool {
    matches!(error.downcast_ref(), Some(ResourceTableError::Full))
}
