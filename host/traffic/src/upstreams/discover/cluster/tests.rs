use std::time::Duration;

use super::*;
use crate::upstreams::discover::kubernetes::{ServiceWatches, WatchPace};
use crate::upstreams::discover::{Discovery, Pace, Resolver};

fn host(url: &str, is_far: bool) -> Arc<ServingHost> {
    let Ok(Source::Fixed(fixed)) = Source::parse(url) else { panic!("{url}") };
    Arc::new(ServingHost { name: "b".into(), fixed, is_far })
}

fn known(on_loopback: bool, users: &[Arc<ServingHost>]) -> HostsOfServices {
    HostsOfServices { by_service: [("users".to_owned(), users.to_vec())].into(), on_loopback, ..Default::default() }
}

fn start(source: &str, hosts: &ServingHosts) -> Discovery {
    start_all(&[source], hosts)
}

fn start_all(sources: &[&str], hosts: &ServingHosts) -> Discovery {
    let watches = Arc::new(ServiceWatches::new(&Default::default(), WatchPace::default()));
    let sources = sources.iter().map(|source| Source::parse(source).unwrap()).collect();
    Discovery::start(sources, Arc::new(Resolver::system()), (&watches, hosts), Pace::default(), false)
}

async fn becomes(discovery: &Discovery, expected: &[(&str, bool)], why: Option<&str>) {
    let shown = || -> Vec<(String, bool)> {
        let endpoints = discovery.endpoints();
        let endpoints = endpoints.borrow();
        endpoints.iter().map(|endpoint| (endpoint.target.to_string(), endpoint.is_far)).collect()
    };
    let is_so = || {
        let problem = discovery.source_errors().of(0);
        shown().iter().map(|(url, far)| (url.as_str(), *far)).eq(expected.iter().copied())
            && why.map_or(problem.is_none(), |why| problem.is_some_and(|problem| problem.contains(why)))
    };
    let reached = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(20), reached).await.is_ok();
    assert!(in_time, "{:?}, {:?}, and not {expected:?}, {why:?}", shown(), discovery.source_errors().of(0));
}

/// The replicas follow what the cluster knows: at once, also that there are none, and each source has the hosts of its scheme.
#[tokio::test]
async fn replicas_are_the_hosts_that_serve() {
    let hosts = ServingHosts::default();
    let (plain, tls) = (start("cluster://users", &hosts), start("cluster+https://users", &hosts));
    plain.first_round().await;
    becomes(&plain, &[], Some("set `cluster.name`")).await;
    hosts.join(HostKey::random());
    becomes(&plain, &[], Some("not known yet")).await;
    let all =
        [host("http://10.0.0.2:8080", true), host("http://10.0.0.3:8080", false), host("https://10.0.0.4", false)];
    hosts.replace(known(false, &all));
    becomes(&plain, &[("http://10.0.0.2:8080", true), ("http://10.0.0.3:8080", false)], None).await;
    becomes(&tls, &[("https://10.0.0.4:443", false)], None).await;
    assert_eq!(hosts.called("users.localhost", true).as_deref(), Some("users"));
    hosts.replace(known(false, &all[..2]));
    becomes(&tls, &[], Some("no other host of the cluster serves users at an address with https")).await;
    assert_eq!((hosts.called("users.localhost", true), hosts.called("orders.localhost", false)), (None, None));
    assert!(hosts.called("users.localhost", false).is_some() && hosts.serve("users") && !hosts.serve("orders"));
    hosts.replace(HostsOfServices::default());
    becomes(&plain, &[], Some("no other host of the cluster serves users")).await;
}

