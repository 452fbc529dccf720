//! `lodge deploy`, `promote` and `rollback`: they move files, as a person would, and then ask the host what it made of
//! that. The directory is the truth; nothing is remembered elsewhere.

mod verdict;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use self::verdict::{Verdict, confirm, leave};
use super::client::Client;
use super::out::{self, Failure, complain};
use crate::config::Config;
use crate::guests::compile::Compiler;
use crate::guests::deployment::Backend;
use crate::guests::digest::Digest;
use crate::guests::load::{Scanner, State, is_name};
use crate::guests::manifest::Manifest;
use crate::guests::manifest::share::Percent;

/// The label of a version on trial that was deployed without another.
pub(super) const CANARY: &str = "canary";

/// The files of a service in a directory.
struct Files<'a> {
    directory: &'a Path,
    name: &'a str,
}

/// Puts a component in the place of a service or, with a part of its requests, beside it.
pub(super) fn deploy(
    config: &Config,
    client: Option<&Client>,
    name: &str,
    file: &Path,
    canary: Option<(Percent, &str)>,
) -> Result<(), Failure> {
    let files = Files::new(config, name)?;
    let Some((percent, label)) = canary else {
        let digest = check(config, file)?;
        files.is_free(config)?;
        files.keep_previous()?;
        files.place(file, &files.component(None))?;
        return confirm(client, name, &digest.to_string());
    };
    if !is_name(label) {
        return Err(Failure::Usage(format!("`{label}` cannot be a version's label; take letters and digits")));
    }
    files.is_there()?;
    let digest = check(config, file)?.to_string();
    let text = format!(
        "# By `lodge deploy`. `lodge promote {name}` gives it everything, `lodge rollback {name}` takes it away.\n\
         percent = \"{percent}\"\n\n[rollback]\n"
    );
    let (manifest, component) = (files.manifest(label), files.component(Some(label)));
    let before = [&manifest, &component].map(|path| fs::read(path).ok());
    files.write(text.as_bytes(), &manifest)?;
    files.place(file, &component)?;
    let served = format!("{name}@{label}");
    if before.iter().any(Option::is_some) {
        verdict::let_look();
    }
    let verdict = Verdict::of(client, &served, &digest);
    if let Verdict::Refused(_) = verdict {
        files.put_back(&manifest, &component, before)?;
    }
    verdict.tell(&served, &digest)
}

/// Gives a version on trial all requests of its service. One that the host took out needs `force`.
pub(super) fn promote(
    config: &Config,
    client: Option<&Client>,
    name: &str,
    label: &str,
    force: bool,
) -> Result<(), Failure> {
    let files = Files::new(config, name)?;
    let (version, trial) = (files.component(Some(label)), format!("{name}@{label}"));
    let content = fs::read(&version).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Failure::Problem(format!(
            "there is no {}; `lodge deploy {name} FILE --canary 10%` puts one there",
            version.display()
        )),
        _ => failed(&version, &error),
    })?;
    if let Some(why) = verdict::withdrawn(client, &trial).filter(|_| !force) {
        let way_out = format!("`lodge rollback {name}` takes it away, --force promotes it all the same");
        return Err(Failure::new(format!("{trial} was taken out by the host: {why}; {way_out}")));
    }
    files.is_free(config)?;
    files.keep_previous()?;
    let service = files.component(None);
    fs::rename(&version, &service).map_err(|error| failed(&service, &error))?;
    remove(&files.manifest(label))?;
    leave(client, &trial)?;
    confirm(client, name, &Digest::of(&content).to_string())
}

/// Takes the version on trial away or, without one, puts the service back to what it was before.
pub(super) fn rollback(config: &Config, client: Option<&Client>, name: &str, label: &str) -> Result<(), Failure> {
    let files = Files::new(config, name)?;
    let (manifest, version) = (files.manifest(label), files.component(Some(label)));
    let service = files.component(None);
    if version.exists() || manifest.exists() {
        let trial = format!("{name}@{label}");
        // It is off at once, while files that are only removed are missed for a moment first.
        files.write(b"enabled = false\n", &manifest)?;
        verdict::is_off(client, &trial);
        remove(&version)?;
        remove(&manifest)?;
        leave(client, &trial)?;
        let digest = fs::read(&service).map(|content| Digest::of(&content).to_string());
        return match digest {
            Ok(digest) => confirm(client, name, &digest),
            // The service may be replicas elsewhere.
            Err(_) => out::line(&format!("{trial} is removed")),
        };
    }
    let previous = files.previous();
    let content = fs::read(&previous).map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            let wanted = version.display();
            Failure::Problem(format!("there is neither {wanted} nor {}: nothing to go back to", previous.display()))
        }
        _ => failed(&previous, &error),
    })?;
    fs::rename(&previous, &service).map_err(|error| failed(&service, &error))?;
    confirm(client, name, &Digest::of(&content).to_string())
}

