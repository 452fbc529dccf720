//! Promise: replicas that fail are ejected, their requests are retried within a budget, and nothing is done twice.

use std::fs;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use http::{Method, Request};
use http_body_util::BodyExt;

use crate::harness::far::{answered, before, manifest, state};
use crate::harness::{Answer, Connection, Habit, Replica, get, until, within};

/// One of three replicas fails in every way there is, under load: clients hear of at most one request in a thousand, and the
/// replicas of hardly more requests than there were.
#[tokio::test(flavor = "multi_thread")]
async fn one_bad_replica_of_three_is_made_good() {
    let bad = [Habit::Refuse, Habit::Close, Habit::Rubbish, Habit::Status(503), Habit::CloseMidHead, Habit::Hang];
    let hedged = (Habit::Hang, "hedge = '50ms'");
    for (habit, more) in bad.map(|habit| (habit, "")).into_iter().chain([hedged]) {
        let replicas = [Replica::start("a").await, Replica::start("b").await, Replica::start("bad").await];
        let text = format!("read = '300ms'\nejection.base = '60s'\n{more}");
        let host = before(&replicas.iter().collect::<Vec<_>>(), &text).start().await;
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
        // Were time-outs not tried again, it would be those that it takes to leave it out: five, and all at that moment.
        let most = if habit == Habit::Hang { 4 } else { 6 };
        assert!(failed <= most, "{habit:?} {more}: {failed} of 6000 failed");
        let amplification = (after - before) as f64 / 6000.0;
        assert!(amplification <= 1.2, "{habit:?} {more}: {amplification} times the requests");
        // One that hangs is busy, and so is seldom chosen: five time-outs may take more requests than these.
        let ejected = async {
            while state(&host, &replicas[2]) != "ejected" {
                answered(&host, 10).await;
            }
        };
        within(ejected).await;
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

/// The answer to a check is its status: a body without an end neither fails it nor is it read.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_reads_only_so_much() {
    let one = Replica::start("one").await;
    one.chatty.store(true, Relaxed);
    let health = "health = { path = '/healthy', interval = '1s', timeout = '1s', unhealthy = 1 }";
    let host = before(&[&one], &format!("panic = '0%'\n{health}")).start().await;
    for checks in 1..=3 {
        until("it is checked again", || one.checks() > checks).await;
        assert_eq!(state(&host, &one), "available");
    }
    assert_eq!(within(host.get("/far")).await.text(), "one");
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

/// A time-out is tried once more, at another replica, and only what may be done twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_time_out_is_tried_elsewhere() {
    let replicas = [Replica::start("hung").await, Replica::start("quick").await];
    replicas[0].set(Habit::Hang);
    let text = "read = '200ms'\npolicy = 'round-robin'\nejection.failures = 0";
    let host = before(&replicas.iter().collect::<Vec<_>>(), text).start().await;
    let hits = || replicas.each_ref().map(Replica::hits);
    assert_eq!(answered(&host, 4).await["quick"], 4);
    assert_eq!(hits(), [2, 4], "every other one was tried twice");
    let mut client = host.connect().await;
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(within(client.ask(Method::POST, "/far", &[], "pay")).await.status);
    }
    statuses.sort_unstable();
    assert_eq!((statuses, hits()), (vec![200, 200, 504, 504], [4, 6]), "each was sent once");
    // When the other one takes too long as well, then so does the request.
    replicas[1].set(Habit::Hang);
    assert_eq!(within(host.get("/far")).await.problem(), "upstream-timeout");
    assert_eq!(hits(), [5, 7], "not a third time");
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

/// A path that is slow everywhere takes out one replica at most: the second one of each request is not to blame.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_path_does_not_take_out_who_is_asked_second() {
    for hedge in ["", "hedge = '20ms'\n"] {
        let replicas = [Replica::start("first").await, Replica::start("second").await];
        let text = format!(
            "{hedge}read = '100ms'\npolicy = 'hash'\nhash = 'header:x-key'\nejection.share = '100%'\npanic = '0%'\nejection.failures = 3\nretry.budget = '100%'"
        );
        let host = before(&replicas.iter().collect::<Vec<_>>(), &text).start().await;
        replicas.iter().for_each(|replica| replica.set(Habit::Hang));
        let mut client = host.connect().await;
        for _ in 0..2 {
            let answer = within(client.ask(Method::GET, "/far", &[("x-key", "1")], "")).await;
            assert_eq!((answer.status, answer.problem().as_str()), (504, "upstream-timeout"), "{hedge}");
        }
        // Both were asked both times; one more goes over the number of the first.
        within(client.ask(Method::GET, "/far", &[("x-key", "1")], "")).await;
        assert_eq!(replicas.each_ref().map(Replica::hits), [3, 3], "{hedge}");
        let mut states = replicas.each_ref().map(|replica| state(&host, replica));
        states.sort_unstable();
        assert_eq!(states, ["available", "ejected"], "{hedge}");
    }
}

/// Where there is nobody else the only one is asked once, and waited for: not asked twice, and not given up.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_is_asked_when_there_is_nobody() {
    let one = Replica::start("one").await;
    one.set(Habit::Late(300));
    let host = before(&[&one], "hedge = '50ms'").start().await;
    assert_eq!(within(host.get("/far")).await.text(), "one");
    assert_eq!(one.hits(), 1, "a second try at the same replica");
    // The same for a time-out, which is told.
    let text = manifest(&[&one], "read = '100ms'");
    fs::write(host.directory().join("far.toml"), text).unwrap();
    let upstream = || host.current.snapshot().target("far").unwrap().backend.upstream().unwrap().spec().read;
    until("time-outs are short", || upstream() == Duration::from_millis(100)).await;
    assert_eq!(within(host.get("/far")).await.problem(), "upstream-timeout");
    assert_eq!(one.hits(), 2, "a second try at the same replica");
}

/// A replica that is found down while it is at work still answers: that there is no second one is no failure of the first.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_asked_already_may_answer() {
    let one = Replica::start("one").await;
    one.set(Habit::Late(2000));
    let health = "health = { path = '/healthy', interval = '100ms', timeout = '100ms', unhealthy = 1 }";
    let host = before(&[&one], &format!("panic = '0%'\nhedge = '1s'\n{health}")).start().await;
    let address = host.address;
    let asked = tokio::spawn(async move { get(address, "/far").await });
    until("it is asked", || one.hits() == 1).await;
    one.sick.store(true, Relaxed);
    until("it is down", || state(&host, &one) == "down").await;
    assert!(!asked.is_finished());
    assert_eq!(within(asked).await.unwrap().text(), "one");
    assert_eq!(one.hits(), 1);
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
    let text = manifest(&[&one], "[limits]\nwall = '400ms'");
    fs::write(host.directory().join("far.toml"), text).unwrap();
    until("the limit is there", || {
        host.current.snapshot().target("far").unwrap().backend.limits().wall == Duration::from_millis(400)
    })
    .await;
    assert_eq!(within(host.get("/far")).await.status, 504);
    one.set(Habit::StallMidBody);
    let address = host.address;
    let stalled: Vec<_> = (0..16).map(|_| tokio::spawn(async move { get(address, "/far").await })).collect();
    for answer in stalled {
        let answer = within(answer).await.unwrap();
        assert!(answer.status == 200 && answer.broken, "{answer:?}");
    }
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
