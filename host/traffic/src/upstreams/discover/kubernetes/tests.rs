//! Discovery against an API server on loopback.

use serde_json::json;

use super::fake_server::{Asks, FakeServer, STALLS, response, slice};
use super::*;
use crate::upstreams::discover::server::LONG;
use crate::upstreams::discover::{Discovery, Pace, Resolver};

/// Pauses of 5 ms, and watches of a minute.
fn quick() -> WatchPace {
    let (least, publish) = (Duration::from_millis(5), Duration::from_millis(5));
    WatchPace { least, watch: Duration::from_secs(60), publish, ..WatchPace::default() }
}

fn watches(server: &FakeServer, pace: WatchPace, zone: Option<&str>) -> Arc<ServiceWatches> {
    let url = Some(format!("http://{}", server.address).parse().unwrap());
    let settings = config::Kubernetes { url, account: "/nowhere".into(), zone: zone.map(str::to_owned) };
    Arc::new(ServiceWatches::new(&settings, pace))
}

fn start(sources: &[&str], watches: &Arc<ServiceWatches>) -> Discovery {
    let sources = sources.iter().map(|text| Source::parse(text).unwrap()).collect();
    Discovery::start(sources, Arc::new(Resolver::system()), (watches, &Default::default()), Pace::default(), false)
}

/// The addresses of the replicas; those for other zones with a star.
fn shown(discovery: &Discovery) -> Vec<String> {
    let shown = |endpoint: &super::super::Endpoint| {
        format!("{}{}", endpoint.target.address, if endpoint.is_far { "*" } else { "" })
    };
    discovery.endpoints().borrow().iter().map(shown).collect()
}

async fn becomes(discovery: &Discovery, expected: &[&str]) {
    let mut endpoints = discovery.endpoints();
    let followed = async {
        while shown(discovery) != expected {
            endpoints.changed().await.unwrap();
        }
    };
    let in_time = tokio::time::timeout(LONG, followed).await.is_ok();
    assert!(in_time, "{:?} and not {expected:?}; {:?}", shown(discovery), discovery.source_errors().of(0));
}

