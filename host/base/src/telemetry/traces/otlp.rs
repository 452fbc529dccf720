//! Encodes spans as OTLP protobuf, for gRPC and HTTP.
//!
//! The messages are defined here, with the field numbers of `opentelemetry/proto/trace/v1/trace.proto`. The format is
//! stable, and the crate with these messages depends on the SDK. The tests decode them with that crate.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use super::Finished;
use super::guest_span::{AttributeValue, Attributes, GuestEvent, GuestLink, GuestSpan, GuestSpanStatus};
use super::span::{self, Span, Value, spans};
use crate::ids::Ids;

/// Two bits after `trace-flags`: whether it is known that the parent is in another process, and whether it is.
const KNOWN_REMOTE: u32 = 0x100;
const REMOTE: u32 = 0x200;

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

/// The attributes of this host, for all spans.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Sent>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct Sent {
    #[prost(bytes = "bytes", tag = "1")]
    trace_id: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    span_id: Bytes,
    #[prost(string, tag = "3")]
    trace_state: String,
    #[prost(bytes = "bytes", tag = "4")]
    parent_span_id: Bytes,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(enumeration = "Kind", tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(uint32, tag = "10")]
    dropped_attributes_count: u32,
    #[prost(message, repeated, tag = "11")]
    events: Vec<Event>,
    #[prost(uint32, tag = "12")]
    dropped_events_count: u32,
    #[prost(message, repeated, tag = "13")]
    links: Vec<Link>,
    #[prost(uint32, tag = "14")]
    dropped_links_count: u32,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
enum Kind {
    Unspecified = 0,
    Internal = 1,
    Server = 2,
    Client = 3,
    Producer = 4,
    Consumer = 5,
}

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(fixed64, tag = "1")]
    time_unix_nano: u64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, repeated, tag = "3")]
    attributes: Vec<KeyValue>,
    #[prost(uint32, tag = "4")]
    dropped_attributes_count: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Link {
    #[prost(bytes = "bytes", tag = "1")]
    trace_id: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    span_id: Bytes,
    #[prost(message, repeated, tag = "4")]
    attributes: Vec<KeyValue>,
    #[prost(uint32, tag = "5")]
    dropped_attributes_count: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "Any", tags = "1, 2, 3, 4, 5")]
    value: Option<Any>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Any {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Bool(bool),
    #[prost(int64, tag = "3")]
    Number(i64),
    #[prost(double, tag = "4")]
    Double(f64),
    #[prost(message, tag = "5")]
    List(List),
}

#[derive(Clone, PartialEq, Message)]
struct List {
    #[prost(message, repeated, tag = "1")]
    values: Vec<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected_spans: i64,
}

impl Resource {
    /// Creates a resource with these attributes.
    pub(super) fn new(attributes: &[(String, String)]) -> Self {
        let all = attributes.iter().map(|(name, value)| key(name, Any::Text(value.clone())));
        Self { attributes: all.collect() }
    }

    /// The attributes of this host, with the name and version of a service of a guest.
    fn of_guest(&self, (service, version): &(Arc<str>, Arc<str>)) -> Self {
        let own = [("service.name", service), ("service.version", version)];
        let others = self.attributes.iter().filter(|host| own.iter().all(|(name, _)| *name != host.key)).cloned();
        let own = own.iter().map(|(name, value)| key(name, Any::Text(value.to_string())));
        Self { attributes: own.chain(others).collect() }
    }
}

/// Encodes an `ExportTraceServiceRequest` with the spans of `finished`.
pub(super) fn request(resource: &Resource, finished: &[Finished], ids: &Ids) -> Bytes {
    let scope = Scope { name: "lodge".into(), version: env!("CARGO_PKG_VERSION").into() };
    let mut own = ScopeSpans { scope: Some(scope), spans: Vec::new() };
    let mut guests: BTreeMap<_, BTreeMap<_, Vec<Sent>>> = BTreeMap::new();
    for span in finished.iter().flat_map(|finished| spans(finished, ids)) {
        match span.guest {
            None => own.spans.push(sent(span)),
            Some(guest) => {
                guests.entry(&guest.service).or_default().entry(&guest.scope).or_default().push(sent(span));
            }
        }
    }
    let scope_of = |(scope, spans): (&(String, String), _)| {
        let scope = Scope { name: scope.0.clone(), version: scope.1.clone() };
        ScopeSpans { scope: Some(scope), spans }
    };
    let of_guests = guests.into_iter().map(|(service, scopes)| ResourceSpans {
        resource: Some(resource.of_guest(service)),
        scope_spans: scopes.into_iter().map(scope_of).collect(),
    });
    let own = Some(own).filter(|own| !own.spans.is_empty());
    let own = own.map(|own| ResourceSpans { resource: Some(resource.clone()), scope_spans: vec![own] });
    Request { resource_spans: own.into_iter().chain(of_guests).collect() }.encode_to_vec().into()
}

