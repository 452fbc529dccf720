use lodge_base::config::resolve;
use lodge_base::config::state::StatePath;
use std::time::Duration;

use lodge_state::{Attempt, Holder, Lease, Locks, Pending, Token, Value};

use super::leader::{Announcement, FencedValue};
use super::*;
use crate::guests::publisher::Publisher;
use lodge_traffic::upstreams::discover::cluster::ServingHost;

/// Hosts in one process, with one store in its memory.
struct Hosts {
    config: Config,
    stores: Stores,
    load: LocalServices,
}

impl Hosts {
    fn new() -> Self {
        let mut config = resolve(&[]).unwrap().config;
        config.state.path = StatePath::Memory;
        config.cluster.name = Some("shop".into());
        let slots = Arc::new(Concurrency::new(8, 8, Duration::from_secs(1)));
        let load = LocalServices { current: Publisher::new(Arc::clone(&slots)).current(), slots };
        Self { stores: Stores::new(&config), config, load }
    }

    fn host(&self, name: &str) -> Arc<Cluster> {
        let mut config = self.config.clone();
        config.cluster.host = Some(name.into());
        config.cluster.advertise = Some(format!("http://{name}.example:8080").parse().unwrap());
        Cluster::new(&config, ServingHosts::default()).unwrap().unwrap()
    }

    async fn round(&self, host: &Cluster) {
        host.round(&self.stores, &self.load).await;
        host.read().await;
    }

    /// Lets the server of `host` have lost all data.
    async fn empty(&self, host: &Cluster) {
        let (store, locks) = self.stores.of_hosts(NAMESPACE, QUOTA, host.deadline()).await.unwrap();
        let mut work = host.work.lock().await;
        let work = work.as_mut().unwrap();
        (work.store, work.locks) = (Arc::clone(&store), locks);
        *lock(&host.store) = Some(store);
    }
}

fn names(status: &ClusterStatus) -> Vec<&str> {
    status.members.iter().map(|member| member.name.as_str()).collect()
}

/// Hosts see each other and one leader; a host that leaves is gone at once, and another one leads.
#[tokio::test]
async fn hosts_see_each_other() {
    let hosts = Hosts::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| hosts.host(name));
    assert_eq!(a.status().state, "joining");
    for host in [&a, &b, &c, &a] {
        hosts.round(host).await;
    }
    let status: ClusterStatus = serde_json::from_slice(&a.json().await).unwrap();
    assert_eq!((names(&status), status.leader.as_deref(), &*status.state), (vec!["a", "b", "c"], Some("a"), "member"));
    assert_eq!(status.members[1].address.as_deref(), Some("http://b.example:8080/"));
    assert_eq!(status.members.iter().map(|member| member.this).collect::<Vec<_>>(), [true, false, false]);
    let token = a.leader().token().unwrap();
    assert!(b.leader().token().is_none());
    assert_eq!((a.numbers().members, a.numbers().leads, b.numbers().leads), (3, true, false));
    assert_eq!((a.numbers().state, hosts.host("d").numbers().state), (2, 1));
    a.leave().await;
    assert!(a.leader().token().is_none() && a.status().state == "left");
    hosts.round(&a).await;
    for host in [&b, &c] {
        hosts.round(host).await;
        assert_eq!((names(&host.status()), host.status().leader.as_deref()), (vec!["b", "c"], Some("b")));
    }
    assert!(b.leader().token().unwrap() > token);
}