/// Waits until the source has an error with these words, or none.
async fn fails(discovery: &Discovery, words: &str) {
    let begin = Instant::now();
    loop {
        let error = discovery.source_errors().of(0).unwrap_or_default();
        if if words.is_empty() { error.is_empty() } else { error.contains(words) } {
            assert!(!error.contains('\n') && error.len() < 1000, "{error}");
            return;
        }
        assert!(begin.elapsed() < LONG, "{error:?} does not say {words:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// From a list in pages, and the events after it, in both versions of the API.
#[tokio::test]
async fn endpoints_are_followed() {
    for version in ["v1", "v1beta1"] {
        let server = FakeServer::start(version, 2).await;
        for n in 1..=5 {
            server.put(slice(&format!("users-{n}"), 8080, &[(&format!("10.0.0.{n}"), json!({ "ready": true }))]));
        }
        let discovery = start(&["k8s://shop/users:http"], &watches(&server, quick(), None));
        discovery.first_round().await;
        let all = ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080", "10.0.0.4:8080", "10.0.0.5:8080"];
        assert_eq!(shown(&discovery), all);
        assert_eq!(&*discovery.endpoints().borrow()[0].target.host, "users.shop.svc");
        let lists = server.asked(Asks::List);
        assert!(lists.len() == 3 && lists[2].contains("&continue=4"), "{lists:?}");
        assert!(lists.iter().all(|head| !head.contains("authorization")), "a token goes over TLS only: {lists:?}");
        // One that ends takes no new requests, one moves to another slice, one is new, and a slice goes.
        let ready = || json!({ "ready": true });
        server.put(slice(
            "users-1",
            8080,
            &[("10.0.0.1", json!({ "ready": false, "serving": true, "terminating": true }))],
        ));
        server.put(slice("users-2", 8080, &[("10.0.0.2", ready()), ("10.0.0.3", ready())]));
        server.put(slice("users-3", 9090, &[("fd00::1", json!({}))]));
        server.remove("users-4");
        becomes(&discovery, &["10.0.0.2:8080", "10.0.0.3:8080", "10.0.0.5:8080", "[fd00::1]:9090"]).await;
        // A watch begins where the last one ended: after a bookmark, without another list.
        for is_cut in [false, true] {
            let (before, revision) = (server.asked(Asks::Watch).len(), server.bookmark());
            server.end_watches(is_cut);
            let again = server.asked_times(Asks::Watch, before + 1).await;
            assert!(again.contains("allowWatchBookmarks=true") && again.contains("timeoutSeconds="), "{again}");
            assert!(again.contains(&format!("resourceVersion={revision} ")), "{again}");
        }
        server.put(slice("users-2", 8080, &[("10.0.0.2", ready())]));
        becomes(&discovery, &["10.0.0.2:8080", "10.0.0.5:8080", "[fd00::1]:9090"]).await;
        assert_eq!(server.asked(Asks::List).len(), 3);
        // Only those that end are left, then none: that is believed at once.
        let ends = json!({ "ready": false, "serving": true, "terminating": true });
        server.remove("users-3");
        server.remove("users-5");
        server.put(slice("users-2", 8080, &[("10.0.0.2", ends), ("10.0.0.3", json!({ "ready": false }))]));
        becomes(&discovery, &["10.0.0.1:8080", "10.0.0.2:8080"]).await;
        server.remove("users-1");
        server.put(slice("users-2", 8080, &[("10.0.0.2", json!({ "ready": false }))]));
        becomes(&discovery, &[]).await;
        fails(&discovery, "none of the endpoints of shop/users is ready; it has 1").await;
        server.remove("users-2");
        fails(&discovery, "there is no EndpointSlice of shop/users").await;
    }
}

/// Whatever the server does, what it said last stays in use, the source says what is wrong, and a change is followed
/// once the server is well.
#[tokio::test]
async fn failures_change_nothing() {
    let server = FakeServer::start("v1", 100).await;
    let ready = |n: usize| slice("users-1", 80, &[(&format!("10.0.0.{n}"), json!({ "ready": true }))]);
    server.put(ready(1));
    let watches = watches(&server, WatchPace { list: Duration::from_secs(2), ..quick() }, None);
    let discovery = start(&["k8s://shop/users:80"], &watches);
    becomes(&discovery, &["10.0.0.1:80"]).await;
    let status =
        |status: &str, more: &str, message: &str| response(status, more, &json!({ "message": message }).to_string());
    let forbidden = "endpointslices is forbidden: User \"system:serviceaccount:lodge:lodge\" cannot list";
    let event = |code: u16| {
        let object = json!({ "kind": "Status", "code": code, "message": "too old\nresource version" });
        let line = format!("{}\n", json!({ "type": "ERROR", "object": object }));
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{line}", line.len());
        head.into_bytes()
    };
    let chunked = |body: &[u8]| [b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n", body].concat();
    let quoted =
        json!({ "type": "ADDED", "object": { "endpoints": [{ "conditions": { "ready": "x\n".repeat(9000) } }] } });
    let quoted = format!("{quoted}\n");
    let redirect = response("307 X", "location: http://127.0.0.1:1/\r\n", "");
    let grant = "lacks the right to get, list and watch endpointslices (discovery.k8s.io) in the namespace shop";
    let api = json!("discovery.k8s.io/v1");
    let list = |metadata: serde_json::Value, items: serde_json::Value| {
        json!({ "kind": "EndpointSliceList", "apiVersion": api, "metadata": metadata, "items": items }).to_string()
    };
    let endless = list(json!({ "resourceVersion": "1", "continue": "x/y" }), json!([]));
    let unversioned = list(json!({}), json!([]));
    let object = json!({ "kind": "EndpointSlice", "apiVersion": api });
    let unversioned_event = format!("{}\n", json!({ "type": "MODIFIED", "object": object }));
    let pods = json!({ "kind": "PodList", "apiVersion": "v1", "metadata": { "resourceVersion": "9" }, "items": [] });
    let pod = json!({ "kind": "Pod", "apiVersion": "v1", "metadata": { "name": "users-1", "resourceVersion": "999" } });
    let pod = format!("{}\n", json!({ "type": "MODIFIED", "object": pod }));
    let hostile = "x\u{2028}\u{202e}INFO fake\u{1b}[31m\nline";
    let endless = response("200 OK", "", &endless);
    let cases = [
        (Asks::Watch, status("410 Gone", "", "expired"), "410 Gone: expired"),
        (Asks::Watch, event(410), "the API server ended the watch: too old resource version"),
        (Asks::Watch, event(500), "the API server ended the watch"),
        (Asks::Watch, chunked(b"{\"type\":\"ADDED\",\"obj"), "an event broke off"),
        (Asks::Watch, chunked(b"rubbish\n"), "an event that is not valid"),
        (Asks::Watch, chunked(quoted.as_bytes()), "an event that is not valid: invalid type: string"),
        (Asks::Watch, chunked(unversioned_event.as_bytes()), "without a resourceVersion"),
        (
            Asks::Watch,
            chunked(pod.as_bytes()),
            "an event that is no EndpointSlice of discovery.k8s.io/v1: its kind is \"Pod\"",
        ),
        (
            Asks::List,
            chunked(pods.to_string().as_bytes()),
            "a list that is no EndpointSliceList of discovery.k8s.io/v1",
        ),
        (Asks::List, chunked(b"{\"metadata\":{\"resourceVersion\":\"5\"}}"), "a list that is no EndpointSliceList"),
        (Asks::List, status("500 Oops", "", hostile), "500 Internal Server Error: x  INFO fake [31m line"),
        (Asks::Watch, chunked(&vec![b' '; (4 << 20) + 1]), "larger than an object of Kubernetes can be"),
        (Asks::Watch, status("403 Forbidden", "", forbidden), grant),
        (Asks::Watch, status("404 Not Found", "", ""), "the API server has no /apis/discovery.k8s.io/v1/"),
        (Asks::Watch, b"HTTP/1.1 200 OK\r\nx: ".to_vec(), "no response"),
        (Asks::List, status("403 Forbidden", "", forbidden), forbidden),
        (Asks::List, status("401 Unauthorized", "", "Unauthorized"), "does not accept the token in /nowhere/token"),
        (Asks::List, status("404 Not Found", "", ""), "the API server has no /apis/discovery.k8s.io/v1/"),
        (Asks::List, status("429 Too Many Requests", "retry-after: 0\r\n", "slow down"), "429 Too Many Requests: slow"),
        (Asks::List, redirect, "redirects are not followed"),
        (Asks::List, chunked(unversioned.as_bytes()), "without a resourceVersion"),
        (Asks::List, chunked(b"{\"items\":[{}"), "a list that is not valid"),
        (Asks::List, b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}".to_vec(), "broke off, or has more"),
        (Asks::List, chunked(&vec![b' '; (16 << 20) + 1]), "or has more than 16777216 bytes"),
        (Asks::List, endless, "it has more than 200 pages"),
        (Asks::List, STALLS.to_vec(), "no complete response within 2s"),
        (
            Asks::Versions,
            response("200 OK", "", "{\"versions\":[{\"version\":\"v2\"}]}"),
            "neither discovery.k8s.io/v1",
        ),
        (Asks::Versions, status("503 X", "", "later"), "503 Service Unavailable: later"),
    ];
    for (n, (asks, instead, words)) in (2..).zip(cases) {
        server.instead(asks, Some(instead));
        if asks != Asks::Watch {
            // This needs a list.
            server.instead(Asks::Watch, Some(event(410)));
        }
        server.end_watches(true);
        fails(&discovery, words).await;
        server.put(ready(n));
        // A list shows the change, and nothing else can.
        if asks == Asks::Watch {
            becomes(&discovery, &[&format!("10.0.0.{n}:80")]).await;
        }
        assert_eq!(
            shown(&discovery),
            [format!("10.0.0.{}:80", if asks == Asks::Watch { n } else { n - 1 })],
            "{words}"
        );
        [Asks::Versions, Asks::List, Asks::Watch].into_iter().for_each(|asks| server.instead(asks, None));
        becomes(&discovery, &[&format!("10.0.0.{n}:80")]).await;
        fails(&discovery, "").await;
    }
    // A cluster that hides its versions has the current one.
    server.instead(Asks::Versions, Some(status("403 Forbidden", "", "")));
    server.instead(Asks::Watch, Some(event(410)));
    server.end_watches(false);
    server.asked_times(Asks::List, server.asked(Asks::List).len() + 2).await;
    server.instead(Asks::Watch, None);
    server.put(ready(100));
    becomes(&discovery, &["10.0.0.100:80"]).await;
    // No server at all, while the endpoints change.
    server.leave().await;
    fails(&discovery, "no connection to 127.0.0.1:").await;
    server.put(ready(101));
    assert_eq!(shown(&discovery), ["10.0.0.100:80"]);
    // A manifest that changes now keeps what the watch knows.
    let later = start(&["k8s://shop/users:http"], &watches);
    becomes(&later, &["10.0.0.100:80"]).await;
    fails(&later, "no connection to 127.0.0.1:").await;
    server.come_back().await;
    becomes(&discovery, &["10.0.0.101:80"]).await;
}

/// After a watch that is silent, or that sends parts of a line for ever, endpoints are listed anew: events may have been lost. When that
/// repeats, the source fails until a watch says something.
#[tokio::test]
async fn silent_watches_are_replaced() {
    let server = FakeServer::start("v1", 100).await;
    server.put(slice("users-1", 80, &[("10.0.0.1", json!({}))]));
    let watches = watches(&server, WatchPace { silence: Duration::from_millis(200), ..quick() }, None);
    let discovery = start(&["k8s://shop/users:80"], &watches);
    becomes(&discovery, &["10.0.0.1:80"]).await;
    server.asked_times(Asks::List, 3).await;
    fails(&discovery, "neither an event nor a bookmark within 200ms").await;
    let before = server.asked(Asks::Watch).len();
    let begin = Instant::now();
    while server.asked(Asks::Watch).len() < before + 2 {
        assert!(begin.elapsed() < LONG, "a watch with half a line goes on");
        assert!(discovery.source_errors().of(0).is_some(), "a list is no watch");
        server.says(b" ");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(shown(&discovery), ["10.0.0.1:80"]);
    server.put(slice("users-1", 80, &[("10.0.0.2", json!({}))]));
    becomes(&discovery, &["10.0.0.2:80"]).await;
    // A bookmark is enough, once a watch is open.
    let begin = Instant::now();
    while discovery.source_errors().of(0).is_some() {
        assert!(begin.elapsed() < LONG, "{:?}", discovery.source_errors().of(0));
        server.bookmark();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A watch that a balancer cuts goes on without a failure of the source, unless it is cut again and again.
#[tokio::test]
async fn watches_that_are_cut() {
    let server = FakeServer::start("v1", 100).await;
    server.put(slice("users-1", 80, &[("10.0.0.1", json!({}))]));
    let steady = WatchPace { steady: Duration::ZERO, ..quick() };
    for (pace, is_steady) in [(quick(), false), (steady, true)] {
        let discovery = start(&["k8s://shop/users:80"], &watches(&server, pace, None));
        becomes(&discovery, &["10.0.0.1:80"]).await;
        let before = server.asked(Asks::Watch).len();
        let half = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\n{\"type\":";
        server.instead(Asks::Watch, Some(half.to_vec()));
        server.end_watches(true);
        if is_steady {
            server.asked_times(Asks::Watch, before + 5).await;
            assert_eq!(discovery.source_errors().of(0), None);
        } else {
            fails(&discovery, "cannot watch the EndpointSlices of shop/users: it broke off").await;
            // The first cut was of the watch before.
            assert!(server.asked(Asks::Watch).len() >= before + 2);
        }
        server.instead(Asks::Watch, None);
    }
}

/// One watch for all sources of a Service, which ends with the last of them.
#[tokio::test]
async fn watches_are_shared() {
    let server = FakeServer::start("v1", 100).await;
    let mut both = slice("users-1", 80, &[("10.0.0.1", json!({}))]);
    both["ports"].as_array_mut().unwrap().push(json!({ "name": "grpc", "port": 81 }));
    both["ports"].as_array_mut().unwrap().push(json!({ "name": "dns", "port": 53, "protocol": "UDP" }));
    server.put(both);
    let watches = watches(&server, quick(), None);
    let first = start(&["k8s://shop/users:http", "k8s+https://shop/users:grpc", "k8s://shop/users:dns"], &watches);
    let second = start(&["k8s://shop/users:81"], &watches);
    becomes(&first, &["10.0.0.1:80", "10.0.0.1:81"]).await;
    becomes(&second, &["10.0.0.1:81"]).await;
    first.first_round().await;
    let why = first.source_errors().of(2).unwrap();
    assert_eq!(why, "no endpoint of shop/users has the port dns; they have grpc (81), http (80)");
    drop(first);
    server.put(slice("users-1", 82, &[("10.0.0.1", json!({}))]));
    fails(&second, "has the port 81; they have http (82)").await;
    assert_eq!((server.asked(Asks::List).len(), server.watches()), (1, 1));
    drop(second);
    let begin = Instant::now();
    while server.watches() > 0 {
        assert!(begin.elapsed() < LONG, "the watch goes on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The namespace of the pod is not known here.
    let own = start(&["k8s://users:http"], &watches);
    fails(&own, "/nowhere/namespace: ").await;
    // Their number is bounded.
    let name = |n: usize| ServiceName { namespace: "shop".into(), service: format!("users-{n}").into() };
    let many: Result<Vec<_>, _> = (0..WATCHES).map(|n| watches.watch(&name(n))).collect();
    assert!(many.is_ok());
    assert!(watches.watch(&name(WATCHES)).is_err_and(|why| why.contains("watches 256 Services already")));
    assert!(watches.watch(&name(0)).is_ok());
    drop(many);
    assert!(watches.watch(&name(WATCHES)).is_ok());
}

/// Endpoints for other zones are marked, if every endpoint is for some zone.
#[tokio::test]
async fn zones() {
    let server = FakeServer::start("v1", 100).await;
    let hinted = |zones: [Option<&str>; 2]| {
        let mut slice = slice("users-1", 80, &[("10.0.0.1", json!({})), ("10.0.0.2", json!({}))]);
        for (n, zone) in zones.into_iter().enumerate() {
            if let Some(zone) = zone {
                slice["endpoints"][n]["hints"] = json!({ "forZones": [{ "name": zone }] });
            }
        }
        slice
    };
    server.put(hinted([Some("a"), Some("b")]));
    let discovery = start(&["k8s://shop/users:80"], &watches(&server, quick(), Some("a")));
    becomes(&discovery, &["10.0.0.1:80", "10.0.0.2:80*"]).await;
    server.put(hinted([Some("a"), None]));
    becomes(&discovery, &["10.0.0.1:80", "10.0.0.2:80"]).await;
    server.put(hinted([Some("b"), Some("a")]));
    becomes(&discovery, &["10.0.0.1:80*", "10.0.0.2:80"]).await;
    server.put(hinted([Some("b"), Some("c")]));
    becomes(&discovery, &["10.0.0.1:80", "10.0.0.2:80"]).await;
}
