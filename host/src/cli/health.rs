//! `lodge health`: reports whether a running host is ready, for the health check of a container without shell or curl.

use std::time::Duration;

use super::client::AdminClient;
use super::cluster;
use super::out::{self, CliError, clean};
use crate::admin::contract::{CertificateStatus, ClusterStatus, HostStatus};

/// Shorter than the usual timeout of a container's health check, so that the command can still report the reason.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Succeeds if `/readyz` responds with 200. With `verbose`, prints the version of the host.
pub(super) fn run(client: AdminClient, verbose: bool) -> Result<(), CliError> {
    let client = client.with_timeout(TIMEOUT);
    let response = client.exchange("GET", "/readyz", None)?;
    match response.status {
        200 if verbose => {
            let host: HostStatus = client.read(&client.get("/v1/host")?)?;
            out::line(&clean(&format!("ready: Lodge {}; sandboxes are reset {}", host.version, host.sandbox_reset)))?;
            host.problems.iter().try_for_each(|problem| out::line(&clean(problem)))?;
            host.certificates.iter().try_for_each(|certificate| out::line(&clean(&described(certificate))))?;
            // A host of an older version has no clusters.
            let cluster = client.get("/v1/cluster").and_then(|text| client.read::<ClusterStatus>(&text)).ok();
            cluster.as_ref().and_then(cluster::summary).map_or(Ok(()), |line| out::line(&clean(&line)))
        }
        200 => Ok(()),
        status => Err(CliError::new(format!("not ready: {status} {}", response.why()))),
    }
}

fn described(certificate: &CertificateStatus) -> String {
    let CertificateStatus { names, expires, renewal, problem } = certificate;
    let names = names.join(", ");
    let state = match expires {
        Some(at) => format!("expires at {at}; is renewed at {renewal}"),
        None => format!("is not issued yet; the next attempt is at {renewal}"),
    };
    let problem = problem.as_ref().map_or(String::new(), |why| format!("; the last attempt failed: {why}"));
    format!("certificate for {names}: {state}{problem}")
}
