//! What `lodge deploy`, `promote` and `rollback` do, on the machine of the host or by the admin API: they move files as a person
//! would, then wait for the result. The directory is the only state.
//!
//! The files are locked from start to end ([`ServiceFiles::try_lock`]).

use std::path::Path;
use std::time::Duration;

use super::contract::{Judgement, RefusedFile};
use super::verdict::{self, Reports, Verdict};
use crate::guests::placement::{NewComponent, Placement, PlannedDeploy, Replaced, TryOut};
use crate::guests::service_files::{FileError, ServiceFiles};
use crate::guests::trust::signature;
use lodge_base::config::Config;
use lodge_manifest::digest::Digest;
use lodge_manifest::percent::Percent;
use lodge_manifest::spec::GuestSpec;

/// A service whose files are changed, and the host that serves them.
pub(crate) struct Rollout<'a> {
    pub(crate) config: &'a Config,
    /// The files of the service, which are locked.
    pub(crate) files: &'a ServiceFiles<'a>,
    pub(crate) reports: Reports<'a>,
    /// How long the host may take to serve a component: [`verdict::TIMEOUT`].
    pub(crate) timeout: Duration,
    /// Deploys what is promoted or restored on trial, before it is placed.
    pub(crate) try_out: TryOut<'a>,
    /// Whether manifests that an operator wrote stay as they are.
    pub(crate) own_only: bool,
}

/// What was done.
#[derive(Debug)]
pub(crate) enum Done {
    /// A version of a service without a component was removed.
    Removed(String),
    /// A component is in its place.
    Placed {
        /// The service or version.
        service: String,
        /// Its component.
        digest: Digest,
        /// Whether the same files were there before.
        unchanged: bool,
        /// What the host says of it.
        verdict: Verdict,
        /// By how much a version that was promoted had been judged.
        judged: Option<Judgement>,
        /// The version that was to be promoted and stays, because the host does not serve its component in the place of the service yet.
        stays: Option<String>,
    },
}

/// Which version may be promoted.
#[derive(Clone, Copy)]
pub(crate) struct Promotion {
    /// One that the host withdrew, too.
    pub(crate) force: bool,
    /// Only this component.
    pub(crate) wanted: Option<Digest>,
}

