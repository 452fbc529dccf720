//! Requests that another host of the cluster forwards, and calls to services of other hosts.

use std::time::{Duration, Instant};

use http::HeaderValue;

use super::fixture::{Fixture, call, get};
use crate::request::handler::Call;
use lodge_traffic::proxy::cluster_hop::CLUSTER_HOP;

/// What forwards to other hosts, of which none is known.
const FAR: &str = "routes = ['/far']\n[upstream]\nreplicas = ['cluster://users']";

const USERS: &str = "[upstream]\nreplicas = ['cluster+https://users']";

/// The header only restricts: a request with it leads to the service that it names or nowhere, counts the calls before it, and is not
/// forwarded once more.
#[tokio::test]
async fn a_forwarded_request_can_do_less() {
    let host = Fixture::with(&[("users", "limits.call_depth = 3"), ("orders", ""), ("far", FAR)]).await;
    for (path, hop, expected) in [
        ("/users", None, (503, "no-replica")),
        ("/users", Some("users;calls=3;ms=9000"), (503, "no-replica")),
        ("/users", Some("users;calls=4;ms=9000"), (508, "call-depth")),
        ("/users", Some("orders;calls=0;ms=9000"), (404, "no-route")),
        ("/users", Some("users"), (404, "no-route")),
        ("/users", Some(""), (404, "no-route")),
        ("/nothing", Some("users;calls=0;ms=9000"), (404, "no-route")),
        ("/far", None, (503, "no-replica")),
        ("/far", Some("far;calls=0;ms=9000"), (508, "call-depth")),
        ("/far", Some("users;calls=0;ms=9000"), (404, "no-route")),
    ] {
        let mut request = get(format!("http://test{path}"));
        if let Some(hop) = hop {
            request.headers_mut().insert(CLUSTER_HOP, HeaderValue::from_static(hop));
        }
        let reply = host.send(request).await;
        assert_eq!((reply.status, reply.text.as_str()), expected, "{path} {hop:?}");
    }
    assert!(host.is_idle());
}

/// A call goes to the service of this host if there is one, and else to that of other hosts.
#[tokio::test]
async fn calls_prefer_this_host() {
    let (host, others) =
        (Fixture::with(&[("users", "")]).await, Fixture::with(&[("users", USERS), ("far", FAR)]).await);
    let [users, far] = ["users", "far"].map(|name| others.target(name));
    let deadline = Instant::now() + Duration::from_secs(60);
    let to = |host: &'static str, elsewhere| Call { elsewhere, ..call(host, 1, deadline) };
    let reply = host.call(&to("users.localhost", Some(&users)), get("http://users.internal/")).await;
    assert_eq!((reply.status, host.refused("users"), others.refused("users")), (503, vec![("no-replica", 1)], vec![]));
    let reply = host.call(&to("far.localhost", Some(&far)), get("http://far.internal/")).await;
    assert_eq!((reply.status, others.refused("far")), (503, vec![("no-replica", 1)]));
    let reply = host.call(&to("far.localhost", None), get("http://far.internal/")).await;
    assert_eq!((reply.status, reply.text.as_str()), (404, "no-route"));
}

/// Only hosts of a cluster forward requests. A guest of this host writes the header in vain, and so does a client of a host in none.
#[tokio::test]
async fn nobody_else_forwards() {
    let services = [("users", "limits.call_depth = 3"), ("far", FAR)];
    let forged = |path: &str, hop: &'static str| {
        let mut request = get(format!("http://test{path}"));
        request.headers_mut().insert(CLUSTER_HOP, HeaderValue::from_static(hop));
        request
    };
    let (member, mut alone) = (Fixture::with(&services).await, Fixture::with(&services).await);
    alone.handler.cluster = None;
    let deadline = Instant::now() + Duration::from_secs(60);
    for name in ["users", "far"] {
        for hop in ["users;calls=4;ms=0", "far;calls=4;ms=0", ""] {
            let (path, at) = (format!("/{name}"), format!("{name}.localhost"));
            let reply = alone.send(forged(&path, hop)).await;
            assert_eq!((reply.status, reply.text.as_str()), (503, "no-replica"), "{name} {hop}");
            let reply = member.call(&call(&at, 1, deadline), forged(&path, hop)).await;
            assert_eq!((reply.status, reply.text.as_str()), (503, "no-replica"), "a call to {name} with {hop}");
        }
    }
}
