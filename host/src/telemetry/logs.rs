//! What the host and its guests say: lines on stderr, for people or machines, and the last of them in memory for who asks
//! the admin listener.
//!
//! Everything is a `tracing` event but the line of a request, which has a way of its own because it is the one that
//! costs ([`requests`]).

mod clean;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod mask;
pub mod requests;
pub mod tail;
mod writer;

use std::io::IsTerminal;
use std::sync::{Arc, Mutex};

use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, reload};

pub use self::clean::clean;
use self::requests::Requests;
use self::tail::Tail;
use self::writer::{Flush, Style, Writer};
use crate::base::lock::lock;
use crate::config::keys::log_filter;
use crate::config::{Config, LogFormat};

/// The target of lines that are written whatever the level: where the host can be reached.
pub const START: &str = "lodge::start";

/// The target of lines that say what changed: the directory, or what an operator did.
pub const CHANGE: &str = "lodge::change";

/// What was said lately, how much is said, and where.
pub struct Logs {
    /// The last lines.
    pub tail: Arc<Tail>,
    /// The lines of requests.
    pub requests: Requests,
    writer: Writer,
    level: Mutex<String>,
    filter: Option<reload::Handle<Targets, Registry>>,
}

impl Logs {
    /// Logs that nothing is written to but the lines of requests, for a host inside another program.
    pub fn detached(config: &Config) -> Arc<Self> {
        let (writer, _) = Writer::new(None, Style::Plain);
        Arc::new(Self::new(config, writer, Arc::default(), None))
    }

    /// Starts logging. What is still buffered is written when the guard is dropped.
    ///
    /// # Errors
    /// When the process logs already.
    pub fn init(config: &Config) -> Result<(Arc<Self>, Flush), TryInitError> {
        let style = match config.log_format {
            LogFormat::Json => Style::Json,
            LogFormat::Text if std::io::stderr().is_terminal() => Style::Coloured,
            LogFormat::Text => Style::Plain,
        };
        let (writer, flush) = Writer::new(Some(Box::new(std::io::stderr())), style);
        let tail = Arc::<Tail>::default();
        // The configuration has parsed this text once already.
        let (filter, handle) = reload::Layer::new(targets(&config.log_level).unwrap_or_default());
        // The writer adds the colours: it could not tell those of the formatter from those of a guest.
        let lines = tracing_subscriber::fmt::layer().with_writer(writer.clone()).with_ansi(false);
        let lines = match config.log_format {
            LogFormat::Json => lines.json().flatten_event(true).boxed(),
            LogFormat::Text => lines.with_target(false).boxed(),
        };
        let kept = tail::Kept::new(Arc::clone(&tail));
        tracing_subscriber::registry().with(filter).with(lines).with(kept).try_init()?;
        Ok((Arc::new(Self::new(config, writer, tail, Some(handle))), flush))
    }

    fn new(
        config: &Config,
        writer: Writer,
        tail: Arc<Tail>,
        filter: Option<reload::Handle<Targets, Registry>>,
    ) -> Self {
        let requests = Requests::new(config, writer.clone(), Arc::clone(&tail));
        Self { requests, writer, tail, level: Mutex::new(config.log_level.clone()), filter }
    }

    /// What is logged, as [`set_level`](Self::set_level) takes it.
    pub fn level(&self) -> String {
        lock(&self.level).clone()
    }

    /// Logs at this level, or by this filter, from now on.
    ///
    /// # Errors
    /// When it is neither.
    pub fn set_level(&self, level: &str) -> Result<(), String> {
        let filter = targets(level)?;
        if let Some(handle) = &self.filter {
            handle.reload(filter).map_err(|error| error.to_string())?;
        }
        level.clone_into(&mut lock(&self.level));
        Ok(())
    }

    /// Lines that were dropped because nobody reads stderr.
    pub fn dropped(&self) -> u64 {
        self.writer.dropped()
    }
}

/// What is logged whatever the level comes on top.
fn targets(level: &str) -> Result<Targets, String> {
    // notify reports every directory that goes away while it is watched, a build's by the hundred.
    log_filter(level).map(|targets| targets.with_target(START, Level::INFO).with_target("notify", Level::WARN))
}
