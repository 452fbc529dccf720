//! `lodge deploy`, `promote` and `rollback`: they move files, as a person would, and then ask the host what it made of
//! that. The directory is the truth; nothing is remembered elsewhere.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::client::Client;
use super::client::api::Entry;
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

/// How long a host may take to serve what was put there: a large component compiles for a minute.
const PATIENCE: Duration = Duration::from_secs(90);

/// Between two looks at what the host says.
const LOOK: Duration = Duration::from_millis(200);

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
    let digest = check(config, file)?;
    let served = match canary {
        None => {
            files.is_free(config)?;
            files.keep_previous()?;
            files.place(file, &files.component(None))?;
            name.to_owned()
        }
        Some((percent, label)) => {
            if !is_name(label) {
                return Err(Failure::Usage(format!("`{label}` cannot be a version's label; take letters and digits")));
            }
            let manifest = format!(
                "# By `lodge deploy`. `lodge promote {name}` gives it everything, `lodge rollback {name}` takes it away.\n\
                 percent = \"{percent}\"\n\n[rollback]\n"
            );
            files.write(manifest.as_bytes(), &files.manifest(label))?;
            files.place(file, &files.component(Some(label)))?;
            format!("{name}@{label}")
        }
    };
    confirm(client, &served, &digest.to_string())
}

/// Gives a version on trial all requests of its service.
pub(super) fn promote(config: &Config, client: Option<&Client>, name: &str, label: &str) -> Result<(), Failure> {
    let files = Files::new(config, name)?;
    let version = files.component(Some(label));
    let content = fs::read(&version).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Failure::Problem(format!(
            "there is no {}; `lodge deploy {name} FILE --canary 10%` puts one there",
            version.display()
        )),
        _ => failed(&version, &error),
    })?;
    files.is_free(config)?;
    files.keep_previous()?;
    let service = files.component(None);
    fs::rename(&version, &service).map_err(|error| failed(&service, &error))?;
    remove(&files.manifest(label))?;
    confirm(client, name, &Digest::of(&content).to_string())
}

/// Takes the version on trial away or, without one, puts the service back to what it was before.
pub(super) fn rollback(config: &Config, client: Option<&Client>, name: &str, label: &str) -> Result<(), Failure> {
    let files = Files::new(config, name)?;
    let (manifest, version) = (files.manifest(label), files.component(Some(label)));
    let service = files.component(None);
    if remove(&version)? | remove(&manifest)? {
        let digest = fs::read(&service).map(|content| Digest::of(&content).to_string());
        return match digest {
            Ok(digest) => confirm(client, name, &digest),
            // The service may be replicas elsewhere.
            Err(_) => out::line(&format!("{name}@{label} is removed")),
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
        None => return Err(Failure::Problem(format!("{shown}: its manifest says that it is not enabled"))),
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

/// Waits until the host serves this, or says why not.
fn confirm(client: Option<&Client>, name: &str, digest: &str) -> Result<(), Failure> {
    let short = digest.get(..12).unwrap_or_default();
    let Some(client) = client else {
        return out::line(&format!("{name} is {short} on disk; admin is `off`, so no host can say what it serves"));
    };
    let until = Instant::now() + PATIENCE;
    loop {
        let entries: Vec<Entry> = match client.get("/v1/services").and_then(|answer| client.read(&answer)) {
            Ok(entries) => entries,
            Err(_) => {
                let place = client.place();
                return out::line(&format!("{name} is {short} on disk; no host at {place} says what it serves"));
            }
        };
        let its = |file: &str| file.rsplit_once('.').is_some_and(|(stem, _)| stem == name);
        if let Some(refused) = entries.iter().find(|entry| its(&entry.file)).and_then(|entry| entry.refused.as_ref()) {
            return Err(Failure::new(format!("the host refuses {name}: {}; {}", refused.reason, refused.remedy)));
        }
        let serves = entries.iter().filter_map(|entry| entry.service.as_ref());
        if serves.into_iter().any(|service| service.name == name && service.digest == digest) {
            return out::line(&format!("{name} serves {short}"));
        }
        if Instant::now() >= until {
            return Err(Failure::Problem(format!(
                "{name} is {short} on disk, and the host does not serve it yet; see `lodge ps`"
            )));
        }
        std::thread::park_timeout(LOOK);
    }
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
