//! Reads the values of a service from where its manifest says that they are.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lodge_base::files;
use lodge_base::files::complete::{SeenFile, SeenFiles};
use lodge_manifest::config::{ConfigGrant, ConfigKey, ConfigSource, is_config_key, of_text};
use lodge_manifest::digest::Digest;
use lodge_manifest::env::ENV_BYTES;
use lodge_runtime::capabilities::config::{ConfigReading, ConfigValue, Values};

/// The most bytes of a value.
const MOST_VALUE: u64 = 256 << 10;

/// The most bytes of all keys and values of a service, of the values of `[config]`, and of each directory.
const MOST_BYTES: usize = 1 << 20;

/// The most bytes of a file whose configuration others refer to.
const MOST_TEXT: u64 = 1 << 20;

/// The most keys of a service.
const MOST_KEYS: usize = 1024;

/// The files that values were read from. A file that does not exist may have a default in its place.
pub(super) type ConfigFiles = SeenFiles<Option<Digest>>;

/// All values at one look, and their files.
#[derive(PartialEq, Eq)]
pub(super) struct SeenConfig {
    pub(super) reading: ConfigReading,
    pub(super) files: ConfigFiles,
}

/// What is read, and from where.
#[derive(Clone)]
pub(super) struct ConfigReader {
    pub(super) grant: ConfigGrant,
    /// The environment variables.
    pub(super) env: BTreeMap<String, ConfigKey>,
    /// The directory of the manifest.
    pub(super) directory: PathBuf,
    /// The file with the host's shared configuration.
    pub(super) host: Option<PathBuf>,
}

impl ConfigReader {
    /// Whether any value can change while the host runs.
    pub(super) fn has_files(&self) -> bool {
        let in_file = |key: &ConfigKey| {
            matches!(key.source, ConfigSource::File(_) | ConfigSource::Host(_) | ConfigSource::Service { .. })
        };
        let mut keys = self.grant.keys.values().chain(self.env.values());
        !self.grant.directories.is_empty() || keys.any(in_file)
    }

    /// Whether a value is missing that no file can bring: a variable of the host's environment, or its setting `shared_config`.
    pub(super) fn needs_restart(&self) -> bool {
        let lacks = |key: &ConfigKey| match &key.source {
            ConfigSource::Environment(name) => std::env::var_os(name).is_none(),
            ConfigSource::Host(_) => self.host.is_none(),
            _ => false,
        };
        self.grant.keys.values().chain(self.env.values()).any(|key| key.default.is_none() && lacks(key))
    }

    /// Reads all values.
    ///
    /// # Errors
    /// The key and the problem of the first one that cannot be read.
    pub(super) fn read(&self) -> Result<SeenConfig, String> {
        let mut files = ConfigFiles::new();
        let config = self.config(&mut files)?;
        let env = Arc::new(self.env(&config, &mut files)?);
        Ok(SeenConfig { reading: ConfigReading { config, env }, files })
    }

    /// The environment variables. `config` has the values that they refer to.
    fn env(&self, config: &Values, files: &mut ConfigFiles) -> Result<Values, String> {
        let mut values = Values::new();
        for (name, key) in &self.env {
            let (found, mut secret) = match &key.source {
                ConfigSource::Config(of) => match config.get(of) {
                    Some(value) => (Ok(value.text.clone()), value.secret),
                    None => (Err(NoValue::Absent(format!("[config] has no `{of}`"))), false),
                },
                _ => match self.value(&key.source, files) {
                    Ok(value) => (Ok(value.text), value.secret),
                    Err(problem) => (Err(problem), false),
                },
            };
            let text = found.or_else(|problem| problem.default(key));
            let text = text.map_err(|problem| format!("env.{name}: {problem}"))?;
            if text.contains('\0') {
                return Err(format!("env.{name}: it contains a NUL byte, which no environment variable can"));
            }
            secret |= key.secret;
            values.insert(name.clone(), ConfigValue { text, secret });
        }
        let bytes = size(&values);
        if bytes > ENV_BYTES {
            return Err(format!("env: {bytes} bytes are more than {ENV_BYTES}"));
        }
        Ok(values)
    }

