//! Reads the configuration of services, and reads it again while they are served.
//!
//! Files are read again every second (`POLL`). Events of the file system would not do: a file that a ConfigMap mounts by `subPath` and
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
use lodge_manifest::config::ConfigKey;
use lodge_manifest::refusal::{Refusal, file_name};
use lodge_manifest::spec::GuestSpec;
use lodge_runtime::capabilities::config::{ConfigReading, Configuration, Values};

use reader::ConfigReader;
use readers::{Readers, Unread};

/// The time between two readings.
const POLL: Duration = Duration::from_secs(1);

/// The time that one reading may take.
const READ_TIME: Duration = Duration::from_secs(5);

/// The configurations of a host.
pub struct Configurations {
    readers: Arc<Readers>,
    poll: Duration,
    /// The file with values that services may refer to.
    host: Option<PathBuf>,
}

impl Configurations {
    /// Creates the configurations of a host.
    pub fn new(config: &Config) -> Self {
        Self { readers: Arc::new(Readers::new(READ_TIME)), poll: POLL, host: config.shared_config.clone() }
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
        let has_files = reader.has_files();
        let read = move || reader.read();
        let first = self.readers.run(read.clone()).await.unwrap_or_else(|unread| Err(unread.to_string()));
        let reading = match first {
            Ok(first) if has_files => self.readers.confirm(first, read.clone()).await,
            first => first,
        };
        let reading = reading.map_err(|problem| {
            let remedy = "the service starts as soon as all of its configuration is there";
            Refusal::new(&file_name(&spec.path.with_extension("toml")), &problem, remedy).passing()
        })?;
        let configuration = Arc::new(Configuration::new(reading));
        if has_files {
            self.follow(&spec.name, Arc::downgrade(&configuration), read);
        }
        Ok(Some(configuration))
    }

    /// Reads a configuration again and again, for as long as it is in use.
    fn follow<F>(&self, service: &str, configuration: Weak<Configuration>, read: F)
    where
        F: Fn() -> Result<ConfigReading, String> + Clone + Send + 'static,
    {
        let (readers, poll) = (Arc::clone(&self.readers), self.poll);
        let mut followed = Followed { service: service.into(), configuration, problem: None };
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(poll).await;
                if followed.configuration.strong_count() == 0 {
                    break;
                }
                let reading = match readers.run(read.clone()).await {
                    Ok(reading) => reading,
                    Err(Unread::Late(late)) => {
                        followed.take(Err(Unread::LATE.into()));
                        // No other reading begins while this one hangs.
                        late.await.unwrap_or_else(|_| Err(Unread::LATE.into()))
                    }
                    Err(unread) => Err(unread.to_string()),
                };
                followed.take(match reading {
                    Ok(reading) if followed.differs(&reading) => readers.confirm(reading, read.clone()).await,
                    reading => reading,
                });
            }
        });
    }
}

/// A configuration that is read again.
struct Followed {
    service: Arc<str>,
    configuration: Weak<Configuration>,
    /// The problem that was logged last.
    problem: Option<String>,
}

impl Followed {
    /// Whether these are other values.
    fn differs(&self, reading: &ConfigReading) -> bool {
        self.configuration.upgrade().is_some_and(|configuration| *configuration.reading() != *reading)
    }

    /// Replaces the values if they have changed. While they cannot be read, the last ones stay.
    fn take(&mut self, reading: Result<ConfigReading, String>) {
        let service = &*self.service;
        let Some(configuration) = self.configuration.upgrade() else { return };
        match reading {
            Ok(reading) => {
                let before = configuration.reading();
                let config = changes(&before.config, &reading.config).map(str::to_owned);
                let env = changes(&before.env, &reading.env).map(|name| format!("env.{name}"));
                let changed: Vec<_> = config.chain(env).collect();
                if !changed.is_empty() {
                    tracing::info!(service, "configuration changed: {}", changed.join(", "));
                    configuration.replace(reading);
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

/// The names whose values differ.
fn changes<'a>(before: &'a Values, after: &'a Values) -> impl Iterator<Item = &'a str> {
    let gone = before.keys().filter(|key| !after.contains_key(*key));
    let changed = after.iter().filter(|(key, value)| before.get(*key) != Some(value)).map(|(key, _)| key);
    gone.chain(changed).map(String::as_str)
}

#[cfg(test)]
mod tests;
