//! The store is away, slow, or emptied.

use super::*;

/// Without its store, a host knows the others for a time, and says what is wrong.
#[tokio::test]
async fn what_is_known_without_the_store() {
    let (hosts, now) = (Hosts::new(), Instant::now());
    let [a, b] = ["a", "b"].map(|name| hosts.host(name));
    for host in [&b, &a] {
        hosts.round(host).await;
    }
    let fail = |at| {
        a.report(RENEW, Err(Error::unavailable("no route")), at);
        a.report(READ, Err(Error::Timeout), at);
    };
    fail(now);
    let status = a.status();
    assert_eq!((&*status.state, names(&status)), ("away", vec!["a", "b"]));
    let problem = status.problem.unwrap();
    assert!(problem.contains("cannot renew its record on the server of `state.url`: no route;"), "{problem}");
    fail(now + hosts.config.cluster.keep);
    assert_eq!(names(&a.status()), ["a", "b"]);
    fail(now + hosts.config.cluster.keep + Duration::from_secs(60));
    assert_eq!(names(&a.status()), ["a"], "the others are forgotten");
    hosts.round(&a).await;
    assert_eq!((&*a.status().state, a.status().problem, names(&a.status())), ("member", None, vec!["a", "b"]));
}

/// The first reading after the server was away finds no records of the others, which could not renew them. They stay known until they can
/// have done so.
#[tokio::test]
async fn hosts_stay_known_when_the_store_comes_back() {
    let hosts = Hosts::new();
    let [a, b] = ["a", "b"].map(|name| hosts.host(name));
    for host in [&b, &a] {
        hosts.round(host).await;
    }
    for operation in [RENEW, READ] {
        a.report(operation, Err(Error::Timeout), Instant::now());
        // For longer than the record of this host has lasted.
        lock(&a.view).renewed = None;
        b.leave().await;
        a.read().await;
        assert_eq!(names(&a.status()), ["a", "b"]);
        hosts.round(&a).await;
        assert_eq!(names(&a.status()), ["a", "b"]);
    }
    lock(&a.view).unsettled = Some(Instant::now());
    hosts.round(&a).await;
    assert_eq!(names(&a.status()), ["a"]);
}

/// Rates and elections may fail for reasons of their own, for as long as these last. Hosts that leave meanwhile are forgotten.
#[tokio::test]
async fn hosts_go_while_rates_fail() {
    for operation in [RATES, ELECT] {
        let hosts = Hosts::new();
        let [a, b] = ["a", "b"].map(|name| hosts.host(name));
        for host in [&b, &a] {
            hosts.round(host).await;
        }
        lock(&a.view).unsettled = Some(Instant::now());
        a.report(operation, Err(Error::Timeout), Instant::now());
        b.leave().await;
        a.read().await;
        assert_eq!(names(&a.status()), ["a"]);
    }
}

/// A server that has lost its data makes no host unknown at once, and no second leader; a leader follows when the time is over.
#[tokio::test]
async fn an_emptied_store() {
    let (hosts, emptied) = (Hosts::new(), Hosts::new());
    let [a, b] = ["a", "b"].map(|name| hosts.host(name));
    for host in [&a, &b, &a] {
        hosts.round(host).await;
    }
    assert!(a.leader().token().is_some());
    // It was emptied between the renewal of the record and the attempt, which acquires the lock.
    emptied.empty(&a).await;
    emptied.empty(&b).await;
    {
        let mut work = b.work.lock().await;
        b.elect(work.as_mut().unwrap()).await.unwrap();
        assert!(a.leader().token().is_some() && b.leader().token().is_none());
    }
    // The reading of an empty store, before the renewal notices.
    a.read().await;
    assert_eq!((names(&a.status()), a.leader().token()), (vec!["a", "b"], None));
    for host in [&b, &a, &b, &a] {
        hosts.round(host).await;
        assert_eq!((names(&host.status()), host.status().leader, a.leader().token()), (vec!["a", "b"], None, None));
    }
    for host in [&a, &b] {
        lock(&host.view).missed = Some(Instant::now());
        hosts.round(host).await;
    }
    assert!(a.leader().token().is_some() && b.status().leader.as_deref() == Some("a"));
}