    fn config(&self, files: &mut ConfigFiles) -> Result<Values, String> {
        let mut values = Values::new();
        for from in self.grant.directories.iter().rev() {
            for (name, text) in self.directory(&from.path, files)? {
                values.insert(name, ConfigValue { text, secret: from.secret });
            }
        }
        let mut left = MOST_BYTES;
        for (name, key) in &self.grant.keys {
            let usual = |problem: NoValue| Ok(ConfigValue { text: problem.default(key)?, secret: false });
            let value = self.value(&key.source, files).or_else(usual);
            let value = value.map_err(|problem: NoValue| format!("config.{name}: {problem}"))?;
            let full = || format!("config has more than {MOST_BYTES} bytes");
            left = left.checked_sub(value.text.len()).ok_or_else(full)?;
            values.insert(name.clone(), ConfigValue { secret: value.secret || key.secret, ..value });
        }
        let bytes = size(&values);
        if values.len() > MOST_KEYS || bytes > MOST_BYTES {
            let (keys, most) = (values.len(), MOST_BYTES);
            return Err(format!("its configuration has {keys} keys and {bytes} bytes; at most {MOST_KEYS} and {most}"));
        }
        Ok(values)
    }

    fn value(&self, source: &ConfigSource, files: &mut ConfigFiles) -> Result<ConfigValue, NoValue> {
        let text = match source {
            ConfigSource::Literal(text) => Ok(text.clone()),
            ConfigSource::File(path) => value_in(&self.directory.join(path), files),
            ConfigSource::Environment(name) => std::env::var(name).map_err(|error| match error {
                std::env::VarError::NotPresent => {
                    NoValue::Absent(format!("the host has no environment variable {name}"))
                }
                std::env::VarError::NotUnicode(_) => {
                    NoValue::Unreadable(format!("the environment variable {name} is not UTF-8"))
                }
            }),
            ConfigSource::Host(key) => return self.host(key, files),
            ConfigSource::Service { service, key } => return self.service(service, key, files),
            // Only environment variables refer to other values.
            ConfigSource::Config(key) => Err(NoValue::Unreadable(format!("it refers to `{key}`"))),
        };
        text.map(|text| ConfigValue { text, secret: false })
    }

    /// A value of the host's shared configuration.
    fn host(&self, key: &str, files: &mut ConfigFiles) -> Result<ConfigValue, NoValue> {
        let none = || NoValue::Absent("the host shares no configuration; set `shared_config` in lodge.toml".into());
        let path = self.host.as_deref().ok_or_else(none)?;
        let found = self.shared(path, key, files).map_err(NoValue::Unreadable)?;
        found.ok_or_else(|| NoValue::Absent(format!("the host's shared configuration has no `{key}`")))
    }

    /// A value of another service, whose manifest shares it.
    fn service(&self, service: &str, key: &str, files: &mut ConfigFiles) -> Result<ConfigValue, NoValue> {
        let path = self.directory.join(format!("{service}.toml"));
        let grant = grant(&path, files).map_err(NoValue::Unreadable)?;
        if !grant.shared.iter().any(|shared| shared == key) {
            return Err(NoValue::Absent(format!(
                "{service}.toml does not share it: add `{key}` to its `config_shared`"
            )));
        }
        let found = self.shared(&path, key, files).map_err(NoValue::Unreadable)?;
        found.ok_or_else(|| NoValue::Absent(format!("{service}.toml has no `{key}` in [config]")))
    }

    /// The value of `key` in the configuration of another file. References to further services are not followed.
    fn shared(&self, path: &Path, key: &str, files: &mut ConfigFiles) -> Result<Option<ConfigValue>, String> {
        let mut grant = grant(path, files)?;
        grant.keys.retain(|name, _| name == key);
        let further = |key: &ConfigKey| matches!(key.source, ConfigSource::Service { .. } | ConfigSource::Host(_));
        if grant.keys.values().any(further) {
            return Err(format!("`{key}` is itself a reference to another service or to the host"));
        }
        let directory = path.parent().unwrap_or(Path::new("")).to_owned();
        let mut values = Self { grant, env: BTreeMap::new(), directory, host: None }.config(files)?;
        Ok(values.remove(key))
    }