/// If a host leaves when another one has joined, there is no moment without any, whatever the schemes of their addresses.
#[tokio::test(flavor = "multi_thread")]
async fn hosts_take_turns_without_a_gap() {
    let (plain, tls) = (host("http://10.0.0.2:8080", false), host("https://10.0.0.4", false));
    let hosts = ServingHosts::default();
    hosts.replace(known(false, &[Arc::clone(&plain)]));
    let discovery = start_all(&["cluster://users", "cluster+https://users"], &hosts);
    discovery.first_round().await;
    let mut endpoints = discovery.endpoints();
    for turn in 0..500 {
        let now = if turn % 2 == 0 { &tls } else { &plain };
        hosts.replace(known(false, &[Arc::clone(now)]));
        let published = tokio::time::timeout(Duration::from_secs(20), async {
            loop {
                endpoints.changed().await.unwrap();
                let now_known = endpoints.borrow_and_update().clone();
                assert!(!now_known.is_empty(), "turn {turn}");
                if now_known.len() == 1 && now_known[0].target.scheme == now.fixed.scheme {
                    break;
                }
            }
        });
        published.await.unwrap();
    }
}

/// No record of a host leads to the metadata of a cloud, to several hosts, or to this machine.
#[tokio::test]
async fn some_addresses_are_no_hosts() {
    for (url, on_loopback, is_host) in [
        ("http://127.0.0.1:81", false, false),
        ("http://127.0.0.1:81", true, true),
        ("http://[::1]:81", false, false),
        ("http://[::ffff:127.0.0.1]:81", false, false),
        ("http://169.254.169.254", true, false),
        ("http://[::ffff:169.254.169.254]", true, false),
        ("http://[fe80::1]", true, false),
        ("http://[fd00:ec2::254]", true, false),
        ("http://0.0.0.0:81", true, false),
        ("http://[::]:81", true, false),
        ("http://224.0.0.1", true, false),
        ("http://255.255.255.255", true, false),
        ("http://[::127.0.0.1]:81", false, false),
        ("http://[::7f00:1]:81", true, false),
        ("http://[::169.254.169.254]", true, false),
        ("http://[64:ff9b::127.0.0.1]", true, false),
        ("http://[64:ff9b::169.254.169.254]", true, false),
        ("http://[64:ff9b:1::169.254.169.254]", true, false),
        ("http://[2002:a9fe:a9fe::1]", true, false),
        ("http://[ff02::1]", true, false),
        ("http://[fec0::1]", true, false),
        ("http://[2606:4700::1111]", false, true),
        ("http://[64:ff9b::192.88.98.1]", false, true),
        ("http://10.0.0.7", false, true),
        ("http://[fd00::1]", false, true),
        ("http://203.0.113.7", false, true),
    ] {
        let hosts = ServingHosts::default();
        hosts.replace(known(on_loopback, &[host(url, false)]));
        let discovery = start("cluster://users", &hosts);
        discovery.first_round().await;
        let found = discovery.endpoints().borrow().len();
        assert_eq!(found, usize::from(is_host), "{url}");
        assert_eq!(discovery.source_errors().of(0).is_none(), is_host, "{url}");
    }
}

/// Other hosts are known by their keys, wherever their requests come from, and services by the hosts that serve them.
#[test]
fn hosts_are_known_by_their_keys() {
    let hosts = ServingHosts::default();
    let (own, key) = (HostKey::random(), HostKey::random());
    assert!(hosts.own_key().is_none() && hosts.host(&key).is_none() && !hosts.has("users", "b"));
    hosts.join(own.clone());
    let keys = || [(key.digest(), Arc::from("b"))].into();
    hosts.replace(HostsOfServices { keys: keys(), ..known(false, &[host("http://c.test:8080", false)]) });
    assert_eq!((hosts.own_key(), hosts.host(&key).as_deref()), (Some(&own), Some("b")));
    // A request with the key of this host came back.
    assert!(hosts.host(&own).is_none() && hosts.host(&HostKey::random()).is_none());
    assert!(hosts.has("users", "b") && !hosts.has("users", "c") && !hosts.has("orders", "b"));
    // A host that serves nothing has a key all the same.
    hosts.replace(HostsOfServices { keys: keys(), ..HostsOfServices::default() });
    assert!(hosts.host(&key).is_some() && !hosts.has("users", "b"));
}
