//! `lodge health`: asks a running host whether it is ready, for a container's health check. No shell, no curl needed.

use std::time::Duration;

use super::client::Client;
use super::client::api::Host;
use super::out::{self, CliError, clean};

/// A health check of a container has little time, and says why only if it ends by itself.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Succeeds if `/readyz` answers 200. With `verbose`, prints what the host says of itself.
pub(super) fn run(client: Client, verbose: bool) -> Result<(), CliError> {
    let client = client.with_timeout(TIMEOUT);
    let answer = client.exchange("GET", "/readyz", None)?;
    match answer.status {
        200 if verbose => {
            let host: Host = client.read(&client.get("/v1/host")?)?;
            out::line(&clean(&format!("ready: Lodge {}; sandboxes are reset {}", host.version, host.sandbox_reset)))
        }
        200 => Ok(()),
        status => Err(CliError::new(format!("not ready: {status} {}", answer.why()))),
    }
}
