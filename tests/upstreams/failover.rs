//! Promise: replicas that fail are ejected, their requests are retried within a budget, and no request is executed
//! twice.

use std::fs;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::{Method, Request};
use http_body_util::BodyExt;

use crate::harness::far::{before, distribution, manifest, state};
use crate::harness::{Connection, Habit, Replica, Response, eventually, get, until, within};

/// One of three replicas fails in every possible way, under load. Clients see at most one failure per thousand
/// requests, and the replicas get hardly more requests than there are.
#[tokio::test(flavor = "multi_thread")]
async fn one_bad_replica_of_three_is_compensated() {
    let bad = [Habit::Refuse, Habit::Close, Habit::Rubbish, Habit::Status(503), Habit::CloseMidHead, Habit::Hang];
    let hedged = (Habit::Hang, "hedge = '50ms'");
    for (habit, more) in bad.map(|habit| (habit, "")).into_iter().chain([hedged]) {
        let replicas = [Replica::start("a").await, Replica::start("b").await, Replica::start("bad").await];
        let text = format!("read = '1s'\nejection.base = '60s'\n{more}");
        let host = before(&replicas.iter().collect::<Vec<_>>(), &text).start().await;
        distribution(&host, 30).await;
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
        // Without retries of timeouts, the failures would be those until the ejection: five, all at that moment.
        let most = if habit == Habit::Hang { 4 } else { 6 };
        assert!(failed <= most, "{habit:?} {more}: {failed} of 6000 failed");
        let amplification = (after - before) as f64 / 6000.0;
        assert!(amplification <= 1.2, "{habit:?} {more}: {amplification} times the requests");
        // A replica that hangs is busy and rarely chosen, so five timeouts may take more requests than these.
        let ejected = async {
            while state(&host, &replicas[2]) != "ejected" {
                distribution(&host, 10).await;
            }
        };
        within(ejected).await;
        // An ejected replica gets no requests.
        let hits = replicas[2].hits();
        distribution(&host, 200).await;
        assert_eq!(replicas[2].hits(), hits, "{habit:?}: a request reached a replica that is ejected");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ejected_replica_returns() {
    let replicas = [Replica::start("a").await, Replica::start("b").await];
    let text = "ejection = { base = '300ms', failures = 3 }\npolicy = 'round-robin'";
    let host = before(&replicas.iter().collect::<Vec<_>>(), text).start().await;
    replicas[1].set(Habit::Close);
    let failing = async || {
        distribution(&host, 1).await;
        state(&host, &replicas[1]) == "ejected"
    };
    eventually("it is ejected", failing).await;
    // An edit of the manifest does not end the ejection.
    fs::write(
        host.directory().join("far.toml"),
        manifest(&[&replicas[0], &replicas[1]], &format!("{text}\nread = '5s'")),
    )
    .unwrap();
    replicas[1].set(Habit::Name);
    until("it has returned", || state(&host, &replicas[1]) == "available").await;
    until("it gets requests", || replicas[1].hits() > 0).await;
    let counts = distribution(&host, 100).await;
    assert_eq!((counts["a"], counts["b"]), (50, 50), "{counts:?}");
}

/// Health checks find a failed replica before a request does.
#[tokio::test(flavor = "multi_thread")]
async fn health_checks_find_failed_replicas() {
    let replicas = [Replica::start("a").await, Replica::start("b").await];
    replicas[1].sick.store(true, Relaxed);
    let text = "panic = '0%'\nhealth = { path = '/healthy', interval = '1s', timeout = '1s', healthy = 2 }";
    let host = before(&replicas.iter().collect::<Vec<_>>(), text).start().await;
    until("b is down", || state(&host, &replicas[1]) == "down").await;
    let hits = replicas[1].hits();
    assert_eq!(distribution(&host, 50).await.len(), 1);
    assert_eq!(replicas[1].hits(), hits);
    replicas[1].sick.store(false, Relaxed);
    until("b is up again", || state(&host, &replicas[1]) == "available").await;
    assert_eq!(distribution(&host, 100).await.len(), 2);
    // Without an available replica requests fail at once, and none is sent.
    replicas.iter().for_each(|replica| replica.sick.store(true, Relaxed));
    until("all are down", || replicas.iter().all(|replica| state(&host, replica) == "down")).await;
    let response = within(host.get("/far")).await;
    assert_eq!((response.status, response.problem().as_str()), (503, "no-replica"));
}

/// A check only reads the status: a body without an end neither fails the check nor is read.
#[tokio::test(flavor = "multi_thread")]
async fn a_health_check_reads_only_the_head() {
    let one = Replica::start("one").await;
    one.chatty.store(true, Relaxed);
    let health = "health = { path = '/healthy', interval = '1s', timeout = '1s', unhealthy = 2 }";
    let host = before(&[&one], &format!("panic = '0%'\n{health}")).start().await;
    for checks in 1..=4 {
        until("it was checked again", || one.checks() > checks).await;
        assert_eq!(state(&host, &one), "available");
    }
    assert_eq!(within(host.get("/far")).await.text(), "one");
}

/// A request that may have been executed is not sent again.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_executed_twice() {
    let replicas = [Replica::start("a").await, Replica::start("b").await];
    let host = before(&replicas.iter().collect::<Vec<_>>(), "ejection.failures = 0").start().await;
    let mut client = host.connect().await;
    replicas.iter().for_each(|replica| replica.set(Habit::Close));
    for _ in 0..20 {
        let response = within(client.ask(Method::POST, "/far", &[], "pay")).await;
        assert_eq!((response.status, response.problem().as_str()), (502, "upstream-failed"));
    }
    assert_eq!(replicas.iter().map(Replica::hits).sum::<usize>(), 20, "each was sent once");
    // No replica has received it, so another one can.
    replicas[0].set(Habit::Refuse);
    replicas[1].set(Habit::Name);
    let connections = || {
        let snapshot = host.current.snapshot();
        snapshot.target("far").unwrap().backend.upstream().unwrap().replicas()[0].connections
    };
    until("its connections are closed", || connections() == 0).await;
    for _ in 0..20 {
        assert_eq!(within(client.ask(Method::POST, "/far", &[], "pay")).await.status, 200);
    }
    // Idempotent requests are retried, and if both replicas fail, only as often as the manifest says.
    replicas[0].set(Habit::Close);
    replicas[1].set(Habit::Close);
    let before: usize = replicas.iter().map(Replica::hits).sum();
    assert_eq!(within(client.get("/far")).await.status, 502);
    assert_eq!(replicas.iter().map(Replica::hits).sum::<usize>() - before, 3);
}

/// When all replicas fail, retries stay within their budget, so that they do not keep a service overloaded.
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

/// An idempotent request that times out is retried once, at another replica.
#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_is_retried_elsewhere() {
    let replicas = [Replica::start("hung").await, Replica::start("quick").await];
    replicas[0].set(Habit::Hang);
    let text = "read = '1s'\npolicy = 'round-robin'\nejection.failures = 0";
    let host = before(&replicas.iter().collect::<Vec<_>>(), text).start().await;
    let hits = || replicas.each_ref().map(Replica::hits);
    assert_eq!(distribution(&host, 4).await["quick"], 4);
    assert_eq!(hits(), [2, 4], "every other request was sent twice");
    let mut client = host.connect().await;
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(within(client.ask(Method::POST, "/far", &[], "pay")).await.status);
    }
    statuses.sort_unstable();
    assert_eq!((statuses, hits()), (vec![200, 200, 504, 504], [4, 6]), "each was sent once");
    // If the other replica is too slow as well, the request times out.
    replicas[1].set(Habit::Hang);
    assert_eq!(within(host.get("/far")).await.problem(), "upstream-timeout");
    assert_eq!(hits(), [5, 7], "not a third time");
}

