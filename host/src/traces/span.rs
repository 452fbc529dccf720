//! A recorded request as spans: its own, and one for every phase. The names are OpenTelemetry's semantic conventions.

use std::borrow::Cow;

use http::{Method, Uri};

use super::trace::{Asked, CANCELLED, Phase, Recording};
use crate::ids::Ids;

/// What every exporter makes its own form of.
pub(super) struct Span<'a> {
    pub(super) recording: &'a Recording,
    pub(super) id: u64,
    /// Zero when it has none.
    pub(super) parent: u64,
    pub(super) name: Cow<'a, str>,
    /// The request's own span; the others are inside of it.
    pub(super) server: bool,
    /// Nanoseconds since 1970.
    pub(super) begin: u64,
    pub(super) end: u64,
    pub(super) attributes: Vec<(&'static str, Value<'a>)>,
    /// It is the host's or the guest's fault.
    pub(super) failed: bool,
}

/// Value of an attribute.
#[derive(Debug)]
pub(super) enum Value<'a> {
    Text(Cow<'a, str>),
    Number(i64),
}

/// All spans of a request, its own first.
pub(super) fn spans<'a>(recording: &'a Recording, ids: &Ids) -> Vec<Span<'a>> {
    let mut spans = vec![server(recording)];
    spans.extend(recording.phases().map(|(phase, begin, end)| Span {
        recording,
        id: if phase == Phase::Guest { recording.guest } else { ids.span() },
        parent: recording.server,
        name: phase.name().into(),
        server: false,
        begin: recording.wall(begin),
        end: recording.wall(end),
        attributes: Vec::new(),
        failed: false,
    }));
    // What went wrong went wrong in the last phase that began.
    if let (Some(error), [_, .., last]) = (recording.outcome.error, &mut *spans) {
        last.attributes.push(("error.type", text(error)));
        last.failed = failed(recording);
    }
    spans
}

/// An answer of 5xx, or one that broke off after it had begun well. What a client does wrong, and one that goes away,
/// is no failure.
fn failed(recording: &Recording) -> bool {
    let broke_off = recording.outcome.error.is_some_and(|error| error != CANCELLED);
    recording.outcome.status.is_some_and(|status| status >= 500 || (status < 400 && broke_off))
}

fn server(recording: &Recording) -> Span<'_> {
    let Recording { outcome, asked, served, .. } = recording;
    let mut attributes = Vec::with_capacity(16);
    let mut add = |name, value| attributes.push((name, value));
    if let Some(asked) = asked {
        add("http.request.method", text(method(&asked.method).unwrap_or("_OTHER")));
        if method(&asked.method).is_none() {
            add("http.request.method_original", text(asked.method.as_str()));
        }
        add("url.path", text(asked.uri.path()));
        add("url.scheme", text(asked.uri.scheme_str().unwrap_or("http")));
        address(&asked.uri, &mut add);
        add("client.address", Value::Text(asked.client.to_string().into()));
        add("lodge.request_id", text(&asked.request_id));
    }
    if let Some(served) = served {
        add("http.route", text(&served.route));
        add("lodge.service", text(&served.service));
        add("lodge.version", text(&served.version));
    }
    if let Some(status) = outcome.status {
        add("http.response.status_code", Value::Number(status.into()));
        if let Some(bytes) = outcome.bytes_in {
            add("http.request.body.size", number(bytes));
        }
        add("http.response.body.size", number(outcome.bytes_out));
    }
    let unexplained = outcome.status.filter(|status| *status >= 500).map(|status| status.to_string().into());
    if let Some(error) = outcome.error.map(Cow::from).or(unexplained) {
        add("error.type", Value::Text(error));
    }
    Span {
        recording,
        id: recording.server,
        parent: recording.parent,
        name: title(asked.as_ref(), served.as_ref().map(|served| &*served.route)),
        server: true,
        begin: recording.wall(recording.begin),
        end: recording.wall(recording.end.0),
        attributes,
        failed: failed(recording),
    }
}

/// `GET /users/{id}`: what many requests have in common, never the path itself.
fn title<'a>(asked: Option<&Asked>, route: Option<&str>) -> Cow<'a, str> {
    let method = asked.and_then(|asked| method(&asked.method)).unwrap_or("HTTP");
    route.map_or(method.into(), |route| format!("{method} {route}").into())
}

/// Names of spans and attributes must be few, and anybody can invent a method.
fn method(method: &Method) -> Option<&'static str> {
    const KNOWN: [&str; 10] = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CONNECT", "TRACE", "QUERY"];
    KNOWN.into_iter().find(|known| *known == method.as_str())
}

fn address<'a>(uri: &'a Uri, add: &mut impl FnMut(&'static str, Value<'a>)) {
    if let Some(authority) = uri.authority() {
        add("server.address", text(authority.host()));
        if let Some(port) = authority.port_u16() {
            add("server.port", Value::Number(port.into()));
        }
    }
}

fn text(text: &str) -> Value<'_> {
    Value::Text(text.into())
}

fn number(number: u64) -> Value<'static> {
    Value::Number(i64::try_from(number).unwrap_or(i64::MAX))
}
