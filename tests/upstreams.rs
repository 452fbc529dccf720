//! Services whose replicas are elsewhere: requests are spread, failures are left out and made good, nothing is done twice.

mod replica;

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request};
use http_body::Frame;
use http_body_util::BodyExt;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use self::replica::{Habit, Replica};
use crate::harness::{Answer, Connection, Setup, TestHost, fed, get, host, until, within};
use crate::traces::Collector;

/// A host with the service `far` at these replicas, and more lines in its manifest.
fn before(replicas: &[&Replica], more: &str) -> Setup {
    host(&[]).manifest("far", &manifest(replicas, more))
}

fn manifest(replicas: &[&Replica], more: &str) -> String {
    let replicas: Vec<_> = replicas.iter().map(|replica| format!("'http://{}'", replica.address)).collect();
    format!("[upstream]\nreplicas = [{}]\n{more}", replicas.join(", "))
}

/// Who answered how many of these requests; all must succeed.
async fn answered(host: &TestHost, requests: usize) -> BTreeMap<String, usize> {
    let (mut client, mut counts) = (host.connect().await, BTreeMap::new());
    for _ in 0..requests {
        let answer = within(client.get("/far")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        *counts.entry(answer.text()).or_default() += 1;
    }
    counts
}

fn state(host: &TestHost, replica: &Replica) -> &'static str {
    let snapshot = host.current.snapshot();
    let lodge::guests::deployment::Backend::Upstream(upstream) = &snapshot.target("far").unwrap().backend else {
        panic!("far is elsewhere")
    };
    let url = format!("http://{}", replica.address);
    upstream.replicas().into_iter().find(|seen| seen.url == url).expect("it is one").state
}

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
    let answer = within(client.ask(Method::POST, "/far/a%2Fb//c?q=%20", &headers, "hello")).await;
    let told = answer.text();
    for wanted in [
        "POST /far/a%2Fb//c?q=%20 HTTP/1.1\n",
        "\nhost: far.example:81\n",
        "\nx-mine: 1\n",
        "\nx-forwarded-for: 127.0.0.1\n",
        "\nforwarded: for=127.0.0.1;host=\"far.example:81\";proto=http\n",
        "\nx-request-id: ",
        "\ncontent-length: 5\n",
        "\n\nhello",
    ] {
        assert!(told.contains(wanted), "{wanted:?} is not in\n{told}");
    }
    for hop in ["x-hop", "9.9.9.9", "keep-alive", "transfer-encoding"] {
        assert!(!told.contains(hop), "{hop} is in\n{told}");
    }
    // What the replica says of the connection is not the client's business, and the rest is.
    assert_eq!((answer.header("x-replica").as_str(), answer.header("keep-alive").as_str()), ("one", ""));
    // No body for HEAD, nor for a 304.
    let answer = within(client.ask(Method::HEAD, "/far", &[], "")).await;
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    one.set(Habit::Status(304));
    assert_eq!(within(client.get("/far")).await.status, 304);
    one.set(Habit::Status(418));
    assert_eq!(within(client.get("/far")).await.status, 418);
}

