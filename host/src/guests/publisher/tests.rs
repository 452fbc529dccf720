use std::net::IpAddr;

use super::*;
use lodge_base::config;
use lodge_base::cpu::scheduler::CpuScheduler;
use lodge_manifest::Manifest;
use lodge_manifest::digest::Digest;
use lodge_manifest::spec::GuestSpec;
use lodge_traffic::admission::RequestView;
use lodge_traffic::admission::Verdict;
use lodge_traffic::service::Services;
use lodge_traffic::service::deployment::Deployment;
use lodge_traffic::upstreams::{SharedUpstreams, Upstream};

/// Upstreams, which need no compilation.
struct World {
    publisher: Publisher,
    services: Services,
    shared: SharedUpstreams,
}

impl World {
    fn new() -> Self {
        let publisher = Publisher::alone(&config::resolve(&[]).unwrap().config);
        Self {
            publisher,
            services: Services::new(CpuScheduler::new(1)),
            shared: SharedUpstreams::new(100, &Default::default()),
        }
    }

    /// Deploys a service with this manifest, or a version of it with the manifests of both.
    async fn deploy(&self, name: &str, service: &str, version: Option<&str>) -> Backend {
        let limits = config::resolve(&[]).unwrap().config.limits;
        let text = |said: &str| match said.contains("[upstream]") {
            true => said.to_owned(),
            false => format!("{said}\n[upstream]\nreplicas = ['http://127.0.0.1:9']"),
        };
        let of = name.split('@').next().unwrap();
        let mut manifest = Manifest::read(of, &text(service), &limits, 1 << 30).unwrap();
        if let Some(own) = version {
            manifest = manifest.version(&text(own), 1 << 30).unwrap();
        }
        let (path, digest) = (format!("{name}.toml").into(), Digest::of(format!("{service}{version:?}").as_bytes()));
        let upstream = manifest.upstream.clone().unwrap();
        let spec = GuestSpec { name: name.into(), path, content: None, digest, size: 1, manifest };
        let deployment = Arc::new(Deployment::new(spec, &self.services));
        let made = Upstream::new(deployment, upstream, std::path::Path::new(""), &self.shared, None).await;
        Arc::new(made.unwrap()).into()
    }

    /// Publishes these, and returns which files are refused and why.
    fn publish(&self, backends: &[&Backend]) -> (Arc<Snapshot>, Vec<String>) {
        self.publisher.publish(backends.iter().copied().cloned().collect(), Vec::new(), true);
        let snapshot = self.publisher.current.0.load_full();
        let refused = snapshot.refusals.iter().map(|refusal| format!("{}: {}", refusal.file, refusal.reason)).collect();
        (snapshot, refused)
    }
}

/// Whether the policies admit this client.
fn admits(target: &Target, client: &str) -> bool {
    let (client, headers) = (client.parse::<IpAddr>().unwrap(), http::HeaderMap::new());
    target
        .admission
        .check_client(&RequestView {
            client,
            claimed: None,
            inside: false,
            headers: &headers,
            route: 0,
            identity: None,
        })
        .is_ok()
}

/// A new version that cannot be served leaves the last good one in place, under the current policies of its service,
/// not the previous ones.
#[tokio::test]
async fn a_last_good_version_has_the_current_policies() {
    let (world, strict) = (World::new(), "deny = ['192.0.2.1']");
    let service = world.deploy("users", "", None).await;
    let first = world.deploy("users@1", "", Some("percent = 40")).await;
    let second = world.deploy("users@2", "", Some("percent = 50")).await;
    let (snapshot, refused) = world.publish(&[&service, &first, &second]);
    assert_eq!(refused, Vec::<String>::new());
    assert!(admits(snapshot.target("users@2").unwrap(), "192.0.2.1"));

    let service = world.deploy("users", strict, None).await;
    let greedy = world.deploy("users@2", strict, Some("percent = 70")).await;
    // For a first version whose new component does not compile, the ledger has the old one.
    let (snapshot, refused) = world.publish(&[&service, &first, &greedy]);
    assert_eq!(refused, ["users@2.toml: it wants 70% of the requests, but other versions leave 60%"]);
    let users = snapshot.target("users").unwrap();
    for (name, last_good) in [("users@1", &first), ("users@2", &second)] {
        let version = snapshot.target(name).unwrap();
        assert!(version.backend.is(last_good), "{name} has changed");
        assert!(Arc::ptr_eq(&version.admission, &users.admission), "{name} has slots of its own");
        assert!(!admits(version, "192.0.2.1") && admits(version, "192.0.2.2"), "{name} has the previous deny list");
        let mut beside = users.split.iter().flat_map(|split| split.versions());
        assert!(beside.any(|(_, target)| Arc::ptr_eq(target, version)), "{name} gets no share");
    }
}

