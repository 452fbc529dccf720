//! Promise: services respond over HTTP/1.1 and HTTP/2, by path and by host, and get the request that the client sent.

use http::Method;

use crate::harness::{Connection, host};

#[tokio::test(flavor = "multi_thread")]
async fn services_respond() {
    let manifest = std::fs::read_to_string(crate::harness::root().join("guests/hello.toml")).unwrap();
    let host = host(&["hello", "users"]).manifest("hello", &manifest).start().await;
    for mut client in [Connection::http1(host.address).await, Connection::http2(host.address).await] {
        for (path, text) in [("/", "Hello, World!"), ("/hello", "Hello, World!"), ("/hello?name=Ada", "Hello, Ada!")] {
            let response = client.get(path).await;
            assert_eq!((response.status, response.text().as_str()), (200, text), "{path}");
        }
        let users = client.get("/users").await;
        assert_eq!(users.text(), r#"[{"id":1,"name":"Alice"},{"id":2,"name":"Bob"}]"#);
        assert_eq!(users.header("content-type"), "application/json");
        assert_eq!(client.get("/users/1").await.text(), r#"{"id":1,"name":"Alice"}"#);
        assert_eq!(client.get("/users/3").await.status, 404);
        let refused = client.ask(Method::PATCH, "/users", &[], "{}").await;
        assert_eq!((refused.status, refused.header("allow").as_str()), (405, "GET, HEAD, POST"));
        assert_eq!(client.ask(Method::DELETE, "/hello", &[], "").await.status, 405);
        for path in ["/users", "/hello"] {
            let whole = client.get(path).await;
            let head = client.ask(Method::HEAD, path, &[], "").await;
            assert_eq!((head.status, head.body.len(), head.broken), (200, 0, false), "{path}");
            assert_eq!(head.header("content-type"), whole.header("content-type"), "{path}");
        }
        assert_eq!(client.ask(Method::HEAD, "/users", &[], "").await.header("content-length"), "47");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_come_from_the_manifest_or_the_name() {
    let host = host(&["hello"])
        .manifest("hello", "routes = ['/', '/greet']")
        .named("counter", "my_Counter-2")
        .named("echo", "both")
        .manifest("both", "routes = ['/my_Counter-2/inner']")
        .start()
        .await;
    let mut client = host.connect().await;
    let status = |response: crate::harness::Response| response.status;
    assert_eq!(status(client.get("/greet/anyone").await), 200);
    assert_eq!(status(client.get("/hello").await), 404, "routes replace the one by name");
    assert_eq!(client.get("/my_Counter-2").await.text(), "1");
    assert_eq!(client.get("/my_Counter-2/innermost").await.text(), "1");
    let inner = client.get("/my_Counter-2/inner/head").await.text();
    assert!(inner.starts_with("Method::Get"), "the longest prefix: {inner}");
    for (host, expected) in [("my-counter-2.localhost:80", "1"), ("HELLO.localhost", "Hello, World!")] {
        let response = client.ask(Method::GET, "/any/path", &[("host", host)], "").await;
        assert_eq!(response.text(), expected, "{host}");
    }
}

/// The host forwards the headers of a client about itself unchanged, and ignores its claims about others.
#[tokio::test(flavor = "multi_thread")]
async fn guests_get_the_request_of_the_client() {
    let host = host(&["echo", "echo3"]).start().await;
    for name in ["echo", "echo3"] {
        for (mut client, version) in
            [(Connection::http1(host.address).await, 1), (Connection::http2(host.address).await, 2)]
        {
            let path = format!("/{name}/head?a=%20b&c");
            let headers = [
                ("host", "shop.example:81"),
                ("x-custom", "Kept"),
                ("accept", "a"),
                ("x-forwarded-for", "6.6.6.6"),
                ("forwarded", "for=6.6.6.6"),
            ];
            let text = client.ask(Method::PUT, &path, &headers, "").await.text();
            let first = text.lines().next().unwrap();
            assert!(first.starts_with("Method::Put Some(Scheme::Http) shop.example:81"), "{name} {version}: {text}");
            assert!(first.ends_with(&path), "{text}");
            for line in [
                "x-custom: Kept",
                "accept: a",
                "x-forwarded-for: 127.0.0.1",
                "x-forwarded-proto: http",
                "x-forwarded-host: shop.example:81",
                "forwarded: for=127.0.0.1;host=\"shop.example:81\";proto=http",
            ] {
                assert!(text.lines().any(|seen| seen == line), "{name} {version}: no {line} in {text}");
            }
            assert!(!text.contains("6.6.6.6"), "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_is_believed() {
    let host = host(&["echo"]).set("trusted_proxies", "127.0.0.0/8").start().await;
    let headers = [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-proto", "https"), ("x-request-id", "from-the-proxy")];
    let response = host.connect().await.ask(Method::GET, "/echo/head", &headers, "").await;
    let text = response.text();
    assert!(text.contains("Scheme::Https") && text.contains("x-forwarded-for: 6.6.6.6, 127.0.0.1\n"), "{text}");
    assert!(text.contains("x-request-id: from-the-proxy\n"), "{text}");
    assert_eq!(response.header("x-request-id"), "from-the-proxy");
}

/// A guest can reach nothing that it was not granted, but all imports of its runtime exist.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_granted_by_default() {
    let host = host(&["echo"]).start().await;
    let text = host.get("/echo/head").await.text();
    assert!(text.contains("granted: 0 false Err("), "{text}");
    assert!(text.ends_with(") false\n"), "names resolve: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_response_has_its_own_id() {
    let host = host(&["hello"]).start().await;
    let mut client = host.connect().await;
    let mut ids = std::collections::HashSet::new();
    for path in ["/hello", "/nobody", "/hello", "/nobody"] {
        let id = client.get(path).await.header("x-request-id");
        assert_eq!(id.len(), 32, "{id}");
        assert!(ids.insert(id));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_readiness() {
    let mut host = host(&["hello", "echo"]).start().await;
    let probe = async |path: &str| crate::harness::get(host.admin, path).await.status;
    assert_eq!((probe("/healthz").await, probe("/readyz").await, probe("/nothing").await), (200, 200, 404));
    // A request in flight delays the end of the host, and `/readyz` reports that it stops.
    let mut client = host.connect().await;
    let (_feeding, body) = crate::harness::fed();
    let stalled = http::Request::post("/echo").body(body).unwrap();
    let _asked = client.send(stalled).await.unwrap();
    let admin = host.admin;
    host.stop();
    let mut last = 200;
    while last == 200 {
        last = crate::harness::get(admin, "/readyz").await.status;
    }
    assert_eq!(last, 503);
}

/// A component of another toolkit works unchanged.
#[tokio::test(flavor = "multi_thread")]
async fn guests_of_other_toolkits() {
    let host = host(&["wstd_guest"]).start().await;
    let mut client = host.connect().await;
    assert_eq!(client.get("/wstd_guest").await.text(), "Hello from wstd");
    assert_eq!(client.ask(Method::POST, "/wstd_guest", &[], "and back").await.text(), "and back");
}
