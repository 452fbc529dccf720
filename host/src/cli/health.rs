//! `lodge health`: asks a running host whether it is ready, for a container's health check. No shell, no curl needed.

use std::time::Duration;

use super::client::Client;
use super::out::Failure;

/// A health check of a container has little time, and says why only if it ends by itself.
const PATIENCE: Duration = Duration::from_secs(2);

/// Succeeds if `/readyz` answers 200.
pub(super) fn run(client: Client) -> Result<(), Failure> {
    let answer = client.within(PATIENCE).ask("GET", "/readyz", None)?;
    match answer.status {
        200 => Ok(()),
        status => Err(Failure::new(format!("not ready: {status} {}", answer.why()))),
    }
}
