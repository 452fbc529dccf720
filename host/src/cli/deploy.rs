//! `lodge deploy`, `promote` and `rollback`: in the directory of a host on this machine, or on a host elsewhere.
//!
//! On this machine, commands for one service exclude each other from start to end ([`DeployCommand::lock`]).

mod directory;
mod remote;
mod watch;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::ArgMatches;

use self::directory::directory;
use self::remote::RemoteHost;
use self::watch::Watch;
use super::client::AdminClient;
use super::out::{self, CliError, clean, notice};
use super::{flag, sign, text};
use crate::admin::contract::FileReport;
use crate::admin::deploy::composed;
use crate::admin::rollout::{Done, Promotion, Rollout};
use crate::admin::verdict::{self, Verdict};
use crate::guests::deployer::Deployer;
use crate::guests::placement::{CANARY, NewComponent, check_label};
use crate::guests::service_files::{FileError, FilesLock, ServiceFiles, failed};
use crate::guests::trust;
use crate::guests::trust::signature;
use lodge_base::config::key::duration;
use lodge_base::config::{Config, Origin, Resolved};
use lodge_base::files as disk;
use lodge_manifest::digest::Digest;
use lodge_manifest::percent::Percent;
use lodge_manifest::spec::GuestSpec;

/// The longest wait for another command on the same service, which may itself wait for a compilation.
const LOCK_TIMEOUT: Duration = Duration::from_secs(180);

/// The longest time for which `lodge deploy --wait` watches a canary.
const LONGEST_WATCH: Duration = Duration::from_secs(24 * 60 * 60);

/// The interval between attempts to get the lock.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// What `lodge deploy` deploys, and how.
#[derive(Clone, Copy)]
struct DeployArgs<'a> {
    file: &'a Path,
    /// The key to sign it with.
    key: Option<&'a Path>,
    /// The share and the label of a canary.
    canary: Option<(Percent, &'a str)>,
    /// Whether the service may be created.
    new: bool,
}

/// The service of a command, and the directory with its files.
struct DeployCommand<'a> {
    config: &'a Config,
    client: Option<&'a AdminClient>,
    /// The directory that the host serves.
    directory: PathBuf,
    name: &'a str,
}

/// Runs `deploy`, `promote` or `rollback`: on a host elsewhere, or in a directory of this machine, with or without a running host.
pub(super) fn run(name: &str, matches: &ArgMatches, resolved: &Resolved, service: &str) -> Result<(), CliError> {
    let config = &resolved.config;
    let client = super::client(matches, resolved)?;
    let label = text(matches, "label").map_or(CANARY, String::as_str);
    let component = matches.try_get_one::<PathBuf>("file").ok().flatten();
    let component = component.map(|file| DeployArgs::read(matches, file, label)).transpose()?;
    let (force, only, canary) =
        (flag(matches, "force"), flag(matches, "canary-only"), component.and_then(|component| component.canary));
    let watched = watched(matches, canary.is_some())?;
    let chosen = resolved.origin("guests").is_some_and(|origin| origin != Origin::Default);
    let wanted = text(matches, "digest").map(|text| {
        let digest = Digest::read(text.strip_prefix("sha256:").unwrap_or(text));
        digest.ok_or_else(|| CliError::Usage("--digest: expected a SHA-256, 64 hexadecimal digits".into()))
    });
    let promotion = Promotion { force, wanted: wanted.transpose()? };
    let deployed = match &client {
        Some(client) if text(matches, "host").is_some() => {
            let client = &client.clone().with_timeout(remote::TIMEOUT);
            let host = RemoteHost { config, client, name: service };
            match component {
                Some(component) => host.deploy(component)?,
                None if name == "promote" => host.promote(label, promotion)?,
                None => host.rollback(label, only)?,
            }
        }
        client => {
            let client = client.as_ref();
            let directory = directory(config, chosen, client)?;
            let order = DeployCommand { config, client, directory, name: service };
            match component {
                Some(component) => order.deploy(component)?,
                None if name == "promote" => order.promote(label, promotion)?,
                None => order.rollback(label, only)?,
            }
        }
    };
    let (Some((time, least)), Some((_, label))) = (watched, canary) else { return Ok(()) };
    let Some(client) = &client else {
        return Err(CliError::Usage("--wait asks the host for the result, and `admin` is `off`".into()));
    };
    let version = format!("{service}@{label}");
    Watch { client, service, version, digest: deployed.as_deref(), time, least, interval: watch::LOOK }.run()
}

