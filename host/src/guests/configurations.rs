//! Reads the configuration of services, and reads it again while they are served.
//!
//! Files are read again every second (`POLL`). Events of the file system would not do: a file that a ConfigMap mounts by `subPath` and
//! a symlink that is replaced cause none for its path.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use lodge_base::files;
use lodge_base::lock::lock;
use lodge_manifest::config::{ConfigGrant, ConfigKey, ConfigSource, is_config_key};
use lodge_manifest::refusal::{Refusal, file_name};
use lodge_manifest::spec::GuestSpec;
use lodge_runtime::capabilities::config::{ConfigValue, Configuration, Values};

/// The time between two readings.
const POLL: Duration = Duration::from_secs(1);

/// The most bytes of a value.
const MOST_VALUE: u64 = 256 << 10;

/// The most bytes of all keys and values of a service.
const MOST_BYTES: usize = 1 << 20;

/// The most keys of a service.
const MOST_KEYS: usize = 1024;

/// The configurations that are read again.
#[derive(Default)]
pub struct Configurations {
    followed: Mutex<Vec<Followed>>,
}

#[derive(Clone)]
struct Followed {
    configuration: Weak<Configuration>,
    reader: ConfigReader,
    service: Arc<str>,
    /// The problem that was logged last.
    problem: Option<String>,
}

/// What is read, and from where.
#[derive(Clone)]
struct ConfigReader {
    grant: ConfigGrant,
    /// The directory of the manifest.
    directory: PathBuf,
}

impl Configurations {
    /// Reads the configuration of a service, and goes on reading it for as long as it is in use.
    ///
    /// # Errors
    /// If a value without a default is missing. It is tried again.
    pub async fn open(&self, spec: &GuestSpec) -> Result<Option<Arc<Configuration>>, Refusal> {
        let grant = spec.manifest.config.clone();
        if grant.is_empty() {
            return Ok(None);
        }
        let reader = ConfigReader { grant, directory: spec.path.with_file_name("") };
        let values = reader.clone().read_aside().await.map_err(|problem| {
            let remedy = "the service starts as soon as all of its configuration is there";
            Refusal::new(&file_name(&spec.path.with_extension("toml")), &problem, remedy).passing()
        })?;
        let configuration = Arc::new(Configuration::new(values));
        if reader.has_files() {
            let (service, configuration) = (spec.name.as_str().into(), Arc::downgrade(&configuration));
            lock(&self.followed).push(Followed { configuration, reader, service, problem: None });
        }
        Ok(Some(configuration))
    }

    /// Reads all configurations again and again, for ever.
    pub async fn follow(self: Arc<Self>) {
        loop {
            tokio::time::sleep(POLL).await;
            let followed = std::mem::take(&mut *lock(&self.followed));
            for mut one in followed {
                let Some(configuration) = one.configuration.upgrade() else { continue };
                let read = one.reader.clone().read_aside().await;
                one.take(&configuration, read);
                lock(&self.followed).push(one);
            }
        }
    }
}

impl Followed {
    /// Replaces the values if they have changed. While they cannot be read, the last ones stay.
    fn take(&mut self, configuration: &Configuration, read: Result<Values, String>) {
        let service = &*self.service;
        match read {
            Ok(values) => {
                let before = configuration.values();
                let changed: Vec<_> = names(&before, &values).collect();
                if !changed.is_empty() {
                    tracing::info!(service, "configuration changed: {}", changed.join(", "));
                    configuration.replace(values);
                }
                self.problem = None;
            }
            Err(problem) if self.problem.as_ref() != Some(&problem) => {
                tracing::warn!(service, "{problem}; the service keeps the configuration that it has");
                self.problem = Some(problem);
            }
            Err(_) => {}
        }
    }
}

/// The keys whose values differ.
fn names<'a>(before: &'a Values, after: &'a Values) -> impl Iterator<Item = &'a str> {
    let gone = before.keys().filter(|key| !after.contains_key(*key));
    let changed = after.iter().filter(|(key, value)| before.get(*key) != Some(value)).map(|(key, _)| key);
    gone.chain(changed).map(String::as_str)
}

impl ConfigReader {
    /// Whether any value can change while the host runs.
    fn has_files(&self) -> bool {
        let in_file = |key: &ConfigKey| matches!(key.source, ConfigSource::File(_));
        !self.grant.directories.is_empty() || self.grant.keys.values().any(in_file)
    }

    /// Reads all values on a thread that may wait.
    async fn read_aside(self) -> Result<Values, String> {
        let read = tokio::task::spawn_blocking(move || self.read());
        read.await.unwrap_or_else(|error| Err(format!("the configuration cannot be read: {error}")))
    }

    fn read(&self) -> Result<Values, String> {
        let mut values = Values::new();
        for from in self.grant.directories.iter().rev() {
            for (name, text) in self.directory(&from.path)? {
                values.insert(name, ConfigValue { text, secret: from.secret });
            }
        }
        for (name, key) in &self.grant.keys {
            let text = self.value(key).or_else(|problem| key.default.clone().ok_or(problem));
            let text = text.map_err(|problem| format!("config.{name}: {problem}"))?;
            values.insert(name.clone(), ConfigValue { text, secret: key.secret });
        }
        let bytes = values.iter().map(|(name, value)| name.len() + value.text.len()).sum::<usize>();
        if values.len() > MOST_KEYS || bytes > MOST_BYTES {
            let (keys, most) = (values.len(), MOST_BYTES);
            return Err(format!("its configuration has {keys} keys and {bytes} bytes; at most {MOST_KEYS} and {most}"));
        }
        Ok(values)
    }

    fn value(&self, key: &ConfigKey) -> Result<String, String> {
        match &key.source {
            ConfigSource::Literal(text) => Ok(text.clone()),
            ConfigSource::File(path) => self.file(&self.directory.join(path)),
            ConfigSource::Environment(name) => std::env::var(name).map_err(|error| match error {
                std::env::VarError::NotPresent => format!("the host has no environment variable {name}"),
                std::env::VarError::NotUnicode(_) => format!("the environment variable {name} is not UTF-8"),
            }),
        }
    }

    /// The text of a file, without the line break at its end.
    fn file(&self, path: &Path) -> Result<String, String> {
        let problem = |error: &dyn std::fmt::Display| format!("{} cannot be read: {error}", path.display());
        let bytes = files::read(path, MOST_VALUE).map_err(|error| problem(&error))?;
        let text = String::from_utf8(bytes).map_err(|_| problem(&"it is not UTF-8"))?;
        let text = text.strip_suffix('\n').map_or(&*text, |text| text.strip_suffix('\r').unwrap_or(text));
        Ok(text.to_owned())
    }

    /// The values in a directory. Hidden files are left out, which is how Kubernetes keeps its own there.
    fn directory(&self, path: &Path) -> Result<BTreeMap<String, String>, String> {
        let path = self.directory.join(path);
        let problem = |error: std::io::Error| format!("config_directories: {} cannot be read: {error}", path.display());
        let mut values = BTreeMap::new();
        for (seen, entry) in std::fs::read_dir(&path).map_err(problem)?.enumerate() {
            if seen >= MOST_KEYS * 2 {
                return Err(format!("config_directories: {} has more than {MOST_KEYS} files", path.display()));
            }
            let entry = entry.map_err(problem)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // A symlink is what it leads to.
            if is_config_key(&name) && std::fs::metadata(entry.path()).map_err(problem)?.is_file() {
                values.insert(name, self.file(&entry.path())?);
            }
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests;
