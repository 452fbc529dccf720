//! Failures of requests, which their traces show, and of the collector, which do not affect requests.

use opentelemetry_proto::tonic::trace::v1::status::StatusCode as Code;

use super::*;

fn to(address: SocketAddr, more: &str) -> Traces {
    settings(&format!("exporter = 'otlp'\nendpoint = 'http://{address}'\n{more}"))
}

fn errors(span: &Span) -> Vec<String> {
    let found = span.attributes.iter().filter(|attribute| attribute.key == "error.type");
    found.map(|attribute| format!("{:?}", attribute.value)).collect()
}

/// A 5xx response and an aborted transfer are failures; a 4xx response and a client that disconnects are not.
#[tokio::test]
async fn outcomes() {
    let (address, mut inbox) = collector(vec![]).await;
    let (tracer, exporting) = Tracer::start(&to(address, "")).unwrap();
    let outcome = |status, error| Outcome { status, error, ..FINE };
    let cases = [
        (outcome(Some(404), None), None, false),
        (outcome(Some(404), Some("no-route")), Some("no-route"), false),
        (outcome(Some(503), Some("queue-full")), Some("queue-full"), true),
        (outcome(Some(500), None), Some("500"), true),
        (outcome(Some(200), Some("wall-time")), Some("wall-time"), true),
        (outcome(None, Some("cancelled")), Some("cancelled"), false),
    ];
    for (outcome, ..) in cases {
        served(&tracer, HeaderMap::new(), outcome);
    }
    // Dropped before it was finished: before the service is known, and when the client disconnects during the response.
    drop(tracer.begin(&mut HeaderMap::new()));
    let mut left = tracer.begin(&mut HeaderMap::new());
    left.set_status(StatusCode::OK);
    drop(left);
    exporting.shutdown(LONG).await;
    let all = spans(&next(&mut inbox).await);
    let (traces, [dropped, left]) = all.as_chunks::<6>() else { panic!("{} spans", all.len()) };
    assert_eq!(traces.len(), cases.len());
    for ([server, .., last], (outcome, error, failed)) in traces.iter().zip(cases) {
        assert_eq!(server.status.as_ref().is_some_and(|status| status.code() == Code::Error), failed, "{outcome:?}");
        let errors = errors(server);
        assert_eq!(errors.len(), error.iter().count(), "{outcome:?}");
        assert!(error.is_none_or(|error| errors[0].contains(error)), "{errors:?}");
        assert_eq!(last.status.is_some(), failed && outcome.error.is_some(), "{outcome:?}");
    }
    assert_eq!((&*dropped.name, dropped.status.is_none()), ("HTTP", true));
    assert!(errors(dropped)[0].contains("cancelled"));
    let status = left.attributes.iter().find(|attribute| attribute.key == "http.response.status_code");
    assert!(status.is_some() && left.status.is_none() && errors(left)[0].contains("cancelled"));
}

/// Finishes `count` traces and returns the longest time that one took.
fn burst(tracer: &Tracer, count: usize) -> Duration {
    let one = |_| {
        let begin = Instant::now();
        served(tracer, parent("01"), FINE);
        begin.elapsed()
    };
    (0..count).map(one).max().unwrap_or_default()
}

/// With a collector that is down, does not respond or refuses, no request waits and all spans are counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_not_delayed() {
    // Bound and not listening, so that no other process can use the port.
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let nobody = taken.local_addr().unwrap();
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let responses = || (0..100).map(|_| response(400)).collect();
    let (refusing, _inbox) = collector(responses()).await;
    for address in [nobody, mute.local_addr().unwrap(), refusing] {
        for protocol in ["http/protobuf", "grpc"] {
            let more = format!("protocol = '{protocol}'\ntimeout = '300ms'\ndelay = '20ms'\nqueue = 60\nbatch = 30");
            let (tracer, exporting) = Tracer::start(&to(address, &more)).unwrap();
            // Far less than one export takes, and enough for a busy machine.
            let slowest = burst(&tracer, 500);
            assert!(slowest < Duration::from_millis(250), "{slowest:?} at {address}");
            counted(&tracer, 0, 3000).await;
            exporting.shutdown(Duration::ZERO).await;
        }
    }
}

