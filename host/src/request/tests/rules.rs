//! Rules on the path of a request.

use std::time::{Duration, Instant};

use http::{Request, header};

use super::fixture::{Fixture, call, get, with_body};
use lodge_base::config::ServiceHosts;

const MANIFEST: &str = "
cache = true
limits = { in_flight = 1, queue = 0 }
routes = ['/users', { path = '/users/open', rules = [{ allow = true }] }]
[[rules]]
when = 'request.path.startsWith(\"/users/admin\") && identity.kind != \"call\"'
deny = 418
message = 'not for you'
[[rules]]
when = '\"x-tier\" in request.headers || \"x-beta\" in request.headers || \"x-gold\" in request.headers'
set = { x-tier = 'gold' }
[[rules]]
when = '\"x-beta\" in request.headers'
version = 'beta'
[[rules]]
when = 'request.method == \"PUT\" && request.query.id == \"1\"'
deny = 404
";

/// A stored response is for requests that no rule denies, and not for those that a rule changes.
#[tokio::test]
async fn rules_come_before_the_cache() {
    let host = Fixture::with(&[("users", MANIFEST), ("users@beta", "limits.request_body = '2B'")]).await;
    for path in ["http://test/users/admin", "http://test/users/1", "http://test/users/open/admin"] {
        host.store(path, "max-age=60", "stored").await;
    }
    // No slot is free, so that only what needs none has a response.
    let held = host.target("users").admission.try_admit(Instant::now()).unwrap();
    let reply = host.send(get("http://test/users/admin")).await;
    assert_eq!((reply.status, reply.text.as_str()), (418, "rule-denied"));
    assert!(!reply.headers.contains_key("cache-status") && !reply.headers.contains_key(header::RETRY_AFTER));
    for spelling in ["/users/%61dmin", "/users/x/../admin", "/users/./admin/x"] {
        assert_eq!(host.send(get(&*format!("http://test{spelling}"))).await.status, 418, "{spelling}");
    }
    for doubtful in ["/users//admin", "/users/x%2F..%2Fadmin", "/users/admin;a/x", "/users/x/..%5cadmin"] {
        assert_eq!(host.send(get(&*format!("http://test{doubtful}"))).await.text, "bad-request", "{doubtful}");
    }
    assert_eq!(host.send(get("http://test/users/a%20b")).await.text, "queue-full");
    for (path, text) in [("1", "stored"), ("open/admin", "stored"), ("2", "queue-full")] {
        assert_eq!(host.send(get(&*format!("http://test/users/{path}"))).await.text, text, "{path}");
    }
    // A forged header is gone before the rules are asked, so it changes nothing.
    let with = |name: &str| {
        let mut request = get("http://test/users/1");
        request.headers_mut().insert(header::HeaderName::try_from(name).unwrap(), "1".parse().unwrap());
        request
    };
    assert_eq!(host.send(with("x-tier")).await.text, "stored");
    for name in ["x-beta", "x-gold"] {
        assert_eq!(host.send(with(name)).await.text, "queue-full", "{name}: what is stored is not for this request");
    }
    drop(held);
    assert_eq!(host.send(with("x-beta")).await.text, "no-replica");
    assert_eq!(host.refused("users@beta"), [("no-replica", 1), ("queue-full", 1)]);
    let large = Request::post("http://test/users/1").header("x-beta", "1").header(header::CONTENT_LENGTH, "3");
    assert_eq!(host.send(with_body(large.body(()).unwrap(), "123")).await.text, "body-too-large");
    let failed = Request::put("http://test/users/1").body(()).unwrap();
    let reply = host.send(with_body(failed, "")).await;
    assert_eq!((reply.status, reply.text.as_str()), (403, "rule-failed"));
    // A call of a guest has every path, and the rules of the service.
    let of = call("users.localhost", 1, Instant::now() + Duration::from_secs(60));
    assert_eq!(host.call(&of, get("http://users.internal/users/admin")).await.text, "no-replica");
    let failed = with_body(Request::put("http://users.internal/users/open").body(()).unwrap(), "");
    assert_eq!(host.call(&of, failed).await.text, "rule-failed");
    assert!(host.is_idle());
    let counted = host.refused("users");
    let count = |reason| counted.iter().find(|(name, _)| *name == reason).map(|(_, count)| *count);
    assert_eq!((count("rule-denied"), count("rule-failed")), (Some(4), Some(2)));
}

/// A rule about a path holds on every way to its service: by a route without its prefix, by the host of the service, and for calls.
#[tokio::test]
async fn rules_see_the_path_that_the_service_sees() {
    let text = "routes = [{ path = '/echo', strip_prefix = true }, { path = '/other', host = 'other.test', strip_prefix = true }]\n\
                [[rules]]\nwhen = 'request.path == \"/admin\" || request.path.startsWith(\"/admin/\")'\ndeny = 404";
    let mut host = Fixture::with(&[("echo", text)]).await;
    host.handler.service_hosts = ServiceHosts::All;
    for target in ["test/echo/admin", "test/echo/%61dmin/x", "echo.localhost/admin", "other.test/other/x/../admin"] {
        let reply = host.send(get(&*format!("http://{target}"))).await;
        // As for a path that nobody has.
        assert_eq!((reply.status, reply.text.as_str()), (404, "no-route"), "{target}");
    }
    for target in ["test/echo//admin", "echo.localhost//admin"] {
        assert_eq!(host.send(get(&*format!("http://{target}"))).await.text, "bad-request", "{target}");
    }
    for target in ["test/echo/users", "echo.localhost/echo/admin"] {
        assert_eq!(host.send(get(&*format!("http://{target}"))).await.text, "no-replica", "{target}");
    }
    let of = call("echo.localhost", 1, Instant::now() + Duration::from_secs(60));
    assert_eq!(host.call(&of, get("http://echo.internal/admin")).await.text, "no-route");
    let counted = host.refused("echo");
    assert!(counted.contains(&("rule-denied", 5)), "{counted:?}");
}

/// The address of the client is checked before rules, and no rule is asked for a client that is not allowed.
#[tokio::test]
async fn addresses_come_before_rules() {
    let text = "deny = ['192.0.2.0/24']\n[[rules]]\ndeny = 404";
    let host = Fixture::with(&[("users", text)]).await;
    assert_eq!(host.send(get("http://test/users")).await.text, "client-denied");
}
