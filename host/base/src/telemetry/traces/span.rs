//! Converts finished recordings into spans: a request into its own span and one per phase, a request that was sent into
//! a single one. Names follow OpenTelemetry's semantic conventions.

use std::borrow::Cow;

use http::{Method, Uri, Version};

use super::Finished;
use super::client::Sent;
use super::context::Context;
use super::guest_span::{GuestSpan, GuestSpanKind, GuestSpanStatus};
use super::operation::{Operated, OperationObject};
use super::trace::{CANCELLED, Phase, Recording, RequestAttributes};
use crate::ids::Ids;

/// A span, independent of the export format.
pub(super) struct Span<'a> {
    pub(super) context: &'a Context,
    pub(super) id: u64,
    /// The id of the parent span; zero if there is none.
    pub(super) parent: u64,
    pub(super) name: Cow<'a, str>,
    pub(super) kind: SpanKind,
    /// Nanoseconds since 1970.
    pub(super) begin: u64,
    pub(super) end: u64,
    pub(super) attributes: Vec<(&'static str, Value<'a>)>,
    /// Whether the status of the span is an error.
    pub(super) failed: bool,
    /// What else a guest says about its span.
    pub(super) guest: Option<&'a GuestSpan>,
}

/// The kind of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SpanKind {
    /// The span of a request to this host.
    Server,
    /// The span of a request that the host sends, or of an operation.
    Client,
    /// The span of a message that is published, which its consumers receive later.
    Producer,
    /// The span of a message that a guest receives.
    Consumer,
    /// The span of a phase.
    Internal,
}

/// The value of an attribute.
#[derive(Debug)]
pub(super) enum Value<'a> {
    Text(Cow<'a, str>),
    Number(i64),
}

/// Returns the spans of a recording.
pub(super) fn spans<'a>(finished: &'a Finished, ids: &Ids) -> Vec<Span<'a>> {
    match finished {
        Finished::Request(recording) => of_request(recording, ids),
        Finished::Sent(sent) => vec![client(sent)],
        Finished::Operated(operated) => vec![operation(operated)],
        Finished::Guest(guest) => vec![of_guest(&guest.0, &guest.1)],
    }
}

/// Returns the spans of a request, its own first.
fn of_request<'a>(recording: &'a Recording, ids: &Ids) -> Vec<Span<'a>> {
    let mut spans = vec![server(recording)];
    spans.extend(recording.phases().map(|(phase, begin, end)| Span {
        context: &recording.context,
        id: if phase == Phase::Guest { recording.guest } else { ids.span() },
        parent: recording.server,
        name: phase.name().into(),
        kind: SpanKind::Internal,
        begin: recording.end.wall(begin),
        end: recording.end.wall(end),
        attributes: Vec::new(),
        failed: false,
        guest: None,
    }));
    // An error belongs to the last phase that began.
    if let (Some(error), [_, .., last]) = (recording.outcome.error, &mut *spans) {
        last.attributes.push(("error.type", text(error)));
        last.failed = failed(recording);
    }
    spans
}

/// Whether a request failed: a 5xx response, or one that was aborted after a good head. Errors and disconnects of the
/// client are not failures.
fn failed(recording: &Recording) -> bool {
    let broke_off = recording.outcome.error.is_some_and(|error| error != CANCELLED);
    recording.outcome.status.is_some_and(|status| status >= 500 || (status < 400 && broke_off))
}

fn server(recording: &Recording) -> Span<'_> {
    let Recording { outcome, asked, served, .. } = recording;
    let mut attributes = Vec::with_capacity(16);
    let mut add = |name, value| attributes.push((name, value));
    if let Some(asked) = asked {
        add_method(&asked.method, &mut add);
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
        context: &recording.context,
        id: recording.server,
        parent: recording.context.parent,
        name: title(asked.as_ref(), served.as_ref().map(|served| &*served.route)),
        kind: SpanKind::Server,
        begin: recording.end.wall(recording.begin),
        end: recording.end.wall(recording.end.0),
        attributes,
        failed: failed(recording),
        guest: None,
    }
}

