//! Promise: responses are compressed for clients that accept it, where the manifest says so, as they arrive; and decompress to
//! what the service sent.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use lodge_manifest::compress::Coding;
use lodge_traffic::proxy::compression::fuzz::decode;

use crate::harness::far::manifest;
use crate::harness::{
    Connection, Habit, Narrow, Replica, Response, TestHost, eventually, fed, host, metric, scrape, until_metric, within,
};

const GZIP: (&str, &str) = ("accept-encoding", "gzip");

/// The content of a compressed response, which has to be complete.
fn content(response: &Response, coding: Coding) -> Vec<u8> {
    assert_eq!((response.header("content-encoding").as_str(), response.broken), (coding.name(), false), "{response:?}");
    assert_eq!(
        (response.header("content-length"), response.headers.contains_key("accept-ranges")),
        (String::new(), false)
    );
    let (content, complete) = decode(coding, &response.body);
    assert!(complete, "{response:?}");
    content
}

/// `Vary`, all lines of it.
fn vary(response: &Response) -> Vec<&str> {
    response.headers.get_all("vary").iter().map(|value| value.to_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_get_what_they_accept() {
    let replica = Replica::start("one").await;
    let json = "headers.response.set.content-type = 'application/json'\n";
    let events = "headers.response.set.content-type = 'text/event-stream'\n";
    let setup = host(&["cacheable", "echo", "echo3"])
        .manifest("cacheable", &format!("routes = ['/cacheable', {{ path = '/cacheable/plain', compress = false }}]\ncache = true\ncompress = true\n{json}"))
        .manifest("echo", &format!("compress.algorithms = ['gzip', 'br']\n{events}"))
        .manifest("echo3", &format!("compress = true\n{events}"))
        .manifest("site", "compress.min_size = '10B'\n[files]\nroot = 'public'")
        .manifest("far", &format!("compress = true\n{}", manifest(&[&replica], "upgrade = true")));
    let public = setup.directory.path().join("public");
    std::fs::create_dir(&public).unwrap();
    for (name, text) in
        [("a.txt", "text ".repeat(40_000)), ("b.js", "a plain script".into()), ("b.js.gz", "packed".into())]
    {
        std::fs::write(public.join(name), text).unwrap();
    }
    let host = setup.start().await;
    assert_eq!(host.refusals(), [""; 0]);
    for mut client in [host.connect().await, Connection::http2(host.address).await] {
        stored_responses(&mut client).await;
        bodies_of_guests(&mut client).await;
        files(&mut client).await;
        responses_of_replicas(&mut client, &replica).await;
        for (path, accept) in [
            ("/cacheable?size=5000", ("accept-encoding", "deflate, gzip;q=0, *;q=0")),
            ("/cacheable/plain?size=5000", GZIP),
            ("/cacheable?size=100", GZIP),
            ("/cacheable?size=5000&cache-control=no-transform", GZIP),
            ("/cacheable?size=5000&status=204", GZIP),
            ("/cacheable?size=5000&status=205", GZIP),
        ] {
            let plain = client.ask(Method::GET, path, &[accept], "").await;
            assert_eq!((plain.header("content-encoding"), plain.broken), (String::new(), false), "{path}");
        }
        // A response that breaks off is broken off, at times before its head.
        let request = Request::get("/cacheable?size=200000&break=1").header(GZIP.0, GZIP.1);
        let body = Full::new(Bytes::new()).boxed_unsync();
        if let Ok(broken) = client.send(request.body(body).unwrap()).await {
            let broken = Response::read(broken).await;
            assert!(broken.header("content-encoding") == "gzip" && broken.broken, "{broken:?}");
        }
        if let Connection::Http1(_) = client {
            client = host.connect().await;
        }
        for coding in [Coding::Gzip, Coding::Brotli] {
            events_are_not_held_back(&mut client, "/echo", coding).await;
        }
        events_are_not_held_back(&mut client, "/echo3", Coding::Zstd).await;
    }
    switched_protocols(&host, &replica).await;
    for coding in Coding::ALL {
        let what = format!("responses in {} are counted", coding.name());
        eventually(&what, async || {
            let all = scrape(host.admin).await;
            let value = |name: &str| all[&format!("{name}{{service=\"cacheable\",encoding=\"{}\"}}", coding.name())];
            let [responses, read, written] = [
                "lodge_compressed_responses_total",
                "lodge_compression_input_bytes_total",
                "lodge_compression_output_bytes_total",
            ]
            .map(value);
            responses >= 2.0 && read > 90_000.0 && written > 0.0 && written < read / 10.0
        })
        .await;
    }
}

/// The cache has what the service sent, and every client gets it in its own coding.
async fn stored_responses(client: &mut Connection) {
    let path = "/cacheable?cache-control=public,max-age%3D600&size=50000&etag=%22a%22";
    let first = client.ask(Method::GET, path, &[GZIP], "").await;
    let plain = client.get(path).await;
    assert_eq!((plain.header("etag").as_str(), vary(&plain)), ("\"a\"", vec!["accept-encoding"]));
    assert_eq!(
        (plain.header("content-length"), plain.header("content-encoding").as_str()),
        (plain.body.len().to_string(), "")
    );
    assert_eq!((content(&first, Coding::Gzip), first.header("etag").as_str()), (plain.body.to_vec(), "W/\"a\""));
    for (accept, coding) in
        [("gzip, deflate, br, zstd", Coding::Zstd), ("br, gzip", Coding::Brotli), ("x-gzip;q=0.1", Coding::Gzip)]
    {
        let packed = client.ask(Method::GET, path, &[("accept-encoding", accept)], "").await;
        assert!(packed.header("cache-status").contains("hit"), "{packed:?}");
        assert!(content(&packed, coding) == plain.body && packed.body.len() < 1_000, "{accept}");
        assert_eq!((packed.header("etag").as_str(), vary(&packed)), ("W/\"a\"", vec!["accept-encoding"]));
    }
    // Both clients revalidate what they have.
    for (accept, tag) in [(GZIP, "W/\"a\""), (("accept-encoding", "identity"), "\"a\"")] {
        let same = client.ask(Method::GET, path, &[accept, ("if-none-match", tag)], "").await;
        assert_eq!((same.status, same.header("etag").as_str(), vary(&same)), (304, tag, vec!["accept-encoding"]));
        assert!(same.body.is_empty() && same.header("content-encoding").is_empty());
    }
    let other = client.ask(Method::GET, path, &[GZIP, ("if-none-match", "W/\"b\"")], "").await;
    assert_eq!((other.status, content(&other, Coding::Gzip).len()), (200, plain.body.len()));
    let head = client.ask(Method::HEAD, path, &[GZIP], "").await;
    let names = ["content-encoding", "content-length", "etag", "vary", "content-type"];
    assert_eq!(names.map(|name| head.header(name)), names.map(|name| first.header(name)));
}

/// Bodies that a 0.2 and a 0.3 guest send while they receive them, with trailers.
async fn bodies_of_guests(client: &mut Connection) {
    let sent: Vec<u8> = (0..300_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for (path, accept, coding) in [
        ("/echo", "zstd, br, gzip", Coding::Gzip),
        ("/echo", "br", Coding::Brotli),
        ("/echo3", "zstd, br", Coding::Zstd),
    ] {
        let (feed, body) = fed();
        let frames: Vec<_> = sent.chunks(70_000).map(|piece| Frame::data(Bytes::copy_from_slice(piece))).collect();
        tokio::spawn(async move {
            for frame in frames {
                feed.send(frame).await.unwrap();
            }
            let trailers = HeaderMap::from_iter([(HeaderName::from_static("x-sum"), HeaderValue::from_static("42"))]);
            feed.send(Frame::trailers(trailers)).await.unwrap();
        });
        let mut request = Request::post(path);
        for (name, value) in [("accept-encoding", accept), ("te", "trailers"), ("trailer", "x-sum")] {
            request = request.header(name, value);
        }
        let echoed = client.send(request.body(body).unwrap()).await.unwrap();
        let (head, body) = echoed.into_parts();
        let body = within(body.collect()).await.unwrap();
        let trailers = body.trailers().cloned().unwrap_or_default();
        assert_eq!(
            (&head.headers["content-encoding"], &trailers["x-sum"]),
            (&coding.value(), &HeaderValue::from_static("42"))
        );
        assert!(decode(coding, &body.to_bytes()) == (sent.clone(), true), "{path} {coding:?}");
    }
}

/// Files as a whole; not parts of them, and not those that are compressed already.
async fn files(client: &mut Connection) {
    let file = client.ask(Method::GET, "/site/a.txt", &[GZIP], "").await;
    assert!(content(&file, Coding::Gzip) == "text ".repeat(40_000).as_bytes() && file.body.len() < 2_000);
    assert_eq!(vary(&file), ["accept-encoding"]);
    let part = client.ask(Method::GET, "/site/a.txt", &[GZIP, ("range", "bytes=0-19")], "").await;
    assert_eq!(
        (part.status, part.text().as_str(), part.header("content-encoding").as_str()),
        (206, "text text text text ", "")
    );
    assert_eq!(
        (part.header("content-range").as_str(), part.header("accept-ranges").as_str()),
        ("bytes 0-19/200000", "bytes")
    );
    let beside = client.ask(Method::GET, "/site/b.js", &[GZIP], "").await;
    assert_eq!((beside.text().as_str(), beside.header("content-encoding").as_str()), ("packed", "gzip"));
    assert_eq!(vary(&beside), ["accept-encoding"]);
    let head = client.ask(Method::HEAD, "/site/a.txt", &[GZIP], "").await;
    assert_eq!((head.header("content-encoding").as_str(), head.header("accept-ranges").as_str()), ("gzip", ""));
}

/// What is compressed, partial, small or of another type stays as it is, and so does what must not be transformed.
async fn responses_of_replicas(client: &mut Connection, replica: &Replica) {
    let body = "{\"a\":1}".repeat(400);
    for (status, fields, request, compressed) in [
        (200, "content-type: application/json", &[GZIP][..], true),
        (200, "content-type: text/html; charset=utf-8\r\ncache-control: private", &[GZIP], true),
        (404, "content-type: application/problem+json", &[GZIP], true),
        (200, "content-type: application/json\r\ncontent-encoding: br", &[GZIP], false),
        (200, "content-type: application/json\r\ncontent-encoding: identity", &[GZIP], false),
        (200, "content-type: application/json\r\ncache-control: public, no-transform", &[GZIP], false),
        (200, "content-type: application/json", &[GZIP, ("cache-control", "no-transform")], false),
        (200, "content-type: application/json", &[("accept-encoding", "gzip;q=0")], false),
        (200, "content-type: application/json", &[("accept-encoding", "gzip"), ("accept-encoding", "gzip;q=0")], false),
        (200, "content-type: application/json", &[], false),
        (
            206,
            "content-type: application/json\r\ncontent-range: bytes 0-2799/5000",
            &[GZIP, ("range", "bytes=0-2799")],
            false,
        ),
        (200, "content-type: image/png", &[GZIP], false),
        (200, "content-type: application/grpc", &[GZIP], false),
        (200, "x-a: b", &[GZIP], false),
    ] {
        let text = format!("HTTP/1.1 {status} X\r\n{fields}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        replica.set(Habit::Says(text.leak()));
        let response = client.ask(Method::GET, "/far", request, "").await;
        assert_eq!(response.status, status, "{fields}: {response:?}");
        if compressed {
            assert!(content(&response, Coding::Gzip) == body.as_bytes(), "{fields}");
        } else {
            assert!(
                response.body == body && response.header("content-length") == body.len().to_string(),
                "{fields} {response:?}"
            );
            assert!(response.header("content-encoding") != "gzip", "{fields}");
        }
    }
}

/// A connection that switches protocols is none of HTTP any more.
async fn switched_protocols(host: &TestHost, replica: &Replica) {
    replica.set(Habit::Switch);
    let mut request = Request::get("/far");
    for (name, value) in [GZIP, ("connection", "upgrade"), ("upgrade", "echo")] {
        request = request.header(name, value);
    }
    let body = Full::new(Bytes::new()).boxed_unsync();
    let switched = host.connect().await.send(request.body(body).unwrap()).await.unwrap();
    assert_eq!(switched.status(), 101);
    assert!(["content-encoding", "vary"].iter().all(|name| !switched.headers().contains_key(*name)), "{switched:?}");
}

/// An event reaches the client before the next one exists.
async fn events_are_not_held_back(client: &mut Connection, path: &str, coding: Coding) {
    let (events, body) = fed();
    let request = Request::post(path).header("accept-encoding", coding.value()).body(body).unwrap();
    events.send(Frame::data(Bytes::from_static(b"data: 0\n\n"))).await.unwrap();
    let mut response = client.send(request).await.unwrap();
    assert_eq!(response.headers()["content-encoding"], coding.name());
    let (mut received, mut expected) = (Vec::new(), String::new());
    for number in 0..10 {
        let event = format!("data: {number}\n\n");
        if number > 0 {
            events.send(Frame::data(Bytes::from(event.clone()))).await.unwrap();
        }
        expected += &event;
        while decode(coding, &received).0.len() < expected.len() {
            let frame = within(response.frame()).await.expect("more events").unwrap();
            received.extend_from_slice(frame.data_ref().unwrap());
        }
    }
    drop(events);
    while let Some(frame) = within(response.frame()).await {
        received.extend_from_slice(frame.unwrap().data_ref().unwrap());
    }
    assert_eq!(decode(coding, &received), (expected.into_bytes(), true));
}

/// The memory for encoders.
const MEMORY: &str = "lodge_compression_memory_bytes";

/// While `listener.compression` has no room, responses are sent as they are; a client that does not read holds it no longer than
/// `listener.idle`.
#[tokio::test(flavor = "multi_thread")]
async fn memory_is_bounded() {
    let text = "headers.response.set.content-type = 'text/plain'\ncompress = true";
    let host = host(&["echo", "cacheable"])
        .manifest("echo", text)
        .manifest("cacheable", text)
        .set("listener.compression", "600KiB")
        .set("listener.idle", "600ms")
        .start()
        .await;
    let path = "/cacheable?size=5000";
    let all = [("accept-encoding", "br, zstd, gzip")];
    let mut client = Connection::http2(host.address).await;
    let least = client.ask(Method::GET, path, &all, "").await;
    assert!(content(&least, Coding::Gzip).len() > 5_000, "the one that needs the least memory");
    let (events, body) = fed();
    events.send(Frame::data(Bytes::from_static(b"data: 0\n\n"))).await.unwrap();
    let stream = client.send(Request::post("/echo").header(GZIP.0, GZIP.1).body(body).unwrap()).await.unwrap();
    let memory = metric(host.admin, MEMORY).await;
    assert_eq!((&stream.headers()["content-encoding"], memory), (&Coding::Gzip.value(), f64::from(512 << 10)));
    let plain = client.ask(Method::GET, path, &all, "").await;
    assert_eq!((plain.header("content-encoding").as_str(), vary(&plain)), ("", vec!["accept-encoding"]));
    assert_eq!(plain.header("content-length"), plain.body.len().to_string());
    let refused = "lodge_compressed_responses_total{service=\"cacheable\",encoding=\"no-room\"}";
    until_metric(host.admin, refused, 1).await;
    drop((events, stream));
    until_metric(host.admin, MEMORY, 0).await;
    let mut narrow = Narrow::connect(host.address, 0).await;
    let request = Request::get("http://localhost/cacheable?size=900000").header(GZIP.0, GZIP.1).body(()).unwrap();
    let unread = narrow.send(request).await.unwrap();
    assert_eq!(unread.headers()["content-encoding"], "gzip");
    until_metric(host.admin, MEMORY, 0).await;
}
