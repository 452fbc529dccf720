//! Writes log lines on a separate thread, so that a blocked terminal does not block requests.
//!
//! Every line is cleaned here. One system call writes many lines. Lines that do not fit into the buffer are dropped and
//! counted.

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

use super::clean;
use crate::lock::lock;

/// The most bytes of lines that wait to be written.
const BUFFER: usize = 8 << 20;

/// The longest time that a line waits, if the output does not block.
const DELAY: Duration = Duration::from_millis(10);

/// A handle for writing lines. Clones share the buffer.
#[derive(Clone)]
pub(super) struct Writer(Arc<Shared>);

/// The format of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// A JSON object per line.
    Json,
    /// Text.
    Plain,
    /// Text with colors, for a terminal.
    Coloured,
}

/// Bytes of the time with which a line of text begins, and of the level with the space before it.
const TIME: usize = "2026-11-28T00:00:00.000000Z".len();
const LEVEL: usize = "  WARN".len();

struct Shared {
    style: Style,
    buffer: Mutex<Vec<u8>>,
    /// Whether lines are discarded.
    nowhere: bool,
    dropped: AtomicU64,
    stop: AtomicBool,
}

/// A guard that writes the buffered lines when it is dropped.
pub struct Flush {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Creates a writer to `out`; without one, lines are discarded.
    pub(super) fn new(out: Option<Box<dyn Write + Send>>, style: Style) -> (Self, Flush) {
        let shared = Arc::new(Shared {
            style,
            buffer: Mutex::default(),
            nowhere: out.is_none(),
            dropped: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let thread = out.and_then(|out| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name("log".into()).spawn(move || shared.write(out)).ok()
        });
        (Self(Arc::clone(&shared)), Flush { shared, thread })
    }

    /// Writes one line, including its newline.
    pub(super) fn line(&self, line: &[u8]) {
        if self.0.nowhere {
            return;
        }
        let style = self.0.style;
        let line = &*clean::line(line, style == Style::Json);
        let coloured = if style == Style::Coloured { coloured(line) } else { None };
        let line = coloured.as_deref().unwrap_or(line);
        let mut buffer = lock(&self.0.buffer);
        if buffer.len().saturating_add(line.len()) > BUFFER {
            drop(buffer);
            self.0.dropped.fetch_add(1, Relaxed);
        } else {
            buffer.extend_from_slice(line);
        }
    }

    /// Number of lines that were dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.0.dropped.load(Relaxed)
    }
}

/// Dims the time of a line and colors its level. Returns `None` for a line of another form.
fn coloured(line: &[u8]) -> Option<Vec<u8>> {
    let (time, rest) = line.split_at_checked(TIME)?;
    let (level, rest) = rest.split_at_checked(LEVEL)?;
    let colour: &[u8] = match level.trim_ascii() {
        b"ERROR" => b"31",
        b"WARN" => b"33",
        b"INFO" => b"32",
        b"DEBUG" => b"34",
        b"TRACE" => b"35",
        _ => return None,
    };
    Some([b"\x1b[2m", time, b"\x1b[0m\x1b[", colour, b"m", level, b"\x1b[0m", rest].concat())
}

impl Shared {
    fn write(&self, mut out: Box<dyn Write + Send>) {
        let mut lines = Vec::new();
        loop {
            let last = self.stop.load(Relaxed);
            std::mem::swap(&mut lines, &mut *lock(&self.buffer));
            if !lines.is_empty() {
                // An error cannot be reported anywhere. A panic must not end the thread.
                let _ = catch_unwind(AssertUnwindSafe(|| out.write_all(&lines)));
                lines.clear();
                lines.shrink_to(BUFFER / 64);
            } else if last {
                return;
            } else {
                std::thread::park_timeout(DELAY);
            }
        }
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

impl Write for &Writer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Writer {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the output of a writer of this style for these lines.
    fn written(style: Style, lines: &[&str]) -> String {
        #[derive(Clone, Default)]
        struct Out(Arc<Mutex<Vec<u8>>>);
        impl Write for Out {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                lock(&self.0).write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let out = Out::default();
        let (writer, flush) = Writer::new(Some(Box::new(out.clone())), style);
        lines.iter().for_each(|line| writer.line(line.as_bytes()));
        drop(flush);
        String::from_utf8(lock(&out.0).clone()).unwrap()
    }

    const FORGED: &str = "2026-11-28T00:00:00.000000Z  WARN a\n2026-11-28T00:00:01.000000Z  INFO forged \x1b[32m\n";

    #[test]
    fn a_line_stays_one_line() {
        assert_eq!(
            written(Style::Plain, &[FORGED]),
            "2026-11-28T00:00:00.000000Z  WARN a\u{fffd}2026-11-28T00:00:01.000000Z  INFO forged \u{fffd}[32m\n"
        );
        assert_eq!(written(Style::Json, &["{\"message\":\"a\\nb\"}\n"]), "{\"message\":\"a\u{fffd}b\"}\n");
    }

    #[test]
    fn guests_cannot_colour_lines() {
        let text = written(Style::Coloured, &[FORGED, "no time\n"]);
        let begins = "\x1b[2m2026-11-28T00:00:00.000000Z\x1b[0m\x1b[33m  WARN\x1b[0m a\u{fffd}2026";
        assert!(text.starts_with(begins), "{text:?}");
        assert_eq!((text.lines().count(), text.matches('\x1b').count()), (2, 4));
    }
}
