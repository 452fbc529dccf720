//! The latest log lines in memory, for the admin API and its followers.
//!
//! Bounded per service, so that a service that logs a lot does not evict the lines of others.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::broadcast;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::{CHANGE, clean};
use crate::lock::lock;
use crate::time::rfc3339;

/// The most lines of a service, and of the host itself.
const LINES: usize = 200;

/// The most bytes of these lines.
const BYTES: usize = 64 << 10;

/// The most services with lines; beyond it, the least recent service is removed.
const SERVICES: usize = 2048;

/// The most lines that a follower may be behind before it loses some.
const BEHIND: usize = 1024;

/// The most levels of lists and objects in a field. Lines of the host have at most two.
const DEPTH: usize = 8;

/// A log line.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Line {
    /// A sequence number, by which lists of lines can be merged; zero for a line that reports lost lines.
    pub seq: u64,
    /// The time by RFC 3339.
    pub at: String,
    /// ERROR, WARN, INFO or DEBUG.
    pub level: Cow<'static, str>,
    /// The origin of the line.
    pub kind: LineKind,
    /// The service that the line is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The version of the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The request that the line is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// `stdout`, `stderr` or `log`, for a line of a guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// The message.
    pub message: String,
    /// Further fields.
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    pub fields: Map<String, Value>,
}

/// The origin of the line.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LineKind {
    /// Guest code.
    Guest,
    /// The host, about a request.
    Request,
    /// The host, about a change of the served directory or by an operator.
    Change,
    /// The host. Readers take a kind that they do not know for this one.
    #[default]
    #[serde(other)]
    Host,
}

/// The latest lines and the channel to followers.
pub struct Tail {
    kept: Mutex<Lines>,
    number: AtomicU64,
    live: broadcast::Sender<Arc<Line>>,
    followers: AtomicUsize,
}

#[derive(Default)]
struct Lines {
    of: HashMap<String, Recent>,
    changes: VecDeque<Arc<Line>>,
}

#[derive(Default)]
struct Recent {
    lines: VecDeque<Arc<Line>>,
    bytes: usize,
}

/// A subscription to new lines.
pub struct Follower {
    tail: Arc<Tail>,
    lines: broadcast::Receiver<Arc<Line>>,
}

/// A `tracing` layer that adds events to a [`Tail`].
pub(super) struct TailLayer(Arc<Tail>);

impl LineKind {
    /// Returns the name of the kind, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::Request => "request",
            Self::Change => "change",
            Self::Host => "host",
        }
    }
}

impl Line {
    /// Creates a line with the current time.
    pub fn new(level: &'static str, kind: LineKind) -> Self {
        Self {
            seq: 0,
            at: rfc3339(SystemTime::now()),
            level: level.into(),
            kind,
            service: None,
            version: None,
            request_id: None,
            stream: None,
            message: String::new(),
            fields: Map::new(),
        }
    }

    /// Creates a line that reports lines that a slow follower lost. Its sequence number is zero.
    pub fn lost(lines: u64) -> Self {
        Self {
            message: format!("dropped {lines} log lines: this follower reads too slowly"),
            ..Self::new("WARN", LineKind::Host)
        }
    }

    /// Cleans every text of the line and of its fields at every depth.
    fn clean(&mut self) {
        let Self { service, version, request_id, stream, message, fields, .. } = self;
        let texts = [service, version, request_id, stream].into_iter().flatten();
        texts.chain([message]).for_each(clean_text);
        clean_fields(fields, DEPTH);
    }

    fn bytes(&self) -> usize {
        self.message.len() + self.fields.values().map(|value| bytes_of(value, DEPTH)).sum::<usize>()
    }
}

fn clean_text(text: &mut String) {
    if let Cow::Owned(cleaned) = clean(text) {
        *text = cleaned;
    }
}

/// Cleans names and values down to `depth` levels, and replaces deeper ones by `…`.
fn clean_fields(fields: &mut Map<String, Value>, depth: usize) {
    if fields.keys().any(|name| matches!(clean(name), Cow::Owned(_))) {
        *fields = std::mem::take(fields).into_iter().map(|(name, value)| (clean(&name).into_owned(), value)).collect();
    }
    fields.values_mut().for_each(|value| clean_value(value, depth));
}

fn clean_value(value: &mut Value, depth: usize) {
    match (value, depth.checked_sub(1)) {
        (Value::String(text), _) => clean_text(text),
        (Value::Array(values), Some(depth)) => values.iter_mut().for_each(|value| clean_value(value, depth)),
        (Value::Object(fields), Some(depth)) => clean_fields(fields, depth),
        (value @ (Value::Array(_) | Value::Object(_)), None) => *value = Value::String("…".into()),
        (Value::Null | Value::Bool(_) | Value::Number(_), _) => {}
    }
}

/// Returns the approximate size of a value in bytes.
fn bytes_of(value: &Value, depth: usize) -> usize {
    match (value, depth.checked_sub(1)) {
        (Value::String(text), _) => text.len(),
        (Value::Array(values), Some(depth)) => values.iter().map(|value| bytes_of(value, depth)).sum(),
        (Value::Object(fields), Some(depth)) => {
            fields.iter().map(|(name, value)| name.len() + bytes_of(value, depth)).sum()
        }
        _ => 8,
    }
}