    /// The values in a directory. Hidden files are left out, which is how Kubernetes keeps its own there.
    fn directory(&self, path: &Path, files: &mut ConfigFiles) -> Result<BTreeMap<String, String>, String> {
        let path = self.directory.join(path);
        let problem = |error: std::io::Error| format!("config_directories: {} cannot be read: {error}", path.display());
        let (mut values, mut left) = (BTreeMap::new(), MOST_BYTES);
        for (seen, entry) in std::fs::read_dir(&path).map_err(problem)?.enumerate() {
            if seen >= MOST_KEYS * 2 {
                return Err(format!("config_directories: {} has more than {MOST_KEYS} files", path.display()));
            }
            let entry = entry.map_err(problem)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // A symlink is what it leads to.
            if is_config_key(&name) && std::fs::metadata(entry.path()).map_err(problem)?.is_file() {
                let text = value_in(&entry.path(), files).map_err(|problem| problem.to_string())?;
                let full = || format!("config_directories: {} has more than {MOST_BYTES} bytes", path.display());
                left = left.checked_sub(text.len()).ok_or_else(full)?;
                values.insert(name, text);
            }
        }
        Ok(values)
    }
}

/// The text of a file, without the line break at its end.
fn value_in(path: &Path, files: &mut ConfigFiles) -> Result<String, NoValue> {
    let problem = |error: &dyn fmt::Display| format!("{} cannot be read: {error}", path.display());
    let bytes = read(path, MOST_VALUE, files).map_err(|error| match error.kind() {
        ErrorKind::NotFound => NoValue::Absent(problem(&error)),
        _ => NoValue::Unreadable(problem(&error)),
    })?;
    let text = String::from_utf8(bytes).map_err(|_| NoValue::Unreadable(problem(&"it is not UTF-8")))?;
    let text = text.strip_suffix('\n').map_or(&*text, |text| text.strip_suffix('\r').unwrap_or(text));
    Ok(text.to_owned())
}

/// The configuration in a file.
fn grant(path: &Path, files: &mut ConfigFiles) -> Result<ConfigGrant, String> {
    let text = read(path, MOST_TEXT, files).and_then(|bytes| files::text(bytes).map_err(io::Error::other));
    let text = text.map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    of_text(&text).map_err(|problem| format!("{}: {problem}", path.display()))
}

/// Reads a file of at most `most` bytes, and adds it to `seen`, also if it does not exist.
fn read(path: &Path, most: u64, seen: &mut ConfigFiles) -> io::Result<Vec<u8>> {
    let mut bytes = Err(ErrorKind::NotFound.into());
    let file = SeenFile::read(path, |path| {
        bytes = files::read(path, most);
        match &bytes {
            Ok(bytes) => Ok(Some(Digest::of(bytes))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(_) => Err(()),
        }
    });
    if let Ok(file) = file {
        // No stamp of a file that was there a moment before.
        let stamp = file.stamp.filter(|_| file.content.is_some());
        seen.insert(path.to_owned(), SeenFile { stamp, ..file });
    }
    bytes
}

/// Why there is no value.
enum NoValue {
    /// What the key refers to does not exist.
    Absent(String),
    /// It exists.
    Unreadable(String),
}

impl NoValue {
    /// Returns the default of a key in the place of what does not exist.
    fn default(self, key: &ConfigKey) -> Result<String, Self> {
        match (self, &key.default) {
            (Self::Absent(_), Some(default)) => Ok(default.clone()),
            (problem, _) => Err(problem),
        }
    }
}

impl fmt::Display for NoValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Absent(text) | Self::Unreadable(text)) = self;
        f.write_str(text)
    }
}

/// Bytes of all names and values.
fn size(values: &Values) -> usize {
    values.iter().map(|(name, value)| name.len().saturating_add(value.text.len())).fold(0, usize::saturating_add)
}

#[cfg(test)]
mod tests;
