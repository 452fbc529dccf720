//! Promise: a host that stops loses no accepted request, accepts no new one, and ends within its grace period.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{Connection, Process, eventually, get, until, until_metric, wasm, within};

fn directory(names: &[&str]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for name in names {
        std::fs::copy(wasm(name), directory.path().join(format!("{name}.wasm"))).unwrap();
    }
    directory
}

/// Whether the server has certainly not processed it: a closing connection accepts nothing more, and GOAWAY without an
/// error ends only streams that it lists as unprocessed.
fn is_unsent(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    let turned_away = cause.is_some_and(|error| error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR));
    error.is_canceled() || error.is_closed() || turned_away
}

/// A host that stops closes a connection without a request after half a second. A client that a loaded machine has kept from
/// sending for nearly as long has no promise.
const LATE: Duration = Duration::from_millis(400);

/// SIGTERM under load, with keep-alive connections of both versions and new ones: every request that was sent gets a
/// complete response.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_under_load_loses_no_request() {
    let directory = directory(&["hello", "drip"]);
    let mut process = Process::serve(directory.path(), &["--stop-grace", "20s"]).await;
    let (address, completed) = (process.address, Arc::new(AtomicUsize::new(0)));
    let mut clients = Vec::new();
    for n in 0..12 {
        let completed = Arc::clone(&completed);
        clients.push(tokio::spawn(async move {
            loop {
                // Refused: the listener is closed, and no request is lost.
                if tokio::net::TcpStream::connect(address).await.is_err() {
                    return;
                }
                let mut client = match n % 3 {
                    0 => Connection::http2(address).await,
                    _ => Connection::http1(address).await,
                };
                let mut idle = Instant::now();
                for request in 0.. {
                    let body = http_body_util::BodyExt::boxed_unsync(http_body_util::Empty::new());
                    let asked = client.send(http::Request::get("/hello").body(body).unwrap()).await;
                    let response = match asked {
                        Ok(response) => response,
                        // Never sent: the connection was closing before. A first request was promised by the accept.
                        Err(error) if is_unsent(&error) && request > 0 => break,
                        Err(_) if idle.elapsed() > LATE => break,
                        Err(error) => panic!("a request was lost: {error:?} on request {request} of client {n}"),
                    };
                    let response = crate::harness::Response::read(response).await;
                    assert_eq!(
                        (response.status, response.text().as_str(), response.broken),
                        (200, "Hello, World!", false)
                    );
                    completed.fetch_add(1, Ordering::Relaxed);
                    idle = Instant::now();
                    if response.header("connection") == "close" || (n % 3 == 1 && request > 5) {
                        break;
                    }
                }
            }
        }));
    }
    let mut client = Connection::http1(address).await;
    let body = http_body_util::BodyExt::boxed_unsync(http_body_util::Empty::new());
    let begun = within(client.send(http::Request::get("/drip/15").body(body).unwrap())).await.unwrap();
    let slow = tokio::spawn(async move {
        let response = crate::harness::Response::read(begun).await;
        drop(client);
        response
    });
    until("the load runs", || completed.load(Ordering::Relaxed) > 500).await;
    process.signal(Signal::TERM);
    let status = process.ended().await;
    assert!(status.success(), "{status}: {}", process.log());
    assert_eq!(within(slow).await.unwrap().text().lines().count(), 15, "a running request was cut off");
    for client in clients {
        // A connection that is refused between the probe and the next connect ends a client as well.
        if let Err(crash) = within(client).await {
            let text = crash.into_panic().downcast::<String>().map(|text| *text).unwrap_or_default();
            assert!(text.contains("the host accepts"), "{text}");
        }
    }
}

