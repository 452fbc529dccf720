//! One connected trace, in every export format.

use std::collections::BTreeMap;
use std::time::SystemTime;

use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;
use tonic::{Request as Call, Response as Reply, Status};

use super::*;

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn attributes(of: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &KeyValue| match value.value.as_ref().unwrap().value.as_ref().unwrap() {
        any_value::Value::StringValue(text) => text.clone(),
        any_value::Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    of.iter().map(|value| (value.key.clone(), text(value))).collect()
}

/// A request gives six spans: its own, with the caller's as parent, and its phases below that, one after the other.
fn connected(spans: &[Span], guest_saw: &HeaderMap) {
    let (trace, guest, _) = traceparent(guest_saw);
    assert!(spans.iter().all(|span| hex(&span.trace_id) == trace));
    let [server, phases @ ..] = spans else { panic!("no spans") };
    assert_eq!((server.kind(), &*server.name), (SpanKind::Server, "GET /users/{id}"));
    let names: Vec<_> = phases.iter().map(|span| &*span.name).collect();
    assert_eq!(names, ["route", "queue", "instantiate", "guest", "body"]);
    for pair in phases.windows(2) {
        assert_eq!(pair[0].end_time_unix_nano, pair[1].start_time_unix_nano);
    }
    for phase in phases {
        assert_eq!((phase.kind(), &phase.parent_span_id), (SpanKind::Internal, &server.span_id));
        assert!(server.start_time_unix_nano <= phase.start_time_unix_nano);
        assert!(phase.start_time_unix_nano <= phase.end_time_unix_nano);
        assert!(phase.end_time_unix_nano <= server.end_time_unix_nano);
    }
    assert_eq!(hex(&phases[3].span_id), guest);
    let mut ids: Vec<_> = spans.iter().map(|span| &span.span_id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 6);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let age = now.saturating_sub(Duration::from_nanos(server.start_time_unix_nano));
    assert!(age < LONG, "{age:?}");
}

fn told(server: &Span) {
    let expected = [
        ("client.address", "192.0.2.7"),
        ("http.request.body.size", "3"),
        ("http.request.method", "GET"),
        ("http.response.body.size", "13"),
        ("http.response.status_code", "200"),
        ("http.route", "/users/{id}"),
        ("lodge.request_id", "id-1"),
        ("lodge.service", "users"),
        ("lodge.version", "0123456789ab"),
        ("server.address", "example.test"),
        ("server.port", "8080"),
        ("url.path", "/users/7"),
        ("url.scheme", "http"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(attributes(&server.attributes), expected.into());
}

#[tokio::test]
async fn otlp_by_http() {
    let (address, mut inbox) = collector(vec![]).await;
    let more = "delay = '20ms'\nheaders = 'x-key=a%20b'\nservice = 'edge'\nresource = 'a=b'";
    let (tracer, exporting) =
        Tracer::start(&settings(&format!("exporter = 'otlp'\nendpoint = 'http://{address}'\n{more}"))).unwrap();
    let mut headers = parent("01");
    headers.insert("tracestate", "a=1".parse().unwrap());
    let saw = served(&tracer, headers, FINE);
    assert_eq!((&*traceparent(&saw).0, saw["tracestate"].to_str().unwrap()), (TRACE, "a=1"));
    let received = next(&mut inbox).await;
    assert_eq!(
        (&*received.path, received.headers["content-type"].to_str().unwrap()),
        ("/v1/traces", "application/x-protobuf")
    );
    assert_eq!(received.headers["x-key"], "a b");
    let sent = spans(&received);
    connected(&sent, &saw);
    told(&sent[0]);
    assert_eq!((hex(&sent[0].parent_span_id), &*sent[0].trace_state), (SPAN.to_owned(), "a=1"));
    // Sampled. The parent of the request is remote; that of a phase is local.
    assert_eq!((sent[0].flags, sent[1].flags), (0x301, 0x101));
    assert!(sent.iter().all(|span| span.status.is_none()));
    let request = official::ExportTraceServiceRequest::decode(received.body).unwrap();
    let resource = attributes(&request.resource_spans[0].resource.as_ref().unwrap().attributes);
    let version = env!("CARGO_PKG_VERSION");
    let expected = [("service.name", "edge"), ("a", "b"), ("service.version", version)];
    assert_eq!(resource, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    assert_eq!(request.resource_spans[0].scope_spans[0].scope.as_ref().unwrap().name, "lodge");
    counted(&tracer, 6, 0).await;
    exporting.shutdown(LONG).await;
}

/// A trace that begins here has no parent, and the guest gets the id of that trace.
#[tokio::test]
async fn a_root() {
    let (address, mut inbox) = collector(vec![]).await;
    let (tracer, exporting) =
        Tracer::start(&settings(&format!("exporter = 'otlp'\nendpoint = 'http://{address}'"))).unwrap();
    let saw = served(&tracer, HeaderMap::new(), FINE);
    assert_eq!(traceparent(&saw).2, "01");
    let mut b3 = HeaderMap::new();
    b3.insert("b3", "1".parse().unwrap());
    let saw_b3 = served(&tracer, b3, FINE);
    exporting.shutdown(LONG).await;
    let sent = spans(&next(&mut inbox).await);
    connected(&sent[..6], &saw);
    connected(&sent[6..], &saw_b3);
    assert!(sent[0].parent_span_id.is_empty() && sent[6].parent_span_id.is_empty());
    assert!(saw_b3["b3"].to_str().unwrap().ends_with(&format!("{}-1", traceparent(&saw_b3).1)));
}

/// The requests that a tonic collector received.
struct Official(mpsc::Sender<official::ExportTraceServiceRequest>, Arc<std::sync::Mutex<Vec<Status>>>);

#[tonic::async_trait]
impl official::trace_service_server::TraceService for Official {
    async fn export(
        &self,
        call: Call<official::ExportTraceServiceRequest>,
    ) -> Result<Reply<official::ExportTraceServiceResponse>, Status> {
        assert_eq!(call.metadata().get("x-key").unwrap(), "a");
        if let Some(status) = self.1.lock().unwrap().pop() {
            return Err(status);
        }
        self.0.send(call.into_inner()).await.unwrap();
        let partial = official::ExportTracePartialSuccess { rejected_spans: 2, error_message: "two too many".into() };
        Ok(Reply::new(official::ExportTraceServiceResponse { partial_success: Some(partial) }))
    }
}

/// gRPC export to a tonic server, which is unavailable first and then rejects two of the spans.
#[tokio::test]
async fn otlp_by_grpc() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (kept, mut inbox) = mpsc::channel(10);
    let responses = Arc::new(std::sync::Mutex::new(vec![Status::unavailable("later")]));
    let service = official::trace_service_server::TraceServiceServer::new(Official(kept, Arc::clone(&responses)));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(service.clone());
            let server = auto::Builder::new(TokioExecutor::new()).http2_only();
            tokio::spawn(async move { server.serve_connection(TokioIo::new(stream), service).await });
        }
    });
    let more = "protocol = 'grpc'\ndelay = '20ms'\nheaders = 'x-key=a'";
    let (tracer, exporting) =
        Tracer::start(&settings(&format!("exporter = 'otlp'\nendpoint = 'http://{address}'\n{more}"))).unwrap();
    let saw = served(&tracer, parent("01"), FINE);
    let request = tokio::time::timeout(LONG, inbox.recv()).await.unwrap().unwrap();
    let sent = &request.resource_spans[0].scope_spans[0].spans;
    connected(sent, &saw);
    told(&sent[0]);
    counted(&tracer, 4, 2).await;
    // A status that forbids retries loses the batch.
    responses.lock().unwrap().push(Status::invalid_argument("no"));
    served(&tracer, parent("01"), FINE);
    counted(&tracer, 4, 8).await;
    exporting.shutdown(LONG).await;
}

