//! The types of `wasi:otel`, as guests pass them. Texts stay in the memory of the guest until they are needed.

#![expect(dead_code, reason = "fields that are not used are part of the types all the same")]

use wasmtime::component::{ComponentType, Lift, Lower, WasmStr, flags};

/// A moment, as in `wasi:clocks/wall-clock`.
#[derive(Clone, Copy, ComponentType, Lift)]
#[component(record)]
pub(super) struct Datetime {
    pub(super) seconds: u64,
    pub(super) nanoseconds: u32,
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct KeyValue {
    pub(super) key: WasmStr,
    /// JSON.
    pub(super) value: WasmStr,
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct Resource {
    attributes: Vec<KeyValue>,
    #[component(name = "schema-url")]
    schema_url: Option<WasmStr>,
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct Scope {
    pub(super) name: WasmStr,
    pub(super) version: Option<WasmStr>,
    #[component(name = "schema-url")]
    schema_url: Option<WasmStr>,
    attributes: Vec<KeyValue>,
}

flags! {
    TraceFlags {
        #[component(name = "sampled")]
        const SAMPLED;
    }
}

/// The context of a span, as guests pass it.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct SpanContext {
    #[component(name = "trace-id")]
    pub(super) trace_id: WasmStr,
    #[component(name = "span-id")]
    pub(super) span_id: WasmStr,
    #[component(name = "trace-flags")]
    pub(super) trace_flags: TraceFlags,
    #[component(name = "is-remote")]
    is_remote: bool,
    #[component(name = "trace-state")]
    trace_state: Vec<(WasmStr, WasmStr)>,
}

/// The context of a span, as guests receive it.
#[derive(ComponentType, Lower)]
#[component(record)]
pub(super) struct OuterContext {
    #[component(name = "trace-id")]
    pub(super) trace_id: String,
    #[component(name = "span-id")]
    pub(super) span_id: String,
    #[component(name = "trace-flags")]
    pub(super) trace_flags: TraceFlags,
    #[component(name = "is-remote")]
    pub(super) is_remote: bool,
    #[component(name = "trace-state")]
    pub(super) trace_state: Vec<(String, String)>,
}

#[derive(Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
pub(super) enum SpanKind {
    #[component(name = "client")]
    Client,
    #[component(name = "server")]
    Server,
    #[component(name = "producer")]
    Producer,
    #[component(name = "consumer")]
    Consumer,
    #[component(name = "internal")]
    Internal,
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct Event {
    pub(super) name: WasmStr,
    pub(super) time: Datetime,
    pub(super) attributes: Vec<KeyValue>,
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct Link {
    #[component(name = "span-context")]
    pub(super) span_context: SpanContext,
    pub(super) attributes: Vec<KeyValue>,
}

#[derive(ComponentType, Lift)]
#[component(variant)]
pub(super) enum Status {
    #[component(name = "unset")]
    Unset,
    #[component(name = "ok")]
    Ok,
    #[component(name = "error")]
    Error(WasmStr),
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct SpanData {
    #[component(name = "span-context")]
    pub(super) span_context: SpanContext,
    #[component(name = "parent-span-id")]
    pub(super) parent_span_id: WasmStr,
    #[component(name = "span-kind")]
    pub(super) span_kind: SpanKind,
    pub(super) name: WasmStr,
    #[component(name = "start-time")]
    pub(super) start_time: Datetime,
    #[component(name = "end-time")]
    pub(super) end_time: Datetime,
    pub(super) attributes: Vec<KeyValue>,
    pub(super) events: Vec<Event>,
    pub(super) links: Vec<Link>,
    pub(super) status: Status,
    #[component(name = "instrumentation-scope")]
    pub(super) scope: Scope,
    #[component(name = "dropped-attributes")]
    pub(super) dropped_attributes: u32,
    #[component(name = "dropped-events")]
    pub(super) dropped_events: u32,
    #[component(name = "dropped-links")]
    pub(super) dropped_links: u32,
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct LogRecord {
    timestamp: Option<Datetime>,
    #[component(name = "observed-timestamp")]
    observed_timestamp: Option<Datetime>,
    #[component(name = "severity-text")]
    severity_text: Option<WasmStr>,
    #[component(name = "severity-number")]
    pub(super) severity_number: Option<u8>,
    pub(super) body: Option<WasmStr>,
    pub(super) attributes: Option<Vec<KeyValue>>,
    #[component(name = "event-name")]
    pub(super) event_name: Option<WasmStr>,
    resource: Option<Resource>,
    #[component(name = "instrumentation-scope")]
    scope: Option<Scope>,
    #[component(name = "trace-id")]
    trace_id: Option<WasmStr>,
    #[component(name = "span-id")]
    span_id: Option<WasmStr>,
    #[component(name = "trace-flags")]
    trace_flags: Option<TraceFlags>,
}

impl Datetime {
    /// Nanoseconds since 1970.
    pub(super) fn nanos(self) -> u64 {
        self.seconds.saturating_mul(1_000_000_000).saturating_add(self.nanoseconds.into())
    }
}
