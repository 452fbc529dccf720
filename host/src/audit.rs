//! The audit trail: what operators did, and whose requests did what on routes that ask for it. JSON lines, each with the SHA-256 of
//! the line before, so that one that was changed, removed or added is found.
//!
//! * `trail`: the files, which a thread of their own appends to.
//! * [`verify`]: reads files and checks the chain.
//!
//! Requests never wait for a disk: lines wait in a bounded queue, and those that do not fit, or cannot be written, are counted. The next
//! line that can be written says how many were lost.

mod trail;
pub mod verify;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use self::trail::Trail;
use lodge_base::config::audit::Audit as Settings;

/// The most lines that wait to be written.
const QUEUE: usize = 8192;

/// The most bytes of a text in a line.
const MOST_TEXT: usize = 1024;

/// The longest wait for the last lines, when the host ends.
const LAST: Duration = Duration::from_secs(2);

/// The previous hash of the first line of a trail.
const BEGINNING: [u8; 32] = [0; 32];

/// The audit trail of a host.
#[derive(Debug)]
pub struct AuditTrail {
    queue: SyncSender<Order>,
    /// The lines that did not fit into the queue, or could not be written, and that no line has told of.
    lost: Arc<AtomicU64>,
}

/// What the thread of the trail is to do.
#[derive(Debug)]
enum Order {
    Write(SystemTime, Event),
    /// Writes to the disk what was written before.
    Flush(SyncSender<()>),
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
    /// Lines are missing.
    Lost {
        /// How many.
        lines: u64,
    },
    /// A request that changes something by the admin API, also one that was refused.
    Operator {
        /// The address of the operator.
        client: IpAddr,
        /// The method and the path, without the query.
        method: String,
        /// The path.
        path: String,
        /// The status of the response.
        status: u16,
    },
    /// A change of what is served, by the files of the directory.
    Change {
        /// The service.
        service: String,
        /// What has changed.
        change: String,
    },
    /// A request on a route with `audit = true`.
    Request(Box<RequestEvent>),
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
    /// The path, without the query.
    pub path: String,
    /// `allow`, or `deny` if the credentials, the address or a rate did not allow the request.
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

/// Where a chain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The number of the next line.
    next: u64,
    /// The hash of the last line.
    hash: [u8; 32],
}

impl AuditTrail {
    /// Opens the trail and starts its thread; `None` if there is none.
    ///
    /// # Errors
    /// If the file cannot be written, or another host writes it.
    pub fn open(settings: &Settings, directory: &Path) -> Result<Option<Arc<Self>>, String> {
        let Some(file) = &settings.file else { return Ok(None) };
        let problem = |why: String| format!("audit.file: {}: {why}", file.display());
        let trail = Trail::open(file, settings).map_err(problem)?;
        let (queue, orders) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        let thread = std::thread::Builder::new().name("audit".into()).spawn(move || write(trail, &orders, &counted));
        thread.map_err(|error| problem(format!("its thread cannot be started: {error}")))?;
        let audit = Self { queue, lost };
        audit.record(Event::Started { directory: directory.display().to_string() });
        Ok(Some(Arc::new(audit)))
    }

    /// Records an event. Never waits.
    pub fn record(&self, event: Event) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.queue.try_send(Order::Write(SystemTime::now(), event))
        {
            self.lost.fetch_add(1, Relaxed);
        }
    }

    /// Waits until all lines so far are on the disk, for at most two seconds. Blocking.
    pub fn flush(&self) {
        let (done, flushed) = sync_channel(1);
        let (start, mut order) = (Instant::now(), Order::Flush(done));
        // The queue may be full, and the disk may hang.
        while let Err(TrySendError::Full(again)) = self.queue.try_send(order) {
            if start.elapsed() >= LAST {
                return;
            }
            std::thread::park_timeout(LAST / 100);
            order = again;
        }
        let _ = flushed.recv_timeout(LAST);
    }
}

/// Writes lines until the host ends.
fn write(mut trail: Trail, orders: &Receiver<Order>, lost: &AtomicU64) {
    let mut fails = false;
    for order in orders {
        let (time, event) = match order {
            Order::Write(time, event) => (time, event),
            Order::Flush(done) => {
                let _ = trail.sync();
                let _ = done.send(());
                continue;
            }
        };
        let missing = lost.swap(0, Relaxed);
        let told = if missing > 0 { trail.append(time, &Event::Lost { lines: missing }) } else { Ok(()) };
        let before = if told.is_ok() { 0 } else { missing };
        match told.and_then(|()| trail.append(time, &event)) {
            Ok(()) => {
                if std::mem::take(&mut fails) {
                    tracing::info!("the audit trail is written again; it says how many lines were lost");
                }
            }
            Err(error) => {
                lost.fetch_add(before.saturating_add(1), Relaxed);
                if !std::mem::replace(&mut fails, true) {
                    let file = trail.path().display();
                    tracing::error!("audit.file: {file} cannot be written: {error}; lines are lost until it can");
                }
            }
        }
    }
}

/// The path of an older file: 1 is the one before the current.
pub(crate) fn older(file: &Path, number: usize) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// The text of a line, without its newline: the number first, which is there if the line is cut off.
fn line(head: Head, time: SystemTime, event: &Event) -> Result<String, serde_json::Error> {
    let mut fields = serde_json::to_value(event)?;
    if let Value::Object(fields) = &mut fields {
        fields.values_mut().for_each(shorten);
    }
    let (fields, time) = (serde_json::to_string(&fields)?, humantime::format_rfc3339_millis(time));
    // Every event has a kind, so there is a first field.
    let fields = fields.strip_prefix('{').unwrap_or_default();
    Ok(format!("{{\"seq\":{},\"previous\":\"{}\",\"time\":\"{time}\",{fields}", head.next, hex(&head.hash)))
}

/// Cuts a text off that a client could make longer than any that is of use.
fn shorten(value: &mut Value) {
    if let Value::String(text) = value
        && text.len() > MOST_TEXT
    {
        let end = (0..=MOST_TEXT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
}

fn hash(line: &[u8]) -> [u8; 32] {
    Sha256::digest(line).into()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
