//! Promise: policies and routes apply to every spelling of a host and a path, and on every way to the host.

use http::Method;

use crate::harness::far::before;
use crate::harness::{Connection, Habit, Replica, TestHost, host, raw};

/// Returns status and raw response of a request that no client library would send.
async fn sent(host: &TestHost, line: &str, headers: &str) -> (u16, String) {
    let response = raw(host.address, &format!("{line} HTTP/1.1\r\n{headers}connection: close\r\n\r\n")).await;
    let status = response.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("{line}: {response}")), response)
}

async fn status(host: &TestHost, target: &str, name: &str) -> u16 {
    sent(host, &format!("GET {target}"), &format!("host: {name}\r\n")).await.0
}

/// A route's policies apply to every path that its service may take for one below the route.
#[tokio::test(flavor = "multi_thread")]
async fn policies_apply_to_every_spelling() {
    let denied = "routes = ['/echo', { path = '/echo/admin', deny = ['0.0.0.0/0'] }]";
    let host = host(&["echo"]).manifest("echo", denied).start().await;
    assert_eq!(status(&host, "/echo/head", "h").await, 200);
    for (path, expected) in [
        ("/echo/admin/head", 403),
        ("/echo/%61dmin/head", 403),
        ("/echo/x/../admin/head", 403),
        ("/echo/./admin/head", 403),
        ("/x/%2e%2E/echo/admin/head", 403),
        ("http://h/echo/x/../admin/head", 403),
        ("/echo//admin/head", 400),
        ("/echo/%2Fadmin/head", 400),
        ("/echo/x%2f..%2fadmin/head", 400),
        ("/echo/admin;x/head", 400),
        ("/echo/..;/echo/admin/head", 400),
        ("/echo/\\admin/head", 400),
        ("/echo/admin%00/head", 400),
        ("/echo/%2561dmin/head", 200),
        ("/echo//other/head", 200),
        ("/echo/a%2Fb/head", 200),
    ] {
        assert_eq!(status(&host, path, "h").await, expected, "{path}");
    }
}

