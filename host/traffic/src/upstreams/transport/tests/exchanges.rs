//! Exchanges that follow the protocol.

use super::raw::{FINE, closed, error, head, replica, says};
use super::*;

#[tokio::test]
async fn sequential_requests_share_a_connection() {
    let heads = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    let (address, accepted) = replica(move |_, mut stream| {
        let seen = Arc::clone(&seen);
        async move {
            loop {
                let head = head(&mut stream).await;
                seen.lock().unwrap().push(head);
                stream.write_all(FINE.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    let pool = pool(address, &settings());
    let absolute = Request::get("http://other.example:81/b?c").version(http::Version::HTTP_2).body(empty()).unwrap();
    for request in [get("/a"), absolute] {
        // Like hyper's server, this does not poll for the end after `content-length` bytes.
        let mut response = pool.send(request).await.unwrap();
        assert_eq!(response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap(), "ok");
        drop(response);
        assert_eq!((pool.idle(), pool.open(), accepted.load(Ordering::SeqCst)), (1, 1, 1));
    }
    let heads = heads.lock().unwrap();
    assert_eq!(
        *heads,
        ["GET /a HTTP/1.1\r\nhost: shop.example\r\n\r\n", "GET /b?c HTTP/1.1\r\nhost: other.example:81\r\n\r\n"]
    );
}

#[tokio::test]
async fn responses_without_a_body() {
    let no_body = &[
        "HTTP/1.1 200 OK\r\ncontent-length: 2000\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\ncontent-length: 2000\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        FINE,
    ];
    let (address, accepted) = says(no_body).await;
    let pool = pool(address, &settings());
    for (method, status) in [("HEAD", 200), ("GET", 204), ("GET", 304), ("GET", 200)] {
        let request = Request::builder().method(method).uri("/").header("host", "a").body(empty()).unwrap();
        let response = pool.send(request).await.unwrap();
        assert_eq!(response.status(), status);
        assert!(!response.headers().contains_key("link"));
        // An empty body need not be read.
        until("the connection is idle", || pool.idle() == 1).await;
        assert!(response.body().is_end_stream());
    }
    assert_eq!(read(pool.send(get("/")).await.unwrap()).await.0, "ok");
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn trailers_and_lengths() {
    let (address, accepted) = replica(|_, mut stream| async move {
        for _ in 0..2 {
            let head = head(&mut stream).await;
            assert!(head.contains("transfer-encoding: chunked\r\n") && head.contains("trailer: x-sum\r\n"), "{head}");
            let expected = "3\r\nabc\r\n0\r\nx-sum: 6\r\n\r\n";
            let mut body = vec![0; expected.len()];
            stream.read_exact(&mut body).await.unwrap();
            assert_eq!(body, expected.as_bytes());
            let response = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: grpc-status\r\n\r\n2\r\nok\r\n0\r\ngrpc-status: 0\r\n\r\n";
            stream.write_all(response.as_bytes()).await.unwrap();
        }
        let head = head(&mut stream).await;
        assert!(head.contains("content-length: 4\r\n"), "{head}");
        stream.read_exact(&mut [0; 4]).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nto the end").await.unwrap();
    })
    .await;
    let pool = pool(address, &settings());
    for n in 0..2 {
        let (parts, body) = piped();
        let mut request = post(body);
        request.headers_mut().insert("trailer", "x-sum".parse().unwrap());
        request.headers_mut().insert("te", "trailers".parse().unwrap());
        let sends = async {
            parts.send(part("abc")).await.unwrap();
            let trailers = http::HeaderMap::from_iter([("x-sum".parse().unwrap(), "6".parse().unwrap())]);
            parts.send(Ok(Frame::trailers(trailers))).await.unwrap();
            drop(parts);
        };
        let (response, ()) = tokio::join!(pool.send(request), sends);
        let mut response = response.unwrap();
        if n == 0 {
            // Like hyper's server, this does not poll after trailers.
            let body = response.body_mut();
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "ok");
            assert_eq!(body.frame().await.unwrap().unwrap().into_trailers().unwrap()["grpc-status"], "0");
            continue;
        }
        let (text, trailers) = read(response).await;
        assert_eq!((&*text, &trailers["grpc-status"]), ("ok", &http::HeaderValue::from_static("0")));
    }
    assert_eq!(read(pool.send(post(full("1234"))).await.unwrap()).await.0, "to the end");
    assert_eq!((pool.idle(), accepted.load(Ordering::SeqCst)), (0, 1));
}

/// A piece of a few bytes leaves the buffer of its connection.
#[tokio::test]
async fn small_pieces_keep_only_their_bytes() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n2\r\nok\r\n0\r\n\r\n";
    let (address, _) = says(vec![chunked].leak()).await;
    let pool = pool(address, &settings());
    let mut response = pool.send(get("/")).await.unwrap();
    for _ in 0..2 {
        let piece = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
        let bytes = piece.try_into_mut().expect("it shares the buffer");
        assert_eq!((&bytes[..], bytes.capacity()), (&b"ok"[..], 2));
    }
}

#[tokio::test]
async fn an_upgrade() {
    let (address, _) = replica(|_, mut stream| async move {
        let head = head(&mut stream).await;
        assert!(head.contains("upgrade: echo\r\n") && head.contains("connection: upgrade\r\n"), "{head}");
        // The first bytes of the new protocol arrive with the head.
        stream.write_all(b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nhello").await.unwrap();
        let (mut reader, mut writer) = stream.split();
        tokio::io::copy(&mut reader, &mut writer).await.unwrap();
    })
    .await;
    let pool = pool(address, &settings());
    let request = Request::get("/").header("host", "a").header("connection", "upgrade").header("upgrade", "echo");
    let mut response = pool.send(request.body(empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 101);
    let upgraded = hyper::upgrade::on(&mut response);
    drop(response);
    let mut echo = hyper_util::rt::TokioIo::new(tokio::time::timeout(LONG, upgraded).await.unwrap().unwrap());
    echo.write_all(b"abc").await.unwrap();
    let mut back = [0; 8];
    tokio::time::timeout(LONG, echo.read_exact(&mut back)).await.unwrap().unwrap();
    assert_eq!(&back, b"helloabc");
    // The socket is still open, but no longer a connection of the pool.
    assert_eq!((pool.open(), pool.idle()), (0, 0));
    drop(echo);
    tokio::time::timeout(LONG, pool.send(get("/"))).await.unwrap().err().unwrap();
    until("each slot is given back once", || pool.open() == 0).await;
}

/// Both bodies are streamed at once, and the sender is never further ahead than the buffers allow.
#[tokio::test]
async fn streams_with_back_pressure() {
    let (address, _) = replica(|_, mut stream| async move {
        head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
        let (mut reader, mut writer) = stream.split();
        // The chunks of the request become those of the response.
        tokio::io::copy(&mut reader, &mut writer).await.unwrap();
    })
    .await;
    let pool = pool(address, &settings());
    let (parts, body) = piped();
    let mut response = pool.send(post(body)).await.unwrap();
    for text in ["one", "two"] {
        parts.send(part(text)).await.unwrap();
        let frame = tokio::time::timeout(LONG, response.body_mut().frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), text);
    }
    // Nothing reads, so the sender stops once the socket buffers are full.
    let chunk = Bytes::from(vec![b'x'; 1 << 20]);
    let mut sent = 0;
    let sends = async {
        while sent < 256 {
            parts.send(Ok(Frame::data(chunk.clone()))).await.unwrap();
            sent += 1;
        }
    };
    tokio::time::timeout(Duration::from_millis(500), sends).await.unwrap_err();
    assert!(sent < 64, "{sent} MiB");
    drop(parts);
    let rest = tokio::time::timeout(LONG, response.into_body().collect()).await.unwrap().unwrap().to_bytes();
    assert_eq!(rest.len(), sent << 20);
    until("the connection is idle", || pool.idle() == 1).await;
}

/// A complete response before the end of the upload closes the connection, since nothing would watch the rest.
#[tokio::test]
async fn an_early_response() {
    let (address, accepted) = replica(|_, mut stream| async move {
        head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
        closed(&mut stream).await;
    })
    .await;
    let pool = pool(address, &settings());
    let (parts, body) = piped();
    parts.send(part("abc")).await.unwrap();
    let response = pool.send(post(body)).await.unwrap();
    assert_eq!((response.status().as_u16(), read(response).await.0), (413, "no".into()));
    until("closed", || pool.open() == 0).await;
    until("the upload is dropped", || parts.is_closed()).await;
    assert_eq!((pool.idle(), accepted.load(Ordering::SeqCst)), (0, 1));
}

#[tokio::test]
async fn invalid_requests() {
    let (address, accepted) = says(&[FINE, FINE]).await;
    let pool = pool(address, &settings());
    let mut tunnel = get("/");
    *tunnel.method_mut() = http::Method::CONNECT;
    let failed = error(&pool, tunnel).await;
    assert_eq!((failed.kind, failed.never_sent.is_some()), (ErrorKind::Unsendable, true));
    // This used no connection.
    assert_eq!(read(pool.send(get("/")).await.unwrap()).await.0, "ok");
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
    let default_authority = Target { host: "no body".into(), ..plain(address) };
    assert!(Pool::<Boxed>::new(default_authority, &settings()).is_err());
    let https = Target { scheme: Scheme::Https, ..plain(address) };
    assert!(Pool::<Boxed>::new(https, &settings()).err().unwrap().ends_with("needs trusted root certificates"));
}
