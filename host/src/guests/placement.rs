//! Places a component in the directory: what is checked before anything changes, and what is written then. `lodge deploy` does
//! this on the machine of the host, and the admin API for a client elsewhere.

use std::path::Path;

use super::scan::{is_component, pinned};
use super::service_files::{FileError, FilesBefore, ServiceFiles, canary_manifest, failed};
use super::trust::signature;
use lodge_base::config::Config;
use lodge_base::config::key::nearest;
use lodge_base::files as disk;
use lodge_manifest::Manifest;
use lodge_manifest::digest::Digest;
use lodge_manifest::percent::Percent;
use lodge_manifest::refusal::file_name;
use lodge_manifest::spec::{GuestSpec, Middleware, host_of, is_label};

/// The default label of a canary.
pub const CANARY: &str = "canary";

/// Returns the signature of a component with this content, if it comes with one.
pub type SignatureOf<'a> = &'a dyn Fn(&[u8]) -> Result<Option<Vec<u8>>, FileError>;

/// Deploys a component on trial, apart from a running host, or says why that would refuse it.
pub type TryOut<'a> = &'a dyn Fn(GuestSpec) -> Result<(), String>;

/// A component that is to be deployed.
#[derive(Clone, Copy)]
pub struct NewComponent<'a> {
    /// Its file.
    pub file: &'a Path,
    /// Its name in messages.
    pub shown: &'a str,
    /// What it is signed by.
    pub signature: SignatureOf<'a>,
    /// Deploys it on trial.
    pub try_out: TryOut<'a>,
}

/// Where a component is to be deployed.
#[derive(Clone, Copy)]
pub struct Placement<'a> {
    /// The configuration of the host.
    pub config: &'a Config,
    /// The files of the service, which are locked.
    pub files: &'a ServiceFiles<'a>,
    /// The share and the label of a canary; `None` to replace the component of the service.
    pub canary: Option<(Percent, &'a str)>,
    /// Whether the service may be created.
    pub new: bool,
    /// Whether manifests that an operator wrote stay as they are.
    pub own_only: bool,
}

/// A place that is free.
pub struct PlannedDeploy<'a> {
    placement: Placement<'a>,
    /// The name under which the component will be served.
    pub served: String,
    /// The manifest that it will have.
    manifest: Manifest,
    /// The text of a canary's manifest.
    text: String,
}

/// A component that a host would serve.
pub struct CheckedComponent {
    content: Vec<u8>,
    /// The file of its signature, if it has one.
    signature: Option<Vec<u8>>,
    /// Its digest.
    pub digest: Digest,
}

/// What was changed.
pub enum Replaced {
    /// Nothing but, perhaps, the signature: the same component and manifest were there.
    Nothing,
    /// The files in whose places these were.
    Files(FilesBefore),
}

impl<'a> Placement<'a> {
    /// Finds the place of the component, and checks whether it is free.
    ///
    /// # Errors
    /// Why there is none, and what to do.
    pub fn find(self) -> Result<PlannedDeploy<'a>, FileError> {
        let (files, config, name) = (self.files, self.config, self.files.name);
        let Some((percent, label)) = self.canary else {
            if !self.new {
                self.check_exists(&format!("--new creates a service at /{name}"))?;
            } else if !files.is_any() {
                self.check_free()?;
            }
            let manifest = files.manifest(config)?;
            files.check_replaceable(&manifest)?;
            return Ok(PlannedDeploy { placement: self, served: name.to_owned(), manifest, text: String::new() });
        };
        check_label(label).map_err(FileError::new)?;
        self.check_exists(&format!("a canary needs a service; without --canary, --new creates {name}"))?;
        if self.own_only {
            files.check_written(label)?;
        }
        let text = canary_manifest(name, percent);
        let served = format!("{name}@{label}");
        let version = files.manifest(config)?.version(&text, config.engine.max_memory);
        let manifest = version.map_err(|problems| FileError::new(format!("{served}: {}", problems.join("; "))))?;
        Ok(PlannedDeploy { placement: self, served, manifest, text })
    }

    /// Returns an error if another service of the directory has the host name that the service would have, whether that is served
    /// now or not: the order of their names would decide which one is, once the host starts again.
    fn check_free(&self) -> Result<(), FileError> {
        let name = self.files.name;
        match self.files.services().into_iter().find(|other| host_of(other) == host_of(name)) {
            Some(other) => Err(FileError::new(format!(
                "the host name of {name} already belongs to {other}: {}; nothing was changed; choose another name",
                host_of(name)
            ))),
            None => Ok(()),
        }
    }

    /// Returns an error if the service does not exist; `way_out` says what to do.
    fn check_exists(&self, way_out: &str) -> Result<(), FileError> {
        let (files, name) = (self.files, self.files.name);
        if [files.component(None), files.service_manifest()].iter().any(|path| path.exists()) {
            return Ok(());
        }
        let names = files.services();
        let near = nearest(name, names.iter().map(String::as_str));
        let near = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        let shown = files.directory.display();
        let missing = format!("there is neither {name}.wasm nor {name}.toml in {shown}");
        Err(FileError::new(format!("{missing}{near}; {way_out}")))
    }
}

/// Checks the label of a canary.
///
/// # Errors
/// What a label may have.
pub fn check_label(label: &str) -> Result<(), String> {
    if is_label(label) {
        Ok(())
    } else {
        Err(format!("`{label}` is not a valid label; use letters, digits, `-`, `_` and, inside, dots"))
    }
}