#[tokio::test]
async fn zipkin() {
    let (address, mut inbox) = collector(vec![]).await;
    let more = "service = 'edge'\nresource = 'zone=z'";
    let (tracer, exporting) =
        Tracer::start(&settings(&format!("exporter = 'zipkin'\nendpoint = 'http://{address}'\n{more}"))).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("b3", format!("{TRACE}-{SPAN}-1").parse().unwrap());
    let saw = served(&tracer, headers, Outcome { status: Some(504), error: Some("wall-time"), ..FINE });
    let (_, guest, _) = traceparent(&saw);
    assert_eq!(saw["b3"], format!("{TRACE}-{guest}-1"));
    exporting.shutdown(LONG).await;
    let received = next(&mut inbox).await;
    assert_eq!(
        (&*received.path, received.headers["content-type"].to_str().unwrap()),
        ("/api/v2/spans", "application/json")
    );
    let sent: Vec<serde_json::Value> = serde_json::from_slice(&received.body).unwrap();
    assert_eq!(sent.len(), 6);
    let server = &sent[0];
    assert_eq!((&server["traceId"], &server["parentId"]), (&TRACE.into(), &SPAN.into()));
    assert_eq!((&server["kind"], &server["name"]), (&"SERVER".into(), &"GET /users/{id}".into()));
    assert_eq!(server["localEndpoint"]["serviceName"], "edge");
    assert_eq!(server["remoteEndpoint"]["ipv4"], "192.0.2.7");
    let tags = &server["tags"];
    assert_eq!((&tags["http.response.status_code"], &tags["zone"]), (&"504".into(), &"z".into()));
    assert_eq!((&tags["error"], &tags["lodge.service"]), (&"wall-time".into(), &"users".into()));
    for phase in &sent[1..] {
        assert_eq!((&phase["traceId"], &phase["parentId"]), (&TRACE.into(), &server["id"]));
        assert!(phase["kind"].is_null() && phase["duration"].as_u64().unwrap() > 0);
        assert!(phase["timestamp"].as_u64() >= server["timestamp"].as_u64());
    }
    assert_eq!((&sent[4]["name"], &sent[4]["id"]), (&"guest".into(), &guest.into()));
    assert_eq!((tracer.exported(), tracer.dropped()), (6, 0));
}

