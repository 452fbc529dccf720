//! The request log: one line per request, written at the end of its response if `log_requests` is on, and sent to
//! followers.
//!
//! Lines are formatted by hand: `tracing` would cost about a tenth of a request.

use std::borrow::Cow;
use std::io::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use http::header::{HeaderMap, HeaderName};
use http::uri::PathAndQuery;
use http::{Method, StatusCode};

use super::mask::Mask;
use super::tail::{Line, LineKind, Tail};
use super::writer::Writer;
use crate::config::{Config, LogFormat};

/// The most lines per second for followers while `log_requests` is off.
const FOLLOWED: u64 = 200;

/// The request log.
pub struct RequestLog {
    on: bool,
    format: LogFormat,
    mask: Mask,
    headers: Vec<HeaderName>,
    writer: Writer,
    tail: Arc<Tail>,
    /// Seconds since 1970 in the upper half, the number of lines in that second in the lower half.
    told: AtomicU64,
}

/// A finished request.
pub struct RequestLine<'a> {
    /// When the request head was read.
    pub began: SystemTime,
    /// The request id that the client sees.
    pub request_id: &'a str,
    /// The service that handled it; empty if none did.
    pub service: &'a str,
    /// Which version of it.
    pub version: Option<&'a str>,
    /// The method.
    pub method: &'a Method,
    /// The path and query.
    pub target: Option<&'a PathAndQuery>,
    /// The address of the client.
    pub client: IpAddr,
    /// Whose request it is, by verified credentials.
    pub subject: Option<&'a str>,
    /// The status of the response; `None` if the client disconnected first.
    pub status: Option<StatusCode>,
    /// The reason of a failure.
    pub reason: Option<&'static str>,
    /// Name and duration of each phase.
    pub phases: &'a [(&'static str, Duration)],
    /// The total duration.
    pub took: Duration,
    /// Bytes of the request body by its `Content-Length`.
    pub received: Option<u64>,
    /// Bytes of the response body.
    pub sent: u64,
    /// The id of its trace.
    pub trace_id: Option<u128>,
    /// The headers of `log_headers`, by [`RequestLog::chosen`].
    pub headers: &'a [(HeaderName, String)],
}

impl RequestLog {
    pub(super) fn new(config: &Config, writer: Writer, tail: Arc<Tail>) -> Self {
        Self {
            on: config.log_requests,
            format: config.log_format,
            mask: Mask::new(&config.log_mask),
            headers: config.log_headers.clone(),
            writer,
            tail,
            told: AtomicU64::new(0),
        }
    }

    /// Whether requests are logged or followed.
    pub fn wanted(&self) -> bool {
        self.on || self.tail.is_followed()
    }

    /// Returns the headers of `log_headers`, masked.
    pub fn chosen(&self, headers: &HeaderMap) -> Vec<(HeaderName, String)> {
        let chosen = self.headers.iter().filter_map(|name| Some((name, headers.get(name)?)));
        chosen.map(|(name, value)| (name.clone(), self.mask.header(name, value.as_bytes()))).collect()
    }

    /// Logs a finished request and sends it to followers.
    pub fn tell(&self, told: &RequestLine<'_>) {
        let target = self.target(told.target);
        let told = &RequestLine { subject: told.subject.map(|subject| self.mask.field("subject", subject)), ..*told };
        if self.on {
            self.writer.line(&match self.format {
                LogFormat::Json => json(told, &target),
                LogFormat::Text => plain(told, &target),
            });
        }
        if self.tail.is_followed() && (self.on || self.may_tell(told.began)) {
            self.tail.tell(line(told, &target));
        }
    }

    fn may_tell(&self, now: SystemTime) -> bool {
        let second = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() << 32;
        let before = self.told.load(Relaxed);
        if before >> 32 != second >> 32 {
            self.told.store(second | 1, Relaxed);
            return true;
        }
        (self.told.fetch_add(1, Relaxed) & u64::from(u32::MAX)) < FOLLOWED
    }

    /// Returns path and query, with masked parameters.
    fn target<'a>(&self, target: Option<&'a PathAndQuery>) -> Cow<'a, str> {
        target.map_or(Cow::Borrowed("/"), |target| self.mask.url(target.as_str()))
    }
}

