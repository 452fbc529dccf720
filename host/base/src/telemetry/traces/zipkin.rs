//! Encodes spans as Zipkin v2 JSON.

use std::net::IpAddr;

use bytes::Bytes;
use serde_json::{Map, Value as Json, json};

use super::Finished;
use super::guest_span::{GuestEvent, GuestSpan, GuestSpanStatus};
use super::span::{Span, SpanKind, Value, spans};
use crate::ids::Ids;

/// Encodes the spans of `finished`, recorded by a host with these attributes.
pub(super) fn request(host: &[(String, String)], finished: &[Finished], ids: &Ids) -> Bytes {
    let all = finished.iter().flat_map(|finished| spans(finished, ids));
    let all: Vec<_> = all.map(|span| sent(host, &span)).collect();
    serde_json::to_vec(&all).unwrap_or_default().into()
}

fn sent(host: &[(String, String)], span: &Span<'_>) -> Json {
    let micros = |nanos: u64| nanos / 1000;
    let host_name = host.iter().find(|(name, _)| name == "service.name").map_or("lodge", |(_, value)| value);
    let service = span.guest.map_or(host_name, |guest| &guest.service.0);
    let mut tags = Map::new();
    // Zipkin identifies a host by name only, so its other attributes are tags of the request's own span.
    let own = span.kind == SpanKind::Server && span.guest.is_none();
    for (name, value) in host.iter().filter(|(name, _)| own && name != "service.name") {
        tags.insert(name.clone(), value.clone().into());
    }
    for (name, value) in span.guest.iter().flat_map(|guest| &guest.attributes.all) {
        tags.insert(name.clone(), value.text().into());
    }
    for (name, value) in &span.attributes {
        let text = match value {
            Value::Text(text) => text.clone().into_owned(),
            Value::Number(number) => number.to_string(),
        };
        // Tags are text. The tag `error` marks a span as failed.
        tags.insert((*name).to_owned(), text.into());
    }
    if span.failed {
        let said = span.guest.and_then(|guest| match &guest.status {
            GuestSpanStatus::Failed(why) if !why.is_empty() => Some(why.clone().into()),
            _ => None,
        });
        let error = said.or_else(|| tags.get("error.type").cloned());
        tags.insert("error".to_owned(), error.unwrap_or_else(|| "true".into()));
    }
    let mut sent = json!({
        "traceId": format!("{:032x}", span.context.trace_id),
        "id": format!("{:016x}", span.id),
        "name": span.name,
        "timestamp": micros(span.begin),
        // Zipkin treats a duration of zero as absent.
        "duration": micros(span.end.saturating_sub(span.begin)).max(1),
        "localEndpoint": { "serviceName": service },
        "tags": tags,
    });
    if let Some(fields) = sent.as_object_mut() {
        if span.parent != 0 {
            fields.insert("parentId".into(), format!("{:016x}", span.parent).into());
        }
        if let Some(GuestSpan { events, .. }) = span.guest.filter(|guest| !guest.events.is_empty()) {
            let annotation = |event: &GuestEvent| json!({ "timestamp": micros(event.at), "value": event.name });
            fields.insert("annotations".into(), events.iter().map(annotation).collect());
        }
        let (kind, other) = match span.kind {
            SpanKind::Server => ("SERVER", "client.address"),
            SpanKind::Client => ("CLIENT", "server.address"),
            SpanKind::Producer => ("PRODUCER", "server.address"),
            SpanKind::Consumer => ("CONSUMER", "server.address"),
            SpanKind::Internal => return sent,
        };
        fields.insert("kind".into(), kind.into());
        let said = |wanted: &str| span.attributes.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value);
        if let Some(Value::Text(address)) = said(other) {
            let family = match address.parse() {
                Ok(IpAddr::V4(_)) => "ipv4",
                Ok(IpAddr::V6(_)) => "ipv6",
                Err(_) => "serviceName",
            };
            fields.insert("remoteEndpoint".into(), json!({ family: address }));
        }
    }
    sent
}
