//! Failing replicas, and how the failures are reported.

use super::raw::{FINE, closed, error, head, replica, says};
use super::*;

/// Replicas close idle connections, with or without `connection: close`. No request fails because of it.
#[tokio::test]
async fn a_connection_that_went_stale() {
    let (address, accepted) = says(&[FINE]).await;
    let pool = pool(address, &settings());
    for n in 1..=3 {
        let (parts, body) = piped();
        drop(parts);
        assert_eq!(read(pool.send(post(body)).await.unwrap()).await.0, "ok");
        until("noticed", || pool.idle() == 0).await;
        assert_eq!(accepted.load(Ordering::SeqCst), n);
    }
    let (address, _) = says(&["HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"]).await;
    let pool = super::pool(address, &settings());
    for _ in 0..3 {
        assert_eq!(read(pool.send(get("/")).await.unwrap()).await.0, "ok");
    }
}

#[tokio::test]
async fn refused_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let pool = pool(address, &settings());
    let (_parts, body) = piped();
    let failed = error(&pool, post(body)).await;
    assert_eq!((failed.kind, failed.reused, pool.open()), (ErrorKind::Connect, false, 0));
    assert_eq!(failed.cause, format!("http://{address}: Connection refused (os error 111)"));
    let back = failed.never_sent.unwrap();
    assert_eq!((back.method(), back.uri().path()), (&http::Method::POST, "/"));
}

#[tokio::test]
async fn invalid_responses() {
    let large = format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "x".repeat(70 << 10)).leak();
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(101)).leak();
    for (response, kind) in [
        ("220 mail.example ESMTP\r\n", ErrorKind::Rubbish),
        ("HTTP/1.1 twohundred OK\r\n\r\n", ErrorKind::Rubbish),
        ("HTTP/2 200\r\n\r\n", ErrorKind::Rubbish),
        ("HTTP/1.1 200 OK\r\ncontent-length: 1, 2\r\n\r\n", ErrorKind::Rubbish),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", ErrorKind::Rubbish),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nx", ErrorKind::Rubbish),
        ("HTTP/1.1 200 OK\r\nno colon\r\n\r\n", ErrorKind::Rubbish),
        (large, ErrorKind::Rubbish),
        (many, ErrorKind::Rubbish),
        ("", ErrorKind::Reset),
        ("HTTP/1.1 200 OK\r\ncontent-len", ErrorKind::Reset),
    ] {
        let responses: &'static [&'static str] = vec![response].leak();
        let (address, _) = says(responses).await;
        let pool = pool(address, &settings());
        let failed = error(&pool, get("/")).await;
        assert_eq!(
            (failed.kind, failed.reused, failed.never_sent.is_none()),
            (kind, false, true),
            "{failed} {response:.60}"
        );
        until("closed", || pool.open() == 0).await;
        assert_eq!(pool.idle(), 0);
    }
}

/// The read timeout covers the whole head, even if it arrives byte by byte.
#[tokio::test]
async fn slow_and_silent() {
    let (address, _) = replica(|n, mut stream| async move {
        head(&mut stream).await;
        if n == 0 {
            closed(&mut stream).await;
        }
        while stream.write_all(b"H").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let pool = pool(address, &PoolSettings { read: Duration::from_millis(100), ..settings() });
    let failed = error(&pool, get("/")).await;
    assert_eq!((failed.kind, failed.never_sent.is_none()), (ErrorKind::ReadTimeout, true));
    assert_eq!(failed.cause, format!("http://{address}: no response within 100ms"));
    assert!(matches!(error(&pool, get("/")).await.kind, ErrorKind::ReadTimeout | ErrorKind::Rubbish));
    until("closed", || pool.open() == 0).await;
}

#[tokio::test]
async fn a_slow_upload_is_not_the_replicas_fault() {
    let (address, _) = replica(|_, mut stream| async move {
        head(&mut stream).await;
        let mut body = Vec::new();
        while !body.ends_with(b"0\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => body.push(byte),
                Err(_) => return,
            }
        }
        stream.write_all(FINE.as_bytes()).await.unwrap();
    })
    .await;
    let pool = pool(address, &PoolSettings { read: Duration::from_millis(300), ..settings() });
    let (parts, body) = piped();
    let sends = async move {
        for _ in 0..8 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            parts.send(part("abc")).await.unwrap();
        }
    };
    let (response, ()) = tokio::join!(pool.send(post(body)), sends);
    assert_eq!(read(response.unwrap()).await.0, "ok");
    let (parts, body) = piped();
    let sends = async move {
        parts.send(part("abc")).await.unwrap();
        parts.send(Err("the client is gone".into())).await.unwrap();
    };
    let (failed, ()) = tokio::join!(error(&pool, post(body)), sends);
    assert_eq!(failed.kind, ErrorKind::Upload, "{failed}");
    let (parts, body) = piped();
    let failed = error(&pool, post(body)).await;
    assert_eq!(failed.kind, ErrorKind::ReadTimeout, "an upload that stalls");
    drop(parts);
}

/// A response that breaks off is an error to its reader, and closes the connection.
#[tokio::test]
async fn bodies_that_break_off() {
    for response in [
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
    ] {
        let (address, _) = says(vec![response].leak()).await;
        let pool = pool(address, &settings());
        let response = pool.send(get("/")).await.unwrap();
        tokio::time::timeout(LONG, response.into_body().collect()).await.unwrap().unwrap_err();
        until("closed", || pool.open() == 0).await;
        assert_eq!(pool.idle(), 0);
    }
}

/// A body that was sent at once does not extend the timeout for the head.
#[tokio::test]
async fn a_body_does_not_prolong_the_wait() {
    let (address, _) = replica(|_, mut stream| async move {
        head(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let within = Duration::from_secs(1);
    let pool = pool(address, &PoolSettings { read: within, ..settings() });
    for request in [get("/"), post(full("x")), post(full(vec![b'x'; 1 << 20]))] {
        let start = tokio::time::Instant::now();
        assert_eq!(error(&pool, request).await.kind, ErrorKind::ReadTimeout);
        let waited = start.elapsed();
        assert!(waited >= within && waited < within * 2, "{waited:?}");
    }
}
