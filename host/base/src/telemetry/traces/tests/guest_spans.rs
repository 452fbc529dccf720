//! Spans of guests in OTLP, as its own definitions read them.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as Code;

use super::wire::{attributes, hex};
use super::*;

fn span(id: u64, service: &str) -> GuestSpan {
    let attributes = Attributes {
        all: vec![
            ("truth".into(), AttributeValue::Bool(true)),
            ("share".into(), AttributeValue::Double(0.5)),
            ("list".into(), AttributeValue::List(vec![AttributeValue::Integer(7), AttributeValue::Text("a".into())])),
        ],
        dropped: 3,
    };
    GuestSpan {
        id,
        parent: 0xab,
        name: "price".into(),
        kind: GuestSpanKind::Consumer,
        begin: 5,
        end: 9,
        events: vec![GuestEvent { name: "asked".into(), at: 7, attributes: attributes.clone() }],
        dropped_events: 4,
        links: vec![GuestLink { trace_id: 1, span_id: 2, attributes: Attributes::default() }],
        dropped_links: 5,
        attributes,
        status: GuestSpanStatus::Failed("too dear".into()),
        scope: ("shop".into(), "1.2".into()),
        service: (service.into(), "v1".into()),
    }
}

/// Each service has the attributes of the host, with a name and version of its own, and the scopes of its spans.
#[tokio::test]
async fn spans_of_guests_are_those_of_their_service() {
    let (address, mut inbox) = collector(vec![]).await;
    let text =
        format!("exporter = 'otlp'\nendpoint = 'http://{address}'\ndelay = '1h'\nservice = 'edge'\nresource = 'a=b'");
    let (tracer, exporting) = Tracer::start(&settings(&text)).unwrap();
    let mut headers = parent("01");
    drop(tracer.begin(&mut headers));
    let onward = tracer.onward(&headers).unwrap();
    for (id, service) in [(1, "cart"), (2, "cart"), (3, "stock")] {
        onward.export_guest_span(span(id, service));
    }
    exporting.shutdown(LONG).await;
    let body = next(&mut inbox).await.body;
    let all = official::ExportTraceServiceRequest::decode(body).unwrap().resource_spans;
    let named = |service: &str| {
        let of = |one: &&_| -> bool {
            let one: &opentelemetry_proto::tonic::trace::v1::ResourceSpans = one;
            attributes(&one.resource.as_ref().unwrap().attributes)["service.name"] == service
        };
        let found: Vec<_> = all.iter().filter(of).collect();
        assert_eq!(found.len(), 1, "{service}");
        found[0].clone()
    };
    assert_eq!((all.len(), named("edge").scope_spans[0].scope.as_ref().unwrap().name.as_str()), (3, "lodge"));
    let cart = named("cart");
    let resource = attributes(&cart.resource.as_ref().unwrap().attributes);
    assert_eq!((&*resource["service.version"], &*resource["a"], resource.len()), ("v1", "b", 3));
    let [scope] = &*cart.scope_spans else { panic!("{cart:#?}") };
    let said = scope.scope.as_ref().unwrap();
    assert_eq!((&*said.name, &*said.version, scope.spans.len()), ("shop", "1.2", 2));
    let span = &scope.spans[0];
    assert_eq!((hex(&span.trace_id), hex(&span.span_id)), (TRACE.to_owned(), format!("{:016x}", 1)));
    assert_eq!((hex(&span.parent_span_id), span.kind()), (format!("{:016x}", 0xab), SpanKind::Consumer));
    assert_eq!((span.start_time_unix_nano, span.end_time_unix_nano), (5, 9));
    let status = span.status.as_ref().unwrap();
    assert_eq!((status.code(), &*status.message), (Code::Error, "too dear"));
    assert_eq!((span.dropped_attributes_count, span.dropped_events_count, span.dropped_links_count), (3, 4, 5));
    let value = |name: &str| {
        let found = span.attributes.iter().find(|attribute| attribute.key == name);
        found.and_then(|found| found.value.clone()?.value).unwrap_or_else(|| panic!("{name}: {span:#?}"))
    };
    assert_eq!((value("truth"), value("share")), (Value::BoolValue(true), Value::DoubleValue(0.5)));
    assert_eq!(value("lodge.service"), Value::StringValue("cart".into()));
    let Value::ArrayValue(list) = value("list") else { panic!("no list") };
    let list: Vec<_> = list.values.into_iter().filter_map(|value| value.value).collect();
    assert_eq!(list, [Value::IntValue(7), Value::StringValue("a".into())]);
    let (event, link) = (&span.events[0], &span.links[0]);
    assert_eq!(
        (&*event.name, event.time_unix_nano, event.attributes.len(), event.dropped_attributes_count),
        ("asked", 7, 3, 3)
    );
    assert_eq!((hex(&link.trace_id), hex(&link.span_id)), (format!("{:032x}", 1), format!("{:016x}", 2)));
}

/// Guests that make many spans, or do many operations, leave room for the traces of requests.
#[tokio::test]
async fn guests_fill_half_of_the_queue() {
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let text = format!(
        "exporter = 'otlp'\nendpoint = 'http://{}'\ndelay = '1h'\nqueue = 600\nbatch = 600",
        mute.local_addr().unwrap()
    );
    let (tracer, _exporting) = Tracer::start(&settings(&text)).unwrap();
    let mut headers = parent("01");
    let trace = tracer.begin(&mut headers);
    let onward = tracer.onward(&headers).unwrap();
    // The queue has 100 places, each for the six spans of a request.
    let exported = (0..200).filter(|id| onward.export_guest_span(span(*id, "cart"))).count();
    assert_eq!((exported, tracer.dropped()), (50, 150));
    for _ in 0..10 {
        drop(onward.begin_operation("lock", &"cart".into(), OperationObject::Lock));
    }
    assert_eq!(tracer.dropped(), 160);
    drop(trace);
    assert_eq!(tracer.dropped(), 160, "there is room for the request");
}