impl PlannedDeploy<'_> {
    fn label(&self) -> Option<&str> {
        self.placement.canary.map(|(_, label)| label)
    }

    /// Checks that a host would serve this component here, before anything is changed. Its file is read once, so the bytes that
    /// were checked are the bytes that are placed.
    ///
    /// # Errors
    /// Why it would be refused, and what to do.
    pub fn check(&self, candidate: &NewComponent<'_>) -> Result<CheckedComponent, FileError> {
        let NewComponent { file, shown, .. } = *candidate;
        let (config, files) = (self.placement.config, self.placement.files);
        let refused = |reason: &str, remedy: &str| FileError::new(format!("{shown}: {reason}; {remedy}"));
        let content =
            disk::read(file, config.engine.max_file as u64).map_err(|error| failed(Path::new(shown), &error))?;
        is_component(&content).map_err(|(reason, remedy)| refused(reason, remedy))?;
        let (digest, place) = (Digest::of(&content), files.component(self.label()));
        let signature = self.signature(candidate, &content, &place)?;
        pinned(&self.manifest, digest, "it").map_err(|why| refused(&why.reason, &why.remedy))?;
        if !self.manifest.enabled {
            let name = files.name;
            return Err(FileError::new(format!(
                "{name}.toml has `enabled = false`, so the component would not be served; remove that line first"
            )));
        }
        let middleware = self.middleware(&place)?;
        let spec = GuestSpec {
            name: self.served.clone(),
            // Files that the manifest names are relative to it, and not to the new component.
            path: place,
            // Compiled from the file, which fails if its digest has changed meanwhile.
            content: Some(file.to_owned()),
            digest,
            size: content.len() as u64,
            middleware,
            manifest: self.manifest.clone(),
        };
        (candidate.try_out)(spec).map_err(FileError::new)?;
        Ok(CheckedComponent { content, signature, digest })
    }

    /// Returns the components that its manifest puts in front of it. The host checks their signatures.
    fn middleware(&self, place: &Path) -> Result<Vec<Middleware>, FileError> {
        let read = |name: &String| {
            let path = place.with_file_name(name);
            let content = disk::read(&path, self.placement.config.engine.max_file as u64);
            let content = content.map_err(|error| failed(&path, &error))?;
            Ok(Middleware { digest: Digest::of(&content), size: content.len() as u64, path })
        };
        self.manifest.middleware.iter().map(read).collect()
    }

    /// Returns the signature that the component comes with. Without any, one that does not change keeps the one that it has. Fails if
    /// the host would refuse it.
    fn signature(
        &self,
        candidate: &NewComponent<'_>,
        content: &[u8],
        replaced: &Path,
    ) -> Result<Option<Vec<u8>>, FileError> {
        let (config, files) = (self.placement.config, self.placement.files);
        let text = match (candidate.signature)(content)? {
            Some(text) => Some(text),
            None if files.content_of(replaced)?.is_some_and(|replaced| replaced == content) => {
                files.content_of(&signature::path(replaced))?
            }
            None => None,
        };
        let shown = file_name(Path::new(candidate.shown));
        files.check_signature((content, text.as_deref()), &shown, replaced, config)?;
        Ok(text)
    }

    /// Writes the files. Returns what there was before.
    ///
    /// # Errors
    /// If a file cannot be read or written. What was there before is restored then, as far as that is possible.
    pub fn fill(&self, component: &CheckedComponent) -> Result<Replaced, FileError> {
        let CheckedComponent { content, signature, .. } = component;
        let (files, label, own_only) = (self.placement.files, self.label(), self.placement.own_only);
        if let Some(label) = label.filter(|_| own_only) {
            // An operator may have written it while the component was compiled.
            files.check_written(label)?;
        }
        let (at, before) = (files.component(label), files.before(label)?);
        let placed = before.placed.component.as_ref();
        let shares = label.is_none() || before.manifest.as_deref() == Some(self.text.as_bytes());
        if shares && placed == Some(content) {
            return self.sign(component, &at, before.placed.signature);
        }
        let place = || files.place(content, signature.as_deref(), &at);
        let filled = match label {
            None => files.keep_previous(content).and_then(|()| place()),
            Some(label) => {
                let share = || files.write(self.text.as_bytes(), &files.manifest_of(label));
                // A share alone serves nothing, and one that is meant for another component must not be that of the one before. What
                // a key deploys must not run with the grants of a manifest before it.
                let share_first = placed.is_none() || own_only;
                if share_first { share().and_then(|()| place()) } else { place().and_then(|()| share()) }
            }
        };
        match filled {
            Ok(()) => Ok(Replaced::Files(before)),
            Err(error) => {
                // The first error is the one to report.
                let _ = files.restore(label, before);
                Err(error)
            }
        }
    }

    /// Replaces the signature of a component that is there already: by other keys, or by the same once more.
    fn sign(&self, component: &CheckedComponent, at: &Path, before: Option<Vec<u8>>) -> Result<Replaced, FileError> {
        match &component.signature {
            Some(now) if before.as_ref() != Some(now) => self.placement.files.write(now, &signature::path(at))?,
            _ => {}
        }
        Ok(Replaced::Nothing)
    }

    /// Restores the files before those that the host refuses.
    ///
    /// # Errors
    /// If a file cannot be written or removed.
    pub fn restore(&self, replaced: Replaced) -> Result<(), FileError> {
        match replaced {
            Replaced::Files(before) => self.placement.files.restore(self.label(), before),
            Replaced::Nothing => Ok(()),
        }
    }
}
