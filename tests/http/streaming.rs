//! Promise: request and response bodies are streamed; the host collects neither.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::harness::{Connection, Process, Response, fed, host, wasm, within};

fn data(text: &'static str) -> Frame<Bytes> {
    Frame::data(Bytes::from_static(text.as_bytes()))
}

/// The first half returns before the second half is sent: neither side waits for a complete body.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_in_both_directions() {
    let host = host(&["echo", "echo3"]).start().await;
    for path in ["/echo", "/echo3", "/echo3/straight"] {
        for mut client in [Connection::http1(host.address).await, Connection::http2(host.address).await] {
            let (feed, body) = fed();
            let mut request = Request::post(path).body(body).unwrap();
            request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
            request.headers_mut().insert("trailer", HeaderValue::from_static("x-sum"));
            feed.send(data("first ")).await.unwrap();
            let mut response = client.send(request).await.unwrap().into_body();
            let first = within(response.frame()).await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(&first[..], b"first ", "{path}");
            feed.send(data("second")).await.unwrap();
            let second = within(response.frame()).await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(&second[..], b"second", "{path}");
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", HeaderValue::from_static("42"));
            trailers.insert("x-forwarded-for", HeaderValue::from_static("6.6.6.6"));
            feed.send(Frame::trailers(trailers)).await.unwrap();
            drop(feed);
            let last = within(response.frame()).await.unwrap().unwrap();
            let trailers = last.into_trailers().unwrap();
            assert_eq!(trailers.get("x-sum").unwrap(), "42", "{path}");
            assert!(!trailers.contains_key("x-forwarded-for"), "{path}: a trailer claims a client address");
            assert!(within(response.frame()).await.is_none(), "{path}");
        }
    }
}

/// Over HTTP/1.1 only clients that announce `TE: trailers` get trailers; the response is complete either way.
#[tokio::test(flavor = "multi_thread")]
async fn trailers_need_te() {
    let host = host(&["echo"]).start().await;
    let send =
        "POST /echo HTTP/1.1\r\nhost: h\r\nconnection: close\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n";
    let chunks = "\r\n3\r\nabc\r\n0\r\nx-sum: 42\r\n\r\n";
    let without = crate::harness::raw(host.address, &format!("{send}{chunks}")).await;
    assert!(without.contains("abc") && !without.contains("x-sum: 42") && without.ends_with("0\r\n\r\n"), "{without}");
    let with = crate::harness::raw(host.address, &format!("{send}te: trailers\r\n{chunks}")).await;
    assert!(with.ends_with("0\r\nx-sum: 42\r\n\r\n"), "{with}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_is_sent_as_it_is_written() {
    let host = host(&["drip"]).start().await;
    for mut client in [Connection::http1(host.address).await, Connection::http2(host.address).await] {
        let body = http_body_util::Empty::new().boxed_unsync();
        // The guest takes three seconds for all lines.
        let mut response = client.send(Request::get("/drip/30").body(body).unwrap()).await.unwrap().into_body();
        within(response.frame()).await.unwrap().unwrap();
        let in_flight = host.current.snapshot().target("drip").unwrap().admission.in_flight();
        assert_eq!(in_flight, 1, "the first line waited for the last");
        let mut lines = 1;
        while let Some(frame) = within(response.frame()).await {
            lines += frame.unwrap().data_ref().map_or(0, |data| data.iter().filter(|byte| **byte == b'\n').count());
        }
        assert_eq!(lines, 30);
    }
}

/// A gibibyte goes through and back without more memory of the host.
#[tokio::test(flavor = "multi_thread")]
async fn a_gibibyte_in_bounded_memory() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["echo", "echo3"] {
        std::fs::copy(wasm(name), directory.path().join(format!("{name}.wasm"))).unwrap();
    }
    let args = ["--limits-request-body", "2GiB", "--limits-wall", "5m", "--limits-cpu", "2m"];
    let process = Process::serve(directory.path(), &args).await;
    for (path, http2) in [("/echo", false), ("/echo3", true), ("/echo3/straight", false)] {
        let mut client = match http2 {
            true => Connection::http2(process.address).await,
            false => Connection::http1(process.address).await,
        };
        let before = process.memory("VmHWM");
        let (feed, body) = fed();
        let feeding = tokio::spawn(async move {
            let chunk = Bytes::from(vec![7; 1 << 20]);
            for _ in 0..1024 {
                feed.send(Frame::data(chunk.clone())).await.unwrap();
            }
        });
        let mut response = client.send(Request::post(path).body(body).unwrap()).await.unwrap().into_body();
        let mut size = 0;
        while let Some(frame) = within(response.frame()).await {
            size += frame.unwrap().data_ref().map_or(0, Bytes::len);
        }
        feeding.await.unwrap();
        let grown = process.memory("VmHWM") - before;
        assert_eq!(size, 1 << 30, "{path}");
        assert!(grown < 64 << 10, "{path}: the host grew by {grown} KiB");
    }
}

/// A response of known size has a `Content-Length`, and any other is chunked.
#[tokio::test(flavor = "multi_thread")]
async fn known_sizes_are_declared() {
    let host = host(&["hello", "drip"]).start().await;
    let known: Response = host.get("/hello").await;
    assert_eq!((known.header("content-length").as_str(), known.text().len()), ("13", 13));
    let unknown = host.get("/drip/2").await;
    assert_eq!(
        (unknown.header("transfer-encoding").as_str(), unknown.header("content-length").as_str()),
        ("chunked", "")
    );
}

/// Empty frames use nothing of a window, so they would be queued without bound for a client that reads nothing.
#[tokio::test(flavor = "multi_thread")]
async fn empty_writes_are_skipped() {
    let host = host(&["endless", "endless3"]).start().await;
    // The last frame may be empty: it carries the end of the stream.
    let count = async |mut body: Incoming| {
        let (mut empty, mut bytes) = (0, 0);
        while let Some(frame) = within(body.frame()).await {
            let size = frame.unwrap().data_ref().map_or(0, Bytes::len);
            (empty, bytes) = (empty + usize::from(size == 0), bytes + size);
        }
        assert!(bytes == 1 && empty <= 1, "{empty} empty frames, {bytes} bytes");
    };
    for guest in ["endless", "endless3"] {
        let mut client = Connection::http2(host.address).await;
        let request = Request::get(format!("/{guest}/empty")).body(fed().1).unwrap();
        count(client.send(request).await.unwrap().into_body()).await;
    }
}