/// A body is passed on while it is still coming, both ways.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_streamed() {
    let one = Replica::start("one").await;
    one.set(Habit::Echo);
    let host = before(&[&one], "").start().await;
    let mut client = host.connect().await;
    let (sender, body) = fed();
    let response = client.send(Request::post("/far").body(body).unwrap()).await.unwrap();
    let mut body = response.into_body();
    for n in 0..5 {
        let said = Bytes::from(format!("part {n}"));
        sender.send(Frame::data(said.clone())).await.unwrap();
        let frame = within(body.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), said);
    }
    drop(sender);
    assert!(within(body.frame()).await.is_none());
    // More than may be sent is refused, wherever the service is.
    let limited = manifest(&[&one], "[limits]\nrequest_body = '1KiB'");
    fs::write(host.directory().join("far.toml"), limited).unwrap();
    until("the limit is there", || {
        host.current.snapshot().target("far").unwrap().backend.limits().request_body == 1024
    })
    .await;
    let (sender, body) = fed();
    one.set(Habit::Swallow);
    let sending = tokio::spawn(async move {
        for _ in 0..2 {
            sender.send(Frame::data(Bytes::from(vec![0; 600]))).await.unwrap();
        }
        sender
    });
    let response = client.send(Request::post("/far").body(body).unwrap()).await.unwrap();
    assert_eq!(Answer::read(response).await.problem(), "body-too-large");
    drop(within(sending).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_spread() {
    let replicas = [Replica::start("a").await, Replica::start("b").await, Replica::start("c").await];
    let all: Vec<_> = replicas.iter().collect();
    let host = before(&all, "policy = 'round-robin'").start().await;
    let counts = answered(&host, 300).await;
    assert_eq!(counts.values().copied().collect::<Vec<_>>(), [100, 100, 100], "{counts:?}");
    // Another policy, without a restart: three of four to the heavy one.
    let [a, b, _] = &replicas;
    let text = format!(
        "[upstream]\npolicy = 'weighted'\nreplicas = [{{ url = 'http://{}', weight = 3 }}, 'http://{}']",
        a.address, b.address
    );
    fs::write(host.directory().join("far.toml"), text).unwrap();
    until("c is gone", || {
        host.current.snapshot().target("far").unwrap().backend.spec.size > 0 && state_count(&host) == 2
    })
    .await;
    let counts = answered(&host, 100).await;
    assert_eq!((counts["a"], counts["b"]), (75, 25), "{counts:?}");
    // By a header: the same one for the same user.
    let text = manifest(&all, "policy = 'hash'\nhash = 'header:x-user'");
    fs::write(host.directory().join("far.toml"), text).unwrap();
    until("c is back", || state_count(&host) == 3).await;
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

fn state_count(host: &TestHost) -> usize {
    let snapshot = host.current.snapshot();
    match &snapshot.target("far").unwrap().backend {
        lodge::guests::deployment::Backend::Upstream(upstream) => upstream.replicas().len(),
        lodge::guests::deployment::Backend::Guest(_) => 0,
    }
}

/// One of three replicas fails in every way there is, under load: clients hear of at most one request in a thousand, and the
/// replicas of hardly more requests than there were.
#[tokio::test(flavor = "multi_thread")]
async fn one_bad_replica_of_three_is_made_good() {
    for habit in [Habit::Refuse, Habit::Close, Habit::Rubbish, Habit::Status(503), Habit::CloseMidHead, Habit::Hang] {
        let replicas = [Replica::start("a").await, Replica::start("b").await, Replica::start("bad").await];
        let host = before(&replicas.iter().collect::<Vec<_>>(), "read = '300ms'\nejection.base = '60s'").start().await;
        answered(&host, 30).await;
        let before: usize = replicas.iter().map(Replica::hits).sum();
        replicas[2].set(habit);
        let clients: Vec<_> = (0..4)
            .map(|n| {
                let address = host.address;
                tokio::spawn(async move {
                    let mut client =
                        if n % 2 == 0 { Connection::http1(address).await } else { Connection::http2(address).await };
                    let mut failed = 0;
                    for _ in 0..1500 {
                        failed += usize::from(within(client.get("/far")).await.status != 200);
                    }
                    failed
                })
            })
            .collect();
        let mut failed = 0;
        for client in clients {
            failed += within(client).await.unwrap();
        }
        let after: usize = replicas.iter().map(Replica::hits).sum();
        // A time-out is not tried again: it would most likely be another one. Five in a row, and it is left out.
        let most = if habit == Habit::Hang { 6 + 4 } else { 6 };
        assert!(failed <= most, "{habit:?}: {failed} of 6000 failed");
        let amplification = (after - before) as f64 / 6000.0;
        assert!(amplification <= 1.2, "{habit:?}: {amplification} times the requests");
        assert_eq!(state(&host, &replicas[2]), "ejected", "{habit:?}");
        // What is left out gets nothing.
        let hits = replicas[2].hits();
        answered(&host, 200).await;
        assert_eq!(replicas[2].hits(), hits, "{habit:?}: a request reached a replica that is ejected");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ejected_replica_comes_back() {
    let replicas = [Replica::start("a").await, Replica::start("b").await];
    let text = "ejection = { base = '300ms', failures = 3 }\npolicy = 'round-robin'";
    let host = before(&replicas.iter().collect::<Vec<_>>(), text).start().await;
    replicas[1].set(Habit::Close);
    answered(&host, 50).await;
    assert_eq!(state(&host, &replicas[1]), "ejected");
    // Another manifest changes nothing about that.
    fs::write(
        host.directory().join("far.toml"),
        manifest(&[&replicas[0], &replicas[1]], &format!("{text}\nread = '5s'")),
    )
    .unwrap();
    replicas[1].set(Habit::Name);
    until("it is back", || state(&host, &replicas[1]) == "available").await;
    until("it answers", || replicas[1].hits() > 0).await;
    let counts = answered(&host, 100).await;
    assert_eq!((counts["a"], counts["b"]), (50, 50), "{counts:?}");
}

/// What may have been done is not done again.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_done_twice() {
    let replicas = [Replica::start("a").await, Replica::start("b").await];
    let host = before(&replicas.iter().collect::<Vec<_>>(), "ejection.failures = 0").start().await;
    let mut client = host.connect().await;
    replicas.iter().for_each(|replica| replica.set(Habit::Close));
    for _ in 0..20 {
        let answer = within(client.ask(Method::POST, "/far", &[], "pay")).await;
        assert_eq!((answer.status, answer.problem().as_str()), (502, "upstream-failed"));
    }
    assert_eq!(replicas.iter().map(Replica::hits).sum::<usize>(), 20, "each was sent once");
    // Nobody took it, so it can be given to another.
    replicas[0].set(Habit::Refuse);
    replicas[1].set(Habit::Name);
    let connections = || {
        let snapshot = host.current.snapshot();
        snapshot.target("far").unwrap().backend.upstream().unwrap().replicas()[0].connections
    };
    until("its connections are gone", || connections() == 0).await;
    for _ in 0..20 {
        assert_eq!(within(client.ask(Method::POST, "/far", &[], "pay")).await.status, 200);
    }
    // And what can be repeated is, with both failing as often as the manifest says and no more.
    replicas[0].set(Habit::Close);
    replicas[1].set(Habit::Close);
    let before: usize = replicas.iter().map(Replica::hits).sum();
    assert_eq!(within(client.get("/far")).await.status, 502);
    assert_eq!(replicas.iter().map(Replica::hits).sum::<usize>() - before, 3);
}

/// When everything fails, retries stay within their budget: they must not be what keeps a service down.
#[tokio::test(flavor = "multi_thread")]
async fn retries_have_a_budget() {
    let replicas = [Replica::start("a").await, Replica::start("b").await];
    let text = "retry = { attempts = 2, budget = '20%', minimum = 0 }\nejection.failures = 0";
    let host = before(&replicas.iter().collect::<Vec<_>>(), text).start().await;
    replicas.iter().for_each(|replica| replica.set(Habit::Status(503)));
    let mut client = host.connect().await;
    for _ in 0..500 {
        assert_eq!(within(client.get("/far")).await.status, 503);
    }
    let hits: usize = replicas.iter().map(Replica::hits).sum();
    assert!((580..=600).contains(&hits), "{hits} for 500 requests");
}

/// Every try is a span, one beside the other, and the replica that answers is told which is its own.
#[tokio::test(flavor = "multi_thread")]
async fn tries_are_spans() {
    let (collector, replicas) = (Collector::start().await, [Replica::start("a").await, Replica::start("b").await]);
    let both: Vec<_> = replicas.iter().collect();
    let host = before(&both, "policy = 'round-robin'\nejection.failures = 0")
        .set("traces.exporter", "zipkin")
        .set("traces.endpoint", &format!("http://{}", collector.address))
        .set("traces.delay", "20ms")
        .start()
        .await;
    replicas[0].set(Habit::Status(503));
    replicas[1].set(Habit::Describe);
    let mut told = String::new();
    // One of two begins with the replica that fails, whichever is the first.
    for _ in 0..10 {
        let hits = replicas[0].hits();
        let answer = within(host.get("/far?key=secret")).await;
        told = answer.text().lines().find_map(|line| line.strip_prefix("traceparent: ")).unwrap().to_owned();
        if replicas[0].hits() > hits {
            break;
        }
    }
    let of = |span: &serde_json::Value| span["traceId"] == told[3..35];
    until("the spans have arrived", || collector.spans().iter().any(|span| of(span) && span["name"] == "body")).await;
    let spans: Vec<_> = collector.spans().into_iter().filter(of).collect();
    let guest = spans.iter().find(|span| span["name"] == "guest").unwrap();
    let tries: Vec<_> = spans.iter().filter(|span| span["kind"] == "CLIENT").collect();
    let [first, second] = &*tries else { panic!("{spans:#?}") };
    assert!(tries.iter().all(|span| span["parentId"] == guest["id"] && span["tags"]["lodge.service"] == "far"));
    assert_eq!((&second["id"], &first["tags"]["error"]), (&told[36..52].into(), &"503".into()));
    assert_eq!(first["tags"]["url.full"], format!("http://{}/far?key=REDACTED", replicas[0].address));
    assert_eq!(second["tags"]["url.full"], format!("http://{}/far?key=REDACTED", replicas[1].address));
    assert_eq!(second["tags"]["http.request.resend_count"], "1");
    assert!(first["tags"]["http.request.resend_count"].is_null() && second["tags"]["error"].is_null());
}

/// A transfer that breaks off is broken off for the client, too, and never looks complete. What breaks off at once is a
/// failure that can still be told.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_answer_is_broken() {
    let one = Replica::start("one").await;
    let host = before(&[&one], "").start().await;
    for habit in [Habit::CloseMidBody, Habit::CloseMidChunks] {
        one.set(habit);
        for mut client in [Connection::http1(host.address).await, Connection::http2(host.address).await] {
            let answer = within(client.get("/far")).await;
            assert!(answer.status == 200 && answer.broken, "{habit:?}: {answer:?}");
        }
    }
    one.set(Habit::CloseAtOnce);
    let request = Request::get("/far").body(http_body_util::Empty::new().boxed_unsync()).unwrap();
    // Which of these it is depends on what was read together: the head may not even have left.
    if let Ok(response) = host.connect().await.send(request).await {
        let answer = Answer::read(response).await;
        assert!(answer.broken || answer.problem() == "upstream-failed", "{answer:?}");
    }
    one.set(Habit::Name);
    assert_eq!(within(host.get("/far")).await.text(), "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_are_bounded() {
    let one = Replica::start("one").await;
    one.set(Habit::Hang);
    let host = before(&[&one], "read = '200ms'").start().await;
    let start = Instant::now();
    assert_eq!(within(host.get("/far")).await.problem(), "upstream-timeout");
    assert!(start.elapsed() < Duration::from_secs(5));
    // The wall time of the service holds for replicas as well, and for bodies that stall.
    let text = manifest(&[&one], "[limits]\nwall = '400ms'\ncpu = '100ms'");
    fs::write(host.directory().join("far.toml"), text).unwrap();
    until("the limit is there", || {
        host.current.snapshot().target("far").unwrap().backend.limits().wall == Duration::from_millis(400)
    })
    .await;
    assert_eq!(within(host.get("/far")).await.status, 504);
    one.set(Habit::StallMidBody);
    let answer = within(host.get("/far")).await;
    assert!(answer.broken, "{answer:?}");
}

/// Checks take a replica out before a request meets it.
#[tokio::test(flavor = "multi_thread")]
async fn checks_find_who_is_down() {
    let replicas = [Replica::start("a").await, Replica::start("b").await];
    replicas[1].sick.store(true, Relaxed);
    let text = "panic = '0%'\nhealth = { path = '/healthy', interval = '100ms', timeout = '100ms', healthy = 2 }";
    let host = before(&replicas.iter().collect::<Vec<_>>(), text).start().await;
    until("b is found down", || state(&host, &replicas[1]) == "down").await;
    let hits = replicas[1].hits();
    assert_eq!(answered(&host, 50).await.len(), 1);
    assert_eq!(replicas[1].hits(), hits);
    replicas[1].sick.store(false, Relaxed);
    until("b is up again", || state(&host, &replicas[1]) == "available").await;
    assert_eq!(answered(&host, 100).await.len(), 2);
    // None is left: said at once, and without a request to anybody.
    replicas.iter().for_each(|replica| replica.sick.store(true, Relaxed));
    until("all are down", || replicas.iter().all(|replica| state(&host, replica) == "down")).await;
    let answer = within(host.get("/far")).await;
    assert_eq!((answer.status, answer.problem().as_str()), (503, "no-replica"));
}

/// A slow replica costs the client no more than the patience that the manifest has, and a second try.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_replica_is_asked_when_the_first_is_slow() {
    let replicas = [Replica::start("slow").await, Replica::start("quick").await];
    replicas[0].set(Habit::Hang);
    let text = "hedge = '50ms'\npolicy = 'round-robin'\nretry = { budget = '100%' }";
    let host = before(&replicas.iter().collect::<Vec<_>>(), text).start().await;
    for _ in 0..20 {
        let answer = within(host.get("/far")).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "quick"));
    }
    // What must not be done twice waits.
    let mut client = host.connect().await;
    replicas[1].set(Habit::Hang);
    let before: usize = replicas.iter().map(Replica::hits).sum();
    let asked = tokio::time::timeout(Duration::from_millis(300), client.ask(Method::POST, "/far", &[], "pay")).await;
    assert!(asked.is_err());
    assert_eq!(replicas.iter().map(Replica::hits).sum::<usize>() - before, 1);
}

