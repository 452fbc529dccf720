//! What a host makes of files that were put there or taken away: it is asked until it has looked.

use std::time::{Duration, Instant};

use crate::cli::client::Client;
use crate::cli::client::api::{Entry, Service};
use crate::cli::out::{self, CliError};

/// How long a host may take to serve what was put there: a large component compiles for a minute.
const TIMEOUT: Duration = Duration::from_secs(90);

/// How long a host may take to see that a version is off before its files go all the same.
const DISABLE_TIMEOUT: Duration = Duration::from_secs(5);

/// A refusal before this may be of what was there until now: new files are not refused before they have settled.
const RESCAN: Duration = Duration::from_secs(1);

/// Between two looks at what the host says.
const POLL: Duration = Duration::from_millis(100);

/// What a host says of a component that was put there.
pub(super) enum DeployResult {
    /// It serves it.
    Serving,
    /// It does not, for this reason.
    Refused(String),
    /// It says nothing of it yet.
    TimedOut,
    /// It cannot be asked, for this reason.
    Unreachable(String),
}

impl DeployResult {
    /// Waits for it, for as long as a compilation may take.
    pub(super) fn wait(client: Option<&Client>, name: &str, digest: &str) -> Self {
        let Some(client) = client else {
            return Self::Unreachable("admin is `off`, so no host can say what it serves".into());
        };
        let start = Instant::now();
        let its = |entry: &&Entry| entry.file.rsplit_once('.').is_some_and(|(stem, _)| stem == name);
        while start.elapsed() < TIMEOUT {
            let Ok(entries) = client.entries() else {
                return Self::Unreachable(format!("no host at {} says what it serves", client.url()));
            };
            let refused = entries.iter().filter(its).find_map(|entry| entry.refused.as_ref());
            match refused {
                Some(why) if start.elapsed() >= RESCAN => {
                    return Self::Refused(format!("{}; {}", why.reason, why.remedy));
                }
                None if services_named(&entries, name).any(|service| service.digest == digest) => return Self::Serving,
                _ => {}
            }
            std::thread::park_timeout(POLL);
        }
        Self::TimedOut
    }

    /// Says it.
    pub(super) fn print(self, name: &str, digest: &str) -> Result<(), CliError> {
        let short = digest.get(..12).unwrap_or_default();
        match self {
            Self::Serving => out::line(&format!("{name} serves {short}")),
            Self::Unreachable(why) => out::line(&format!("{name} is {short} on disk; {why}")),
            Self::Refused(why) => Err(CliError::new(format!("the host refuses {name}: {why}"))),
            Self::TimedOut => Err(CliError::Problem(format!(
                "{name} is {short} on disk, and the host does not serve it yet; see `lodge ps`"
            ))),
        }
    }
}

/// Gives a host the time to look: it may serve the same component already, by the manifest before.
pub(super) fn wait_for_rescan() {
    let start = Instant::now();
    while let Some(left) = RESCAN.checked_sub(start.elapsed()) {
        std::thread::park_timeout(left);
    }
}

/// Waits until the host serves this, or says why not.
pub(super) fn confirm(client: Option<&Client>, name: &str, digest: &str) -> Result<(), CliError> {
    DeployResult::wait(client, name, digest).print(name, digest)
}

/// Waits until nothing of this name is served any more: until then it has its part of the requests.
pub(super) fn wait_until_gone(client: Option<&Client>, name: &str) -> Result<(), CliError> {
    if is_gone(client, name, TIMEOUT) {
        return Ok(());
    }
    Err(CliError::Problem(format!("{name} is gone from disk, and the host still serves it; see `lodge ps`")))
}

/// Waits until a version whose manifest says so is off; a host that takes long will miss its files.
pub(super) fn wait_until_disabled(client: Option<&Client>, name: &str) {
    is_gone(client, name, DISABLE_TIMEOUT);
}

/// Why the host took this version out, if it did and can be asked.
pub(super) fn withdrawn(client: Option<&Client>, name: &str) -> Option<String> {
    let entries = client?.entries().ok()?;
    services_named(&entries, name).find_map(|service| service.withdrawn.clone())
}

/// A host that cannot be asked is not waited for.
fn is_gone(client: Option<&Client>, name: &str, timeout: Duration) -> bool {
    let start = Instant::now();
    let serves =
        |client: &Client| client.entries().is_ok_and(|entries| services_named(&entries, name).next().is_some());
    while client.is_some_and(serves) {
        if start.elapsed() >= timeout {
            return false;
        }
        std::thread::park_timeout(POLL);
    }
    true
}

fn services_named<'a>(entries: &'a [Entry], name: &'a str) -> impl Iterator<Item = &'a Service> {
    entries.iter().filter_map(|entry| entry.service.as_ref()).filter(move |service| service.name == name)
}
