//! `lodge data backup` and `restore`.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::print;
use crate::cli::client::AdminClient;
use crate::cli::new_file::NewFile;
use crate::cli::out::{self, CliError};
use crate::guests::stores::Stores;
use lodge_base::config::{Config, Resolved};
use lodge_state::OpenError;

/// The longest time of a backup.
const TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// Copies the database of a running host to a file.
pub(super) fn backup(resolved: &Resolved, path: &Path, json: bool) -> Result<(), CliError> {
    let config = &resolved.config;
    let admin = config.admin.ok_or_else(|| {
        CliError::new(
            "the setting admin is `off`, so no host can be reached; copy the file while the host does not run",
        )
    })?;
    let client = AdminClient::new(admin, config.admin_token.clone())?.with_timeout(TIMEOUT);
    let mut file = NewFile::create(path)?;
    let bytes = file.fill(&mut client.download("/v1/data/backup")?)?;
    lodge_state::verify(file.partial())
        .map_err(|error| CliError::new(format!("{}: the backup is not sound: {error}", path.display())))?;
    file.finish()?;
    let shown = path.display();
    let size = bytesize::ByteSize(bytes).display().iec();
    print(&json!({ "file": shown.to_string(), "bytes": bytes }), json, &format!("wrote {size} to {shown}"))
}

/// Puts a backup in the place of the database of a host that does not run.
pub(super) fn restore(config: &Config, from: &Path, force: bool) -> Result<(), CliError> {
    let stores = Stores::new(config);
    let Some(to) = stores.file() else {
        return Err(CliError::new(
            "state.url or state.path says that state is not in a file; remove the key, or use the server's own tools",
        ));
    };
    let (source, target) = (from.display(), to.display());
    // Before a directory is made for it.
    if let (Err(error), false) = (std::fs::metadata(from), to.exists()) {
        return Err(CliError::new(format!("{source}: {error}; nothing was restored")));
    }
    stores.create_directory().map_err(CliError::new)?;
    lodge_state::restore(from, to, force).map_err(|error| {
        CliError::new(match &error {
            OpenError::Exists { .. } => format!("{target} exists, and nothing was restored; --force replaces it"),
            OpenError::Foreign { path } if path == from => {
                format!("{source} is not a backup of Lodge, and nothing was restored")
            }
            OpenError::Damaged { path, detail } if path == from => {
                format!("{source} is damaged ({detail}), and nothing was restored; use another backup")
            }
            OpenError::InUse { .. } => format!("{target} is in use; stop the host first"),
            _ => format!("nothing was restored: {error}"),
        })
    })?;
    out::line(&out::clean(&format!("restored {target} from {source}")))
}
