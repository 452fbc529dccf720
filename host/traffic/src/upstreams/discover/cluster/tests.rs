use std::time::Duration;

use super::*;
use crate::upstreams::discover::kubernetes::{ServiceWatches, WatchPace};
use crate::upstreams::discover::{Discovery, Pace, Resolver};

fn host(url: &str, is_far: bool) -> ServingHost {
    let Ok(Source::Fixed(fixed)) = Source::parse(url) else { panic!("{url}") };
    ServingHost { fixed, is_far }
}

fn known(on_loopback: bool, users: &[ServingHost]) -> HostsOfServices {
    HostsOfServices { by_service: [("users".to_owned(), users.to_vec())].into(), on_loopback }
}

fn start(source: &str, hosts: &ServingHosts) -> Discovery {
    let watches = Arc::new(ServiceWatches::new(&Default::default(), WatchPace::default()));
    let sources = vec![Source::parse(source).unwrap()];
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
    hosts.join();
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
