use std::net::IpAddr;

use http::Method;

use super::*;
use crate::guests::ledger::Absent;
use crate::guests::snapshot::Unserved;
use lodge_base::config;
use lodge_base::cpu::scheduler::CpuScheduler;
use lodge_manifest::Manifest;
use lodge_manifest::digest::Digest;
use lodge_manifest::spec::GuestSpec;
use lodge_traffic::admission::RequestView;
use lodge_traffic::admission::Verdict;
use lodge_traffic::routing::router::Missed;
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
        let spec =
            GuestSpec { name: name.into(), path, content: None, digest, size: 1, middleware: Vec::new(), manifest };
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
    target.admission.check_client(&RequestView::new(client, &headers)).is_ok()
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
    for (of, other, wanted) in [
        ("", "routes = ['/two']".to_owned(), "a_b.toml: its route a-b.localhost already belongs to a-b"),
        ("deny = '192.0.2.1'", guarded("/two"), "a_b.toml: its host name for calls already belongs to a-b"),
        // It denies requests.
        ("", guarded("/two"), "a-b.toml: its host name for calls already belongs to a_b"),
    ] {
        let world = World::new();
        let (one, two) = (world.deploy("a-b", of, None).await, world.deploy("a_b", &other, None).await);
        let (snapshot, refused) = world.publish(&[&one, &two]);
        assert_eq!(refused, [wanted]);
        let is_two = wanted.starts_with("a-b");
        assert!(snapshot.hosts["a-b.localhost"].backend.is(if is_two { &two } else { &one }));
        assert_eq!(snapshot.target("a_b").is_some(), is_two);
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

/// The routes of a service that is refused beside others are nobody else's, unless those had them first.
#[tokio::test]
async fn what_is_refused_beside_others_is_absent() {
    let world = World::new();
    let front = world.deploy("front", "routes = ['/*']", None).await;
    let one = world.deploy("one", "routes = ['/one']", None).await;
    let two = world.deploy("two", "routes = ['/one', { path = '/two', methods = ['GET'] }]", None).await;
    let (snapshot, refused) = world.publish(&[&front, &one, &two]);
    assert_eq!(refused, ["two.toml: its route /one already belongs to one"]);
    let find = |path: &str, method: Method| snapshot.find("x", path, &method, false);
    let is_absent = |path: &str| matches!(find(path, Method::GET), Err(Unserved::Absent(_)));
    assert_eq!(["/two/below", "/one", "/", "/three"].map(is_absent), [true, false, false, false]);
    assert!(snapshot.absent.has("two.localhost") && snapshot.absent.called("two.localhost").is_some());
    assert!(find("/three", Method::GET).unwrap().target.backend.is(&front));
    // Neither by another spelling nor by another method.
    let missed = |path: &str, method| find(path, method).map(|found| found.number);
    assert_eq!(missed("/x/..%2Ftwo", Method::GET), Err(Unserved::Missed(Missed::Ambiguous)));
    assert_eq!(missed("/two", Method::POST), Err(Unserved::Missed(Missed::Method("GET, HEAD".into()))));
    let free = world.deploy("two", "routes = ['/two']", None).await;
    let (snapshot, refused) = world.publish(&[&front, &one, &free]);
    assert!(refused.is_empty() && snapshot.absent.is_empty() && !snapshot.absent.has("two.localhost"));
    // The previous version stays.
    let (snapshot, refused) = world.publish(&[&front, &one, &two]);
    assert!(refused.len() == 1 && snapshot.absent.is_empty() && snapshot.target("two").unwrap().backend.is(&free));
}

/// What a scan has found of services that cannot serve.
fn absentees(backends: &[(&Backend, Option<&Refusal>)]) -> Absentees {
    let absent = backends.iter().map(|(backend, refusal)| {
        let spec = &backend.deployment.spec;
        Absent { name: &spec.name, manifest: Some(&spec.manifest), refusal: *refusal }
    });
    Absentees::new(absent, std::iter::empty())
}

/// Which service has the requests for a path; none if its service cannot serve.
fn owner(snapshot: &Snapshot, path: &str) -> Option<String> {
    match snapshot.find("x", path, &Method::GET, false) {
        Ok(found) => Some(found.target.deployment().name.to_string()),
        Err(Unserved::Absent(_)) => None,
        Err(missed) => panic!("{path}: {missed:?}"),
    }
}

/// A start does not give the route of a service that denies requests to one that takes more of them, whatever their names are, whichever
/// is compiled first, and whether or not the former can serve.
#[tokio::test]
async fn a_start_opens_no_protected_route() {
    let fails = Refusal::new("users.toml", "its keys are missing", "write them");
    for (open, guarded) in [
        ("routes = ['/users']", "routes = ['/users']\nallow = '10.9.9.9'"),
        ("routes = ['/users']", "routes = [{ path = '/users', allow = '10.9.9.9' }]"),
        ("priority = 'high'\nroutes = ['/users']", "routes = ['/users']\ndeny = '10.9.9.9'"),
        ("auth = false\nroutes = ['/users']", "routes = ['/users']\nrate = '9/s'"),
        ("rate = '9/s'\nroutes = ['/users']", "routes = ['/users']\nallow = '10.9.9.9'"),
    ] {
        for refusal in [None, Some(&fails)] {
            let world = World::new();
            let (open, guarded) = (world.deploy("aa", open, None).await, world.deploy("users", guarded, None).await);
            let publish = |backends: &[&Backend], absent: Absentees| {
                let backends = backends.iter().copied().cloned().collect();
                world.publisher.publish_beside(backends, Vec::new(), false, absent);
                world.publisher.current.0.load_full()
            };
            assert_eq!(owner(&publish(&[], absentees(&[(&guarded, refusal), (&open, None)])), "/users"), None);
            assert_eq!(owner(&publish(&[&open], absentees(&[(&guarded, refusal)])), "/users"), None);
            let snapshot = publish(&[&open, &guarded], Absentees::default());
            assert_eq!(snapshot.refusals.iter().map(|refusal| &*refusal.file).collect::<Vec<_>>(), ["aa.toml"]);
            assert_eq!(owner(&snapshot, "/users").as_deref(), Some("users"));
        }
    }
    // A host that has started takes no route away.
    let world = World::new();
    let open = world.deploy("aa", "routes = ['/users']", None).await;
    let guarded = world.deploy("users", "routes = ['/users']\nallow = '10.9.9.9'", None).await;
    assert!(world.publish(&[&open]).1.is_empty());
    assert_eq!(world.publish(&[&open, &guarded]).1, ["users.toml: its route /users already belongs to aa"]);
}

/// A disabled service keeps its routes at a start, and the refusal of another service says so.
#[tokio::test]
async fn a_disabled_service_keeps_its_routes() {
    let world = World::new();
    let off = world.deploy("off", "enabled = false\nroutes = ['/users', '/own']", None).await;
    let on = world.deploy("on", "routes = ['/users']", None).await;
    world.publisher.publish_beside(vec![on.clone()], Vec::new(), true, absentees(&[(&off, None)]));
    let snapshot = world.publisher.current.0.load_full();
    let refused: Vec<_> = snapshot.refusals.iter().map(ToString::to_string).collect();
    let said = "on.toml: its route /users already belongs to off, which is disabled and keeps its routes; remove this route from off.toml";
    assert!(matches!(&*refused, [line] if line.starts_with(said)), "{refused:?}");
    assert!(snapshot.conflict(&on.deployment.spec).unwrap().to_string().starts_with(said));
    assert_eq!(owner(&snapshot, "/users"), None);
    // As the remedy says.
    let off = world.deploy("off", "enabled = false\nroutes = ['/own']", None).await;
    world.publisher.publish_beside(vec![on], Vec::new(), true, absentees(&[(&off, None)]));
    let snapshot = world.publisher.current.0.load_full();
    assert!(snapshot.refusals.is_empty());
    assert_eq!((owner(&snapshot, "/users").as_deref(), owner(&snapshot, "/own")), (Some("on"), None));
}

/// A service keeps a route that it has, whatever else changes in its manifest, while the host starts as well as later, and while it
/// cannot serve.
#[tokio::test]
async fn a_service_keeps_its_routes() {
    let fails = Refusal::new("users.toml", "it has no component", "put it there");
    for complete in [true, false] {
        let world = World::new();
        let aa = world.deploy("aa", "routes = ['/users']", None).await;
        let users = async |text: &str| world.deploy("users", text, None).await;
        let first = users("routes = ['/users']").await;
        let publish = |backends: &[&Backend], absent: Absentees| {
            let backends = backends.iter().copied().cloned().collect();
            world.publisher.publish_beside(backends, Vec::new(), complete, absent);
            world.publisher.current.0.load_full()
        };
        let keeps = |snapshot: &Snapshot| {
            assert_eq!((owner(snapshot, "/users").as_deref(), snapshot.target("aa").is_none()), (Some("users"), true));
        };
        keeps(&publish(&[&first], Absentees::default()));
        keeps(&publish(&[&aa, &first], Absentees::default()));
        for edit in [
            "routes = ['/users', '/more']",
            "routes = ['/users']\ncompress = true",
            "routes = ['/users']\ncache = true",
            "routes = ['/users']\nheaders.security = true",
            "routes = ['/users']\ncors.origins = '*'",
            "routes = [{ path = '/users', allow = '10.9.9.9' }]",
            "routes = ['/users']",
        ] {
            keeps(&publish(&[&aa, &users(edit).await], Absentees::default()));
        }
        let off = users("routes = ['/users']\nenabled = false").await;
        for absent in [(&first, None), (&first, Some(&fails)), (&off, None)] {
            assert_eq!(owner(&publish(&[&aa], absentees(&[absent])), "/users"), None);
            keeps(&publish(&[&aa, &first], Absentees::default()));
        }
        // What it does not claim any more is free.
        let snapshot = publish(&[&aa, &users("routes = ['/more']").await], Absentees::default());
        assert_eq!(owner(&snapshot, "/users").as_deref(), Some("aa"));
        assert_eq!(owner(&publish(&[], absentees(&[(&aa, None)])), "/users"), None);
        assert_eq!(owner(&publish(&[&first], Absentees::default()), "/users").as_deref(), Some("users"));
    }
}

/// A version keeps its share: one that is new, or wants more, does not end it.
#[tokio::test]
async fn a_version_keeps_its_share() {
    let world = World::new();
    let service = world.deploy("a", "", None).await;
    let version = async |name: &str, percent: u32| world.deploy(name, "", Some(&format!("percent = {percent}"))).await;
    let shares = |snapshot: &Snapshot| {
        let versions = snapshot.targets.iter().filter(|target| target.of.is_some());
        versions
            .map(|target| (target.deployment().name.to_string(), target.share().percent.0 / 100))
            .collect::<Vec<_>>()
    };
    let of = |all: &[(&str, u32)]| all.iter().map(|(name, percent)| (name.to_string(), *percent)).collect::<Vec<_>>();
    let (one, two) = (version("a@1", 60).await, version("a@2", 60).await);
    assert!(world.publish(&[&service, &two]).1.is_empty());
    let (snapshot, refused) = world.publish(&[&service, &one, &two]);
    assert_eq!(refused, ["a@1.toml: it wants 60% of the requests, but other versions leave 40%"]);
    assert_eq!(shares(&snapshot), of(&[("a@2", 60)]));
    // One that serves gets more before a new one gets any.
    let (new, more, less) = (version("a@1", 30).await, version("a@2", 80).await, version("a@2", 20).await);
    let (snapshot, refused) = world.publish(&[&service, &new, &more]);
    assert_eq!(refused, ["a@1.toml: it wants 30% of the requests, but other versions leave 20%"]);
    assert_eq!(shares(&snapshot), of(&[("a@2", 80)]));
    let (snapshot, refused) = world.publish(&[&service, &one, &less]);
    assert!(refused.is_empty());
    assert_eq!(shares(&snapshot), of(&[("a@1", 60), ("a@2", 20)]));
    let (snapshot, refused) = world.publish(&[&service, &version("a@1", 90).await, &less]);
    assert_eq!(refused, ["a@1.toml: it wants 90% of the requests, but other versions leave 80%"]);
    assert_eq!(shares(&snapshot), of(&[("a@1", 60), ("a@2", 20)]));
    // It comes back at once, after it was disabled.
    assert!(world.publish(&[&service]).1.is_empty() && world.publish(&[&service, &two]).1.is_empty());
}

/// A version that is compiled before its service waits for it, and is not refused.
#[tokio::test]
async fn a_version_waits_for_its_service() {
    let world = World::new();
    let (service, version) = (world.deploy("a", "", None).await, world.deploy("a@2", "", Some("percent = 9")).await);
    let refusals = |backends: &[&Backend], absent: Absentees| {
        let backends = backends.iter().copied().cloned().collect();
        world.publisher.publish_beside(backends, Vec::new(), false, absent);
        world.publisher.current.0.load().refusals.iter().map(|refusal| refusal.reason.clone()).collect::<Vec<_>>()
    };
    assert_eq!(refusals(&[&version], absentees(&[(&service, None)])), [""; 0]);
    let fails = Refusal::new("a.wasm", "it is empty", "copy it again");
    let alone = ["it is a version of a, which is not served"];
    assert_eq!(refusals(&[&version], absentees(&[(&service, Some(&fails))])), alone);
    assert_eq!(refusals(&[&version], Absentees::default()), alone);
    assert_eq!(refusals(&[&version, &service], Absentees::default()), [""; 0]);
}

/// Logins that lead to another service are told, whichever method that takes.
#[tokio::test]
async fn the_paths_of_a_login_are_those_of_its_service() {
    let world = World::new();
    let login = "routes = ['/*']\n[auth.login]\nissuer = 'https://login.example'\nclient_id = 'shop'\nurl = 'https://shop.example:8443'\n\
                 cookie_keys = 'k'";
    let shop = world.deploy("shop", login, None).await;
    let version = world.deploy("shop@2", login, Some("percent = 10")).await;
    let elsewhere = world.deploy("elsewhere", "routes = [{ path = '/login', host = 'other.example' }]", None).await;
    let told = |backends: &[&Backend]| {
        let (snapshot, refused) = world.publish(backends);
        assert_eq!(refused, Vec::<String>::new());
        snapshot.taken_paths().into_iter().map(|taken| (taken.service, taken.problem)).collect::<Vec<_>>()
    };
    assert_eq!(told(&[&shop, &version, &elsewhere]), []);
    for (routes, expected) in [
        (
            "",
            "auth.login.callback: GET /login/callback at shop.example:8443 leads to login, whose route /login is more specific",
        ),
        ("routes = [{ path = '/login', methods = ['POST'] }]", "leads to login, whose route /login "),
        ("routes = [{ path = '/{any}/callback', host = 'shop.example' }]", "whose route /{any}/callback "),
        ("routes = ['/logout']", "auth.login.logout: POST /logout at"),
    ] {
        let other = world.deploy("login", routes, None).await;
        let told = told(&[&shop, &version, &elsewhere, &other]);
        assert!(told.len() == 1 && told[0].0 == "shop" && told[0].1.contains(expected), "{routes}: {told:?}");
    }
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
        let asked = RequestView::new("192.0.2.1".parse().unwrap(), &headers);
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