impl Default for Tail {
    fn default() -> Self {
        let (live, _) = broadcast::channel(BEHIND);
        Self { kept: Mutex::default(), number: AtomicU64::new(1), live, followers: AtomicUsize::new(0) }
    }
}

impl Tail {
    /// Stores a line and sends it to followers.
    pub fn push(&self, mut line: Line) {
        line.clean();
        let mut kept = lock(&self.kept);
        line.seq = self.number.fetch_add(1, Relaxed);
        let line = Arc::new(line);
        if line.kind == LineKind::Change {
            push(&mut kept.changes, &line);
        }
        kept.of(line.service.as_deref().unwrap_or_default()).push(&line);
        drop(kept);
        self.send(line);
    }

    /// Sends a line to followers without storing it.
    pub fn tell(&self, mut line: Line) {
        line.clean();
        line.seq = self.number.fetch_add(1, Relaxed);
        self.send(Arc::new(line));
    }

    fn send(&self, line: Arc<Line>) {
        if self.is_followed() {
            // The last follower may have just left.
            let _ = self.live.send(line);
        }
    }

    /// Whether there are followers.
    pub fn is_followed(&self) -> bool {
        self.followers.load(Relaxed) > 0
    }

    /// Returns the latest `most` lines of one service, or of all services and the host; oldest first.
    pub fn lines(&self, service: Option<&str>, most: usize) -> Vec<Arc<Line>> {
        let kept = lock(&self.kept);
        let of = kept.of.iter().filter(|(name, _)| service.is_none_or(|service| service == *name));
        let mut lines: Vec<_> = of.flat_map(|(_, recent)| recent.lines.iter().cloned()).collect();
        drop(kept);
        lines.sort_by_key(|line| line.seq);
        lines.split_off(lines.len().saturating_sub(most))
    }

    /// Returns the latest changes, oldest first.
    pub fn changes(&self) -> Vec<Arc<Line>> {
        lock(&self.kept).changes.iter().cloned().collect()
    }

    /// Subscribes to new lines.
    pub fn follow(self: &Arc<Self>) -> Follower {
        self.followers.fetch_add(1, Relaxed);
        Follower { tail: Arc::clone(self), lines: self.live.subscribe() }
    }
}

impl Lines {
    fn of(&mut self, service: &str) -> &mut Recent {
        if !self.of.contains_key(service) && self.of.len() >= SERVICES {
            let last = |recent: &Recent| recent.lines.back().map_or(0, |line| line.seq);
            let oldest = self.of.iter().min_by_key(|(_, recent)| last(recent)).map(|(name, _)| name.clone());
            oldest.and_then(|oldest| self.of.remove(&oldest));
        }
        self.of.entry(service.to_owned()).or_default()
    }
}

impl Recent {
    fn push(&mut self, line: &Arc<Line>) {
        self.bytes += line.bytes();
        push(&mut self.lines, line);
        while self.bytes > BYTES && self.lines.len() > 1 {
            self.bytes -= self.lines.pop_front().map_or(0, |line| line.bytes());
        }
    }
}

fn push(lines: &mut VecDeque<Arc<Line>>, line: &Arc<Line>) {
    if lines.len() == LINES {
        lines.pop_front();
    }
    lines.push_back(Arc::clone(line));
}

impl Follower {
    /// Waits for the next line. Also returns how many lines were lost before it because this follower is slow.
    pub async fn next(&mut self) -> Option<(Arc<Line>, u64)> {
        let mut lost = 0;
        loop {
            match self.lines.recv().await {
                Ok(line) => return Some((line, lost)),
                Err(broadcast::error::RecvError::Lagged(lines)) => lost += lines,
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.tail.followers.fetch_sub(1, Relaxed);
    }
}

impl TailLayer {
    pub(super) fn new(tail: Arc<Tail>) -> Self {
        Self(tail)
    }
}

impl<S: Subscriber> Layer<S> for TailLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let target = event.metadata().target();
        let kind = match target {
            "guest" => LineKind::Guest,
            CHANGE => LineKind::Change,
            _ => LineKind::Host,
        };
        let mut line = Line::new(level(*event.metadata().level()), kind);
        event.record(&mut line);
        if kind == LineKind::Host && line.request_id.is_some() {
            line.kind = LineKind::Request;
        }
        self.0.push(line);
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let place = match field.name() {
            "message" => {
                value.clone_into(&mut self.message);
                return;
            }
            "service" => &mut self.service,
            "version" => &mut self.version,
            "request_id" => &mut self.request_id,
            "stream" => &mut self.stream,
            name => {
                self.fields.insert(name.to_owned(), value.into());
                return;
            }
        };
        *place = Some(value.to_owned());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.fields.insert(field.name().to_owned(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.fields.insert(field.name().to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.fields.insert(field.name().to_owned(), value.into());
    }
}

fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARN",
        Level::INFO => "INFO",
        _ => "DEBUG",
    }
}

#[cfg(test)]
mod tests;