/// A slow replica delays a client only until the hedge.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_request_is_hedged() {
    let replicas = [Replica::start("slow").await, Replica::start("quick").await];
    replicas[0].set(Habit::Hang);
    let text = "hedge = '50ms'\npolicy = 'round-robin'\nretry = { budget = '100%' }";
    let host = before(&replicas.iter().collect::<Vec<_>>(), text).start().await;
    for _ in 0..20 {
        let response = within(host.get("/far")).await;
        assert_eq!((response.status, response.text().as_str()), (200, "quick"));
    }
    // Requests that are not idempotent are not hedged.
    replicas[1].set(Habit::Hang);
    let hits = || replicas.iter().map(Replica::hits).sum::<usize>();
    let (before, address) = (hits(), host.address);
    let asked = tokio::spawn(async move {
        Connection::http1(address).await.ask(Method::POST, "/far", &[], "pay").await;
    });
    until("a replica has it", || hits() > before).await;
    // Longer than the hedge.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(hits() - before, 1);
    asked.abort();
}

/// A path that is slow everywhere ejects at most one replica: the second replica of a hedged request is not at fault.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_path_does_not_eject_hedged_replicas() {
    for hedge in ["", "hedge = '20ms'\n"] {
        let replicas = [Replica::start("first").await, Replica::start("second").await];
        let text = format!(
            "{hedge}read = '100ms'\npolicy = 'hash'\nhash = 'header:x-key'\nejection.share = '100%'\npanic = '0%'\nejection.failures = 3\nretry.budget = '100%'"
        );
        let host = before(&replicas.iter().collect::<Vec<_>>(), &text).start().await;
        replicas.iter().for_each(|replica| replica.set(Habit::Hang));
        let mut client = host.connect().await;
        for _ in 0..2 {
            let response = within(client.ask(Method::GET, "/far", &[("x-key", "1")], "")).await;
            assert_eq!((response.status, response.problem().as_str()), (504, "upstream-timeout"), "{hedge}");
        }
        // Both were sent both requests; another one exceeds the limit of the first.
        within(client.ask(Method::GET, "/far", &[("x-key", "1")], "")).await;
        assert_eq!(replicas.each_ref().map(Replica::hits), [3, 3], "{hedge}");
        let mut states = replicas.each_ref().map(|replica| state(&host, replica));
        states.sort_unstable();
        assert_eq!(states, ["available", "ejected"], "{hedge}");
    }
}

