//! Logging of the host and of its guests: lines on stderr, as text or JSON, and the latest lines in memory for the
//! admin API.
//!
//! Every line is a `tracing` event, except the line of a request, which is formatted directly because it is on the
//! request path ([`requests`]).

mod clean;
#[doc(hidden)]
pub mod fuzz;
mod mask;
pub mod requests;
pub mod tail;
pub mod throttle;
mod writer;

use std::io::IsTerminal;
use std::sync::{Arc, Mutex};

use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, reload};

pub use self::clean::{clean, foreign_line, is_hostile};
use self::requests::RequestLog;
use self::tail::Tail;
use self::writer::{Flush, Style, Writer};
use crate::config::keys::log_filter;
use crate::config::{Config, LogFormat};
use crate::lock::lock;

/// The target of lines that are logged at every level: the addresses of the host.
pub const START: &str = "lodge::start";

/// The target of lines about changes: of the directory, or by an operator.
pub const CHANGE: &str = "lodge::change";

/// The log: its latest lines, its level and its output.
pub struct Logs {
    /// The latest lines.
    pub tail: Arc<Tail>,
    /// The request log.
    pub requests: RequestLog,
    writer: Writer,
    level: Mutex<String>,
    filter: Option<reload::Handle<Targets, Registry>>,
}

impl Logs {
    /// Returns a log for a host inside another program: nothing is written to stderr, and only followers of the tail
    /// get the lines of requests.
    pub fn detached(config: &Config) -> Arc<Self> {
        let (writer, _) = Writer::new(None, Style::Plain);
        Arc::new(Self::new(config, writer, Arc::default(), None))
    }

    /// Starts logging. Dropping the guard writes what is still buffered.
    ///
    /// # Errors
    /// If the process already has a `tracing` subscriber.
    pub fn init(config: &Config) -> Result<(Arc<Self>, Flush), TryInitError> {
        let style = match config.log_format {
            LogFormat::Json => Style::Json,
            LogFormat::Text if std::io::stderr().is_terminal() => Style::Coloured,
            LogFormat::Text => Style::Plain,
        };
        let (writer, flush) = Writer::new(Some(Box::new(std::io::stderr())), style);
        let tail = Arc::<Tail>::default();
        // The configuration has validated this text.
        let (filter, handle) = reload::Layer::new(targets(&config.log_level).unwrap_or_default());
        // The writer adds colors, because it could not distinguish those of the formatter from those of a guest.
        let lines = tracing_subscriber::fmt::layer().with_writer(writer.clone()).with_ansi(false);
        let lines = match config.log_format {
            LogFormat::Json => lines.json().flatten_event(true).boxed(),
            LogFormat::Text => lines.with_target(false).boxed(),
        };
        let kept = tail::TailLayer::new(Arc::clone(&tail));
        tracing_subscriber::registry().with(filter).with(lines).with(kept).try_init()?;
        Ok((Arc::new(Self::new(config, writer, tail, Some(handle))), flush))
    }

    fn new(
        config: &Config,
        writer: Writer,
        tail: Arc<Tail>,
        filter: Option<reload::Handle<Targets, Registry>>,
    ) -> Self {
        let requests = RequestLog::new(config, writer.clone(), Arc::clone(&tail));
        Self { requests, writer, tail, level: Mutex::new(config.log_level.clone()), filter }
    }

    /// The current filter, in the form that [`set_level`](Self::set_level) accepts.
    pub fn level(&self) -> String {
        lock(&self.level).clone()
    }

    /// Sets the level or filter of the log.
    ///
    /// # Errors
    /// If the text is neither a level nor a filter.
    pub fn set_level(&self, level: &str) -> Result<(), String> {
        let filter = targets(level)?;
        if let Some(handle) = &self.filter {
            handle.reload(filter).map_err(|error| error.to_string())?;
        }
        level.clone_into(&mut lock(&self.level));
        Ok(())
    }

    /// Number of lines that were dropped because stderr was not read fast enough.
    pub fn dropped(&self) -> u64 {
        self.writer.dropped()
    }
}

/// Parses a filter and adds the targets that do not depend on the level.
fn targets(level: &str) -> Result<Targets, String> {
    // notify logs every watched directory that is removed, which a build does by the hundred.
    log_filter(level).map(|targets| targets.with_target(START, Level::INFO).with_target("notify", Level::WARN))
}
