//! The names of a cluster and of its host.

use std::path::Path;

use lodge_base::config::cluster::{MOST_HOST, is_plain};
use lodge_base::files;

/// The names under which the cluster is in the store.
pub(super) struct Names {
    pub(super) cluster: String,
    pub(super) host: String,
    /// The bucket of the records.
    pub(super) members: String,
    /// The bucket of long lists of services.
    pub(super) lists: String,
    /// The bucket of the name of the leader, and its lock.
    pub(super) leader: String,
}

impl Names {
    /// Returns those of a host in a cluster. Without a name of its own, the host has that of its machine.
    ///
    /// # Errors
    /// If the machine has none that a host could have, and which setting gives it one.
    pub(super) fn new(cluster: String, host: Option<&String>) -> Result<Self, String> {
        let host = match host {
            Some(host) => host.clone(),
            None => machine().ok_or("cluster.host: the machine has no name that is plain text; set cluster.host")?,
        };
        let [members, lists, leader] = ["members", "lists", "leader"].map(|what| format!("{what}/{cluster}"));
        Ok(Self { cluster, host, members, lists, leader })
    }
}

/// Returns the name of the machine, if it can be one of a host.
fn machine() -> Option<String> {
    let text = files::read_text(Path::new("/proc/sys/kernel/hostname"), 1 << 10).ok()?;
    Some(text.trim().to_owned()).filter(|name| is_plain(name, MOST_HOST))
}
