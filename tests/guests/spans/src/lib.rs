//! Makes spans, log records and metrics by `wasi:otel`: `/SERVICE/WHAT?NUMBER`. Responds with the context of the host's span.

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

wit_bindgen::generate!({
    inline: "
        package lodge:spans;

        world spans {
            import wasi:otel/tracing@0.2.0-rc.2;
            import wasi:otel/logs@0.2.0-rc.2;
            import wasi:otel/metrics@0.2.0-rc.2;
        }

        package wasi:clocks@0.2.1 {
            interface wall-clock {
                record datetime { seconds: u64, nanoseconds: u32 }
            }
        }

        package wasi:otel@0.2.0-rc.2 {
            interface types {
                record key-value { key: string, value: string }
                record %resource { attributes: list<key-value>, schema-url: option<string> }
                record instrumentation-scope {
                    name: string,
                    version: option<string>,
                    schema-url: option<string>,
                    attributes: list<key-value>,
                }
            }
            interface tracing {
                use wasi:clocks/wall-clock@0.2.1.{datetime};
                use types.{key-value, instrumentation-scope};
                on-start: func(context: span-context);
                on-end: func(span: span-data);
                outer-span-context: func() -> span-context;
                record span-data {
                    span-context: span-context,
                    parent-span-id: string,
                    span-kind: span-kind,
                    name: string,
                    start-time: datetime,
                    end-time: datetime,
                    attributes: list<key-value>,
                    events: list<event>,
                    links: list<link>,
                    status: status,
                    instrumentation-scope: instrumentation-scope,
                    dropped-attributes: u32,
                    dropped-events: u32,
                    dropped-links: u32,
                }
                record span-context {
                    trace-id: string,
                    span-id: string,
                    trace-flags: trace-flags,
                    is-remote: bool,
                    trace-state: list<tuple<string, string>>,
                }
                flags trace-flags { sampled }
                enum span-kind { client, server, producer, consumer, internal }
                record event { name: string, time: datetime, attributes: list<key-value> }
                record link { span-context: span-context, attributes: list<key-value> }
                variant status { unset, ok, error(string) }
            }
            interface logs {
                use types.{instrumentation-scope, %resource, key-value};
                use tracing.{trace-flags};
                use wasi:clocks/wall-clock@0.2.1.{datetime};
                on-emit: func(data: log-record);
                record log-record {
                    timestamp: option<datetime>,
                    observed-timestamp: option<datetime>,
                    severity-text: option<string>,
                    severity-number: option<u8>,
                    body: option<string>,
                    attributes: option<list<key-value>>,
                    event-name: option<string>,
                    %resource: option<%resource>,
                    instrumentation-scope: option<instrumentation-scope>,
                    trace-id: option<string>,
                    span-id: option<string>,
                    trace-flags: option<trace-flags>,
                }
            }
            interface metrics {
                use types.{%resource};
                %export: func(metrics: resource-metrics) -> result<_, string>;
                record resource-metrics { %resource: %resource, scope-metrics: list<u8> }
            }
        }
    ",
    generate_all,
});

use wasi::clocks::wall_clock::Datetime;
use wasi::otel::logs::{LogRecord, on_emit};
use wasi::otel::metrics::{ResourceMetrics, export};
use wasi::otel::tracing::{
    Event, Link, SpanContext, SpanData, SpanKind, Status, TraceFlags, on_end, on_start, outer_span_context,
};
use wasi::otel::types::{InstrumentationScope, KeyValue, Resource};

struct Guest;

wasip2::http::proxy::export!(Guest);

impl wasip2::exports::http::incoming_handler::Guest for Guest {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (path, number) = target.split_once('?').unwrap_or((&target, ""));
        let outer = outer_span_context();
        make(path.rsplit('/').next().unwrap_or_default(), number.parse().unwrap_or(1), &outer);
        let sampled = outer.trace_flags.contains(TraceFlags::SAMPLED);
        let state: Vec<_> = outer.trace_state.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let text = format!("{} {} {sampled} {}", outer.trace_id, outer.span_id, state.join(","));
        kit::text(outparam, text);
    }
}