/// A system moves over service by service: a component takes a part of what replicas answered, then all of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_moves_over() {
    let one = Replica::start("one").await;
    let host = before(&[&one], "").start().await;
    assert_eq!(host.get("/far").await.text(), "one");
    fs::copy(crate::harness::wasm("hello"), host.directory().join("far@new.wasm")).unwrap();
    fs::write(host.directory().join("far@new.toml"), "percent = 50").unwrap();
    until("the version has its part", || {
        host.current.snapshot().target("far@new").is_some_and(|target| target.backend.spec.manifest.share.is_some())
    })
    .await;
    let counts = answered(&host, 100).await;
    assert!(counts.len() == 2 && counts["one"].abs_diff(50) <= 4, "{counts:?}");
    // A component under the same name would be ambiguous: it is refused, and nothing changes.
    fs::copy(crate::harness::wasm("hello"), host.directory().join("far.wasm")).unwrap();
    until("it is refused", || host.refusals().join("").contains("its manifest has [upstream]")).await;
    assert_eq!(answered(&host, 10).await.len(), 2);
    fs::write(host.directory().join("far.toml"), "").unwrap();
    until("the component answers", || host.current.snapshot().target("far").unwrap().backend.guest().is_some()).await;
    assert_eq!(answered(&host, 10).await.len(), 1);
    let metrics = get(host.admin, "/metrics").await.text();
    assert!(metrics.contains("lodge_requests_total{service=\"far\",code=\"2xx\"}"), "{metrics}");
}

