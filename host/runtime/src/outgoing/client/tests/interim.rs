//! Servers that send interim responses without end.

use lodge_traffic::upstreams::transport::interim::MOST;

use super::*;

/// A server that sends interim responses without end is cut off, over both versions of HTTP. One that sends a few is not.
#[tokio::test]
async fn interim_responses_are_bounded() {
    for count in [MOST, usize::MAX] {
        let http2 = move |stream| async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                for _ in 0..count {
                    let hint = Response::builder().status(103).header("link", "a").body(()).unwrap();
                    if respond.send_informational(hint).is_err() {
                        return;
                    }
                    // Writes what is queued.
                    let written = std::future::poll_fn(|cx| Poll::Ready(connection.poll_closed(cx)));
                    if written.await.is_ready() {
                        return;
                    }
                    tokio::task::yield_now().await;
                }
                let _ = respond.send_response(Response::new(()), true);
            }
        };
        let server = Secure::serving(http2).await;
        let list = format!("['https://api.test:{0}', 'https://127.0.0.1:{0}', 'http://127.0.0.1:*']", server.port);
        let (client, service) = (client(&list, "", server.roots.clone()), service());
        let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = plain.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = plain.accept().await {
                let _ = stream.read(&mut [0; 4096]).await;
                let mut sent = 0;
                while sent < count && stream.write_all(b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n").await.is_ok() {
                    sent += 1;
                }
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            }
        });
        for url in [format!("https://api.test:{}/", server.port), format!("http://127.0.0.1:{port}/")] {
            let response = ask(&client, &service, url.clone(), RequestOptions::default()).await;
            match response {
                Ok(text) => assert_eq!((text.as_str(), count), ("", MOST), "{url}"),
                Err(OutgoingFailure::Protocol(why)) if count > MOST => {
                    assert!(why.contains("more than 100 interim responses"), "{url}: {why}");
                }
                Err(failed) => panic!("{url}: {failed:?}"),
            }
        }
    }
}