fn make(what: &str, number: u64, outer: &SpanContext) {
    match what {
        "tree" => tree(outer),
        "foreign" => {
            let digit = if outer.trace_id.ends_with('0') { '1' } else { '0' };
            let trace_id = format!("{}{digit}", &outer.trace_id[..31]);
            end(span(&SpanContext { trace_id, ..outer.clone() }, 1, "foreign"));
        }
        "outer" => {
            let mut own = span(outer, 1, "outer");
            own.span_context.span_id.clone_from(&outer.span_id);
            end(own);
        }
        "twice" => (0..2).for_each(|_| end(span(outer, 1, "twice"))),
        "ids" => ["", "0000000000000000", "1", "000000000000000G"].into_iter().for_each(|id| {
            let mut own = span(outer, 1, "ids");
            own.span_context.span_id = id.into();
            end(own);
        }),
        "stranger" => {
            let mut own = span(outer, 1, "stranger");
            own.parent_span_id = id(77);
            end(own);
        }
        "unsampled" => {
            let mut own = span(outer, 1, "unsampled");
            own.span_context.trace_flags = TraceFlags::empty();
            end(own);
        }
        "many" => (1..=number).for_each(|number| end(span(outer, number, "many"))),
        // More of everything than is kept.
        "large" => (1..=number).for_each(|number| {
            let mut own = span(outer, number, "large");
            own.attributes = vec![attribute(&"k".repeat(1000), &format!("\"{}\"", "v".repeat(1 << 20)))];
            own.attributes.extend((0..200).map(|number| attribute(&format!("number-{number}"), "1")));
            own.events = vec![event("tick", vec![]); 200];
            own.links = vec![Link { span_context: span(outer, 9, "").span_context, attributes: vec![] }; 200];
            end(own);
        }),
        "log" => on_emit(&LogRecord {
            timestamp: None,
            observed_timestamp: None,
            severity_text: None,
            severity_number: u8::try_from(number).ok(),
            body: Some("\"a body\"".into()),
            attributes: Some(vec![attribute("user", "7")]),
            event_name: None,
            resource: None,
            instrumentation_scope: None,
            trace_id: None,
            span_id: None,
            trace_flags: None,
        }),
        "metrics" => {
            let resource = Resource { attributes: vec![], schema_url: None };
            (0..number)
                .for_each(|_| export(&ResourceMetrics { resource: resource.clone(), scope_metrics: vec![] }).unwrap());
        }
        _ => {}
    }
}

/// Two spans, of which the outer one ends last.
fn tree(outer: &SpanContext) {
    let mut parent = span(outer, 1, "checkout");
    on_start(&parent.span_context);
    let mut child = span(outer, 2, "price");
    child.parent_span_id = id(1);
    child.span_kind = SpanKind::Client;
    child.status = Status::Error("too dear".into());
    child.attributes = vec![
        attribute("text", "\"tea\""),
        attribute("count", "3"),
        attribute("share", "0.5"),
        attribute("list", "[1,2]"),
        attribute("lodge.service", "\"another\""),
        attribute("lodge.version", "\"another\""),
    ];
    child.events = vec![event("asked", vec![attribute("by", "\"me\"")])];
    end(child);
    parent.links = vec![Link { span_context: span(outer, 9, "").span_context, attributes: vec![] }];
    on_end(&parent);
}

fn id(number: u64) -> String {
    format!("{number:016x}")
}

fn attribute(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.into(), value: value.into() }
}

fn event(name: &str, attributes: Vec<KeyValue>) -> Event {
    Event { name: name.into(), time: Datetime { seconds: 1_700_000_000, nanoseconds: 5_000 }, attributes }
}

fn end(span: SpanData) {
    on_start(&span.span_context);
    on_end(&span);
}

/// A span below the host's.
fn span(outer: &SpanContext, number: u64, name: &str) -> SpanData {
    let at = |seconds: u64| Datetime { seconds: 1_700_000_000 + seconds, nanoseconds: 0 };
    SpanData {
        span_context: SpanContext { span_id: id(number), is_remote: false, ..outer.clone() },
        parent_span_id: outer.span_id.clone(),
        span_kind: SpanKind::Internal,
        name: name.into(),
        start_time: at(0),
        end_time: at(1),
        attributes: vec![],
        events: vec![],
        links: vec![],
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope {
            name: "shop".into(),
            version: Some("1.2".into()),
            schema_url: None,
            attributes: vec![],
        },
        dropped_attributes: 0,
        dropped_events: 0,
        dropped_links: 0,
    }
}
