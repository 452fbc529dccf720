//! Requests that are sent on behalf of a request: their trace headers and their spans.

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as Code;

use super::wire::{attributes, hex};
use super::*;

async fn traced() -> (Tracer, Exporting, Inbox) {
    let (address, inbox) = collector(vec![]).await;
    let text = format!("exporter = 'otlp'\nendpoint = 'http://{address}'\ndelay = '1h'");
    let (tracer, exporting) = Tracer::start(&settings(&text)).unwrap();
    (tracer, exporting, inbox)
}

/// Returns the context for requests on behalf of a request with these headers, and the headers that its guest gets.
fn stands(tracer: &Tracer, mut headers: HeaderMap) -> (OutboundTrace, HeaderMap) {
    // The dropped trace is exported as a span of its own.
    drop(tracer.begin(&mut headers));
    (tracer.onward(&headers).unwrap(), headers)
}

fn asking(url: &str) -> Request<()> {
    Request::get(url).body(()).unwrap()
}

async fn exported(exporting: Exporting, inbox: &mut Inbox) -> Vec<Span> {
    exporting.shutdown(LONG).await;
    let all = spans(&next(inbox).await);
    all.into_iter().filter(|span| span.kind() == SpanKind::Client).collect()
}

/// The span is a child of the guest's span, its id goes into the headers, and its URL contains no secret.
#[tokio::test]
async fn each_request_has_a_span() {
    let (tracer, exporting, mut inbox) = traced().await;
    let mut headers = parent("01");
    headers.insert("tracestate", "a=1".parse().unwrap());
    let (onward, seen) = stands(&tracer, headers);
    let mut request = asking("https://api.example.test/v1/users?page=2&key=s3cret&s3cret&=s3cret");
    let span = onward.begin_guest_request(&mut request, &"hello".into());
    let told = traceparent(request.headers());
    assert_eq!((&*told.0, &*told.2), (TRACE, "01"));
    assert_eq!(request.headers()["tracestate"], "a=1");
    span.finish(&response(204));
    let sent = exported(exporting, &mut inbox).await;
    let [client] = &*sent else { panic!("{sent:#?}") };
    assert_eq!((hex(&client.trace_id), hex(&client.span_id)), (told.0, told.1));
    assert_eq!(hex(&client.parent_span_id), traceparent(&seen).1);
    assert_eq!((&*client.name, client.flags, &*client.trace_state), ("GET", 0x101, "a=1"));
    assert!(client.start_time_unix_nano <= client.end_time_unix_nano && client.status.is_none());
    let expected = [
        ("http.request.method", "GET"),
        ("http.response.status_code", "204"),
        ("lodge.service", "hello"),
        ("network.protocol.version", "1.1"),
        ("server.address", "api.example.test"),
        ("server.port", "443"),
        ("url.full", "https://api.example.test/v1/users?page=REDACTED&key=REDACTED&REDACTED&=REDACTED"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(attributes(&client.attributes), expected.into());
}

/// Every outcome. A 4xx response is a failure, because the sender caused it.
#[tokio::test]
async fn outcomes() {
    let (tracer, exporting, mut inbox) = traced().await;
    let (onward, _) = stands(&tracer, parent("01"));
    let begin = |url: &str| onward.begin_guest_request(&mut asking(url), &"hello".into());
    begin("http://[::1]:81/").finish(&response(302));
    begin("http://a.test").finish(&response(404));
    begin("http://a.test/").finish(&response(503));
    begin("http://a.test/").fail("timeout");
    drop(begin("http://a.test/"));
    begin(&format!("http://a.test/?{}", "&".repeat(60_000))).fail("limit");
    let sent = exported(exporting, &mut inbox).await;
    let told = |span: &Span| {
        let said = attributes(&span.attributes);
        let failed = span.status.as_ref().is_some_and(|status| status.code() == Code::Error);
        (said["url.full"].clone(), said.get("error.type").cloned().unwrap_or_default(), failed)
    };
    let told: Vec<_> = sent.iter().map(told).collect();
    let told: Vec<_> = told.iter().map(|(url, error, failed)| (&**url, &**error, *failed)).collect();
    assert_eq!(told[0], ("http://[::1]:81/", "", false));
    assert_eq!(attributes(&sent[0].attributes)["server.address"], "::1");
    assert_eq!(told[1], ("http://a.test/", "404", true));
    assert_eq!(told[2], ("http://a.test/", "503", true));
    assert_eq!(told[3], ("http://a.test/", "timeout", true));
    assert_eq!(told[4], ("http://a.test/", "cancelled", false));
    assert_eq!((told[5].0.len(), told[5].1), (2048, "limit"));
}

/// A context that the guest sets is the parent if it belongs to this trace and is recorded; else it passes unchanged,
/// and there is no span.
#[tokio::test]
async fn guests_can_set_their_own_context() {
    let (tracer, exporting, mut inbox) = traced().await;
    let (onward, seen) = stands(&tracer, parent("01"));
    let guest = traceparent(&seen).1;
    let ask = |name: &str, value: &str| {
        let mut request = asking("http://a.test/");
        request.headers_mut().insert(http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
        onward.begin_guest_request(&mut request, &"hello".into()).finish(&response(200));
        request.into_parts().0.headers
    };
    // The context that the guest got, a span of the guest's own, and the same with B3.
    let copied = ask("traceparent", seen["traceparent"].to_str().unwrap());
    let own = ask("traceparent", &format!("00-{TRACE}-00000000000000aa-01"));
    let b3 = ask("b3", &format!("{TRACE}-00000000000000bb-1"));
    let left = [
        ("traceparent", format!("00-{TRACE}-00000000000000aa-00")),
        ("traceparent", format!("00-{}-00000000000000aa-01", TRACE.replace('4', "5"))),
        ("traceparent", "nonsense".to_owned()),
        ("b3", "0".to_owned()),
    ];
    for (name, value) in &left {
        let headers = ask(name, value);
        assert_eq!((headers.len(), headers[*name].to_str().unwrap()), (1, value.as_str()));
    }
    let sent = exported(exporting, &mut inbox).await;
    let places: Vec<_> = sent.iter().map(|span| (hex(&span.parent_span_id), hex(&span.span_id))).collect();
    let told = |headers: &HeaderMap| traceparent(headers).1;
    let expected =
        [(guest, told(&copied)), ("00000000000000aa".into(), told(&own)), ("00000000000000bb".into(), told(&b3))];
    assert_eq!(places, expected);
    assert_eq!(b3["b3"], format!("{TRACE}-{}-1", told(&b3)));
}

/// Every attempt of the host has a span with the replica's address, not with the host of the client's request.
#[tokio::test]
async fn tries() {
    let (tracer, exporting, mut inbox) = traced().await;
    let (onward, mut headers) = stands(&tracer, parent("01"));
    let guest = traceparent(&headers).1;
    let mut told = Vec::new();
    for resent in 0..2 {
        let mut request = asking("http://client.test/a?b");
        *request.headers_mut() = headers;
        let to = ServerAddress { https: true, host: "10.0.0.7", port: 8443 };
        onward
            .begin_attempt(&mut request, &"far".into(), to, resent)
            .finish(&response(200 + 300 * (1 - resent as u16)));
        headers = request.into_parts().0.headers;
        told.push(traceparent(&headers).1);
    }
    let sent = exported(exporting, &mut inbox).await;
    assert_eq!(sent.iter().map(|span| hex(&span.span_id)).collect::<Vec<_>>(), told);
    assert!(sent.iter().all(|span| hex(&span.parent_span_id) == guest));
    let [first, second] = sent.iter().map(|span| attributes(&span.attributes)).collect::<Vec<_>>().try_into().unwrap();
    assert_eq!((&*first["url.full"], &*first["error.type"]), ("https://10.0.0.7:8443/a?REDACTED", "500"));
    assert!(!first.contains_key("http.request.resend_count"));
    assert_eq!(second["http.request.resend_count"], "1");
}

/// A context that is not recorded is propagated without a span.
#[tokio::test]
async fn not_recorded() {
    let (tracer, exporting, _inbox) = traced().await;
    let (onward, seen) = stands(&tracer, parent("00"));
    let mut request = asking("http://a.test/");
    onward.begin_guest_request(&mut request, &"hello".into()).finish(&response(500));
    assert_eq!(*request.headers(), seen);
    let mut own = asking("http://a.test/");
    own.headers_mut().insert("traceparent", "own".parse().unwrap());
    onward.begin_guest_request(&mut own, &"hello".into()).fail("dns");
    assert_eq!((own.headers().len(), &own.headers()["traceparent"]), (1, &"own".parse().unwrap()));
    let to = ServerAddress { https: false, host: "a", port: 1 };
    onward.begin_attempt(&mut request, &"far".into(), to, 0).finish(&response(200));
    assert_eq!(*request.headers(), seen);
    exporting.shutdown(LONG).await;
    assert_eq!((tracer.exported(), tracer.dropped()), (0, 0));
}