impl Rollout<'_> {
    /// Replaces the component of a service or, with `canary`, adds a version beside it. A service that does not exist
    /// is created only with `new`.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub(crate) fn deploy(
        &self,
        candidate: &NewComponent<'_>,
        canary: Option<(Percent, &str)>,
        new: bool,
    ) -> Result<Done, FileError> {
        let place =
            Placement { config: self.config, files: self.files, canary, new, own_only: self.own_only }.find()?;
        self.put(&place, candidate, canary.is_some())
    }

    /// Puts a component in its place, and waits for the host, unless that would refuse it. What it refuses then is taken back.
    fn put(&self, place: &PlannedDeploy<'_>, candidate: &NewComponent<'_>, is_canary: bool) -> Result<Done, FileError> {
        let checked = place.check(candidate)?;
        let known = verdict::refused(self.reports, &place.served);
        let replaced = place.fill(&checked)?;
        let unchanged = matches!(replaced, Replaced::Nothing);
        if let (true, Replaced::Files(before)) = (is_canary, &replaced)
            && (before.placed.component.is_some() || before.manifest.is_some())
        {
            verdict::wait_for_rescan();
        }
        let (service, digest) = (place.served.clone(), checked.digest);
        let verdict = Verdict::wait((self.reports, self.timeout), &service, digest, known.as_ref());
        if matches!(verdict, Verdict::Refused(_)) {
            place.restore(replaced)?;
        }
        Ok(Done::Placed { service, digest, unchanged, verdict, judged: None, stays: None })
    }

    /// Puts a file of the service, with its signature, in the place of the component of the service: only the component that is
    /// `wanted`, if one is. What is replaced is kept, so that a rollback returns to it.
    fn replace(&self, file: &Path, wanted: Option<Digest>) -> Result<Done, FileError> {
        let (config, files, own_only) = (self.config, self.files, self.own_only);
        let place = Placement { config, files, canary: None, new: true, own_only }.find()?;
        let (shown, beside) = (file.display().to_string(), signature::path(file));
        let try_out = |spec: GuestSpec| match wanted.filter(|wanted| *wanted != spec.digest) {
            Some(wanted) => Err(format!(
                "{shown} is sha256:{}, and sha256:{wanted} is to be promoted; nothing was changed; see why with `lodge ps`",
                spec.digest
            )),
            None => (self.try_out)(spec),
        };
        let signature = |_: &[u8]| files.content_of(&beside);
        self.put(&place, &NewComponent { file, shown: &shown, signature: &signature, try_out: &try_out }, false)
    }

    /// Gives a version all requests of its service. Its files are removed once the host serves its component in the place of the service:
    /// until then they are the only other copy of what the host is known to serve.
    ///
    /// # Errors
    /// Why nothing was changed, or that the host still serves the version.
    pub(crate) fn promote(&self, label: &str, promotion: Promotion) -> Result<Done, FileError> {
        let (name, files) = (self.files.name, self.files);
        let (version, trial) = (files.component(Some(label)), format!("{name}@{label}"));
        let missing = || {
            let (shown, manifest) = (version.display(), files.manifest_of(label));
            if manifest.exists() {
                return FileError::new(format!(
                    "{trial} is no component that could be moved: there is no {shown}; write what {} says, like [files] or \
                     [upstream], to {}, then remove the version by `lodge rollback {name} --label {label}`",
                    manifest.display(),
                    files.service_manifest().display()
                ));
            }
            FileError::new(format!("there is no {shown}; `lodge deploy {name} FILE --canary 10%` deploys one"))
        };
        if !version.exists() {
            return self.promoted_before(promotion)?.ok_or_else(missing);
        }
        if let Some(why) = verdict::withdrawn(self.reports, &trial).filter(|_| !promotion.force) {
            let way_out = format!("`lodge rollback {name} --label {label}` removes it, --force promotes it anyway");
            return Err(FileError::new(format!("the host withdrew {trial}: {why}; {way_out}")));
        }
        let digest = files.content_of(&version)?.map(|content| Digest::of(&content));
        // A refusal of another component is that of one which this has replaced.
        let is_its = |why: &RefusedFile| why.digest.is_none() || why.digest == digest.map(|digest| digest.to_string());
        if let Some(why) = verdict::refused(self.reports, &trial).filter(is_its) {
            let why = verdict::said(&why);
            return Err(FileError::new(format!("the host refuses {trial}: {why}; nothing was changed")));
        }
        self.check_written(label)?;
        let own = verdict::judgement(self.reports, &trial);
        let mut done = self.replace(&version, promotion.wanted)?;
        if let Done::Placed { verdict, judged, stays, .. } = &mut done {
            match verdict {
                Verdict::Serving => {
                    *judged = own;
                    files.remove_version(label)?;
                    self.wait_until_gone(&trial)?;
                }
                Verdict::TimedOut | Verdict::Unreachable(_) => (*judged, *stays) = (own, Some(trial)),
                Verdict::Refused(_) => {}
            }
        }
        Ok(done)
    }

    /// Returns that nothing was done if the component that is wanted is that of the service: a pipeline may be repeated.
    fn promoted_before(&self, promotion: Promotion) -> Result<Option<Done>, FileError> {
        let Some(wanted) = promotion.wanted else { return Ok(None) };
        let content = self.files.content_of(&self.files.component(None))?;
        let is_there = content.is_some_and(|content| Digest::of(&content) == wanted);
        Ok(is_there.then(|| match self.placed(wanted) {
            Done::Placed { service, digest, verdict, judged, stays, .. } => {
                Done::Placed { service, digest, unchanged: true, verdict, judged, stays }
            }
            done @ Done::Removed(_) => done,
        }))
    }

    /// Removes a version, if there is one of this label.
    ///
    /// # Errors
    /// If a file cannot be changed, or the host still serves the version.
    pub(crate) fn remove(&self, label: &str) -> Result<Option<Done>, FileError> {
        let (trial, files) = (format!("{}@{label}", self.files.name), self.files);
        if !files.has_version(label) {
            return Ok(None);
        }
        self.check_written(label)?;
        files.disable_version(label)?;
        verdict::wait_until_disabled(self.reports, &trial);
        files.remove_version(label)?;
        self.wait_until_gone(&trial)?;
        Ok(Some(match files.content_of(&files.component(None))? {
            Some(content) => self.placed(Digest::of(&content)),
            // The service may be an upstream.
            None => Done::Removed(trial),
        }))
    }

    /// Restores the previous component of the service, which has no version `label`. What it replaces is the previous one then.
    ///
    /// # Errors
    /// If there is none, the host would refuse it, or a file cannot be changed.
    pub(crate) fn restore_previous(&self, label: &str) -> Result<Done, FileError> {
        let files = self.files;
        let previous = files.previous();
        if !previous.exists() {
            let (version, previous) = (files.component(Some(label)), previous.display());
            let version = version.display();
            let is_files = files.manifest(self.config).is_ok_and(|manifest| manifest.files.is_some());
            let way_out = if is_files { "; to return to other files, change files.root of the service" } else { "" };
            let why = format!("there is neither {version} nor {previous}, so nothing to roll back to{way_out}");
            return Err(FileError::new(why));
        }
        self.replace(&previous, None)
    }

    fn check_written(&self, label: &str) -> Result<(), FileError> {
        if self.own_only { self.files.check_written(label) } else { Ok(()) }
    }

    /// Waits until the host serves the component of the service.
    fn placed(&self, digest: Digest) -> Done {
        let service = self.files.name.to_owned();
        let verdict = Verdict::wait((self.reports, self.timeout), &service, digest, None);
        Done::Placed { service, digest, unchanged: false, verdict, judged: None, stays: None }
    }

    fn wait_until_gone(&self, trial: &str) -> Result<(), FileError> {
        if verdict::wait_until_gone(self.reports, trial) {
            return Ok(());
        }
        Err(FileError::new(format!("{trial} was removed from disk, but the host still serves it; see `lodge ps`")))
    }
}

#[cfg(test)]
mod tests;
