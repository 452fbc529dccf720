//! The files of one service in a directory, and their lock.

use std::fs::{self, File, TryLockError};
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::remove;
use crate::cli::out::{CliError, notice};
use crate::guests::scan::MANIFEST;
use lodge_base::config::Config;
use lodge_base::config::key::nearest;
use lodge_base::files;
use lodge_manifest::Manifest;
use lodge_manifest::spec::is_name;

/// The longest wait for another command on the same service, which may itself wait for a compilation.
const LOCK_TIMEOUT: Duration = Duration::from_secs(180);

/// The interval between attempts to get the lock.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// The age at which a partial file is left over from a killed command; writing a file takes less.
const ABANDONED: Duration = Duration::from_secs(600);

/// The files of a service in a directory.
pub(super) struct ServiceFiles<'a> {
    directory: &'a Path,
    pub(super) name: &'a str,
    /// The most bytes of a component.
    most: u64,
}

impl<'a> ServiceFiles<'a> {
    pub(super) fn new(directory: &'a Path, name: &'a str, most: u64) -> Result<Self, CliError> {
        if !is_name(name) {
            return Err(CliError::Usage(format!(
                "`{name}` is not a valid name of a service; use letters, digits, `-` and `_`"
            )));
        }
        Ok(Self { directory, name, most })
    }

    /// Waits until no other command works on this service. The lock is held until the returned file is dropped or the
    /// process ends.
    pub(super) fn lock(&self) -> Result<File, CliError> {
        // Hosts ignore names that begin with a dot.
        let path = self.directory.join(format!(".{}.lock", self.name));
        let file = File::options().create(true).append(true).open(&path).map_err(|error| failed(&path, &error))?;
        let start = Instant::now();
        let mut waits = false;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(error)) => return Err(failed(&path, &error)),
                Err(TryLockError::WouldBlock) if start.elapsed() >= LOCK_TIMEOUT => {
                    let (name, long) = (self.name, humantime::format_duration(LOCK_TIMEOUT));
                    let problem = format!(
                        "another command has been working on {name} for {long}; nothing was changed; try again later"
                    );
                    return Err(CliError::Problem(problem));
                }
                Err(TryLockError::WouldBlock) => {
                    if !std::mem::replace(&mut waits, true) {
                        notice(&format!("waiting for another command on {}", self.name));
                    }
                    std::thread::park_timeout(RETRY_INTERVAL);
                }
            }
        }
        self.tidy();
        Ok(file)
    }

    /// Removes partial files of killed commands on this service. Errors are ignored, since the files do no harm.
    fn tidy(&self) {
        let own = [format!(".{}.", self.name), format!(".{}@", self.name)];
        for entry in fs::read_dir(self.directory).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let partial = own.iter().any(|own| name.starts_with(own)) && name.contains(files::PARTIAL);
            let age = entry.metadata().and_then(|metadata| metadata.modified()).map(|time| time.elapsed());
            if partial && age.is_ok_and(|age| age.is_ok_and(|age| age >= ABANDONED)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    pub(super) fn component(&self, label: Option<&str>) -> PathBuf {
        let label = label.map_or(String::new(), |label| format!("@{label}"));
        self.directory.join(format!("{}{label}.wasm", self.name))
    }

    /// Returns the path of a version's manifest.
    pub(super) fn manifest_of(&self, label: &str) -> PathBuf {
        self.directory.join(format!("{}@{label}.toml", self.name))
    }

    pub(super) fn service_manifest(&self) -> PathBuf {
        self.directory.join(format!("{}.toml", self.name))
    }

    /// Returns the path of the previous component. It does not end in `.wasm`, so that no host serves it.
    pub(super) fn previous(&self) -> PathBuf {
        self.directory.join(format!("{}.wasm.previous", self.name))
    }

    /// Reads the service's manifest.
    ///
    /// # Errors
    /// If it is invalid, since a component beside it would not be served.
    pub(super) fn manifest(&self, config: &Config) -> Result<Manifest, CliError> {
        let path = self.service_manifest();
        let text = match files::read_text(&path, MANIFEST) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed(&path, &error)),
        };
        Manifest::read(self.name, &text, &config.limits, config.engine.max_memory).map_err(|problems| {
            let (path, problems) = (path.display(), problems.join("; "));
            CliError::new(format!("{path}: {problems}; nothing was changed; correct the manifest first"))
        })
    }

    /// Returns an error if the service does not exist; `way_out` says what to do.
    pub(super) fn check_exists(&self, way_out: &str) -> Result<(), CliError> {
        let name = self.name;
        if [self.component(None), self.service_manifest()].iter().any(|path| path.exists()) {
            return Ok(());
        }
        let names = self.services();
        let near = nearest(name, names.iter().map(String::as_str));
        let near = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        let shown = self.directory.display();
        let missing = format!("there is neither {name}.wasm nor {name}.toml in {shown}");
        Err(CliError::new(format!("{missing}{near}; {way_out}")))
    }

    /// Returns the names of all services in the directory.
    fn services(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory).into_iter().flatten().flatten();
        let stem = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            let stem = name.strip_suffix(".wasm").or_else(|| name.strip_suffix(".toml"))?;
            is_name(stem).then(|| stem.to_owned())
        };
        entries.filter_map(stem).collect()
    }

    /// Keeps the current component for a rollback, unless it equals `content`: repeating a deployment must not replace
    /// the version that a rollback returns to.
    pub(super) fn keep_previous(&self, content: &[u8]) -> Result<(), CliError> {
        match self.content_of(&self.component(None))? {
            Some(now) if now != content => self.write(&now, &self.previous()),
            _ => Ok(()),
        }
    }

    /// Reads a file; `None` if it does not exist.
    pub(super) fn content_of(&self, path: &Path) -> Result<Option<Vec<u8>>, CliError> {
        match files::read(path, self.most.max(MANIFEST)) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(path, &error)),
        }
    }

    /// Restores the files after a version was refused. The component first: without it, the manifest is not a service.
    pub(super) fn restore(
        &self,
        manifest: &Path,
        component: &Path,
        before: [Option<Vec<u8>>; 2],
    ) -> Result<(), CliError> {
        let [text, content] = before;
        for (path, before) in [(component, content), (manifest, text)] {
            match before {
                Some(content) => self.write(&content, path)?,
                None => drop(remove(path)?),
            }
        }
        Ok(())
    }

    /// Removes a file. Returns whether it existed.
    pub(super) fn remove(&self, path: &Path) -> Result<bool, CliError> {
        remove(path)
    }

    /// Writes a file atomically, so that a host never reads half of it. A new file gets the mode of the service's own
    /// file, so that the host can read both.
    pub(super) fn write(&self, content: &[u8], at: &Path) -> Result<(), CliError> {
        let is_manifest = at.extension().is_some_and(|extension| extension == "toml");
        let own = if is_manifest { self.service_manifest() } else { self.component(None) };
        files::replace_like(at, content, &own).map_err(|error| failed(at, &error))
    }
}

/// Returns the error for a failed file operation.
pub(super) fn failed(path: &Path, error: &Error) -> CliError {
    CliError::new(format!("{}: {error}", path.display()))
}
