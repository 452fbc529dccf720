mod store;

use lodge_base::config::resolve;
use lodge_base::config::state::StatePath;
use std::time::Duration;

use lodge_state::{Attempt, Holder, Lease, Locks, Pending, Token, Value};

use super::leader::{Announcement, FencedValue};
use super::*;
use crate::guests::publisher::Publisher;

/// Hosts in one process, with one store in its memory.
struct Hosts {
    config: Config,
    stores: Stores,
    publisher: Publisher,
    load: LocalServices,
}

impl Hosts {
    fn new() -> Self {
        let mut config = resolve(&[]).unwrap().config;
        config.state.path = StatePath::Memory;
        config.cluster.name = Some("shop".into());
        let slots = Arc::new(Concurrency::new(8, 8, Duration::from_secs(1)));
        let publisher = Publisher::new(Arc::clone(&slots));
        let load = LocalServices { current: publisher.current(), slots };
        Self { stores: Stores::new(&config), config, publisher, load }
    }

    fn host(&self, name: &str) -> Arc<Cluster> {
        let mut config = self.config.clone();
        config.cluster.host = Some(name.into());
        config.cluster.advertise = Some(format!("http://{name}.example:8080").parse().unwrap());
        Cluster::new(&config, &SharedUpstreams::new(8, &config.kubernetes), Arc::default()).unwrap().unwrap()
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
    assert_eq!((a.works().await, b.works().await), (3, 0));
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

/// A host that starts waits until the others can know all that it serves and it knows them, and no longer than the store responds.
#[tokio::test]
async fn a_host_that_starts_is_settled() {
    let hosts = Hosts::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| hosts.host(name));
    hosts.round(&a).await;
    assert!(!a.is_settled(), "its record is without what is not compiled yet");
    hosts.publisher.publish(Vec::new(), Vec::new(), true);
    a.read().await;
    assert!(!a.is_settled());
    hosts.round(&a).await;
    b.round(&hosts.stores, &hosts.load).await;
    assert!(a.is_settled() && !b.is_settled(), "it does not know the others");
    b.read().await;
    assert!(b.is_settled() && !c.is_settled());
    c.report(RENEW, Err(Error::unavailable("no route")), Instant::now());
    assert!(c.is_settled());
}

/// A host whose name is still that of its killed predecessor waits until that has expired, and for one that is alive not at all.
#[tokio::test]
async fn a_host_waits_for_the_record_of_its_predecessor() {
    let hosts = Hosts::new();
    let [killed, next, late, other] = ["a"; 4].map(|name| hosts.host(name));
    hosts.publisher.publish(Vec::new(), Vec::new(), true);
    hosts.round(&killed).await;
    hosts.round(&next).await;
    assert!(!next.is_settled(), "no other host finds it");
    hosts.round(&late).await;
    assert!(!late.is_settled());
    lock(&late.view).started = Instant::now().checked_sub(hosts.config.cluster.ttl);
    hosts.round(&late).await;
    assert!(late.is_settled(), "it has waited for as long as a record lasts");
    hosts.round(&other).await;
    hosts.round(&killed).await;
    hosts.round(&other).await;
    assert!(other.is_settled(), "the other one is alive");
    killed.leave().await;
    hosts.round(&next).await;
    assert!(next.is_settled());
}

/// The others need not wait for the next interval to find out what a host serves.
#[tokio::test(start_paused = true)]
async fn a_change_is_announced_before_the_next_round() {
    let mut hosts = Hosts::new();
    (hosts.config.cluster.interval, hosts.config.cluster.ttl) = (Duration::from_secs(60), Duration::from_secs(180));
    let (a, start) = (hosts.host("a"), Instant::now());
    let running = tokio::spawn(Arc::clone(&a).run(Arc::new(Stores::new(&hosts.config)), hosts.load.clone()));
    while a.status().state != "member" {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    hosts.publisher.publish(Vec::new(), Vec::new(), true);
    while !a.is_settled() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    running.abort();
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