/// A retryable response causes a retry, and an accepted batch is not sent again.
#[tokio::test]
async fn exports_are_retried() {
    for status in [429, 502, 503, 504] {
        let (address, mut inbox) = collector(vec![response(status)]).await;
        let (tracer, exporting) = Tracer::start(&to(address, "delay = '20ms'")).unwrap();
        served(&tracer, parent("01"), FINE);
        let (first, second) = (next(&mut inbox).await, next(&mut inbox).await);
        assert_eq!(first.body, second.body);
        counted(&tracer, 6, 0).await;
        exporting.shutdown(LONG).await;
    }
    // The delay that the collector asks for exceeds the timeout, so there is no retry.
    let mut later = response(503);
    later.headers_mut().insert("retry-after", "3600".parse().unwrap());
    let (address, _inbox) = collector(vec![later]).await;
    let (tracer, _exporting) = Tracer::start(&to(address, "delay = '20ms'")).unwrap();
    served(&tracer, parent("01"), FINE);
    counted(&tracer, 0, 6).await;
    // The next batch is sent as usual.
    served(&tracer, parent("01"), FINE);
    counted(&tracer, 6, 6).await;
}

/// A full batch is exported at once, whatever `traces.delay`, and no batch exceeds `traces.batch`.
#[tokio::test]
async fn batches() {
    let (address, mut inbox) = collector(vec![]).await;
    let (tracer, exporting) = Tracer::start(&to(address, "delay = '1h'\nqueue = 600\nbatch = 60")).unwrap();
    burst(&tracer, 25);
    let sizes = [next(&mut inbox).await, next(&mut inbox).await].map(|received| spans(&received).len());
    assert_eq!(sizes, [60, 60]);
    exporting.shutdown(LONG).await;
    assert_eq!((tracer.exported(), tracer.dropped()), (150, 0));
    // Traces that finish after the shutdown are lost.
    served(&tracer, parent("01"), FINE);
    assert_eq!((tracer.exported(), tracer.dropped()), (150, 6));
}

/// A shutdown waits for the collector until its deadline; spans that remain are counted as lost.
#[tokio::test]
async fn stopping() {
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for under_way in [false, true] {
        let (tracer, exporting) = Tracer::start(&to(mute.local_addr().unwrap(), "delay = '50ms'\nbatch = 12")).unwrap();
        if under_way {
            burst(&tracer, 1);
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        burst(&tracer, 10);
        let begin = Instant::now();
        exporting.shutdown(Duration::from_millis(300)).await;
        assert!(begin.elapsed() < Duration::from_secs(5));
        assert_eq!((tracer.exported(), tracer.dropped()), (0, 60 + 6 * u64::from(under_way)));
    }
    // Dropping the handle loses all spans and does not hang.
    let (tracer, exporting) = Tracer::start(&to(mute.local_addr().unwrap(), "")).unwrap();
    burst(&tracer, 10);
    drop(exporting);
    counted(&tracer, 0, 60).await;
}

/// A delay that overflows the clock loses the batch and does not end the exporting task.
#[tokio::test]
async fn a_wait_beyond_all_clocks() {
    let never = || {
        let mut never = response(503);
        never.headers_mut().insert("retry-after", u64::MAX.to_string().parse().unwrap());
        never
    };
    let (address, _inbox) = collector(vec![never(), never(), response(200)]).await;
    let (tracer, _exporting) = Tracer::start(&to(address, "delay = '20ms'")).unwrap();
    for (exported, dropped) in [(0, 6), (0, 12), (6, 12)] {
        served(&tracer, parent("01"), FINE);
        counted(&tracer, exported, dropped).await;
    }
}