/// Returns for how long a canary is to be watched, and how many of its requests have to count; without a number, as many as a
/// comparison with its service needs.
fn watched(matches: &ArgMatches, is_canary: bool) -> Result<Option<(Duration, Option<u64>)>, CliError> {
    let least = matches.try_get_one::<u64>("min-requests").ok().flatten().copied();
    let Some(text) = text(matches, "wait") else {
        let alone = || CliError::Usage("--min-requests is for a canary that is watched; add --wait".into());
        return least.map_or(Ok(None), |_| Err(alone()));
    };
    let time = duration(text, Duration::from_secs(1)..=LONGEST_WATCH);
    let time = time.map_err(|expected| CliError::Usage(format!("--wait: {expected}")))?;
    if !is_canary {
        let why =
            "--wait watches a canary; add --canary (without it, the command ends once the host serves the component)";
        return Err(CliError::Usage(why.into()));
    }
    Ok(Some((time, least)))
}

impl DeployCommand<'_> {
    /// Replaces the component of a service or adds a canary beside it.
    fn deploy(&self, component: DeployArgs<'_>) -> Result<Option<String>, CliError> {
        let DeployArgs { file, canary, new, .. } = component;
        let files = self.files()?;
        if let Some((_, label)) = canary {
            check_label(label).map_err(CliError::Usage)?;
        }
        let _lock = self.lock(&files)?;
        let shown = file.display().to_string();
        let candidate = NewComponent {
            file,
            shown: &shown,
            signature: &|content| component.signature(content).map_err(|error| FileError::new(error.into_text())),
            try_out: &|spec| {
                notice(&format!("compiling {shown}"));
                self.try_out(spec)
            },
        };
        self.rollout(&files, |rollout| rollout.deploy(&candidate, canary, new))
    }

    /// Gives a version all requests of its service.
    fn promote(&self, label: &str, promotion: Promotion) -> Result<Option<String>, CliError> {
        let files = self.files()?;
        let _lock = self.lock(&files)?;
        self.rollout(&files, |rollout| rollout.promote(label, promotion))
    }

    /// Removes a version or, if there is none and it is not the `only` thing to do, restores the previous component of the service.
    fn rollback(&self, label: &str, only: bool) -> Result<Option<String>, CliError> {
        let files = self.files()?;
        let _lock = self.lock(&files)?;
        if only && !files.has_version(label) {
            return nothing_to_remove(self.name, label);
        }
        self.rollout(&files, |rollout| match rollout.remove(label)? {
            Some(done) => Ok(done),
            None => rollout.restore_previous(label),
        })
    }

    /// Acts, and prints what was done. Returns the digest of the component that was placed.
    fn rollout(
        &self,
        files: &ServiceFiles<'_>,
        act: impl FnOnce(Rollout<'_>) -> Result<Done, FileError>,
    ) -> Result<Option<String>, CliError> {
        let reports = || self.reports();
        let try_out = |spec: GuestSpec| self.try_out(spec);
        let (config, reports, try_out, timeout) = (self.config, &reports, &try_out, verdict::TIMEOUT);
        let done = act(Rollout { config, files, reports, timeout, try_out, own_only: false })?;
        let digest = match &done {
            Done::Placed { digest, .. } => Some(digest.to_string()),
            Done::Removed(_) => None,
        };
        let version = match &done {
            Done::Placed { service, digest, verdict: Verdict::Serving, .. } => self.version(service, digest),
            _ => None,
        };
        print(done, version.as_deref()).map(|()| digest)
    }

    /// Returns the version that the host serves with this component, if it is of more than that.
    fn version(&self, service: &str, component: &Digest) -> Option<String> {
        let reports = self.reports().ok()?.into_iter().filter_map(|report| report.service);
        let digest = component.to_string();
        let served = reports.map(|served| served.info).find(|info| info.name == service && info.digest == digest)?;
        composed(&served.version, component).map(str::to_owned)
    }

    /// Returns what the host serves and refuses.
    fn reports(&self) -> Result<Vec<FileReport>, String> {
        let client = self.client.ok_or("admin is `off`, so the host cannot be asked for the result")?;
        client.entries().map_err(|_| format!("no host at {} reports what it serves", client.url()))
    }

    fn try_out(&self, spec: GuestSpec) -> Result<(), String> {
        super::block_on(async {
            Deployer::offline(self.config)?.deploy(spec).await.map(drop).map_err(|why| why.to_string())
        })?
    }

    fn files(&self) -> Result<ServiceFiles<'_>, CliError> {
        let most = self.config.engine.max_file as u64;
        ServiceFiles::new(&self.directory, self.name, most).ok_or_else(|| invalid(self.name))
    }

    /// Waits until no other command works on this service. The lock is held until the returned value is dropped.
    fn lock(&self, files: &ServiceFiles<'_>) -> Result<FilesLock, CliError> {
        let start = Instant::now();
        let mut waits = false;
        loop {
            if let Some(lock) = files.try_lock()? {
                return Ok(lock);
            }
            let name = self.name;
            if start.elapsed() >= LOCK_TIMEOUT {
                let long = humantime::format_duration(LOCK_TIMEOUT);
                let problem = format!(
                    "another command has been working on {name} for {long}; nothing was changed; try again later"
                );
                return Err(CliError::Problem(problem));
            }
            if !std::mem::replace(&mut waits, true) {
                notice(&format!("waiting for another command on {name}"));
            }
            std::thread::park_timeout(RETRY_INTERVAL);
        }
    }
}