/// TLS export works only with a trusted certificate of the collector.
#[tokio::test]
async fn https() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    for protocol in ["http/protobuf", "grpc"] {
        let tls = rustls::ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into());
        let tls = tls.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let mut tls = tls.with_single_cert(vec![certificate.clone()], key.clone_key()).unwrap();
        // gRPC requires that ALPN selects HTTP/2.
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (kept, mut inbox) = mpsc::channel(10);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(stream) = acceptor.accept(stream).await {
                    tokio::spawn(receive(stream, kept.clone(), Arc::default()));
                }
            }
        });
        let settings = settings(&format!(
            "exporter = 'otlp'\nprotocol = '{protocol}'\nendpoint = 'https://localhost:{port}'\ndelay = '20ms'\ntimeout = '300ms'"
        ));
        let (stranger, _exporting) =
            Tracer::exporting(&settings, Collector::trusting(&settings, rustls::RootCertStore::empty()).unwrap());
        served(&stranger, HeaderMap::new(), FINE);
        counted(&stranger, 0, 6).await;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let settings = Traces { timeout: LONG, ..settings };
        let (tracer, exporting) = Tracer::exporting(&settings, Collector::trusting(&settings, roots).unwrap());
        let saw = served(&tracer, HeaderMap::new(), FINE);
        let mut received = next(&mut inbox).await;
        if protocol == "grpc" {
            received.body = received.body.slice(5..);
        }
        connected(&spans(&received), &saw);
        exporting.shutdown(LONG).await;
    }
}