/// Returns the span of a request that was sent. Here a 4xx response is a failure, because the sender caused it.
fn client(sent: &Sent) -> Span<'_> {
    let mut attributes = Vec::with_capacity(9);
    let mut add = |name, value| attributes.push((name, value));
    add_method(&sent.method, &mut add);
    add("server.address", text(&sent.host));
    add("server.port", Value::Number(sent.port.into()));
    add("url.full", Value::Text(sent.url().into()));
    if sent.resent > 0 {
        add("http.request.resend_count", number(sent.resent as u64));
    }
    if let Some((status, version)) = sent.response {
        add("http.response.status_code", Value::Number(status.as_u16().into()));
        add("network.protocol.version", text(if version == Version::HTTP_2 { "2" } else { "1.1" }));
    }
    let status = sent.response.map(|(status, _)| status.as_u16()).filter(|status| *status >= 400);
    if let Some(error) = sent.error.map(Cow::from).or(status.map(|status| status.to_string().into())) {
        add("error.type", Value::Text(error));
    }
    add("lodge.service", text(&sent.sender));
    Span {
        context: &sent.context,
        id: sent.id,
        parent: sent.context.parent,
        name: method(&sent.method).unwrap_or("HTTP").into(),
        kind: SpanKind::Client,
        begin: sent.end.wall(sent.begin),
        end: sent.end.wall(sent.end.0),
        attributes,
        failed: status.is_some() || sent.error.is_some_and(|error| error != CANCELLED),
        guest: None,
    }
}

/// Returns the span of an operation.
fn operation(operated: &Operated) -> Span<'_> {
    let mut attributes = match &operated.object {
        OperationObject::Bucket(bucket) => {
            vec![("db.operation.name", text(operated.name)), ("db.collection.name", text(bucket))]
        }
        OperationObject::Lock => Vec::new(),
        OperationObject::Database(database) => {
            vec![("db.system.name", text("sqlite")), ("db.namespace", text(database))]
        }
        OperationObject::Published(subject) => message("publish", subject),
        OperationObject::Requested(subject) => message("request", subject),
    };
    attributes.push(("lodge.service", text(&operated.service)));
    attributes.extend(operated.error.map(|error| ("error.type", text(error))));
    let published = matches!(operated.object, OperationObject::Published(_));
    Span {
        context: &operated.context,
        id: operated.id,
        parent: operated.context.parent,
        name: operated.name.into(),
        kind: if published { SpanKind::Producer } else { SpanKind::Client },
        begin: operated.end.wall(operated.begin),
        end: operated.end.wall(operated.end.0),
        attributes,
        failed: operated.error.is_some_and(|error| error != CANCELLED),
        guest: None,
    }
}

/// Returns the span of a guest.
fn of_guest<'a>(context: &'a Context, guest: &'a GuestSpan) -> Span<'a> {
    Span {
        context,
        id: guest.id,
        parent: guest.parent,
        name: guest.name.as_str().into(),
        kind: match guest.kind {
            GuestSpanKind::Internal => SpanKind::Internal,
            GuestSpanKind::Client => SpanKind::Client,
            GuestSpanKind::Server => SpanKind::Server,
            GuestSpanKind::Producer => SpanKind::Producer,
            GuestSpanKind::Consumer => SpanKind::Consumer,
        },
        begin: guest.begin,
        end: guest.end,
        attributes: vec![("lodge.service", text(&guest.service.0))],
        failed: matches!(guest.status, GuestSpanStatus::Failed(_)),
        guest: Some(guest),
    }
}

/// Returns the attributes of a message that is sent.
fn message<'a>(operation: &'static str, subject: &'a str) -> Vec<(&'static str, Value<'a>)> {
    vec![
        ("messaging.system", text("lodge")),
        ("messaging.operation.name", text(operation)),
        ("messaging.operation.type", text("send")),
        ("messaging.destination.name", text(subject)),
    ]
}

fn add_method<'a>(said: &'a Method, add: &mut impl FnMut(&'static str, Value<'a>)) {
    add("http.request.method", text(method(said).unwrap_or("_OTHER")));
    if method(said).is_none() {
        add("http.request.method_original", text(said.as_str()));
    }
}

/// Returns the name of a span, such as `GET /users/{id}`: the route, never the path, because names must be few.
fn title<'a>(asked: Option<&RequestAttributes>, route: Option<&str>) -> Cow<'a, str> {
    let method = asked.and_then(|asked| method(&asked.method)).unwrap_or("HTTP");
    route.map_or(method.into(), |route| format!("{method} {route}").into())
}

/// Returns the name of a known method. Names of spans must be few, and a client can send any method.
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
