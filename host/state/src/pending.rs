//! Operations in progress.

use std::future::Future;
use std::pin::Pin;

use tokio::time::Instant;

use crate::error::Error;

/// The result of an operation, later. Dropping it cancels the operation; a write may be applied nevertheless.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// A [`Pending`] that is ready.
pub(crate) fn ready<'a, T: Send + 'a>(result: Result<T, Error>) -> Pending<'a, T> {
    Box::pin(std::future::ready(result))
}

/// Waits for `operation` until `deadline`.
///
/// # Errors
/// [`Error::Timeout`] at the deadline, else those of `operation`.
pub async fn within<T>(deadline: Instant, operation: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout_at(deadline, operation).await.unwrap_or(Err(Error::Timeout))
}
