//! HTTP/2 and TLS, against hyper's server.

use super::h2_server::{certificate, server};
use super::*;

fn prior() -> PoolSettings {
    PoolSettings { protocol: Protocol::Http2, ..settings() }
}

async fn asks(pool: &Pool<Boxed>, path: &str) -> String {
    read(tokio::time::timeout(LONG, pool.send(get(path))).await.unwrap().unwrap()).await.0
}

fn spawned(pool: &Arc<Pool<Boxed>>, path: &'static str) -> tokio::task::JoinHandle<String> {
    let pool = Arc::clone(pool);
    tokio::spawn(async move { asks(&pool, path).await })
}

#[tokio::test]
async fn one_connection_for_all() {
    let (address, seen) = server(100, None).await;
    let pool = pool(address, &prior());
    let waiting: Vec<_> = (0..20).map(|_| spawned(&pool, "/wait")).collect();
    assert_eq!(asks(&pool, "/").await, "HTTP/2.0 http shop.example");
    assert_eq!((pool.open(), pool.idle()), (1, 0));
    for one in waiting {
        seen.go.notify_one();
        assert_eq!(one.await.unwrap(), "HTTP/2.0 http shop.example");
    }
    assert_eq!((pool.open(), pool.idle(), seen.accepted.load(Ordering::SeqCst)), (1, 1, 1));
}