/// The second of two hosts with one name is not in the cluster, does not lead it, and says so.
#[tokio::test]
async fn a_name_is_that_of_one_host() {
    let hosts = Hosts::new();
    let [first, second, other] = ["a", "a", "b"].map(|name| hosts.host(name));
    for host in [&first, &second, &other] {
        hosts.round(host).await;
    }
    let problem = second.status().problem.unwrap();
    assert!(
        problem.contains("of an earlier process of this host at http://a.example:8080/; this host is in"),
        "{problem}"
    );
    hosts.round(&first).await;
    hosts.round(&second).await;
    let status = second.status();
    assert_eq!(status.state, "name-taken");
    let problem = status.problem.clone().unwrap();
    assert!(problem.contains("another host at http://a.example:8080/ is a in the cluster shop"), "{problem}");
    assert!(problem.contains("give one of the two another cluster.host"), "{problem}");
    assert_eq!((names(&other.status()), names(&status)), (vec!["a", "b"], vec!["a", "b"]));
    // It shows the host that has the name, and not itself.
    assert!(status.members.iter().all(|member| !member.this) && status.leader.as_deref() == Some("a"));
    assert_eq!((second.numbers().members, second.numbers().state), (2, 3));
    first.leave().await;
    hosts.round(&second).await;
    assert_eq!((&*second.status().state, second.status().problem), ("member", None));
}

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

#[test]
fn pauses_differ_by_a_tenth() {
    let a = Hosts::new().host("a");
    let pauses: Vec<_> = (0..100).map(|_| a.pause().as_millis()).collect();
    assert!(pauses.iter().all(|pause| (2_850..=3_150).contains(pause)), "{pauses:?}");
    assert!(pauses.iter().any(|pause| *pause != pauses[0]));
}

/// No service can have the namespace of clusters.
#[test]
fn the_namespace_is_no_service() {
    let (service, _) = lodge_manifest::spec::split(NAMESPACE);
    assert!(!lodge_manifest::spec::is_name(service) && !lodge_manifest::spec::is_name(NAMESPACE));
}

/// What others serve is known by service: not their versions, not this host itself, and where they are as they say.
#[test]
fn what_others_serve_is_passed_on() {
    let record = |address: &str, zone: &str, services: &[&str]| {
        let services = services.iter().map(|name| ((*name).to_owned(), "0123456789ab".to_owned())).collect();
        let zone = Some(zone.to_owned()).filter(|zone| !zone.is_empty());
        HostRecord { address: Some(address.to_owned()), zone, services, ..HostRecord::default() }
    };
    let records = [
        ("b", record("http://10.0.0.2:8080/", "z1", &["users", "users@2"])),
        ("c", record("https://c.example/", "z2", &["orders", "users"])),
        ("d", HostRecord { address: None, ..record("", "z1", &["users"]) }),
        ("e", record("http://10.0.0.1:8080/", "z1", &["users"])),
        ("f", record("http://10.0.0.6:8080/", "", &["users"])),
    ];
    let records = records.map(|(name, record)| (name.to_owned(), (lodge_state::Version::new(1), record)));
    let mut view = ClusterView::default();
    view.members.update(roster::Roster { records: records.into(), ..Default::default() }, false, Instant::now());
    let shown = |zone, own| {
        let serving = view.serving(zone, own);
        let shown = |(name, hosts): (&String, &Vec<ServingHost>)| {
            let hosts = hosts.iter().map(|host| format!("{}{}", host.fixed, if host.is_far { " far" } else { "" }));
            format!("{name}: {}", hosts.collect::<Vec<_>>().join(", "))
        };
        (serving.by_service.iter().map(shown).collect::<Vec<_>>(), serving.on_loopback)
    };
    let users = "users: http://10.0.0.2:8080, https://c.example:443 far, http://10.0.0.6:8080 far";
    let own = Some("http://10.0.0.1:8080/");
    assert_eq!(shown(Some("z1"), own), (vec!["orders: https://c.example:443 far".to_owned(), users.to_owned()], false));
    let (near, on_loopback) = shown(None, Some("http://127.0.0.1:8080/"));
    assert!(on_loopback && !near.iter().any(|line| line.contains("far")) && near[1].contains("10.0.0.1"), "{near:?}");
    assert!(shown(None, Some("http://localhost/")).1 && !shown(None, None).1);
}
