//! Reads the configuration of services, and reads it again while they are served.
//!
//! Files are read again every second (`POLL`), and what was written in place [has to stay](lodge_base::files::complete). Events of the file system would not do: a file that a ConfigMap mounts by `subPath` and
//! a symlink that is replaced cause none for its path.
//!
//! A file system can hang, and with it the thread that reads. So each configuration is read in a task of its own, with bounds on
//! time and on threads: see `Readers`.

mod reader;
mod readers;

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use lodge_base::config::Config;
use lodge_base::files::complete::{Completeness, FIRST_TIME, FilesInUse, WAITS};
use lodge_manifest::config::ConfigKey;
use lodge_manifest::digest::Digest;
use lodge_manifest::refusal::{Refusal, file_name};
use lodge_manifest::spec::GuestSpec;
use lodge_runtime::capabilities::config::{ConfigReading, Configuration, Values};

use tokio::time::{Instant, sleep};

use reader::{ConfigReader, SeenConfig};
use readers::{Readers, Unread};

/// The time between two readings.
const POLL: Duration = Duration::from_secs(1);

/// The time that one reading may take.
const READ_TIME: Duration = Duration::from_secs(5);

/// What a configuration that may be incomplete has for effect.
const KEPT: &str = "the service keeps the configuration that it has";

/// What one that cannot be read any more has for effect.
const IN_FORCE: &str =
    "the service keeps the configuration that it has, and will be refused at the next start of the host";

/// The configurations of a host.
pub struct Configurations {
    readers: Arc<Readers>,
    poll: Duration,
    /// The file with values that services may refer to.
    host: Option<PathBuf>,
    /// Files are read as they are, and may be incomplete.
    is_offline: bool,
}

impl Configurations {
    /// Creates the configurations of a host.
    pub fn new(config: &Config) -> Self {
        Self {
            readers: Arc::new(Readers::new(READ_TIME)),
            poll: POLL,
            host: config.shared_config.clone(),
            is_offline: false,
        }
    }

    /// Reads files as they are from now on, for a check that serves nothing.
    pub fn set_offline(&mut self) {
        self.is_offline = true;
    }

    /// Reads the configuration of a service, and goes on reading it for as long as it is in use. Returns `None` for a service
    /// whose manifest has neither a configuration nor references.
    ///
    /// # Errors
    /// If a value without a default is missing, or cannot be read in time. It is tried again.
    pub async fn open(&self, spec: &GuestSpec) -> Result<Option<Arc<Configuration>>, Refusal> {
        let (grant, env) = (spec.manifest.config.clone(), spec.manifest.env.clone());
        let is_literal = |key: &ConfigKey| key.text().is_some();
        if grant.is_empty() && env.values().all(is_literal) {
            return Ok(None);
        }
        let reader = ConfigReader { grant, env, directory: spec.path.with_file_name(""), host: self.host.clone() };
        let (has_files, needs_restart) = (reader.has_files(), reader.needs_restart());
        let read = move || reader.read();
        let mut files = FilesInUse::default();
        let reading = self.first(&spec.name, &mut files, has_files, &read).await;
        let reading = reading.map_err(|problem| {
            let remedy = if needs_restart {
                "only a restart mends it: start the host with what it lacks, or write a `default`"
            } else {
                "the service starts as soon as all of its configuration is there"
            };
            Refusal::new(&file_name(&spec.path.with_extension("toml")), &problem, remedy).passing()
        })?;
        let configuration = Arc::new(Configuration::new(reading));
        if has_files {
            self.follow(&spec.name, Arc::downgrade(&configuration), files, read);
        }
        Ok(Some(configuration))
    }