/// A leader writes its name again if something else has replaced it, and gives its term up if a larger token has.
#[tokio::test]
async fn the_name_of_the_leader_is_written_again() {
    let hosts = Hosts::new();
    let a = hosts.host("a");
    hosts.round(&a).await;
    let (store, locks) = hosts.stores.of_hosts(NAMESPACE, QUOTA, a.deadline()).await.unwrap();
    let value = FencedValue { store: &*store, key: Key::new(&a.names.leader, "leader").unwrap() };
    for broken in [r#"{"token":1,"host":"b"}"#, "nonsense"] {
        store.set(value.key, Value::new(broken).unwrap(), Default::default(), a.deadline()).await.unwrap();
        hosts.round(&a).await;
        assert_eq!(a.status().leader.as_deref(), Some("a"), "{broken}");
        let own = Announcement::new(a.leader().token().unwrap(), "a");
        assert_eq!(value.read(a.deadline()).await.unwrap(), Some(own));
    }
    assert!(value.write(&Announcement::new(Token::new(u64::MAX), "b"), a.deadline()).await.unwrap());
    hosts.round(&a).await;
    assert_eq!((a.leader().token(), a.status().leader), (None, None));
    let (name, lease) = (LockName::new(&a.names.leader).unwrap(), Lease::new(Duration::from_secs(1)).unwrap());
    let next = locks.attempt(name, Holder::random().unwrap(), lease, a.deadline()).await.unwrap();
    assert!(matches!(next, Attempt::Acquired(_)), "the lock is free");
}

/// Locks whose attempts get no response.
struct Silent(Arc<dyn Locks>, Arc<Notify>);

impl Locks for Silent {
    fn attempt<'a>(&'a self, _: LockName<'a>, _: Holder, _: Lease, _: Instant) -> Pending<'a, Attempt> {
        self.1.notify_one();
        Box::pin(std::future::pending())
    }

    fn renew<'a>(&'a self, name: LockName<'a>, holder: Holder, lease: Lease, deadline: Instant) -> Pending<'a, bool> {
        self.0.renew(name, holder, lease, deadline)
    }

    fn release<'a>(&'a self, name: LockName<'a>, holder: Holder, deadline: Instant) -> Pending<'a, bool> {
        self.0.release(name, holder, deadline)
    }
}

/// A host leaves at once, whatever its round waits for: it leads no more, and its record and its lock are free. Its readings go on
/// while a round waits.
#[tokio::test]
async fn leaving_ends_a_round_that_waits() {
    let mut hosts = Hosts::new();
    hosts.config.cluster.interval = Duration::from_millis(50);
    let [a, b] = ["a", "b"].map(|name| hosts.host(name));
    hosts.round(&a).await;
    assert!(a.leader().token().is_some());
    let waits = Arc::new(Notify::new());
    {
        let mut work = a.work.lock().await;
        let work = work.as_mut().unwrap();
        work.locks = Arc::new(Silent(Arc::clone(&work.locks), Arc::clone(&waits)));
    }
    let running = tokio::spawn(Arc::clone(&a).run(Arc::new(Stores::new(&hosts.config)), hosts.load.clone()));
    waits.notified().await;
    hosts.round(&b).await;
    let read = async {
        while names(&a.status()) != ["a", "b"] {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(30), read).await.expect("the reading waits for no round");
    let start = Instant::now();
    a.leave().await;
    assert!(start.elapsed() < LEAVE / 2 && a.leader().token().is_none(), "{:?}", start.elapsed());
    hosts.round(&b).await;
    assert_eq!((names(&b.status()), b.status().leader.as_deref()), (vec!["b"], Some("b")));
    running.abort();
}
