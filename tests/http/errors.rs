//! Promise: every failure has the status and the body of the table in docs/errors.md, and shows no internals of the
//! host.

use http::Method;

use crate::harness::{Connection, host, raw};

#[tokio::test(flavor = "multi_thread")]
async fn the_status_table() {
    let host = host(&["trap", "panic", "silent", "exits", "recurse", "errorcode", "status", "unfinished", "header"])
        .manifest("header", "limits.request_body = '10B'")
        .start()
        .await;
    for mut client in [Connection::http1(host.address).await, Connection::http2(host.address).await] {
        for (path, status, reason) in [
            ("/nobody", 404, "no-route"),
            ("/trap", 502, "trapped"),
            ("/panic", 502, "trapped"),
            ("/exits", 502, "trapped"),
            ("/recurse", 502, "trapped"),
            ("/silent", 502, "no-answer"),
            ("/errorcode/timeout", 504, "guest-error"),
            ("/errorcode/refused", 502, "guest-error"),
            ("/errorcode/too-large", 413, "guest-error"),
            ("/errorcode/loop", 508, "guest-error"),
            ("/errorcode/denied", 403, "guest-error"),
            ("/errorcode/internal", 502, "guest-error"),
            ("/status/101", 502, "bad-answer"),
            ("/status/199", 502, "bad-answer"),
            ("/status/600", 502, "bad-answer"),
            ("/status/999", 502, "bad-answer"),
            ("/unfinished/dropped", 502, "bad-answer"),
            ("/unfinished/leaked", 502, "bad-answer"),
            ("/unfinished/short", 502, "bad-answer"),
        ] {
            let response = client.get(path).await;
            assert_eq!((response.status, response.problem().as_str()), (status, reason), "{path}: {}", response.text());
            for secret in ["secret", "wasm", "backtrace", "/src", "unreachable"] {
                assert!(!response.text().contains(secret), "{path} tells: {}", response.text());
            }
        }
        for status in [200, 204, 304, 404, 500, 599] {
            let response = client.get(&format!("/status/{status}")).await;
            assert_eq!((response.status, response.body.len()), (status, 0));
        }
        let response = client.ask(Method::POST, "/header", &[], "more than ten bytes").await;
        assert_eq!((response.status, response.problem().as_str()), (413, "body-too-large"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_not_http() {
    let host = host(&["hello"]).set("listener.head", "8KiB").set("listener.headers", "50").start().await;
    let long = "x".repeat(20_000);
    let many: String = (0..60).map(|n| format!("h{n}: v\r\n")).collect();
    for (bytes, status) in [
        ("GET /hello HTTP/1.1\r\n\r\n".to_owned(), "400"),
        ("GET /hello HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\n\r\n".into(), "400"),
        ("GET /hello HTTP/1.1\r\nhost: a b\r\nconnection: close\r\n\r\n".into(), "400"),
        ("CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\nconnection: close\r\n\r\n".into(), "400"),
        ("NOT HTTP\r\n\r\n".into(), "400"),
        ("GET / HTTP/1.1\r\nhost: a\r\nbad header\r\n\r\n".into(), "400"),
        ("POST /hello HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n".into(), "400"),
        (format!("GET / HTTP/1.1\r\nhost: a\r\nx: {long}\r\n\r\n"), "431"),
        (format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n"), "431"),
        ("GET /hello HTTP/1.0\r\n\r\n".into(), "200"),
    ] {
        // The first case leaves its connection open, as HTTP/1.1 requires.
        let bytes = bytes.replacen("HTTP/1.1\r\n\r\n", "HTTP/1.1\r\nconnection: close\r\n\r\n", 1);
        let response = raw(host.address, &bytes).await;
        let got = response.split(' ').nth(1).unwrap_or_default();
        assert_eq!(got, status, "{} → {response}", bytes.lines().next().unwrap_or_default());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hop_by_hop_headers_are_removed() {
    let host = host(&["header"]).start().await;
    let response = raw(
        host.address,
        "GET /header HTTP/1.1\r\nhost: h\r\nconnection: close, x-mine\r\nx-mine: 1\r\nx-yours: 2\r\nkeep-alive: 9\r\n\
         upgrade: websocket\r\nproxy-authorization: secret\r\nte: gzip\r\n\r\n",
    )
    .await;
    let head = response.split("\r\n\r\n").next().unwrap().to_lowercase();
    assert!(response.ends_with("5 refused"), "{response}");
    for gone in ["x-mine", "keep-alive", "upgrade", "proxy-", "te: gzip", "transfer-encoding: x", "connection: x"] {
        assert!(!head.contains(gone), "{gone} in {head}");
    }
    assert!(head.contains("x-yours: 2"), "{head}");
}