    /// Reads the first values, once their files are complete.
    async fn first<F>(
        &self,
        service: &str,
        files: &mut FilesInUse<Option<Digest>>,
        has_files: bool,
        read: &F,
    ) -> Result<ConfigReading, String>
    where
        F: Fn() -> Result<SeenConfig, String> + Clone + Send + 'static,
    {
        let begun = Instant::now();
        let mut said = None;
        loop {
            let first = self.readers.run(read.clone()).await.unwrap_or_else(|unread| Err(unread.to_string()))?;
            if !has_files {
                return Ok(first.reading);
            }
            let seen = self.readers.confirm(first, read.clone()).await?;
            let path = match files.judge(&seen.files) {
                Completeness::Waits { path, .. } if !self.is_offline => path,
                _ => {
                    files.accept(seen.files);
                    return Ok(seen.reading);
                }
            };
            if begun.elapsed() > FIRST_TIME {
                return Err(format!("{} changes again and again while it is read", path.display()));
            }
            if said.as_ref() != Some(&path) {
                tracing::info!(service, "{}: {WAITS}", path.display());
            }
            said = Some(path);
            sleep(self.poll).await;
        }
    }

    /// Reads a configuration again and again, for as long as it is in use.
    fn follow<F>(&self, service: &str, configuration: Weak<Configuration>, files: FilesInUse<Option<Digest>>, read: F)
    where
        F: Fn() -> Result<SeenConfig, String> + Clone + Send + 'static,
    {
        let (readers, poll) = (Arc::clone(&self.readers), self.poll);
        let mut followed = Followed { service: service.into(), configuration, files };
        tokio::spawn(async move {
            loop {
                sleep(poll).await;
                if followed.configuration.strong_count() == 0 {
                    break;
                }
                let seen = match readers.run(read.clone()).await {
                    Ok(seen) => seen,
                    Err(Unread::Late(late)) => {
                        followed.take(Err(Unread::LATE.into()));
                        // No other reading begins while this one hangs.
                        late.await.unwrap_or_else(|_| Err(Unread::LATE.into()))
                    }
                    Err(unread) => Err(unread.to_string()),
                };
                followed.take(match seen {
                    Ok(seen) if followed.differs(&seen.reading) => readers.confirm(seen, read.clone()).await,
                    seen => seen,
                });
            }
        });
    }
}

/// A configuration that is read again.
struct Followed {
    service: Arc<str>,
    configuration: Weak<Configuration>,
    files: FilesInUse<Option<Digest>>,
}

impl Followed {
    /// Whether these are other values.
    fn differs(&self, reading: &ConfigReading) -> bool {
        self.configuration.upgrade().is_some_and(|configuration| *configuration.reading() != *reading)
    }

    /// Replaces the values if they have changed and their files are complete. Otherwise, and while they cannot be read, the last ones
    /// stay.
    fn take(&mut self, seen: Result<SeenConfig, String>) {
        let service = &*self.service;
        let Some(configuration) = self.configuration.upgrade() else { return };
        let problem = match seen.map(|seen| (self.files.judge(&seen.files), seen)) {
            Ok((Completeness::Waits { path, .. }, seen)) if *configuration.reading() != seen.reading => {
                format!("config: {}: {WAITS}; {KEPT}", path.display())
            }
            Ok((_, SeenConfig { reading, files })) => {
                self.files.accept(files);
                let before = configuration.reading();
                let config = changes(&before.config, &reading.config).map(str::to_owned);
                let env = changes(&before.env, &reading.env).map(|name| format!("env.{name}"));
                let changed: Vec<_> = config.chain(env).collect();
                if !changed.is_empty() {
                    tracing::info!(service, "configuration changed: {}", changed.join(", "));
                    configuration.replace(reading);
                }
                configuration.set_problem(None);
                return;
            }
            Err(problem) => format!("{problem}; {IN_FORCE}"),
        };
        if configuration.set_problem(Some(problem.clone())) {
            tracing::warn!(service, "{problem}");
        }
    }
}

/// The names whose values differ.
fn changes<'a>(before: &'a Values, after: &'a Values) -> impl Iterator<Item = &'a str> {
    let gone = before.keys().filter(|key| !after.contains_key(*key));
    let changed = after.iter().filter(|(key, value)| before.get(*key) != Some(value)).map(|(key, _)| key);
    gone.chain(changed).map(String::as_str)
}

#[cfg(test)]
mod tests;
