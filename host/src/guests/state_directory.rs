//! Directories for the state of services, beside the file with their keys.

use std::path::{Path, PathBuf};

use lodge_base::config::Config;
use lodge_base::config::state::{self, StatePath};
use lodge_base::ids::Ids;
use lodge_state::Durability;

/// A directory with state of all services. Nothing is created before a service needs it.
pub(super) struct StateDirectory {
    pub(super) path: PathBuf,
    /// Whether it is removed with this value, where state is kept in memory only.
    temporary: bool,
}

impl StateDirectory {
    /// The directory `name` of a host.
    pub(super) fn new(config: &Config, name: &str) -> Self {
        let (path, temporary) = match &config.state.path {
            StatePath::Beside => (config.guests.join(".lodge").join(name), false),
            StatePath::At(path) => (path.parent().unwrap_or(Path::new(".")).join(name), false),
            StatePath::Memory => (std::env::temp_dir().join(format!("lodge-{}", Ids::new().request())), true),
        };
        // SQLite takes a relative path that begins with `file:` for a URL.
        Self { path: std::path::absolute(&path).unwrap_or(path), temporary }
    }
}

impl Drop for StateDirectory {
    fn drop(&mut self) {
        if self.temporary {
            // There is none if no service needed it.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// What a confirmed write survives on this host.
pub(super) fn durability(config: &Config) -> Durability {
    match config.state.durability {
        state::Durability::Process => Durability::Process,
        state::Durability::Power => Durability::Power,
    }
}
