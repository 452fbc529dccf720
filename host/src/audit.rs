//! The audit trail: what operators did, and whose requests did what on routes that ask for it. JSON lines, each with the SHA-256 of
//! the line before, so that one that was changed, removed or added is found. A part of a line, which a killed host leaves, has no such
//! hash, or not all of it: after it, the hash is that of the hash before and the part.
//!
//! * `trail`: the files, and where the chain is.
//! * `writer`: the thread that appends to them.
//! * [`verify`]: reads files and checks the chain.
//!
//! Requests never wait for a disk: lines wait in a bounded queue, and those that do not fit, or cannot be written, are counted. The next
//! line that can be written says how many were lost.

mod trail;
pub mod verify;
mod writer;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use self::trail::Trail;
use self::writer::TrailWriter;
use lodge_base::config::audit::Audit as Settings;
use lodge_base::key_changes::KeyChange;
use lodge_base::lock::lock;

/// The most lines of requests that wait to be written.
const QUEUE: u64 = 8192;

/// The entries of the queue in addition that are only for other lines, so that a flood of requests does not push them out.
const RESERVED: u64 = 1024;

/// The most lines of refused operators in [`ATTEMPTS_TIME`]; further ones are counted.
const ATTEMPTS: u32 = 60;

/// The time between two lines that count refused operators.
const ATTEMPTS_TIME: Duration = Duration::from_secs(60);

/// The most bytes of a text in a line.
const MOST_TEXT: usize = 1024;

/// The longest wait for operators' requests that are in progress when the host ends, and that for the last lines.
const LAST: Duration = Duration::from_secs(2);

/// The previous hash of the first line of a trail.
const BEGINNING: [u8; 32] = [0; 32];

/// The audit trail of a host.
#[derive(Debug)]
pub struct AuditTrail {
    queue: SyncSender<Order>,
    counts: Arc<TrailCounts>,
    /// The lines of refused operators since this time.
    attempts: Mutex<(Instant, u32)>,
    /// Whether operators may change nothing while the trail cannot be written.
    required: bool,
}

/// What the thread and the host share.
#[derive(Debug, Default)]
struct TrailCounts {
    /// The lines in the queue.
    waiting: AtomicU64,
    /// The lost lines that no line has told of.
    untold: AtomicU64,
    /// The lines that this process has lost.
    lost: AtomicU64,
    /// The requests of refused operators that have no line of their own, and that no line has told of.
    attempts: AtomicU64,
    /// The requests of operators in progress, each of which will be a line.
    expected: AtomicU64,
    /// The last line could not be written.
    fails: AtomicBool,
    /// The queue was full, and has not become half empty since.
    overflows: AtomicBool,
}

/// What the thread of the trail is to do.
#[derive(Debug)]
enum Order {
    Write(SystemTime, Event),
    /// Writes the last line, and ends.
    Close(Event, SyncSender<()>),
}

/// What happened.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Event {
    /// A host began to write.
    Started {
        /// The directory that it serves.
        directory: String,
    },
    /// A host stopped. Nothing follows but the start of the next.
    Stopped {
        /// Whether all requests had ended; the lines of others are missing.
        drained: bool,
    },
    /// Lines are missing.
    Lost {
        /// How many, at least.
        lines: u64,
    },
    /// Requests of refused operators have no line of their own, since there were too many.
    Attempts {
        /// How many.
        requests: u64,
    },
    /// A request by the admin API that changes something or reads data of services, or that was refused.
    Operator(Box<OperatorEvent>),
    /// A change by files: of what is served, or of keys.
    Change {
        /// The service.
        #[serde(skip_serializing_if = "Option::is_none")]
        service: Option<String>,
        /// The file of keys.
        #[serde(skip_serializing_if = "Option::is_none")]
        file: Option<String>,
        /// What has changed.
        change: String,
    },
    /// A request on a route with `audit = true`.
    Request(Box<RequestEvent>),
}

impl Event {
    /// Returns the event of a change of a file of keys.
    pub fn keys(KeyChange { file, change }: KeyChange) -> Self {
        Self::Change { service: None, file: Some(file.display().to_string()), change }
    }
}

/// A request by the admin API.
#[derive(Debug, Serialize)]
pub struct OperatorEvent {
    /// The address of the operator.
    pub client: IpAddr,
    /// How the operator is known: `api-key`, `admin-token`, or `local` where nobody needs a token; absent if the request has no valid
    /// credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<&'static str>,
    /// The name of the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The method.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The SHA-256 of a component that was received as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The status of the response; absent if there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

/// A request on a route with `audit = true`.
#[derive(Debug, Serialize)]
pub struct RequestEvent {
    /// Its id, as in the response and the log.
    pub request_id: Arc<str>,
    /// The service.
    pub service: Arc<str>,
    /// The route, as the manifest has it.
    pub route: Arc<str>,
    /// How the sender was identified; absent if nobody was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<&'static str>,
    /// The sender.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The address of the client.
    pub client: IpAddr,
    /// The method.
    pub method: String,
    /// The path, without the query, before a prefix of the route is removed.
    pub path: String,
    /// `allow` if the request was identified and admitted, or got a stored response; `deny` if the credentials, the address or a rate
    /// did not allow it; `none` if it ended before either, or was refused for another reason.
    pub decision: &'static str,
    /// The status of the response; absent if the client left before there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why the service did not respond.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// The time from the head of the request to the end of the response, in milliseconds.
    pub ms: u64,
}

impl AuditTrail {
    /// Opens the trail and starts its thread; `None` if there is none. Writes nothing: what is to be a host may not become one.
    ///
    /// # Errors
    /// If the file cannot be written, or another host writes it.
    pub fn open(settings: &Settings) -> Result<Option<Arc<Self>>, String> {
        let Some(file) = &settings.file else { return Ok(None) };
        let problem = |why: String| format!("audit.file: {}: {why}", file.display());
        let trail = Trail::open(file, settings).map_err(problem)?;
        let (queue, orders) = sync_channel(usize::try_from(QUEUE + RESERVED).unwrap_or(usize::MAX));
        let counts = Arc::new(TrailCounts::default());
        counts.untold.store(trail.lost_before(), Relaxed);
        let writer = TrailWriter::new(trail, Arc::clone(&counts));
        let thread = std::thread::Builder::new().name("audit".into()).spawn(move || writer.run(&orders));
        thread.map_err(|error| problem(format!("its thread cannot be started: {error}")))?;
        let audit = Self { queue, counts, attempts: Mutex::new((Instant::now(), 0)), required: settings.required };
        Ok(Some(Arc::new(audit)))
    }