/// Frames a gRPC message: an uncompressed flag, the length and the message.
pub(super) fn framed(message: &Bytes) -> Bytes {
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    // A batch is bounded far below 4 GiB.
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

/// Returns the number of rejected spans of an `ExportTraceServiceResponse`.
pub(super) fn rejected(response: &[u8]) -> u64 {
    let partial = Response::decode(response).ok().and_then(|response| response.partial_success);
    partial.map_or(0, |partial| u64::try_from(partial.rejected_spans).unwrap_or(0))
}

fn sent(span: Span<'_>) -> Sent {
    let context = span.context;
    let (kind, elsewhere) = match span.kind {
        span::SpanKind::Server => (Kind::Server, span.parent != 0 && span.guest.is_none()),
        span::SpanKind::Client => (Kind::Client, false),
        span::SpanKind::Producer => (Kind::Producer, false),
        span::SpanKind::Consumer => (Kind::Consumer, false),
        span::SpanKind::Internal => (Kind::Internal, false),
    };
    let remote = if elsewhere { KNOWN_REMOTE | REMOTE } else { KNOWN_REMOTE };
    let state = context.state.as_ref().and_then(|state| state.to_str().ok());
    let own = span.attributes.into_iter().map(|(name, value)| match value {
        Value::Text(text) => key(name, Any::Text(text.into_owned())),
        Value::Number(number) => key(name, Any::Number(number)),
    });
    let mut sent = Sent {
        trace_id: Bytes::copy_from_slice(&context.trace_id.to_be_bytes()),
        span_id: id(span.id),
        trace_state: state.unwrap_or_default().to_owned(),
        parent_span_id: if span.parent == 0 { Bytes::new() } else { id(span.parent) },
        name: span.name.into_owned(),
        kind: kind.into(),
        start_time_unix_nano: span.begin,
        end_time_unix_nano: span.end,
        attributes: own.collect(),
        status: span.failed.then(|| Status { code: 2, message: String::new() }),
        flags: u32::from(context.flags) | remote,
        ..Sent::default()
    };
    if let Some(guest) = span.guest {
        add_guest(&mut sent, guest);
    }
    sent
}

/// Adds what only spans of guests have.
fn add_guest(sent: &mut Sent, guest: &GuestSpan) {
    sent.attributes.extend(keys(&guest.attributes));
    sent.dropped_attributes_count = guest.attributes.dropped;
    let event = |event: &GuestEvent| Event {
        time_unix_nano: event.at,
        name: event.name.clone(),
        attributes: keys(&event.attributes).collect(),
        dropped_attributes_count: event.attributes.dropped,
    };
    let link = |link: &GuestLink| Link {
        trace_id: Bytes::copy_from_slice(&link.trace_id.to_be_bytes()),
        span_id: id(link.span_id),
        attributes: keys(&link.attributes).collect(),
        dropped_attributes_count: link.attributes.dropped,
    };
    (sent.events, sent.dropped_events_count) = (guest.events.iter().map(event).collect(), guest.dropped_events);
    (sent.links, sent.dropped_links_count) = (guest.links.iter().map(link).collect(), guest.dropped_links);
    sent.status = match &guest.status {
        GuestSpanStatus::Unset => None,
        GuestSpanStatus::Ok => Some(Status { code: 1, message: String::new() }),
        GuestSpanStatus::Failed(why) => Some(Status { code: 2, message: why.clone() }),
    };
}

fn keys(attributes: &Attributes) -> impl Iterator<Item = KeyValue> {
    attributes.all.iter().map(|(name, value)| key(name, any(value)))
}

fn any(value: &AttributeValue) -> Any {
    match value {
        AttributeValue::Text(text) => Any::Text(text.clone()),
        AttributeValue::Bool(truth) => Any::Bool(*truth),
        AttributeValue::Integer(number) => Any::Number(*number),
        AttributeValue::Double(number) => Any::Double(*number),
        AttributeValue::List(values) => {
            let values = values.iter().map(|value| AnyValue { value: Some(any(value)) }).collect();
            Any::List(List { values })
        }
    }
}

fn id(id: u64) -> Bytes {
    Bytes::copy_from_slice(&id.to_be_bytes())
}

fn key(name: &str, value: Any) -> KeyValue {
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}
