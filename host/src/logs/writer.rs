//! Lines on their way out, written by a thread of their own: a terminal that stands still must not stop requests.
//!
//! Many lines are one system call. What does not fit into the buffer is dropped, line by line, and counted.

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

use crate::capabilities::sandbox::lock;

/// Bytes of lines that wait to be written.
const BUFFER: usize = 8 << 20;

/// How late a line may be.
const DELAY: Duration = Duration::from_millis(10);

/// Where lines go.
#[derive(Clone)]
pub(super) struct Writer(Arc<Shared>);

struct Shared {
    buffer: Mutex<Vec<u8>>,
    /// Nobody reads them.
    nowhere: bool,
    dropped: AtomicU64,
    stop: AtomicBool,
}

/// Writes what is left when it is dropped.
pub struct Flush {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Lines to `out`, or to nobody.
    pub(super) fn new(out: Option<Box<dyn Write + Send>>) -> (Self, Flush) {
        let shared = Arc::new(Shared {
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

    /// One line, with its end.
    pub(super) fn line(&self, line: &[u8]) {
        if self.0.nowhere {
            return;
        }
        let mut buffer = lock(&self.0.buffer);
        if buffer.len() + line.len() > BUFFER {
            drop(buffer);
            self.0.dropped.fetch_add(1, Relaxed);
        } else {
            buffer.extend_from_slice(line);
        }
    }

    /// Lines that were dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.0.dropped.load(Relaxed)
    }
}

impl Shared {
    fn write(&self, mut out: Box<dyn Write + Send>) {
        let mut lines = Vec::new();
        loop {
            let last = self.stop.load(Relaxed);
            std::mem::swap(&mut lines, &mut *lock(&self.buffer));
            if !lines.is_empty() {
                // There is nowhere to report a failure, or a panic, which must not end all lines.
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
