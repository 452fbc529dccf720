//! Waits until a host has noticed changed files, and returns the result.

use std::time::{Duration, Instant};

use crate::admin::contract::{FileReport, ServiceStatus};
use crate::cli::client::AdminClient;
use crate::cli::out::{self, CliError};

/// The timeout for serving a new component: a large one may take a minute to compile.
const TIMEOUT: Duration = Duration::from_secs(90);

/// The timeout for noticing a disabled version, before its files are removed anyway.
const DISABLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Until then, a refusal may be that of the previous files: new files are refused only after they have settled.
const RESCAN: Duration = Duration::from_secs(1);

/// The interval between requests to the host.
const POLL: Duration = Duration::from_millis(100);

/// What the host reports about a component.
pub(super) enum DeployResult {
    /// The component is served.
    Serving,
    /// It is refused, with the reason.
    Refused(String),
    /// The host has not reported it in time.
    TimedOut,
    /// The host cannot be reached, with the reason.
    Unreachable(String),
}

impl DeployResult {
    /// Waits for the host to serve or refuse the component, for as long as a compilation may take.
    pub(super) fn wait(client: Option<&AdminClient>, name: &str, digest: &str) -> Self {
        let Some(client) = client else {
            return Self::Unreachable("admin is `off`, so the host cannot be asked for the result".into());
        };
        let start = Instant::now();
        let its = |entry: &&FileReport| entry.file.rsplit_once('.').is_some_and(|(stem, _)| stem == name);
        while start.elapsed() < TIMEOUT {
            let Ok(entries) = client.entries() else {
                return Self::Unreachable(format!("no host at {} reports what it serves", client.url()));
            };
            let refused = entries.iter().filter(its).find_map(|entry| entry.refused.as_ref());
            match refused {
                Some(why) if start.elapsed() >= RESCAN => {
                    return Self::Refused(format!("{}; {}", why.reason, why.remedy));
                }
                None if services_named(&entries, name).any(|service| service.info.digest == digest) => {
                    return Self::Serving;
                }
                _ => {}
            }
            std::thread::park_timeout(POLL);
        }
        Self::TimedOut
    }

    /// Prints the result, or returns it as an error.
    pub(super) fn print(self, name: &str, digest: &str) -> Result<(), CliError> {
        let short = digest.get(..12).unwrap_or_default();
        match self {
            Self::Serving => out::line(&format!("{name} serves {short}")),
            Self::Unreachable(why) => out::line(&format!("{name} is {short} on disk; {why}")),
            Self::Refused(why) => Err(CliError::new(format!("the host refuses {name}: {why}"))),
            Self::TimedOut => Err(CliError::Problem(format!(
                "{name} is {short} on disk, but the host does not serve it yet; see `lodge ps`"
            ))),
        }
    }
}

/// Gives the host time to notice the new files: it may already serve the same component with the previous manifest.
pub(super) fn wait_for_rescan() {
    let start = Instant::now();
    while let Some(left) = RESCAN.checked_sub(start.elapsed()) {
        std::thread::park_timeout(left);
    }
}

/// Waits until the host serves the component, and prints the result.
pub(super) fn confirm(client: Option<&AdminClient>, name: &str, digest: &str) -> Result<(), CliError> {
    DeployResult::wait(client, name, digest).print(name, digest)
}

/// Waits until no version of this name is served, since until then it gets its share of requests.
pub(super) fn wait_until_gone(client: Option<&AdminClient>, name: &str) -> Result<(), CliError> {
    if is_gone(client, name, TIMEOUT) {
        return Ok(());
    }
    Err(CliError::Problem(format!("{name} was removed from disk, but the host still serves it; see `lodge ps`")))
}

/// Waits until the host has noticed that a version is disabled.
pub(super) fn wait_until_disabled(client: Option<&AdminClient>, name: &str) {
    is_gone(client, name, DISABLE_TIMEOUT);
}

/// Returns why the host withdrew this version, if it did and can be reached.
pub(super) fn withdrawn(client: Option<&AdminClient>, name: &str) -> Option<String> {
    let entries = client?.entries().ok()?;
    services_named(&entries, name).find_map(|service| service.activity.withdrawn.clone())
}

/// Returns why the host refuses the files of this version, if it does and can be reached.
pub(super) fn refused(client: Option<&AdminClient>, name: &str) -> Option<String> {
    let entries = client?.entries().ok()?;
    let its = |entry: &&FileReport| entry.file.rsplit_once('.').is_some_and(|(stem, _)| stem == name);
    let why = entries.iter().filter(its).find_map(|entry| entry.refused.as_ref())?;
    Some(format!("{}; {}", why.reason, why.remedy))
}

/// Does not wait for a host that cannot be reached.
fn is_gone(client: Option<&AdminClient>, name: &str, timeout: Duration) -> bool {
    let start = Instant::now();
    let serves =
        |client: &AdminClient| client.entries().is_ok_and(|entries| services_named(&entries, name).next().is_some());
    while client.is_some_and(serves) {
        if start.elapsed() >= timeout {
            return false;
        }
        std::thread::park_timeout(POLL);
    }
    true
}

fn services_named<'a>(entries: &'a [FileReport], name: &'a str) -> impl Iterator<Item = &'a ServiceStatus> {
    entries.iter().filter_map(|entry| entry.service.as_ref()).filter(move |service| service.info.name == name)
}