impl<'a> Files<'a> {
    fn new(config: &'a Config, name: &'a str) -> Result<Self, Failure> {
        if !is_name(name) {
            return Err(Failure::Usage(format!("`{name}` cannot be a service's name; take letters, digits, `-`, `_`")));
        }
        if !config.guests.is_dir() {
            let shown = config.guests.display();
            return Err(Failure::Problem(format!("there is no directory {shown}; --guests names another")));
        }
        Ok(Self { directory: &config.guests, name })
    }

    fn component(&self, label: Option<&str>) -> PathBuf {
        let label = label.map_or(String::new(), |label| format!("@{label}"));
        self.directory.join(format!("{}{label}.wasm", self.name))
    }

    fn manifest(&self, label: &str) -> PathBuf {
        self.directory.join(format!("{}@{label}.toml", self.name))
    }

    /// Not `.wasm` at its end, so that no host serves it.
    fn previous(&self) -> PathBuf {
        self.directory.join(format!("{}.wasm.previous", self.name))
    }

    /// Whether there is a service that could have versions.
    fn is_there(&self) -> Result<(), Failure> {
        let name = self.name;
        if ["wasm", "toml"].iter().any(|end| self.directory.join(format!("{name}.{end}")).exists()) {
            return Ok(());
        }
        let shown = self.directory.display();
        Err(Failure::new(format!(
            "there is neither {name}.wasm nor {name}.toml in {shown}, so there is nothing to try it beside; \
             `lodge deploy {name} FILE` without --canary serves it as {name}"
        )))
    }

    /// Whether a component under the service's name would be what serves.
    fn is_free(&self, config: &Config) -> Result<(), Failure> {
        let file = self.directory.join(format!("{}.toml", self.name));
        let Ok(text) = fs::read_to_string(&file) else { return Ok(()) };
        // One that cannot be read is for the host to refuse.
        let Ok(manifest) = Manifest::read(self.name, &text, &config.limits, config.engine.max_memory) else {
            return Ok(());
        };
        let (file, name) = (file.display(), self.name);
        if manifest.upstream.is_some() {
            let way_out = format!(
                "put the component at {name}.wasm yourself, then take [upstream] out of {file}: until then the replicas \
                 answer; or give {name} a part of it by --canary"
            );
            return Err(Failure::Problem(format!("{file} says that {name} is elsewhere; {way_out}")));
        }
        match manifest.component {
            Some(component) => Err(Failure::new(format!("{file} names {component}; put the new component there"))),
            None => Ok(()),
        }
    }

    /// Keeps what serves now, for who wants to go back.
    fn keep_previous(&self) -> Result<(), Failure> {
        let (service, previous) = (self.component(None), self.previous());
        match fs::read(&service) {
            Ok(content) => self.write(&content, &previous),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed(&service, &error)),
        }
    }

    /// What was there before a version was refused. The component first: without it, its manifest is no service.
    fn put_back(&self, manifest: &Path, component: &Path, before: [Option<Vec<u8>>; 2]) -> Result<(), Failure> {
        let [text, content] = before;
        for (path, before) in [(component, content), (manifest, text)] {
            match before {
                Some(content) => self.write(&content, path)?,
                None => drop(remove(path)?),
            }
        }
        Ok(())
    }

    fn place(&self, file: &Path, at: &Path) -> Result<(), Failure> {
        let content = fs::read(file).map_err(|error| failed(file, &error))?;
        self.write(&content, at)
    }

    /// In one step: a host never sees half a file.
    fn write(&self, content: &[u8], at: &Path) -> Result<(), Failure> {
        let partial = self.directory.join(format!(".{}.new", self.name));
        let written = fs::write(&partial, content).and_then(|()| fs::rename(&partial, at));
        written.map_err(|error| failed(at, &error))
    }
}

/// Whether a host would serve it, before anything is touched.
fn check(config: &Config, file: &Path) -> Result<Digest, Failure> {
    let shown = file.display();
    let found = Scanner::new(file).scan(config).map_err(|error| failed(file, &error))?;
    let spec = match found.into_values().next().map(|found| found.state) {
        Some(State::Ready(spec)) => spec,
        Some(State::Refused(why) | State::Orphan(why)) => return Err(Failure::new(format!("{shown}: {}", why.reason))),
        Some(State::Disabled) | None => {
            return Err(Failure::Problem(format!("{shown}: its manifest says that it is not enabled")));
        }
    };
    complain(&format!("compiling {shown}"));
    let digest = spec.digest;
    let compiled = super::block_on(async {
        let compiler = std::sync::Arc::new(Compiler::new(config)?);
        Backend::deploy(spec, &compiler).await.map_err(|why| why.to_string())
    });
    compiled.and_then(|compiled| compiled).map_err(Failure::new)?;
    Ok(digest)
}

/// Whether there was anything to remove.
fn remove(path: &Path) -> Result<bool, Failure> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed(path, &error)),
    }
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("{}: {error}", path.display()))
}
