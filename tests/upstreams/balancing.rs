//! Promise: requests to a service with replicas are spread over them, and follow changes of the list.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::Method;

use crate::harness::far::{before, count, distribution, manifest};
use crate::harness::{Connection, Habit, Replica, get, host, raw, until, within};

#[tokio::test(flavor = "multi_thread")]
async fn requests_pass_both_ways() {
    let one = Replica::start("one").await;
    let host = before(&[&one], "").start().await;
    let mut client = host.connect().await;
    one.set(Habit::Describe);
    let headers = [
        ("x-mine", "1"),
        ("connection", "x-hop, keep-alive"),
        ("x-hop", "2"),
        ("x-forwarded-for", "9.9.9.9"),
        ("host", "far.example:81"),
    ];
    let response = within(client.ask(Method::POST, "/far/a%2Fb//c?q=%20", &headers, "hello")).await;
    let told = response.text();
    for wanted in [
        "POST /far/a%2Fb//c?q=%20 HTTP/1.1\n",
        "\nhost: far.example:81\n",
        "\nx-mine: 1\n",
        "\nx-forwarded-for: 127.0.0.1\n",
        "\nforwarded: for=127.0.0.1;host=\"far.example:81\";proto=http\n",
        "\nx-request-id: ",
        "\nvia: 1.1 lodge-",
        "\ncontent-length: 5\n",
        "\n\nhello",
    ] {
        assert!(told.contains(wanted), "{wanted:?} is not in\n{told}");
    }
    for hop in ["x-hop", "9.9.9.9", "keep-alive", "transfer-encoding"] {
        assert!(!told.contains(hop), "{hop} is in\n{told}");
    }
    // Hop-by-hop headers of the replica are removed, all others are forwarded.
    assert_eq!((response.header("x-replica").as_str(), response.header("keep-alive").as_str()), ("one", ""));
    // No body for HEAD and 304.
    let response = within(client.ask(Method::HEAD, "/far", &[], "")).await;
    assert_eq!((response.status, response.body.len()), (200, 0));
    one.set(Habit::Status(304));
    assert_eq!(within(client.get("/far")).await.status, 304);
    one.set(Habit::Status(418));
    assert_eq!(within(client.get("/far")).await.status, 418);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_spread() {
    let replicas = [Replica::start("a").await, Replica::start("b").await, Replica::start("c").await];
    let all: Vec<_> = replicas.iter().collect();
    let host = before(&all, "policy = 'round-robin'").start().await;
    let counts = distribution(&host, 300).await;
    assert_eq!(counts.values().copied().collect::<Vec<_>>(), [100, 100, 100], "{counts:?}");
    // Another policy, without a restart: three of four requests to the heavy replica.
    let [a, b, _] = &replicas;
    let text = format!(
        "[upstream]\npolicy = 'weighted'\nreplicas = [{{ url = 'http://{}', weight = 3 }}, 'http://{}']",
        a.address, b.address
    );
    fs::write(host.directory().join("far.toml"), text).unwrap();
    until("c is gone", || {
        host.current.snapshot().target("far").unwrap().deployment().spec.size > 0 && count(&host) == 2
    })
    .await;
    let counts = distribution(&host, 100).await;
    assert_eq!((counts["a"], counts["b"]), (75, 25), "{counts:?}");
    // By a header: the same replica for the same user.
    let text = manifest(&all, "policy = 'hash'\nhash = 'header:x-user'");
    fs::write(host.directory().join("far.toml"), text).unwrap();
    until("c is back", || count(&host) == 3).await;
    let (mut client, mut seen) = (host.connect().await, BTreeMap::new());
    for user in 0..30 {
        let user = format!("user-{user}");
        let first = within(client.ask(Method::GET, "/far", &[("x-user", &user)], "")).await.text();
        for _ in 0..5 {
            assert_eq!(within(client.ask(Method::GET, "/far", &[("x-user", &user)], "")).await.text(), first);
        }
        *seen.entry(first).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
}

/// A service moves to this host: a component takes a share of its replicas' requests, then all of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_moves_from_replicas_to_a_component() {
    let one = Replica::start("one").await;
    let host = before(&[&one], "").start().await;
    assert_eq!(host.get("/far").await.text(), "one");
    fs::copy(crate::harness::wasm("hello"), host.directory().join("far@new.wasm")).unwrap();
    fs::write(host.directory().join("far@new.toml"), "percent = 50").unwrap();
    until("the version has its share", || {
        host.current
            .snapshot()
            .target("far@new")
            .is_some_and(|target| target.deployment().spec.manifest.share.is_some())
    })
    .await;
    let counts = distribution(&host, 100).await;
    assert!(counts.len() == 2 && counts["one"].abs_diff(50) <= 4, "{counts:?}");
    // A component under the same name would be ambiguous: it is refused, and nothing changes.
    fs::copy(crate::harness::wasm("hello"), host.directory().join("far.wasm")).unwrap();
    until("it is refused", || host.refusals().join("").contains("its manifest has [upstream]")).await;
    assert_eq!(distribution(&host, 10).await.len(), 2);
    fs::write(host.directory().join("far.toml"), "").unwrap();
    until("the component is served", || host.current.snapshot().target("far").unwrap().backend.guest().is_some()).await;
    assert_eq!(distribution(&host, 10).await.len(), 1);
    let metrics = get(host.admin, "/metrics").await.text();
    assert!(metrics.contains("lodge_requests_total{service=\"far\",code=\"2xx\"}"), "{metrics}");
}

/// The list of replicas changes all the time, and is invalid half of it. No request is lost, and an invalid list
/// changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_flapping_list_loses_no_request() {
    let replicas = [Replica::start("a").await, Replica::start("b").await, Replica::start("c").await];
    let line = |replica: &Replica| format!("http://{}\n", replica.address);
    let host = host(&[])
        .file("far.replicas", line(&replicas[0]).as_bytes())
        .manifest("far", "[upstream]\nreplicas_file = 'far.replicas'")
        .start()
        .await;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, address) = (std::sync::Arc::clone(&stop), host.address);
            tokio::spawn(async move {
                let (mut client, mut seen) = (Connection::http1(address).await, BTreeMap::<String, usize>::new());
                while !stop.load(Relaxed) {
                    let response = within(client.get("/far")).await;
                    assert_eq!(response.status, 200, "{response:?}");
                    *seen.entry(response.text()).or_default() += 1;
                }
                seen
            })
        })
        .collect();
    let put = |text: &str| {
        let partial = host.directory().join("far.replicas.new");
        fs::write(&partial, text).unwrap();
        fs::rename(partial, host.directory().join("far.replicas")).unwrap();
    };
    let all: String = replicas.iter().map(line).collect();
    for text in [&all, "", "no url\n", &line(&replicas[1]), "http://", &all] {
        put(text);
        let wanted = text.lines().filter(|line| line.starts_with("http://1")).count();
        if wanted > 0 {
            until("the list is followed", || count(&host) == wanted).await;
        } else {
            // Two checks of the file.
            let before = count(&host);
            tokio::time::sleep(Duration::from_millis(2200)).await;
            assert_eq!(count(&host), before, "{text:?} was believed");
        }
    }
    let hits = replicas[2].hits();
    until("the last replica gets requests", || replicas[2].hits() > hits).await;
    stop.store(true, Relaxed);
    for client in clients {
        assert_eq!(within(client).await.expect("no request was lost").len(), 3);
    }
}

