use lodge_base::config::resolve;
use lodge_base::config::state::StatePath;
use std::time::Duration;

use super::*;
use crate::guests::publisher::Publisher;

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
        Cluster::new(&config).unwrap().unwrap()
    }

    async fn round(&self, host: &Cluster) {
        let done = host.round(&self.stores, &self.load).await;
        host.report(done, Instant::now());
    }
}

fn names(status: &ClusterStatus) -> Vec<&str> {
    status.members.iter().map(|member| member.name.as_str()).collect()
}

/// Hosts see each other and one leader; who leaves is gone at once, and another one leads.
#[tokio::test]
async fn hosts_see_each_other() {
    let hosts = Hosts::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| hosts.host(name));
    assert_eq!(a.status().state, "joining");
    for host in [&a, &b, &c, &a] {
        hosts.round(host).await;
    }
    let status = a.status();
    assert_eq!((names(&status), status.leader.as_deref(), &*status.state), (vec!["a", "b", "c"], Some("a"), "member"));
    assert_eq!(status.members[1].address.as_deref(), Some("http://b.example:8080/"));
    assert_eq!(status.members.iter().map(|member| member.this).collect::<Vec<_>>(), [true, false, false]);
    let token = a.leader().token().unwrap();
    assert!(b.leader().token().is_none());
    assert_eq!((a.numbers().members, a.numbers().leads, b.numbers().leads), (3, true, false));
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
    assert!(problem.contains("another host at http://a.example:8080/ is a in the cluster shop"), "{problem}");
    assert!(problem.contains("if that one has ended"), "{problem}");
    hosts.round(&first).await;
    hosts.round(&second).await;
    let status = second.status();
    assert_eq!(status.state, "name-taken");
    assert!(status.problem.unwrap().contains("give one of the two another cluster.host"));
    assert_eq!((names(&other.status()), names(&second.status())), (vec!["a", "b"], vec!["a", "b"]));
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
    a.report(Err("no route".into()), now);
    let status = a.status();
    assert_eq!((&*status.state, names(&status)), ("away", vec!["a", "b"]));
    assert!(status.problem.unwrap().ends_with("and what is shown may be out of date: no route"));
    a.report(Err("no route".into()), now + hosts.config.cluster.keep);
    assert_eq!(names(&a.status()), ["a", "b"]);
    a.report(Err("no route".into()), now + hosts.config.cluster.keep + Duration::from_secs(60));
    assert_eq!(names(&a.status()), ["a"], "the others are forgotten");
    hosts.round(&a).await;
    assert_eq!((&*a.status().state, a.status().problem, names(&a.status())), ("member", None, vec!["a", "b"]));
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