/// A connection becomes something else where the manifest allows it, and holds its place until it ends.
#[tokio::test(flavor = "multi_thread")]
async fn connections_are_switched() {
    let one = Replica::start("one").await;
    one.set(Habit::Switch);
    let text = "upgrade = true\nidle = '1s'";
    let host = before(&[&one], text).start().await;
    let ask = "GET /far HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\nupgrade: echo\r\n\r\n";
    let in_flight = || host.current.snapshot().target("far").unwrap().admission.in_flight();
    let mut stream = TcpStream::connect(host.address).await.unwrap();
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(stream.read_u8()).await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    for line in ["connection: upgrade\r\n", "upgrade: echo\r\n", "x-replica: one\r\n", "x-request-id: "] {
        assert!(head.contains(line), "{line:?} is not in {head}");
    }
    let mut echoed = [0; 5];
    for _ in 0..3 {
        stream.write_all(b"hello").await.unwrap();
        within(stream.read_exact(&mut echoed)).await.unwrap();
        assert_eq!(&echoed, b"hello");
    }
    assert_eq!(in_flight(), 1);
    // Nothing comes any more: it is ended, and its place is free.
    assert_eq!(within(stream.read(&mut echoed)).await.unwrap(), 0);
    until("the place is free", || in_flight() == 0).await;
    // Where nobody has allowed it the replica is not even asked.
    fs::write(host.directory().join("far.toml"), manifest(&[&one], "")).unwrap();
    let allowed = || host.current.snapshot().target("far").unwrap().backend.upstream().unwrap().spec().upgrade;
    until("it is not allowed any more", || !allowed()).await;
    let mut stream = TcpStream::connect(host.address).await.unwrap();
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"not asked to switch") {
        answer.push(within(stream.read_u8()).await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
}

/// The list of replicas changes all the time, and is wrong half of it: no request is lost, and what is wrong changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_flaps_loses_nothing() {
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
                    let answer = within(client.get("/far")).await;
                    assert_eq!(answer.status, 200, "{answer:?}");
                    *seen.entry(answer.text()).or_default() += 1;
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
            until("the list is followed", || state_count(&host) == wanted).await;
        } else {
            // Two looks at the file.
            let before = state_count(&host);
            tokio::time::sleep(Duration::from_millis(2200)).await;
            assert_eq!(state_count(&host), before, "{text:?} was believed");
        }
    }
    let hits = replicas[2].hits();
    until("the last one is asked, too", || replicas[2].hits() > hits).await;
    stop.store(true, Relaxed);
    for client in clients {
        assert_eq!(within(client).await.expect("no request was lost").len(), 3);
    }
}

