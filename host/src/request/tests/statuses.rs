//! Requests that no backend works on: their status and reason, and what is counted.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderMap, HeaderValue, Method, Request, header};

use super::fixture::{Fixture, Reply, call, get, with_body};
use crate::request::mirror::AnyBody;
use lodge_traffic::admission::Verdict;
use lodge_traffic::auth::certificate::ClientCertificate;
use lodge_traffic::proxy::headers::{Peer, TooManyFields};

const CLIENT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9);

const MANIFEST: &str = "
routes = ['/users', { path = '/get', methods = ['GET'] }]
deny = ['198.51.100.0/24']
limits = { in_flight = 1, queue = 1, queue_wait = '20ms', request_body = '8B', call_depth = 2 }
";

fn request(method: Method, path: &str) -> Request<AnyBody> {
    with_body(Request::builder().method(method).uri(format!("http://test{path}")).body(()).unwrap(), "")
}

/// Checks the response, that the request holds nothing afterwards, and that it was counted once, with this reason.
fn check(host: &Fixture, service: &str, reply: &Reply, expected: (u16, &'static str)) {
    assert_eq!((reply.status, reply.text.as_str()), expected);
    assert!(reply.headers.contains_key("x-request-id"), "{expected:?}");
    let counted = host.refused(service);
    let count = counted.iter().find(|(reason, _)| *reason == expected.1).map(|(_, count)| *count);
    assert_eq!(count, Some(1), "{expected:?}: {counted:?}");
}

/// A client of HTTP/2 may send requests after it was told that its connection ends.
#[tokio::test]
async fn nothing_is_served_with_an_expired_certificate() {
    let mut host = Fixture::with(&[("users", "")]).await;
    for (from_now, expected) in [(60, (503, "no-replica")), (0, (401, "auth-invalid"))] {
        let end = SystemTime::now() + Duration::from_secs(from_now);
        let certificate = ClientCertificate::new(HeaderValue::from_static("x"), &[], &[], end);
        host.peer = Peer::new(CLIENT, CLIENT, &[]).over_tls(Some(certificate));
        let reply = host.send(get("http://test/users")).await;
        assert_eq!((reply.status, reply.text.as_str()), expected);
        assert!(reply.status != 401 || reply.headers[header::WWW_AUTHENTICATE] == "ClientCertificate");
    }
    assert!(host.is_idle());
}

#[tokio::test]
async fn requests_are_refused_with_a_reason() {
    let host = Fixture::with(&[("users", MANIFEST)]).await;
    let check = |service: &str, reply: &Reply, status: u16, reason: &'static str| {
        check(&host, service, reply, (status, reason));
        assert!(host.is_idle(), "{reason} left a request behind");
    };
    // A request for a path alone names no host.
    let reply = host.send(get("/users")).await;
    check("", &reply, 400, "bad-request");
    let mut many = request(Method::GET, "/users");
    many.extensions_mut().insert(TooManyFields);
    check("", &host.send(many).await, 431, "too-many-fields");
    check("", &host.send(request(Method::GET, "/nothing")).await, 404, "no-route");
    let reply = host.send(request(Method::POST, "/get")).await;
    check("", &reply, 405, "method-not-allowed");
    assert_eq!(reply.headers[header::ALLOW], "GET, HEAD");
    let large = Request::post("http://test/users").header(header::CONTENT_LENGTH, "9").body(()).unwrap();
    check("users", &host.send(with_body(large, "123456789")).await, 413, "body-too-large");
    let later = Instant::now() + Duration::from_secs(60);
    let deep = call("users.localhost", 3, later);
    check("users", &host.call(&deep, get("http://users.internal/")).await, 508, "call-depth");
    let admitted = host.send(request(Method::GET, "/users")).await;
    check("users", &admitted, 503, "no-replica");
    assert_eq!(admitted.headers[header::RETRY_AFTER], "1");
    host.service("users").set_disabled(true);
    check("users", &host.send(request(Method::GET, "/users")).await, 503, "disabled");
}

#[tokio::test]
async fn policies_and_limits_refuse_with_a_reason() {
    let policies = "deny = ['192.0.2.0/24']";
    let host = Fixture::with(&[("users", MANIFEST), ("closed", policies), ("rare", "rate = '1/h'")]).await;
    check(&host, "closed", &host.send(request(Method::GET, "/closed")).await, (403, "client-denied"));
    check(&host, "rare", &host.send(request(Method::GET, "/rare")).await, (503, "no-replica"));
    let reply = host.send(request(Method::GET, "/rare")).await;
    check(&host, "rare", &reply, (429, "rate-limited"));
    assert!(reply.headers[header::RETRY_AFTER].to_str().unwrap().parse::<u32>().unwrap() > 1);
    assert!(reply.headers.contains_key("ratelimit"));
    let held = host.target("users").admission.try_admit(Instant::now()).unwrap();
    let (one, two) = tokio::join!(host.send(request(Method::GET, "/users")), host.send(request(Method::GET, "/users")));
    check(&host, "users", &one, (503, "queue-timeout"));
    check(&host, "users", &two, (503, "queue-full"));
    drop(held);
    assert!(host.is_idle());
}

#[tokio::test]
async fn an_open_breaker_refuses() {
    let host = Fixture::with(&[("users", "breaker = { calls = 2, open = '1m' }")]).await;
    let headers = HeaderMap::new();
    for _ in 0..2 {
        let target = host.target("users");
        let admitting = target.admission.admit(&host.caller(None).view(&headers, 0), Instant::now()).await;
        admitting.unwrap().record_failure(Some(Verdict::Failed), Instant::now);
    }
    let reply = host.send(request(Method::GET, "/users")).await;
    check(&host, "users", &reply, (503, "breaker-open"));
    assert!(reply.headers[header::RETRY_AFTER].to_str().unwrap().parse::<u32>().unwrap() > 1);
    assert!(host.is_idle());
}

#[tokio::test]
async fn a_host_that_starts_knows_no_routes() {
    let host = Fixture::starting();
    let reply = host.send(request(Method::GET, "/users")).await;
    check(&host, "", &reply, (503, "starting"));
    assert_eq!(reply.headers[header::RETRY_AFTER], "1");
}

/// `OPTIONS *` is about the server, and reaches no service.
#[tokio::test]
async fn the_host_responds_to_options() {
    let host = Fixture::with(&[("users", "routes = ['/*']")]).await;
    let request = Request::options("*").header(header::HOST, "test").body(()).unwrap();
    let reply = host.send(with_body(request, "")).await;
    assert_eq!((reply.status, reply.text.as_str()), (204, ""));
    assert!(reply.headers[header::ALLOW].to_str().unwrap().contains("DELETE"));
    let responses = |service: &str| host.service(service).metrics.requests();
    assert_eq!((responses(""), responses("users")), (1, 0));
}
