//! Promise: a replica that sends interim responses without end is cut off after a bounded number of them, over each version of HTTP.

use super::raw::{FINE, error, head, replica};
use super::*;
use crate::upstreams::transport::interim::MOST;

const HINT: &str = "HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n";

/// A replica that sends this many, then the final response. Counts what was sent when the connection ended.
async fn http1(count: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let (address, _) = replica(move |_, mut stream| {
        let sent = Arc::clone(&counter);
        async move {
            while !head(&mut stream).await.is_empty() {
                for _ in 0..count {
                    if stream.write_all(HINT.as_bytes()).await.is_err() {
                        return;
                    }
                    sent.fetch_add(1, Ordering::SeqCst);
                }
                if stream.write_all(FINE.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    (address, sent)
}

/// The same over HTTP/2.
async fn http2(count: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let (address, _) = replica(move |_, stream| {
        let sent = Arc::clone(&counter);
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                for _ in 0..count {
                    let hint = http::Response::builder().status(103).header("link", "a").body(()).unwrap();
                    if respond.send_informational(hint).is_err() {
                        break;
                    }
                    sent.fetch_add(1, Ordering::SeqCst);
                    // Writes what is queued.
                    let written = std::future::poll_fn(|cx| std::task::Poll::Ready(connection.poll_closed(cx)));
                    if written.await.is_ready() {
                        return;
                    }
                    tokio::task::yield_now().await;
                }
                let _ = respond.send_response(http::Response::new(()), true);
            }
        }
    })
    .await;
    (address, sent)
}

#[tokio::test]
async fn interim_responses_are_bounded() {
    let http2_only = || PoolSettings { protocol: Protocol::Http2, ..settings() };
    for is_http2 in [false, true] {
        let replica = async |count| if is_http2 { http2(count).await } else { http1(count).await };
        let settings = if is_http2 { http2_only() } else { settings() };
        // The bound is for one response: a connection may have any number.
        let (address, _) = replica(MOST).await;
        let fine = pool(address, &settings);
        for _ in 0..3 {
            assert_eq!(fine.send(get("/")).await.unwrap().status(), 200, "{is_http2}");
        }
        // Over HTTP/2, the frames of a final head and of an interim one look alike.
        for count in [MOST + 2, usize::MAX] {
            let (address, sent) = replica(count).await;
            let pool = pool(address, &settings);
            let failed = error(&pool, get("/")).await;
            assert!(failed.cause.contains("more than 100 interim responses"), "{is_http2} {count}: {failed:?}");
            // It is cut off, and does not go on for nobody.
            until("the connection is closed", || pool.open() == 0).await;
            let before = sent.load(Ordering::SeqCst);
            assert!(before > MOST, "{before}");
        }
    }
}