/// Waits until so many requests to a service run.
async fn run(process: &Process, service: &str, requests: u32) {
    let name = format!("http_server_active_requests{{service=\"{service}\"}}");
    until_metric(process.admin, &name, requests).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grace_is_bounded() {
    let directory = directory(&["sleeper", "spin", "spin3"]);
    let mut process = Process::serve(directory.path(), &["--stop-grace", "500ms"]).await;
    let address = process.address;
    let asked: Vec<_> = ["/sleeper", "/spin", "/spin3", "/spin"]
        .map(|path| {
            tokio::spawn(async move {
                let body = http_body_util::BodyExt::boxed_unsync(http_body_util::Empty::new());
                let request = http::Request::get(path).body(body).unwrap();
                Connection::http1(address).await.send(request).await.map(|response| response.status())
            })
        })
        .into();
    for (service, requests) in [("sleeper", 1), ("spin", 2), ("spin3", 1)] {
        run(&process, service, requests).await;
    }
    process.signal(Signal::TERM);
    assert_eq!(process.ended().await.code(), Some(1));
    assert!(process.log().contains("grace"), "{}", process.log());
    // Within their limits they would have got a response.
    for asked in asked {
        assert!(within(asked).await.unwrap().is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let directory = directory(&["sleeper"]);
    let mut process = Process::serve(directory.path(), &[]).await;
    let address = process.address;
    let _asked = tokio::spawn(async move {
        let body = http_body_util::BodyExt::boxed_unsync(http_body_util::Empty::new());
        Connection::http1(address).await.send(http::Request::get("/sleeper").body(body).unwrap()).await.map(drop)
    });
    run(&process, "sleeper", 1).await;
    process.signal(Signal::INT);
    until("the stop is logged", || process.log().contains("stopping")).await;
    process.signal(Signal::INT);
    assert_eq!(process.ended().await.code(), Some(130));
}

/// Signals that usually reload a daemon, or have no meaning for it, interrupt no request. A second request shows that
/// the host continues.
#[tokio::test(flavor = "multi_thread")]
async fn other_signals_have_no_effect() {
    let directory = directory(&["hello", "drip"]);
    let mut process = Process::serve(directory.path(), &[]).await;
    let address = process.address;
    let streaming = tokio::spawn(async move { get(address, "/drip/10").await });
    for (signal, name) in [(Signal::HUP, "SIGHUP"), (Signal::USR1, "SIGUSR1"), (Signal::USR2, "SIGUSR2")] {
        process.signal(signal);
        until("the signal is logged", || process.log().contains(&format!("{name} has no effect"))).await;
    }
    assert_eq!(get(address, "/hello").await.status, 200);
    let response = within(streaming).await.unwrap();
    assert_eq!((response.status, response.broken), (200, false));
    process.signal(Signal::TERM);
    assert_eq!(process.ended().await.code(), Some(0));
}

/// With `stop.delay` the host accepts requests after it is no longer ready, from clients that still send them.
#[tokio::test(flavor = "multi_thread")]
async fn a_delay_before_the_listener_closes() {
    let directory = directory(&["hello"]);
    let mut process = Process::serve(directory.path(), &["--stop-delay", "10m"]).await;
    process.signal(Signal::INT);
    eventually("it is not ready", async || get(process.admin, "/readyz").await.status == 503).await;
    assert_eq!(get(process.address, "/hello").await.status, 200);
    // A new connection of HTTP/2 has time for several requests: without that, whoever opens one for each request that was turned away
    // would be turned away there as well, and the delay would be none.
    let mut served = 0;
    while served < 10 {
        let (mut client, opened) = (Connection::http2(process.address).await, Instant::now());
        for pause in [1, 10, 50] {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let body = http_body_util::BodyExt::boxed_unsync(http_body_util::Empty::new());
            match client.send(http::Request::get("/hello").body(body).unwrap()).await {
                Ok(response) => assert_eq!(response.status(), 200),
                Err(_) if opened.elapsed() > LATE => break,
                Err(error) => panic!("a request was lost: {error:?} after {:?}", opened.elapsed()),
            }
            served += 1;
        }
    }
    // It is told to go to another host, too.
    let mut client = Connection::http2(process.address).await;
    eventually("it is turned away", async || {
        let body = http_body_util::BodyExt::boxed_unsync(http_body_util::Empty::new());
        let response = client.send(http::Request::get("/hello").body(body).unwrap()).await;
        response.is_err_and(|error| is_unsent(&error))
    })
    .await;
    // A second signal ends the delay.
    process.signal(Signal::INT);
    assert_eq!(process.ended().await.code(), Some(130));
}