#[tokio::test]
async fn by_agreement() {
    for (alpn, protocol, expected) in [
        (&["h2", "http/1.1"][..], Protocol::Auto, "HTTP/2.0 https shop.example"),
        (&["http/1.1"], Protocol::Auto, "HTTP/1.1 - -"),
        (&[], Protocol::Auto, "HTTP/1.1 - -"),
        (&["h2", "http/1.1"], Protocol::Http1, "HTTP/1.1 - -"),
        (&["h2", "http/1.1"], Protocol::Http2, "HTTP/2.0 https shop.example"),
    ] {
        let (shows, trusts) = certificate(alpn);
        let (address, seen) = server(100, Some(shows)).await;
        let target = Target { scheme: Scheme::Https, host: "replica.test".into(), address, other: None };
        let pool = Pool::new(target, &PoolSettings { protocol, tls: Some(trusts), ..settings() }).unwrap();
        for _ in 0..3 {
            assert_eq!(asks(&pool, "/").await, expected, "{alpn:?} {protocol:?}");
        }
        assert_eq!(seen.accepted.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn untrusted_certificates() {
    let (shows, trusts) = certificate(&[]);
    let (address, _) = server(100, Some(shows)).await;
    let (_, stranger) = certificate(&[]);
    for (host, trusts, why) in
        [("other.test", &trusts, "not for the host"), ("replica.test", &stranger, "no trusted authority")]
    {
        let target = Target { scheme: Scheme::Https, host: host.into(), address, other: None };
        let pool: Pool<Boxed> =
            Pool::new(target, &PoolSettings { tls: Some(Arc::clone(trusts)), ..settings() }).unwrap();
        let failed = pool.send(get("/")).await.err().unwrap();
        assert_eq!((failed.kind, failed.never_sent.is_some(), pool.open()), (ErrorKind::Tls, true, 0));
        assert!(failed.cause.contains(why) && failed.cause.contains(host), "{failed}");
    }
    // One server does not speak TLS; the other one never responds.
    let (address, _) = server(100, None).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for (address, kind) in [(address, ErrorKind::Tls), (silent.local_addr().unwrap(), ErrorKind::ConnectTimeout)] {
        let target = Target { scheme: Scheme::Https, host: "replica.test".into(), address, other: None };
        let connect = if kind == ErrorKind::Tls { LONG } else { Duration::from_millis(100) };
        let pool: Pool<Boxed> =
            Pool::new(target, &PoolSettings { connect, tls: Some(Arc::clone(&trusts)), ..settings() }).unwrap();
        assert_eq!(pool.send(get("/")).await.err().unwrap().kind, kind);
    }
}

#[tokio::test]
async fn no_more_streams_than_the_replica_takes() {
    let (address, seen) = server(1, None).await;
    let pool = pool(address, &PoolSettings { connections: 2, wait: Duration::from_millis(200), ..prior() });
    let mut waiting = Vec::new();
    for connections in [1, 2] {
        waiting.push(spawned(&pool, "/wait"));
        until("it has its connection", || seen.accepted.load(Ordering::SeqCst) == connections).await;
        // The stream limit arrives with the first round trip.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let failed = pool.send(get("/")).await.err().unwrap();
    assert_eq!((failed.kind, failed.never_sent.is_some()), (ErrorKind::Overloaded, true), "{failed}");
    let next = spawned(&pool, "/");
    for one in waiting {
        seen.go.notify_one();
        one.await.unwrap();
    }
    next.await.unwrap();
    assert_eq!((pool.open(), pool.idle()), (2, 2));
}

/// After `GOAWAY`, streams in flight finish, and the next request opens a new connection.
#[tokio::test]
async fn goaway() {
    let (address, seen) = server(100, None).await;
    let pool = pool(address, &prior());
    let waiting = spawned(&pool, "/wait");
    until("open", || seen.open.load(Ordering::SeqCst) == 1).await;
    asks(&pool, "/").await;
    seen.away.notify_one();
    until("noticed", || pool.idle() == 0).await;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        asks(&pool, "/").await;
    }
    assert_eq!(seen.accepted.load(Ordering::SeqCst), 2);
    seen.go.notify_one();
    waiting.await.unwrap();
    until("the first is closed", || pool.open() == 1).await;
}

#[tokio::test]
async fn streams_and_trailers() {
    let (address, seen) = server(100, None).await;
    let pool = pool(address, &prior());
    let (parts, body) = piped();
    let mut request = post(body);
    *request.uri_mut() = "/echo".parse().unwrap();
    request.headers_mut().insert("te", "trailers".parse().unwrap());
    let mut response = tokio::time::timeout(LONG, pool.send(request)).await.unwrap().unwrap();
    for text in ["one", "two"] {
        parts.send(part(text)).await.unwrap();
        let frame = tokio::time::timeout(LONG, response.body_mut().frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), text);
    }
    let chunk = Bytes::from(vec![b'x'; 1 << 20]);
    let mut sent = 0;
    let sends = async {
        while sent < 64 {
            parts.send(Ok(Frame::data(chunk.clone()))).await.unwrap();
            sent += 1;
        }
    };
    tokio::time::timeout(Duration::from_millis(500), sends).await.unwrap_err();
    assert!(sent < 16, "{sent} MiB");
    // Back-pressure on one stream does not stop another.
    assert_eq!(asks(&pool, "/").await, "HTTP/2.0 http shop.example");
    let ends = async move {
        parts
            .send(Ok(Frame::trailers(http::HeaderMap::from_iter([(
                "grpc-status".parse().unwrap(),
                "0".parse().unwrap(),
            )]))))
            .await
            .unwrap();
    };
    let (rest, ()) = tokio::join!(response.into_body().collect(), ends);
    let rest = rest.unwrap();
    assert_eq!(rest.trailers().unwrap()["grpc-status"], "0");
    assert_eq!((rest.to_bytes().len(), seen.accepted.load(Ordering::SeqCst)), (sent << 20, 1));
    assert_eq!(pool.idle(), 1);
}

#[tokio::test]
async fn dropped_requests_free_their_streams() {
    let (address, seen) = server(2, None).await;
    let pool = pool(address, &PoolSettings { connections: 1, ..prior() });
    asks(&pool, "/").await;
    for _ in 0..10 {
        tokio::time::timeout(Duration::from_millis(20), pool.send(get("/wait"))).await.unwrap_err();
        let (parts, body) = piped();
        let mut request = post(body);
        *request.uri_mut() = "/echo".parse().unwrap();
        drop((pool.send(request).await.unwrap(), parts));
    }
    assert_eq!(asks(&pool, "/").await, "HTTP/2.0 http shop.example");
    assert_eq!((pool.idle(), seen.accepted.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test]
async fn a_replica_that_is_removed() {
    let (address, seen) = server(100, None).await;
    let pool = pool(address, &prior());
    let (parts, body) = piped();
    let mut request = post(body);
    *request.uri_mut() = "/echo".parse().unwrap();
    let response = pool.send(request).await.unwrap();
    drop(pool);
    tokio::time::sleep(Duration::from_millis(50)).await;
    parts.send(part("still here")).await.unwrap();
    drop(parts);
    assert_eq!(read(response).await.0, "still here");
    until("closed", || seen.open.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let (address, seen) = server(100, None).await;
    let pool = pool(address, &PoolSettings { idle: Duration::from_millis(200), ..prior() });
    asks(&pool, "/").await;
    let waiting = spawned(&pool, "/wait");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(seen.open.load(Ordering::SeqCst), 1);
    seen.go.notify_one();
    waiting.await.unwrap();
    until("closed", || seen.open.load(Ordering::SeqCst) == 0 && pool.open() == 0).await;
    assert_eq!(seen.accepted.load(Ordering::SeqCst), 1);
}

/// A refused stream was not processed; one that was reset may have been.
#[tokio::test]
async fn refused_and_reset() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pool = pool(listener.local_addr().unwrap(), &prior());
    let reasons = [h2::Reason::REFUSED_STREAM, h2::Reason::INTERNAL_ERROR, h2::Reason::CANCEL];
    tokio::spawn(async move {
        let mut connection = h2::server::handshake(listener.accept().await.unwrap().0).await.unwrap();
        for reason in reasons.into_iter().cycle() {
            let (_, mut respond) = connection.accept().await.unwrap().unwrap();
            respond.send_reset(reason);
        }
    });
    for kind in [ErrorKind::Refused, ErrorKind::Reset, ErrorKind::Reset, ErrorKind::Refused] {
        let failed = pool.send(get("/")).await.err().unwrap();
        assert_eq!((failed.kind, failed.never_sent.is_none()), (kind, true), "{failed}");
    }
    let (_, body) = piped();
    let (parts, broken) = piped();
    drop(body);
    parts.send(Err("the client is gone".into())).await.unwrap();
    let failed = pool.send(post(broken)).await.err().unwrap();
    assert!(matches!(failed.kind, ErrorKind::Upload), "{failed:?}");
}

#[tokio::test]
async fn not_http2_at_all() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pool = pool(listener.local_addr().unwrap(), &prior());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    });
    let failed = tokio::time::timeout(LONG, pool.send(get("/"))).await.unwrap().err().unwrap();
    assert!(matches!(failed.kind, ErrorKind::Rubbish | ErrorKind::Reset), "{failed:?}");
    let mut upgrade = get("/");
    upgrade.headers_mut().insert("upgrade", "websocket".parse().unwrap());
    assert_eq!(pool.send(upgrade).await.err().unwrap().kind, ErrorKind::Unsendable);
}

/// A dead connection gets no second request; a slow one on which other responses arrive does.
#[tokio::test]
async fn dead_or_slow() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let read = Duration::from_millis(200);
    let dead = pool(listener.local_addr().unwrap(), &PoolSettings { read, ..prior() });
    tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            let mut connection = h2::server::handshake(listener.accept().await.unwrap().0).await.unwrap();
            let (_, mut respond) = connection.accept().await.unwrap().unwrap();
            respond.send_response(Response::new(()), true).unwrap();
            // Sends one response, and then nothing more.
            let _ = tokio::time::timeout(Duration::from_millis(50), connection.accept()).await;
            kept.push((connection, respond));
        }
    });
    for _ in 0..2 {
        assert_eq!(asks(&dead, "/").await, "");
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(dead.send(get("/")).await.err().unwrap().kind, ErrorKind::ReadTimeout);
    }
    let (address, seen) = server(100, None).await;
    let slow = pool(address, &PoolSettings { read, ..prior() });
    for _ in 0..2 {
        let waits = slow.send(get("/wait"));
        let others = async {
            for _ in 0..4 {
                tokio::time::sleep(read / 4).await;
                asks(&slow, "/").await;
            }
        };
        assert_eq!(tokio::join!(waits, others).0.err().unwrap().kind, ErrorKind::ReadTimeout);
    }
    assert_eq!(seen.accepted.load(Ordering::SeqCst), 1);
}

/// A request that waits for a connection opened by another one waits no longer than its own timeout.
#[tokio::test]
async fn waiting_for_a_connection_that_is_opened() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (_, trusts) = certificate(&[]);
    let target = Target {
        scheme: Scheme::Https,
        host: "replica.test".into(),
        address: silent.local_addr().unwrap(),
        other: None,
    };
    let (connect, wait) = (Duration::from_millis(400), Duration::from_millis(50));
    let pool: Pool<Boxed> =
        Pool::new(target, &PoolSettings { connect, wait, tls: Some(trusts), ..settings() }).unwrap();
    let (opens, waits) = tokio::join!(pool.send(get("/")), pool.send(get("/")));
    let (opens, waits) = (opens.err().unwrap(), waits.err().unwrap());
    assert_eq!((opens.kind, waits.kind, pool.open()), (ErrorKind::ConnectTimeout, ErrorKind::ConnectTimeout, 0));
    assert!(opens.cause.ends_with("no connection within 400ms") && waits.cause.ends_with("no connection within 50ms"));
}
