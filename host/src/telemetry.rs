//! Log lines on stderr, for people or machines.
//!
//! Written by a thread of their own from a bounded buffer: a terminal that stands still must not stop requests, so
//! lines that do not fit are dropped.

use std::io::IsTerminal;

use tracing::Level;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::{Config, LogFormat};

/// Lines that wait to be written. A guest's are at most 8 KiB, so at most 32 MiB.
const LINES: usize = 4096;

/// The target of lines that are written whatever the level: where the host can be reached.
pub const START: &str = "lodge::start";

/// Starts logging. What is still buffered is written when the guard is dropped.
///
/// # Errors
/// When the process logs already.
pub fn init(config: &Config) -> Result<WorkerGuard, TryInitError> {
    let (writer, guard) = NonBlockingBuilder::default().buffered_lines_limit(LINES).finish(std::io::stderr());
    // The configuration has parsed this text once already.
    let filter = config.log_level.parse::<Targets>().unwrap_or_default().with_target(START, Level::INFO);
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = match config.log_format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Text => lines.with_target(false).with_ansi(std::io::stderr().is_terminal()).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter)).try_init()?;
    Ok(guard)
}