/// The version of a replica's HTTP stays between it and the host: clients get the host's version and keep their
/// connections, and a body that breaks off is detected.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_of_http_1_0() {
    let one = Replica::start("one").await;
    let host = before(&[&one], "").start().await;
    for response in ["HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello", "HTTP/1.0 200 OK\r\n\r\nhello"] {
        one.set(Habit::Says(response));
        let ask = "GET /far HTTP/1.1\r\nhost: a\r\n\r\n";
        let twice = format!("{ask}{}", ask.replacen("\r\n\r\n", "\r\nconnection: close\r\n\r\n", 1));
        let responses = raw(host.address, &twice).await;
        assert_eq!(
            (responses.matches("HTTP/1.1 200 OK\r\n").count(), responses.matches("hello").count()),
            (2, 2),
            "{responses}"
        );
        assert!(!responses.contains("HTTP/1.0"), "{responses}");
    }
    one.set(Habit::Says("HTTP/1.0 200 OK\r\ncontent-length: 9\r\n\r\nhello"));
    // The connection may end before the head is sent, as the body ends at once.
    let cut = raw(host.address, "GET /far HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert!(cut.is_empty() || cut.contains(" 502 ") || cut.contains("content-length: 9\r\n"), "{cut}");
}

/// HTTP/2 lets clients split `Cookie`; guests and replicas of HTTP/1.1 get one field.
#[tokio::test(flavor = "multi_thread")]
async fn cookies_are_joined() {
    let one = Replica::start("one").await;
    one.set(Habit::Describe);
    let replicas = manifest(&[&one], "");
    let host = host(&["echo"]).manifest("far", &replicas).start().await;
    let crumbs = [("cookie", "a=1"), ("x-other", "1"), ("cookie", "b=2"), ("cookie", "c=3; d=4"), ("x-other", "2")];
    for path in ["/far", "/echo/head"] {
        for mut client in [Connection::http1(host.address).await, Connection::http2(host.address).await] {
            let two = matches!(client, Connection::Http2(_));
            let seen = client.ask(Method::GET, path, &crumbs, "").await.text();
            let cookies: Vec<_> = seen.lines().filter(|line| line.to_lowercase().starts_with("cookie: ")).collect();
            let fields = if two { 1 } else { 3 };
            assert_eq!(cookies.len(), fields, "{path}: {seen}");
            assert!(!two || cookies == ["cookie: a=1; b=2; c=3; d=4"], "{path}: {seen}");
            assert_eq!(seen.lines().filter(|line| line.starts_with("x-other: ")).count(), 2, "{path}: {seen}");
        }
    }
}