    /// Records that a host begins to serve this directory.
    pub fn begin(&self, directory: &Path) {
        self.record(Event::Started { directory: directory.display().to_string() });
    }

    /// Records an event. Never waits.
    pub fn record(&self, event: Event) {
        let most = if matches!(event, Event::Request(_)) { QUEUE } else { QUEUE + RESERVED };
        let counts = &self.counts;
        let room = counts.waiting.fetch_update(Relaxed, Relaxed, |waiting| (waiting < most).then_some(waiting + 1));
        if room.is_ok() {
            if self.queue.try_send(Order::Write(SystemTime::now(), event)).is_ok() {
                return;
            }
            counts.waiting.fetch_sub(1, Relaxed);
        }
        counts.lose(1);
        if room.is_err() && !counts.overflows.swap(true, Relaxed) {
            tracing::error!(
                "audit.file: {most} lines wait to be written; further ones are lost until half of them are"
            );
        }
    }

    /// Records an event of an operator who was refused. Of a flood of them, most are only counted: they must not push out others,
    /// or fill the files.
    pub fn record_attempt(&self, event: Event) {
        let mut attempts = lock(&self.attempts);
        if attempts.0.elapsed() >= ATTEMPTS_TIME {
            *attempts = (Instant::now(), 0);
        }
        if attempts.1 < ATTEMPTS {
            attempts.1 += 1;
            drop(attempts);
            self.record(event);
        } else {
            self.counts.attempts.fetch_add(1, Relaxed);
        }
    }

    /// Tells the trail of a request that will be a line, which its end waits for; followed by [`Self::settle`].
    pub fn expect(&self) {
        self.counts.expected.fetch_add(1, Relaxed);
    }

    /// Ends what [`Self::expect`] began, after the line was recorded.
    pub fn settle(&self) {
        self.counts.expected.fetch_sub(1, Relaxed);
    }

    /// Returns the number of lines that were lost since the host started.
    pub fn lost(&self) -> u64 {
        self.counts.lost.load(Relaxed)
    }

    /// Whether operators may change nothing now, since it would not be in the trail.
    pub fn refuses_changes(&self) -> bool {
        self.required && self.counts.fails.load(Relaxed)
    }

    /// Writes the last line, and waits until all lines are on the disk, for at most two seconds; before that, waits as long for
    /// operators' requests that are in progress. `drained` is whether all others have ended. Lines that are recorded later are lost.
    /// Blocking.
    pub fn close(&self, drained: bool) {
        let counts = &self.counts;
        wait_until(|| counts.expected.load(Relaxed) == 0);
        // What is still in progress has no line.
        let missing = counts.expected.load(Relaxed);
        if missing > 0 {
            counts.lose(missing);
        }
        let (done, closed) = sync_channel(1);
        let mut order = Some(Order::Close(Event::Stopped { drained }, done));
        // The queue may be full, and the disk may hang.
        let sent = wait_until(|| match order.take().map(|order| self.queue.try_send(order)) {
            Some(Err(TrySendError::Full(again))) => {
                order = Some(again);
                false
            }
            _ => true,
        });
        if !sent || closed.recv_timeout(LAST).is_err() {
            tracing::error!("audit.file: the last lines of the trail are not written: its disk takes too long");
        }
    }
}

/// Waits for at most two seconds. Returns whether it is reached.
fn wait_until(mut reached: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if reached() {
            return true;
        }
        if start.elapsed() >= LAST {
            return false;
        }
        std::thread::park_timeout(LAST / 100);
    }
}

impl TrailCounts {
    fn lose(&self, lines: u64) {
        self.untold.fetch_add(lines, Relaxed);
        self.lost.fetch_add(lines, Relaxed);
    }
}

/// The path of an older file: 1 is the one before the current.
pub(crate) fn older(file: &Path, number: usize) -> PathBuf {
    with_suffix(file, &number.to_string())
}

fn with_suffix(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{suffix}"));
    name.into()
}

fn hash(line: &[u8]) -> [u8; 32] {
    Sha256::digest(line).into()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a text that is no line of a trail can be a part of one, which a host leaves that ends while it writes.
fn is_part(text: &[u8]) -> bool {
    const LINE: &[u8] = b"{\"seq\":";
    let written = without_end(text);
    !text.is_empty() && (written.starts_with(LINE) || LINE.starts_with(written))
}

/// Returns what was written of a line: a file system may leave NUL bytes in place of its end, when the power fails.
fn without_end(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    text.get(..end).unwrap_or_default()
}

/// Returns the number of a line, if it is one.
fn number(line: &[u8]) -> Option<u64> {
    serde_json::from_slice::<Value>(line).ok()?.get("seq")?.as_u64()
}

#[cfg(test)]
mod tests;
