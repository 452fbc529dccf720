use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use http::{Request, Response, StatusCode, request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use opentelemetry_proto::tonic::collector::trace::v1 as official;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

use super::*;
use crate::config;

mod failures;
mod guest_spans;
mod onward;
mod wire;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";
/// The timeout of every wait in these tests.
const LONG: Duration = Duration::from_secs(20);

/// Parses settings of `[traces]`.
fn settings(text: &str) -> Traces {
    let source = config::read_file(&format!("[traces]\n{text}")).unwrap();
    config::resolve(&[(config::Origin::File, source)]).unwrap().config.traces
}

fn traceparent(headers: &HeaderMap) -> (String, String, String) {
    let value = headers["traceparent"].to_str().unwrap();
    let parts: Vec<_> = value.split('-').collect();
    assert_eq!(parts[0], "00");
    (parts[1].into(), parts[2].into(), parts[3].into())
}

fn parent(flags: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", format!("00-{TRACE}-{SPAN}-{flags}").parse().unwrap());
    headers
}

/// Traces one request with all its phases, like the request path. Returns the headers that the guest gets.
fn served(tracer: &Tracer, mut headers: HeaderMap, outcome: Outcome) -> HeaderMap {
    let mut trace = tracer.begin(&mut headers);
    trace.phase(Phase::Route);
    trace.set_request(&head(), Ipv4Addr::new(192, 0, 2, 7).into(), &"id-1".into());
    trace.set_service(&"users".into(), &"0123456789ab".into(), &"/users/{id}".into());
    for phase in [Phase::Queue, Phase::Instantiate, Phase::Guest, Phase::Body] {
        trace.phase(phase);
    }
    trace.finish(outcome);
    headers
}

fn head() -> request::Parts {
    Request::get("http://example.test:8080/users/7?secret=1").body(()).unwrap().into_parts().0
}

const FINE: Outcome = Outcome { status: Some(200), error: None, bytes_in: Some(3), bytes_out: 13 };

/// A request that a collector received.
struct Received {
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

type Inbox = mpsc::Receiver<Received>;

/// A collector that records its requests. It responds with `answers` in turn, then with 200.
async fn collector(responses: Vec<Response<Full<Bytes>>>) -> (SocketAddr, Inbox) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (kept, inbox) = mpsc::channel(1000);
    let responses = Arc::new(std::sync::Mutex::new(responses.into_iter()));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(receive(stream, kept.clone(), Arc::clone(&responses)));
        }
    });
    (address, inbox)
}

type Responses = Arc<std::sync::Mutex<std::vec::IntoIter<Response<Full<Bytes>>>>>;

async fn receive<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    kept: mpsc::Sender<Received>,
    responses: Responses,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (kept, responses) = (kept.clone(), Arc::clone(&responses));
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            kept.send(Received { path: head.uri.path().into(), headers: head.headers, body }).await.unwrap();
            Ok::<_, Infallible>(responses.lock().unwrap().next().unwrap_or_default())
        }
    });
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

fn response(status: u16) -> Response<Full<Bytes>> {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

async fn next(inbox: &mut Inbox) -> Received {
    tokio::time::timeout(LONG, inbox.recv()).await.expect("nothing arrived").unwrap()
}

/// Waits for these numbers of exported and dropped spans.
async fn counted(tracer: &Tracer, exported: u64, dropped: u64) {
    let counts = || (tracer.exported(), tracer.dropped());
    let reached = async {
        while counts() != (exported, dropped) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let in_time = tokio::time::timeout(LONG, reached).await;
    assert!(in_time.is_ok(), "exported and dropped are {:?}, not {:?}", counts(), (exported, dropped));
}

/// If tracing is off, headers pass unchanged, nothing is recorded, and a trace has the size of two words.
#[tokio::test]
async fn without_a_collector_nothing_is_recorded() {
    let (tracer, exporting) = Tracer::start(&settings("")).unwrap();
    for headers in [HeaderMap::new(), parent("01")] {
        assert_eq!(served(&tracer, headers.clone(), FINE), headers);
        assert!(tracer.onward(&headers).is_none());
    }
    assert_eq!(size_of::<Trace>(), 2 * size_of::<usize>());
    assert!(!tracer.is_on() && tracer.begin(&mut parent("01")).id().is_none());
    assert_eq!((tracer.exported(), tracer.dropped()), (0, 0));
    exporting.shutdown(Duration::ZERO).await;
}

/// The context of a request that is not sampled is propagated, with the flag not set.
#[tokio::test]
async fn not_sampled() {
    let (address, mut inbox) = collector(vec![]).await;
    let start =
        |more: &str| Tracer::start(&settings(&format!("exporter = 'otlp'\nendpoint = 'http://{address}'\n{more}")));
    let (tracer, exporting) = start("sample = 0").unwrap();
    let (trace, span, flags) = traceparent(&served(&tracer, HeaderMap::new(), FINE));
    assert!(trace != "0".repeat(32) && span != "0".repeat(16) && flags == "00");
    let headers = served(&tracer, parent("00"), FINE);
    let (trace, span, flags) = traceparent(&headers);
    assert_eq!((&*trace, &*flags), (TRACE, "00"));
    assert_ne!(span, SPAN);
    let mut sent = HeaderMap::new();
    tracer.onward(&headers).unwrap().inject(&mut sent);
    assert_eq!(sent, headers);
    // `follow_parent` decides whether the caller's decision counts.
    assert!(tracer.begin(&mut parent("01")).id().is_some());
    exporting.shutdown(LONG).await;
    assert_eq!(spans(&next(&mut inbox).await).len(), 1);
    let (tracer, _exporting) = start("sample = 0\nfollow_parent = false").unwrap();
    let mut headers = parent("01");
    assert!(tracer.begin(&mut headers).id().is_none());
    assert_eq!(traceparent(&headers).2, "00");
}

/// Decodes the spans of an export with the official crate.
fn spans(received: &Received) -> Vec<Span> {
    let request = official::ExportTraceServiceRequest::decode(received.body.clone()).unwrap();
    request.resource_spans.into_iter().flat_map(|all| all.scope_spans).flat_map(|all| all.spans).collect()
}
