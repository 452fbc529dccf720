//! Which directory a command works in: the one that the host serves.

use std::path::{Path, PathBuf};

use crate::base::files;
use crate::cli::client::Client;
use crate::cli::client::api::Host;
use crate::cli::out::CliError;
use crate::config::Config;

/// The directory that the host serves. One that was `chosen`, by a flag or a file, must be the same; without a host
/// that says where it is, it is what the configuration says.
///
/// # Errors
/// When files put there would not be served by the host, or the host does not say which they are.
pub(in crate::cli) fn directory(config: &Config, chosen: bool, client: Option<&Client>) -> Result<PathBuf, CliError> {
    let own = &config.guests;
    let served = match client {
        Some(client) => served(client, chosen)?,
        None => None,
    };
    if let (Some((host, path)), Some(client)) = (served, client)
        && !is_same(own, &host)
        // One that was replaced since the host has started has another inode.
        && own.canonicalize().ok().as_ref() != Some(&path)
    {
        if !chosen && is_same(&path, &host) {
            return Ok(path);
        }
        let (place, path, own) = (client.url(), path.display(), own.display());
        return Err(CliError::new(if chosen {
            format!("the host at {place} serves {path}, and `guests` names {own}; nothing was changed")
        } else {
            format!(
                "the host at {place} serves {path}, which is not here; run this where it is, or name it by --guests"
            )
        }));
    }
    if own.is_dir() {
        return Ok(own.clone());
    }
    Err(CliError::Problem(format!("there is no directory {}; --guests names another", own.display())))
}

/// What the host says that it serves; `None` when there is no host, or one that does not say.
fn served(client: &Client, chosen: bool) -> Result<Option<(Host, PathBuf)>, CliError> {
    // A host that is not there serves nothing else.
    let Ok(answer) = client.exchange("GET", "/v1/host", None) else { return Ok(None) };
    match answer.status {
        200 => {
            let host: Host = client.read(&answer.text)?;
            let path = PathBuf::from(&host.directory);
            Ok((!host.directory.is_empty()).then_some((host, path)))
        }
        _ if chosen => Ok(None),
        _ => Err(client.failure("/v1/host", &answer)),
    }
}

/// Whether a path leads to the directory that the host serves. Where files are seen through another mount, as in a
/// container, only device and inode are the same.
fn is_same(path: &Path, host: &Host) -> bool {
    path.metadata().is_ok_and(|metadata| files::identity(&metadata) == host.directory_id)
}
