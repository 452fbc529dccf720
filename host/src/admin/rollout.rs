//! What `lodge deploy`, `promote` and `rollback` do, on the machine of the host or by the admin API: they move files as a person
//! would, then wait for the result. The directory is the only state.
//!
//! The files are locked from start to end ([`ServiceFiles::try_lock`]).

use super::contract::Judgement;
use super::verdict::{self, Reports, Verdict};
use crate::guests::placement::{NewComponent, Placement, Replaced};
use crate::guests::service_files::{FileError, ServiceFiles};
use lodge_base::config::Config;
use lodge_manifest::digest::Digest;
use lodge_manifest::percent::Percent;

/// A service whose files are changed, and the host that serves them.
pub(crate) struct Rollout<'a> {
    pub(crate) config: &'a Config,
    /// The files of the service, which are locked.
    pub(crate) files: &'a ServiceFiles<'a>,
    pub(crate) reports: Reports<'a>,
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
        let checked = place.check(candidate)?;
        // A service that is refused stays so until the host has compiled what replaces it.
        let known = if canary.is_none() { verdict::refused(self.reports, &place.served) } else { None };
        let replaced = place.fill(&checked)?;
        let unchanged = matches!(replaced, Replaced::Nothing);
        if let (Some(_), Replaced::Files(before)) = (canary, &replaced)
            && (before.placed.component.is_some() || before.manifest.is_some())
        {
            verdict::wait_for_rescan();
        }
        let (service, digest) = (place.served.clone(), checked.digest);
        let verdict = Verdict::wait(self.reports, &service, &digest.to_string());
        if let Verdict::Refused(why) = &verdict
            && known.as_ref() != Some(why)
        {
            place.restore(replaced)?;
        }
        Ok(Done::Placed { service, digest, unchanged, verdict, judged: None })
    }

    /// Gives a version all requests of its service.
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
                     [upstream], to {}, then remove the version by `lodge rollback {name}`",
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
            let way_out = format!("`lodge rollback {name}` removes it, --force promotes it anyway");
            return Err(FileError::new(format!("the host withdrew {trial}: {why}; {way_out}")));
        }
        if let Some(why) = verdict::refused(self.reports, &trial) {
            return Err(FileError::new(format!("the host refuses {trial}: {why}; nothing was changed")));
        }
        self.check_written(label)?;
        let judged = verdict::judgement(self.reports, &trial);
        let digest = files.promote(label, self.config, promotion.wanted)?.ok_or_else(missing)?;
        self.wait_until_gone(&trial)?;
        let mut done = self.placed(digest);
        if let Done::Placed { judged: its, .. } = &mut done {
            *its = judged;
        }
        Ok(done)
    }

    /// Returns that nothing was done if the component that is wanted is that of the service: a pipeline may be repeated.
    fn promoted_before(&self, promotion: Promotion) -> Result<Option<Done>, FileError> {
        let Some(wanted) = promotion.wanted else { return Ok(None) };
        let content = self.files.content_of(&self.files.component(None))?;
        let is_there = content.is_some_and(|content| Digest::of(&content) == wanted);
        Ok(is_there.then(|| match self.placed(wanted) {
            Done::Placed { service, digest, verdict, judged, .. } => {
                Done::Placed { service, digest, unchanged: true, verdict, judged }
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

    /// Restores the previous component of the service, which has no version `label`.
    ///
    /// # Errors
    /// If there is none, the host would refuse it, or a file cannot be changed.
    pub(crate) fn restore_previous(&self, label: &str) -> Result<Done, FileError> {
        let files = self.files;
        let digest = files.restore_previous(self.config)?.ok_or_else(|| {
            let (version, previous) = (files.component(Some(label)), files.previous());
            let (version, previous) = (version.display(), previous.display());
            let is_files = files.manifest(self.config).is_ok_and(|manifest| manifest.files.is_some());
            let way_out = if is_files { "; to return to other files, change files.root of the service" } else { "" };
            FileError::new(format!("there is neither {version} nor {previous}, so nothing to roll back to{way_out}"))
        })?;
        Ok(self.placed(digest))
    }

    fn check_written(&self, label: &str) -> Result<(), FileError> {
        if self.own_only { self.files.check_written(label) } else { Ok(()) }
    }

    /// Waits until the host serves the component of the service.
    fn placed(&self, digest: Digest) -> Done {
        let service = self.files.name.to_owned();
        let verdict = Verdict::wait(self.reports, &service, &digest.to_string());
        Done::Placed { service, digest, unchanged: false, verdict, judged: None }
    }

    fn wait_until_gone(&self, trial: &str) -> Result<(), FileError> {
        if verdict::wait_until_gone(self.reports, trial) {
            return Ok(());
        }
        Err(FileError::new(format!("{trial} was removed from disk, but the host still serves it; see `lodge ps`")))
    }
}