fn level(told: &RequestLine<'_>) -> &'static str {
    if told.status.is_none_or(|status| status.is_server_error()) || told.reason.is_some() { "WARN" } else { "INFO" }
}

fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// A line that is being formatted. `write!` and floating-point formatting would take longer than everything else.
struct Text(Vec<u8>);

impl Text {
    fn plain(&mut self, text: &str) -> &mut Self {
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    /// Appends a JSON string. Text of clients and guests can neither end the line nor add a field.
    fn quoted(&mut self, text: &str) -> &mut Self {
        // Writing to memory cannot fail.
        let _ = serde_json::to_writer(&mut self.0, text);
        self
    }

    fn number(&mut self, number: u64) -> &mut Self {
        self.plain(itoa::Buffer::new().format(number))
    }

    /// Appends milliseconds with three decimals.
    fn ms(&mut self, duration: Duration) -> &mut Self {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.number(micros / 1000).plain(match micros % 1000 {
            0..10 => ".00",
            10..100 => ".0",
            _ => ".",
        });
        self.number(micros % 1000)
    }

    fn shown(&mut self, value: impl std::fmt::Display) -> &mut Self {
        // Writing to memory cannot fail.
        let _ = write!(self.0, "{value}");
        self
    }
}

fn json(told: &RequestLine<'_>, target: &str) -> Vec<u8> {
    let mut line = Text(Vec::with_capacity(512));
    line.plain("{\"timestamp\":\"").shown(humantime::format_rfc3339_micros(told.began));
    line.plain("\",\"level\":\"").plain(level(told)).plain("\",\"target\":\"request\",\"request_id\":");
    line.quoted(told.request_id);
    if !told.service.is_empty() {
        line.plain(",\"service\":\"").plain(told.service).plain("\"");
    }
    if let Some(version) = told.version {
        line.plain(",\"version\":\"").plain(version).plain("\"");
    }
    line.plain(",\"method\":").quoted(told.method.as_str()).plain(",\"path\":").quoted(target);
    line.plain(",\"client\":\"").shown(told.client).plain("\"");
    if let Some(subject) = told.subject {
        line.plain(",\"subject\":").quoted(subject);
    }
    if let Some(status) = told.status {
        line.plain(",\"status\":").plain(status.as_str());
    }
    if let Some(reason) = told.reason {
        line.plain(",\"reason\":\"").plain(reason).plain("\"");
    }
    for (name, took) in told.phases {
        line.plain(",\"").plain(name).plain("_ms\":").ms(*took);
    }
    if let Some(received) = told.received {
        line.plain(",\"received\":").number(received);
    }
    if let Some(trace_id) = told.trace_id {
        line.plain(",\"trace_id\":\"").shown(format_args!("{trace_id:032x}")).plain("\"");
    }
    for (name, value) in told.headers {
        line.plain(",\"header_").plain(name.as_str()).plain("\":").quoted(value);
    }
    line.plain(",\"sent\":").number(told.sent).plain(",\"ms\":").ms(told.took).plain("}\n");
    line.0
}

fn plain(told: &RequestLine<'_>, target: &str) -> Vec<u8> {
    let mut line = Text(Vec::with_capacity(512));
    line.shown(humantime::format_rfc3339_micros(told.began)).plain("  ").plain(level(told)).plain(" ");
    line.plain(told.method.as_str()).plain(" ").plain(target).plain(" ");
    line.plain(told.status.as_ref().map_or("-", StatusCode::as_str)).plain(" ");
    line.ms(told.took).plain(" ms, ").number(told.sent).plain(" B");
    if !told.service.is_empty() {
        line.plain(" service=").plain(told.service);
    }
    if let Some(version) = told.version {
        line.plain(" version=").plain(version);
    }
    if let Some(reason) = told.reason {
        line.plain(" reason=").plain(reason);
    }
    for (name, took) in told.phases {
        line.plain(" ").plain(name).plain("=").ms(*took).plain("ms");
    }
    if let Some(received) = told.received {
        line.plain(" received=").number(received);
    }
    if let Some(trace_id) = told.trace_id {
        line.plain(" trace_id=").shown(format_args!("{trace_id:032x}"));
    }
    for (name, value) in told.headers {
        line.plain(" ").plain(name.as_str()).plain("=").quoted(value);
    }
    if let Some(subject) = told.subject {
        line.plain(" subject=").quoted(subject);
    }
    line.plain(" client=").shown(told.client).plain(" request_id=").plain(told.request_id).plain("\n");
    line.0
}

fn line(told: &RequestLine<'_>, target: &str) -> Line {
    let mut line = Line::new(level(told), LineKind::Request);
    let status = told.status.map_or_else(|| "no response".into(), |status| status.as_u16().to_string());
    line.message = format!("{} {target} {status} in {} ms", told.method, ms(told.took));
    line.service = (!told.service.is_empty()).then(|| told.service.to_owned());
    line.version = told.version.map(str::to_owned);
    line.request_id = Some(told.request_id.to_owned());
    let mut field = |name: &str, value: serde_json::Value| drop(line.fields.insert(name.to_owned(), value));
    told.reason.into_iter().for_each(|reason| field("reason", reason.into()));
    told.phases.iter().for_each(|(name, took)| field(&format!("{name}_ms"), ms(*took).into()));
    field("sent", told.sent.into());
    field("client", told.client.to_string().into());
    told.subject.into_iter().for_each(|subject| field("subject", subject.into()));
    told.trace_id.into_iter().for_each(|id| field("trace_id", format!("{id:032x}").into()));
    told.headers.iter().for_each(|(name, value)| field(&format!("header_{name}"), value.as_str().into()));
    line
}

#[cfg(test)]
mod tests;