/// Guests of both versions and replicas get the normal form that routing used.
#[tokio::test(flavor = "multi_thread")]
async fn all_services_get_the_normal_form() {
    let replica = Replica::start("one").await;
    replica.set(Habit::Describe);
    let host = before(&[&replica], "host = 'client'")
        .file("echo.wasm", &std::fs::read(crate::harness::wasm("echo")).unwrap())
        .file("echo3.wasm", &std::fs::read(crate::harness::wasm("echo3")).unwrap())
        .manifest("echo3", "routes = [{ path = '/v3/{x}', strip_prefix = true }]")
        .start()
        .await;
    let spelt = "host: API.Example.com.:80\r\n";
    let (_, seen) = sent(&host, "GET /x/../echo/%7Euser%2f/./head?q=%7E", spelt).await;
    assert!(seen.contains("Some(Scheme::Http) api.example.com /echo/~user%2F/head?q=%7E\n"), "{seen}");
    assert!(seen.contains("x-forwarded-host: api.example.com\n") && !seen.contains("API"), "{seen}");
    let (_, seen) = sent(&host, "GET /v3/%40me/%7Euser/head", spelt).await;
    assert!(
        seen.contains(" api.example.com /~user/head\n") && seen.contains("x-forwarded-prefix: /v3/%40me\n"),
        "{seen}"
    );
    let (_, seen) = sent(&host, "GET http://API.example.com./far?a=1", "host: other\r\n").await;
    assert!(seen.contains("GET /far?a=1 HTTP/1.1\n") && seen.contains("\nhost: api.example.com\n"), "{seen}");
    let (_, seen) = sent(&host, "GET /far/%7Ex/../y", spelt).await;
    assert!(seen.contains("GET /far/y HTTP/1.1\n"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn spellings_of_hosts() {
    let manifest = "routes = [{ path = '/v1', host = 'API.example.com.' }, { path = '/echo', host = '10.0.0.7' }]";
    let host = host(&["echo"]).manifest("echo", manifest).start().await;
    for name in
        ["api.example.com", "API.example.com:8080", "api.example.com.", "api.example.com.:80", "echo.localhost."]
    {
        assert_eq!(status(&host, "/v1/head", name).await, 200, "{name}");
    }
    assert_eq!(status(&host, "/echo/head", "[::ffff:10.0.0.7]:81").await, 200);
    for name in ["api.example.com:abc", "api.example.com:80:80", "api.example.com..", "", "api%2Eexample.com"] {
        assert_eq!(status(&host, "/v1/head", name).await, 400, "{name}");
    }
    assert_eq!(status(&host, "/v1/head", "example.com").await, 404);
    assert_eq!(sent(&host, "GET http://api.example.com/v1/head", "").await.0, 400, "HTTP/1.1 requires a Host header");
}

/// The host names of services and versions are for clients on this machine, and not for requests that a proxy there
/// forwards.
#[tokio::test(flavor = "multi_thread")]
async fn service_hosts_are_for_this_machine() {
    let started = async |hosts: &str, trusted: &str| {
        let setup = host(&["echo"]).manifest("echo", "routes = ['/echo']").named("echo", "echo@2");
        setup.set("service_hosts", hosts).set("trusted_proxies", trusted).start().await
    };
    let names = ["echo.localhost", "2.echo.localhost"];
    let statuses = async |host: &TestHost, name: &str| {
        let plain = format!("host: {name}\r\n");
        let forwarded =
            ["x-forwarded-for: 127.0.0.1\r\n", "via: 1.1 front\r\n", "forwarded: for=x\r\n", "x-real-ip: ::1\r\n"];
        let mut statuses = vec![sent(host, "GET /any/head", &plain).await.0];
        for by in forwarded {
            statuses.push(sent(host, "GET /any/head", &format!("{plain}{by}")).await.0);
        }
        statuses
    };
    let local = started("local", "").await;
    let (all, off, behind) = tokio::join!(started("all", ""), started("off", ""), started("local", "127.0.0.0/8"));
    for name in names {
        assert_eq!(statuses(&local, name).await, [200, 404, 404, 404, 404], "{name}");
        assert_eq!(statuses(&all, name).await, [200; 5], "{name}");
        assert_eq!(statuses(&off, name).await, [404; 5], "{name}");
        assert_eq!(statuses(&behind, name).await, [404; 5], "{name}: a trusted peer is a proxy");
    }
    let (routed, _) = sent(&local, "GET /echo/head", "host: echo.localhost\r\nx-forwarded-for: 192.0.2.1\r\n").await;
    assert_eq!(routed, 200, "its routes are for all clients");
}

/// `OPTIONS *` is for the host itself. With any other method `*` is not a valid target.
#[tokio::test(flavor = "multi_thread")]
async fn options_of_the_server() {
    let host = host(&["echo"]).manifest("echo", "routes = ['/*']").start().await;
    let (status, response) = sent(&host, "OPTIONS *", "host: h\r\n").await;
    assert_eq!(status, 204, "{response}");
    assert!(response.contains("\r\nallow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE\r\n"), "{response}");
    assert!(response.contains("\r\nx-request-id: ") && response.ends_with("\r\n\r\n"), "{response}");
    assert_eq!(sent(&host, "GET *", "host: h\r\n").await.0, 400);
    assert_eq!(sent(&host, "OPTIONS /head", "host: h\r\n").await.0, 200, "OPTIONS of a path is for its service");
}

/// Forwarding headers of the host reach guests and replicas, whatever a client lists in `Connection`.
#[tokio::test(flavor = "multi_thread")]
async fn clients_cannot_remove_the_hosts_headers() {
    let replica = Replica::start("one").await;
    replica.set(Habit::Describe);
    let setup = before(&[&replica], "").file("echo.wasm", &std::fs::read(crate::harness::wasm("echo")).unwrap());
    let host = setup.start().await;
    let own = ["x-request-id", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "forwarded"];
    for path in ["/echo/head", "/far"] {
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close, via, {}\r\nx_forwarded_for: 6.6.6.6\r\n\r\n",
            own.join(", ")
        );
        let seen = raw(host.address, &request).await;
        for name in own {
            assert!(seen.contains(&format!("\n{name}: ")), "{path}: no {name} in {seen}");
        }
        assert!(!seen.contains("6.6.6.6"), "{seen}");
    }
}

/// A guest that sends requests to the listener from an address of the trusted proxies is an ordinary client.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_is_not_a_trusted_proxy() {
    let host = host(&["echo", "caller", "caller3"])
        .set("trusted_proxies", "127.0.0.0/8")
        .manifest("caller", "http = ['http://127.0.0.1:*']")
        .manifest("caller3", "http = ['http://127.0.0.1:*']")
        .start()
        .await;
    let to = format!("http://{}/echo/head", host.address);
    for caller in ["caller", "caller3"] {
        let forged = [
            ("x-to", to.as_str()),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-proto", "https"),
            ("x-request-id", "forged"),
        ];
        let mut client = Connection::http1(host.address).await;
        let seen = client.ask(Method::GET, &format!("/{caller}"), &forged, "").await.text();
        assert!(seen.contains("Some(Scheme::Http)") && seen.contains("x-forwarded-for: 127.0.0.1\n"), "{seen}");
        assert!(!seen.contains("6.6.6.6") && !seen.contains("x-request-id: forged"), "{seen}");
    }
}

/// A stored response is found, invalidated and purged under every spelling of its URI.
#[tokio::test(flavor = "multi_thread")]
async fn the_cache_uses_the_normal_form() {
    let host = crate::caching::reuse::cacheable().start().await;
    let text = async |method: &str, path: &str, name: &str| {
        let target = format!("{path}?cache-control=max-age%3D60");
        let (_, response) = sent(&host, &format!("{method} {target}"), &format!("host: {name}\r\n")).await;
        response.rsplit("\r\n\r\n").next().unwrap().to_owned()
    };
    let first = text("GET", "/cacheable/~a", "shop.example").await;
    for (path, name) in [("/cacheable/%7Ea", "Shop.Example."), ("/x/../cacheable/./~%61", "shop.example:80")] {
        assert_eq!(text("GET", path, name).await, first, "{path} {name}");
    }
    text("POST", "/cacheable/%7ea", "SHOP.example").await;
    let second = text("GET", "/cacheable/~a", "shop.example").await;
    assert_ne!(first, second);
    let purge = "/v1/services/cacheable/purge?path=/cacheable/./%257Ea";
    let purged = Connection::http1(host.admin).await.ask(Method::POST, purge, &[], "").await.text();
    assert_eq!(purged, r#"{"service":"cacheable","path":"/cacheable/~a","purged":1}"#);
    assert_ne!(text("GET", "/cacheable/~a", "shop.example").await, second);
}
