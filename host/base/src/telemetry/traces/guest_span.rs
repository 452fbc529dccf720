//! Spans that guests make themselves, in the trace of their request.
//!
//! Their trace is that of the request, whatever the guest says: see [`OutboundTrace::export_guest_span`]. The caller bounds their
//! number and their sizes.
//!
//! [`OutboundTrace::export_guest_span`]: super::OutboundTrace::export_guest_span

use std::sync::Arc;

/// A span of a guest.
#[derive(Clone, Debug)]
pub struct GuestSpan {
    /// Its id.
    pub id: u64,
    /// The id of its parent, a span of the same request.
    pub parent: u64,
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: GuestSpanKind,
    /// Nanoseconds since 1970.
    pub begin: u64,
    /// Nanoseconds since 1970, not before `begin`.
    pub end: u64,
    /// Its attributes.
    pub attributes: Attributes,
    /// Its events.
    pub events: Vec<GuestEvent>,
    /// Events that were dropped, by the guest or by a bound.
    pub dropped_events: u32,
    /// Its links to other spans.
    pub links: Vec<GuestLink>,
    /// Links that were dropped, by the guest or by a bound.
    pub dropped_links: u32,
    /// Whether it succeeded.
    pub status: GuestSpanStatus,
    /// The name and the version of what has instrumented the guest.
    pub scope: (String, String),
    /// The service and the version of the guest.
    pub service: (Arc<str>, Arc<str>),
}

/// Attributes, and the number of those that were dropped.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attributes {
    /// Keys and values.
    pub all: Vec<(String, AttributeValue)>,
    /// Attributes that were dropped, by the guest or by a bound.
    pub dropped: u32,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum AttributeValue {
    /// A text.
    Text(String),
    /// A truth value.
    Bool(bool),
    /// An integer.
    Integer(i64),
    /// Another number.
    Double(f64),
    /// Values of any type except lists.
    List(Vec<AttributeValue>),
}

/// A moment within a span.
#[derive(Clone, Debug)]
pub struct GuestEvent {
    /// Its name.
    pub name: String,
    /// Nanoseconds since 1970.
    pub at: u64,
    /// Its attributes.
    pub attributes: Attributes,
}

/// A link to a span of this or another trace. It changes nothing of the other trace.
#[derive(Clone, Debug)]
pub struct GuestLink {
    /// The trace of the other span.
    pub trace_id: u128,
    /// The other span.
    pub span_id: u64,
    /// Its attributes.
    pub attributes: Attributes,
}

/// The kind of a guest's span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestSpanKind {
    /// An operation of the guest.
    Internal,
    /// A request that it sends.
    Client,
    /// A request that it handles.
    Server,
    /// A message that it publishes.
    Producer,
    /// A message that it receives.
    Consumer,
}

/// The status of a guest's span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestSpanStatus {
    /// The guest has said nothing about it.
    Unset,
    /// It succeeded.
    Ok,
    /// It failed, with this description.
    Failed(String),
}

impl AttributeValue {
    /// Returns the value that a JSON text stands for, as in `wasi:otel`; the text itself if it is no such value.
    pub fn of_json(text: &str) -> Self {
        serde_json::from_str(text)
            .ok()
            .and_then(|value| Self::of(value, true))
            .unwrap_or_else(|| Self::Text(text.into()))
    }

    fn of(value: serde_json::Value, may_list: bool) -> Option<Self> {
        use serde_json::Value;
        match value {
            Value::String(text) => Some(Self::Text(text)),
            Value::Bool(truth) => Some(Self::Bool(truth)),
            Value::Number(number) => number.as_i64().map(Self::Integer).or_else(|| number.as_f64().map(Self::Double)),
            Value::Array(values) if may_list => {
                values.into_iter().map(|value| Self::of(value, false)).collect::<Option<_>>().map(Self::List)
            }
            Value::Array(_) | Value::Object(_) | Value::Null => None,
        }
    }

    /// The value as text, for formats that have no other values.
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Bool(truth) => truth.to_string(),
            Self::Integer(number) => number.to_string(),
            Self::Double(number) => number.to_string(),
            Self::List(values) => {
                let texts: Vec<_> = values.iter().map(Self::text).collect();
                format!("[{}]", texts.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_becomes_values() {
        use AttributeValue::{Bool, Double, Integer, List, Text};
        for (json, value) in [
            ("\"a\"", Text("a".into())),
            ("true", Bool(true)),
            ("-7", Integer(-7)),
            ("9223372036854775807", Integer(i64::MAX)),
            ("18446744073709551615", Double(18_446_744_073_709_551_615.0)),
            ("0.5", Double(0.5)),
            ("[1,\"a\"]", List(vec![Integer(1), Text("a".into())])),
            ("[]", List(vec![])),
            // No values of attributes.
            ("[[1]]", Text("[[1]]".into())),
            ("{\"a\":1}", Text("{\"a\":1}".into())),
            ("null", Text("null".into())),
            ("plain", Text("plain".into())),
            ("", Text(String::new())),
        ] {
            assert_eq!(AttributeValue::of_json(json), value, "{json}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(AttributeValue::of_json(&deep), Text(deep.clone()));
    }
}
