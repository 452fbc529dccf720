//! Finds the directory that a command changes: the one that the host serves.

use std::path::{Path, PathBuf};

use crate::admin::contract::HostStatus;
use crate::cli::client::AdminClient;
use crate::cli::out::CliError;
use lodge_base::config::Config;
use lodge_base::files;

/// Returns the directory that the host serves. If one was `chosen` by a flag or file, both must be the same. Without a
/// host that reports its directory, returns that of the configuration.
///
/// # Errors
/// If the host would not serve files that are put there, or does not report its directory.
pub(super) fn directory(config: &Config, chosen: bool, client: Option<&AdminClient>) -> Result<PathBuf, CliError> {
    let own = &config.guests;
    let served = match client {
        Some(client) => served(client, chosen)?,
        None => None,
    };
    if let (Some((host, path)), Some(client)) = (served, client)
        && !is_same(own, &host)
        // A directory that was replaced since the host started has another inode.
        && own.canonicalize().ok().as_ref() != Some(&path)
    {
        if !chosen && is_same(&path, &host) {
            return Ok(path);
        }
        let (place, path, own) = (client.url(), path.display(), own.display());
        return Err(CliError::new(if chosen {
            format!("the host at {place} serves {path}, but `guests` is {own}; nothing was changed")
        } else {
            format!(
                "the host at {place} serves {path}, which does not exist here; run this on its \
                 machine, or set --guests to its directory"
            )
        }));
    }
    if own.is_dir() {
        return Ok(own.clone());
    }
    Err(CliError::Problem(format!("there is no directory {}; set --guests to another", own.display())))
}

/// Returns the directory that the host serves; `None` if there is no host or it does not report one.
fn served(client: &AdminClient, chosen: bool) -> Result<Option<(HostStatus, PathBuf)>, CliError> {
    // Without a running host, any directory is possible.
    let Ok(response) = client.exchange("GET", "/v1/host", None) else { return Ok(None) };
    match response.status {
        200 => {
            let host: HostStatus = client.read(&response.text)?;
            let path = PathBuf::from(&host.directory);
            Ok((!host.directory.is_empty()).then_some((host, path)))
        }
        // What a host reports decides what is safe to change: one that answers nobody without a token is no missing one.
        401 | 403 | 429 => Err(client.failure("/v1/host", &response)),
        _ if chosen => Ok(None),
        _ => Err(client.failure("/v1/host", &response)),
    }
}

/// Returns whether a path leads to the directory that the host serves. Seen through another mount, as in a container,
/// only device and inode are the same.
fn is_same(path: &Path, host: &HostStatus) -> bool {
    path.metadata().is_ok_and(|metadata| files::identity(&metadata) == host.directory_id)
}