impl<'a> DeployArgs<'a> {
    fn read(matches: &'a ArgMatches, file: &'a Path, label: &'a str) -> Result<Self, CliError> {
        let percent = text(matches, "canary").map(|text| Percent::parse(text)).transpose();
        let percent = percent.map_err(|expected| CliError::Usage(format!("--canary: {expected}")))?;
        let key = matches.get_one::<PathBuf>("key").map(PathBuf::as_path);
        Ok(Self { file, key, canary: percent.map(|percent| (percent, label)), new: flag(matches, "new") })
    }

    /// Signs the component or, without a key, reads the signature beside its file.
    fn signature(&self, content: &[u8]) -> Result<Option<Vec<u8>>, CliError> {
        if let Some(key) = self.key {
            return sign::signed(content, key).map(|text| Some(text.into_bytes()));
        }
        let beside = signature::path(self.file);
        match disk::read(&beside, trust::MAX_FILE) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(&beside, &error).into()),
        }
    }
}

fn nothing_to_remove(name: &str, label: &str) -> Result<Option<String>, CliError> {
    out::line(&format!("there is no {name}@{label}; nothing was changed")).map(|()| None)
}

fn invalid(name: &str) -> CliError {
    CliError::Usage(format!("`{name}` is not a valid name of a service; use letters, digits, `-` and `_`"))
}

/// Prints what was done, or returns the reason why it serves nothing as an error.
fn print(done: Done, version: Option<&str>) -> Result<(), CliError> {
    let (service, digest, unchanged, verdict, judged, stays) = match done {
        Done::Removed(trial) => return out::line(&format!("removed {trial}")),
        Done::Placed { service, digest, unchanged, verdict, judged, stays } => {
            (service, digest, unchanged, verdict, judged, stays)
        }
    };
    watch::notice_unjudged(&service, judged.as_ref());
    let short = digest.short();
    let stays = stays.as_deref().map_or(String::new(), stays_too);
    let version = version_too(version);
    match verdict {
        Verdict::Serving if unchanged => {
            out::line(&format!("{service} serves {short}{version}, which was there already"))
        }
        Verdict::Serving => out::line(&format!("{service} serves {short}{version}")),
        Verdict::Unreachable(why) => out::line(&format!("{service} is {short} on disk; {why}{stays}")),
        Verdict::Refused(why) => Err(CliError::new(format!("the host refuses {service}: {why}"))),
        Verdict::TimedOut => Err(CliError::Problem(format!(
            "{service} is {short} on disk, but the host does not serve it yet; see `lodge ps`{stays}"
        ))),
    }
}

/// Says which version a component is part of, with others in front of it.
fn version_too(version: Option<&str>) -> String {
    version.map_or(String::new(), |version| format!(", as version {} with its middleware", clean(version)))
}

/// Says what becomes of a version that was promoted, and whose component the host does not serve in the place of the service yet.
fn stays_too(version: &str) -> String {
    format!("; {version} stays until then; `lodge promote` again removes it")
}

/// The text may come from the directory.
impl From<FileError> for CliError {
    fn from(error: FileError) -> Self {
        Self::new(error.to_string())
    }
}