/// Who is slow to send a body is at fault, and not the replica that waits for it: that stays in use, and so does the service.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_upload_is_the_clients() {
    let one = Replica::start("one").await;
    one.set(Habit::Swallow);
    let text =
        "ejection = { failures = 2, share = '100%' }\n[breaker]\ncalls = 2\n[limits]\nwall = '300ms'\ncpu = '100ms'";
    let host = before(&[&one], text).start().await;
    for _ in 0..4 {
        let mut client = host.connect().await;
        let (sender, body) = fed();
        let sending = tokio::spawn(async move {
            sender.send(Frame::data(Bytes::from("half"))).await.unwrap();
            sender
        });
        let response = client.send(Request::post("/far").body(body).unwrap()).await.unwrap();
        assert_eq!(Answer::read(response).await.problem(), "body-late");
        drop(within(sending).await);
    }
    assert_eq!(state(&host, &one), "available");
    one.set(Habit::Name);
    assert_eq!(within(host.get("/far")).await.text(), "one");
}

/// A GET may have a body, and it arrives; a protocol that would go around everything here is not passed on.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_passed_on_is_whole() {
    let one = Replica::start("one").await;
    one.set(Habit::Describe);
    let host = before(&[&one], "upgrade = true").start().await;
    let chunked = "GET /far HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let answer = crate::harness::raw(host.address, chunked).await;
    assert!(answer.contains("transfer-encoding: chunked\n") && answer.ends_with("hello"), "{answer}");
    for (connection, upgrade) in [("upgrade", "h2c"), ("upgrade", "TLS/1.0"), ("close", "websocket")] {
        let ask = format!(
            "GET /far HTTP/1.1\r\nhost: a\r\nconnection: {connection}, close\r\nupgrade: {upgrade}\r\nhttp2-settings: AA\r\n\r\n"
        );
        let answer = crate::harness::raw(host.address, &ask).await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && !answer.contains("upgrade") && !answer.contains("http2"),
            "{answer}"
        );
    }
}