/// A single replica gets each request once, and the request waits for it: neither hedged nor failed.
#[tokio::test(flavor = "multi_thread")]
async fn a_single_replica_is_not_hedged() {
    let one = Replica::start("one").await;
    one.set(Habit::Late(300));
    let host = before(&[&one], "hedge = '50ms'").start().await;
    assert_eq!(within(host.get("/far")).await.text(), "one");
    assert_eq!(one.hits(), 1, "a second request to the same replica");
    // The same for a timeout, which is reported.
    let text = manifest(&[&one], "read = '100ms'");
    fs::write(host.directory().join("far.toml"), text).unwrap();
    let upstream = || host.current.snapshot().target("far").unwrap().backend.upstream().unwrap().spec().read;
    until("timeouts are short", || upstream() == Duration::from_millis(100)).await;
    assert_eq!(within(host.get("/far")).await.problem(), "upstream-timeout");
    assert_eq!(one.hits(), 2, "a second request to the same replica");
}

/// A replica that goes down during a request can still respond: the lack of a second replica does not fail the first.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_flight_survives_its_replica_going_down() {
    let one = Replica::start("one").await;
    one.set(Habit::Held);
    let health = "health = { path = '/healthy', interval = '1s', timeout = '1s', unhealthy = 1 }";
    let more = format!("panic = '0%'\nhedge = '1s'\nread = '10m'\n{health}\n[limits]\nwall = '1h'");
    let host = before(&[&one], &more).start().await;
    let address = host.address;
    let asked = tokio::spawn(async move { get(address, "/far").await });
    until("the request is in flight", || one.hits() == 1).await;
    one.sick.store(true, Relaxed);
    until("it is down", || state(&host, &one) == "down").await;
    // Longer than the hedge, for which there is no other replica.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(!asked.is_finished());
    one.go_on();
    assert_eq!(within(asked).await.unwrap().text(), "one");
    assert_eq!(one.hits(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_are_bounded() {
    let one = Replica::start("one").await;
    one.set(Habit::Hang);
    let host = before(&[&one], "read = '200ms'").start().await;
    assert_eq!(within(host.get("/far")).await.problem(), "upstream-timeout");
    // The wall time of the service applies to replicas as well, and to bodies that stall.
    let text = manifest(&[&one], "[limits]\nwall = '2s'");
    fs::write(host.directory().join("far.toml"), text).unwrap();
    until("the limit is in force", || {
        host.current.snapshot().target("far").unwrap().deployment().limits().wall == Duration::from_secs(2)
    })
    .await;
    assert_eq!(within(host.get("/far")).await.status, 504);
    one.set(Habit::StallMidBody);
    let address = host.address;
    let stalled: Vec<_> = (0..16).map(|_| tokio::spawn(async move { get(address, "/far").await })).collect();
    for response in stalled {
        let response = within(response).await.unwrap();
        assert!(response.status == 200 && response.broken, "{response:?}");
    }
}

/// A transfer that breaks off also breaks off for the client, and never looks complete. If it breaks off at once, the
/// client gets an error response.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_response_stays_broken() {
    let one = Replica::start("one").await;
    let host = before(&[&one], "").start().await;
    for habit in [Habit::CloseMidBody, Habit::CloseMidChunks] {
        one.set(habit);
        for mut client in [Connection::http1(host.address).await, Connection::http2(host.address).await] {
            let request = Request::get("/far").body(http_body_util::Empty::new().boxed_unsync()).unwrap();
            let response = client.send(request).await.unwrap();
            // The client has the head, so that only the transfer can break off.
            one.go_on();
            let response = Response::read(response).await;
            assert!(response.status == 200 && response.broken, "{habit:?}: {response:?}");
        }
    }
    one.set(Habit::CloseAtOnce);
    let request = Request::get("/far").body(http_body_util::Empty::new().boxed_unsync()).unwrap();
    // Which of these happens depends on what was read together: the head may not have been sent yet.
    if let Ok(response) = host.connect().await.send(request).await {
        let response = Response::read(response).await;
        assert!(response.broken || response.problem() == "upstream-failed", "{response:?}");
    }
    one.set(Habit::Name);
    assert_eq!(within(host.get("/far")).await.text(), "one");
}
