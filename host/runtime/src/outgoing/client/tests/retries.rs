//! Requests whose connection is closed under them.

use super::*;

/// A server that responds to the first `answers` requests of each connection, and closes it after reading the next one.
/// Returns its port and the requests that it received.
async fn forgetful(responses: usize) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, seen) = (listener.local_addr().unwrap().port(), Arc::<Mutex<Vec<String>>>::default());
    let sees = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let sees = Arc::clone(&sees);
            tokio::spawn(async move {
                for number in 0.. {
                    let mut bytes = Vec::new();
                    while !(bytes.ends_with(b"\r\n\r\n") || bytes.ends_with(b"body")) {
                        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    lock(&sees).push(String::from_utf8(bytes).unwrap());
                    if number >= responses {
                        return;
                    }
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                }
            });
        }
    });
    (port, seen)
}

/// When a server closes a used connection during a request, an idempotent request is sent again with its body, on a new
/// connection. Other requests are not, and neither is one that failed on a new connection.
#[tokio::test]
async fn idempotent_requests_are_retried_on_a_closed_connection() {
    let service = service();
    let send = async |client: &WorldClient, port: u16, method: &str, body: &'static str| {
        let sent = Full::new(Bytes::from_static(body.as_bytes())).map_err(|never| match never {}).boxed_unsync();
        let request = Request::builder().method(method).uri(format!("http://a.test:{port}/")).body(sent).unwrap();
        let (response, _slot) = client.send(&service, &context(), request, RequestOptions::default()).await?;
        Ok::<_, OutgoingFailure>(response.into_body().collect().await.unwrap().to_bytes())
    };
    for (method, body, repeats) in
        [("GET", "", true), ("DELETE", "", true), ("PUT", "a body", true), ("POST", "a body", false)]
    {
        let (port, seen) = forgetful(1).await;
        let client =
            client(&format!("['http://a.test:{port}', 'http://127.0.0.1:{port}']"), "", RootCertStore::empty());
        assert_eq!(send(&client, port, "GET", "").await.unwrap(), "ok");
        let second = send(&client, port, method, body).await;
        let sent = lock(&seen).iter().filter(|head| head.starts_with(method) && head.ends_with(body)).count();
        if repeats {
            assert_eq!(second.unwrap(), "ok", "{method}");
            assert_eq!(lock(&seen).len(), 3, "{method}");
        } else {
            assert!(matches!(second, Err(OutgoingFailure::Terminated)), "{method}: {second:?}");
            assert_eq!(sent, 1, "{method} is sent once");
        }
    }
    let (port, seen) = forgetful(0).await;
    let client = client(&format!("['http://a.test:{port}', 'http://127.0.0.1:{port}']"), "", RootCertStore::empty());
    assert!(matches!(send(&client, port, "GET", "").await, Err(OutgoingFailure::Terminated)));
    assert_eq!(lock(&seen).len(), 1, "a new connection that fails is not tried again");
}

/// A retry takes a token of `limits.outgoing_rate`, since it is another request to the server. It does not restart the
/// timeouts, since it is the same request for the guest.
#[tokio::test]
async fn a_retry_takes_a_token_and_keeps_the_timeouts() {
    let service = service();
    let (port, seen) = forgetful(1).await;
    let list = format!("['http://a.test:{port}', 'http://127.0.0.1:{port}']");
    let (client, url) = (client(&list, "", RootCertStore::empty()), format!("http://a.test:{port}/"));
    let options = RequestOptions::default();
    assert_eq!(ask(&client, &service, url.clone(), options).await.unwrap(), "ok");
    // One token is left, and none is added before that time.
    let mut rate = TokenBucket::new(2);
    assert!(rate.take(Instant::now() + Duration::from_secs(3600)));
    *lock(&client.rate) = rate;
    let second = ask(&client, &service, url, options).await;
    assert!(matches!(second, Err(OutgoingFailure::Terminated)), "{second:?}");
    assert_eq!(lock(&seen).len(), 2, "it is not sent again");

    let (begun, second) = (Instant::now(), Duration::from_secs(1));
    let options = RequestOptions {
        connect_timeout: Some(second * 5),
        first_byte_timeout: Some(second * 3),
        ..RequestOptions::default()
    };
    let mut timeouts = Timeouts::new(&options);
    assert_eq!(timeouts.to_connect(begun), second * 5);
    assert_eq!(timeouts.connected(begun, begun + second), Some(begun + second * 4));
    assert_eq!(timeouts.to_connect(begun + second), second * 3, "no longer than the first byte may take");
    assert_eq!(timeouts.connected(begun + second * 2, begun + second * 3), Some(begun + second * 4));
    assert_eq!((timeouts.connect, timeouts.to_connect(begun + second * 9)), (second * 3, Duration::ZERO));
}