/// `a-b` and `a_b` have one host name for calls, which belongs to one of them even if clients cannot use it.
#[tokio::test]
async fn a_host_name_for_calls_has_one_owner() {
    let guarded = |path: &str| format!("routes = [{{ path = '{path}', deny = ['192.0.2.1'] }}]");
    for (other, wanted) in [
        ("routes = ['/two']".to_owned(), "its route a-b.localhost already belongs to a-b"),
        (guarded("/two"), "its host name for calls already belongs to a-b"),
    ] {
        let world = World::new();
        let (one, two) = (world.deploy("a-b", "", None).await, world.deploy("a_b", &other, None).await);
        let (snapshot, refused) = world.publish(&[&one, &two]);
        assert_eq!(refused, [format!("a_b.toml: {wanted}")]);
        assert!(snapshot.hosts["a-b.localhost"].backend.is(&one) && snapshot.target("a_b").is_none());
    }
    // With policies on their routes they share no route and no host. The one that has the name keeps it.
    let world = World::new();
    let (one, two) =
        (world.deploy("a-b", &guarded("/one"), None).await, world.deploy("A_B", &guarded("/two"), None).await);
    assert_eq!(world.publish(&[&one]).1, Vec::<String>::new());
    let (snapshot, refused) = world.publish(&[&two, &one]);
    assert_eq!(refused, ["A_B.toml: its host name for calls already belongs to a-b"]);
    assert!(snapshot.hosts["a-b.localhost"].backend.is(&one));
    let (snapshot, refused) = world.publish(&[&two]);
    assert!(refused.is_empty() && snapshot.hosts["a-b.localhost"].backend.is(&two), "the name is free again");
}

/// The state of a breaker survives every edit of an upstream, except a list of entirely different replicas.
#[tokio::test]
async fn a_breaker_outlives_edits_of_replicas() {
    let world = World::new();
    let of = |replicas: &str, more: &str| {
        format!("breaker = {{ calls = 2, open = '1h' }}\n{more}\n[upstream]\nreplicas = [{replicas}]")
    };
    let open = async |text: &str, fail: bool| {
        let (snapshot, refused) = world.publish(&[&world.deploy("far", text, None).await]);
        assert_eq!(refused, Vec::<String>::new());
        let (admission, now) = (Arc::clone(&snapshot.target("far").unwrap().admission), Instant::now());
        let headers = http::HeaderMap::new();
        let client = "192.0.2.1".parse().unwrap();
        let asked = RequestView { client, claimed: None, inside: false, headers: &headers, route: 0, identity: None };
        for _ in 0..2 * usize::from(fail) {
            admission.admit(&asked, now).await.unwrap().record_failure(Some(Verdict::Late), || now);
        }
        admission.breaker_state(now) == Some(lodge_traffic::admission::breaker::BreakerState::Open)
    };
    let (one, two) = ("'http://127.0.0.1:9'", "{ url = 'http://127.0.0.1:9', weight = 2 }, 'http://127.0.0.1:10'");
    assert!(open(&of(one, ""), true).await);
    assert!(open(&of(one, "limits.in_flight = 7"), false).await, "another limit");
    assert!(open(&format!("{}\nread = '1s'", of(one, "")), false).await, "another timeout");
    assert!(open(&of(two, ""), false).await, "another replica, and another weight");
    assert!(!open(&of("'http://127.0.0.1:11'", ""), false).await, "other replicas");
}
