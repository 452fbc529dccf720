use proptest::prelude::*;
use toml::de::DeTable;

use super::*;
use crate::auth::certificate::CertificatePattern;

const SOME: &str = "[upstream]\nreplicas = ['http://10.0.0.7:8080']\n";

fn read(text: &str) -> Result<Spec, String> {
    let document = DeTable::parse(text).map_err(|error| error.to_string())?;
    let mut problems = Problems::default();
    let keys = Written::keys(text, document.get_ref(), "");
    let upstream = keys.iter().find(|key| key.name == "upstream").ok_or("there is no [upstream]")?;
    Spec::read(upstream, &mut problems).ok_or_else(|| problems.0.join("\n"))
}

#[test]
fn every_default_could_be_written() {
    let mut spec = Spec::blank();
    for key in KEYS {
        assert_eq!((key.set)(&mut spec, key.default), Ok(()), "{}", key.name);
    }
    assert_eq!(spec, Spec::defaults());
    // The most visible defaults.
    assert_eq!((spec.policy, spec.protocol, spec.host), (Policy::LeastInFlight, Protocol::Auto, HostName::Auto));
    assert_eq!((spec.connect, spec.read), (Duration::from_secs(1), Duration::from_secs(10)));
    assert_eq!((spec.health.path.clone(), spec.hedge, spec.upgrade), (None, None, false));
    assert_eq!((spec.panic, spec.slow_start), (Percent::whole(50), Duration::ZERO));
    assert_eq!(spec.retry, Retry { attempts: 2, budget: Percent::whole(20), minimum: 10 });
}

#[test]
fn a_list_is_enough() {
    let spec = read(SOME).unwrap();
    assert_eq!(spec.replicas, [Source::parse("http://10.0.0.7:8080").unwrap()]);
    assert_eq!(Spec { replicas: Vec::new(), ..spec }, Spec::defaults());
}

#[test]
fn every_key() {
    let spec = read(
        "[upstream]
        replicas = ['https://api.example.com', { url = 'https://b:1', weight = 3 }, 'dns+https://users.prod:8080', 'srv+https://_http._tcp.x']
        replicas_file = 'users.replicas'
        policy = 'hash'
        hash = 'header:X-User'
        protocol = 'h2c'
        connect = '2s'
        read = '3s'
        idle = '4s'
        connections = 5
        host = 'replica'
        slow_start = '6s'
        panic = '7%'
        hedge = '80ms'
        retry = { attempts = 1, budget = '0%', minimum = 0 }
        [upstream.tls]
        ca = 'ca.pem'
        certificate = '../tls/own.crt'
        key = '/run/own.key'
        names = ['spiffe://a.test/users', '*.users.test']
        [upstream.health]
        path = '/health?x'
        interval = '9s'
        timeout = '8s'
        healthy = 4
        unhealthy = 6
        status = '204'
        [upstream.ejection]
        failures = 0
        base = '1s'
        max = '1s'
        share = '100%'",
    )
    .unwrap();
    assert_eq!(spec.replicas.iter().map(Source::weight).collect::<Vec<_>>(), [1, 3, 1, 1]);
    assert!(matches!(spec.replicas[3], Source::Srv { .. }));
    let seconds = Duration::from_secs;
    let expected = Spec {
        replicas: spec.replicas.clone(),
        replicas_file: Some("users.replicas".into()),
        policy: Policy::Hash,
        hash: RequestKey::Header(http::HeaderName::from_static("x-user")),
        protocol: Protocol::Http2,
        connect: seconds(2),
        read: seconds(3),
        idle: seconds(4),
        connections: 5,
        host: HostName::Replica,
        tls: TlsSpec {
            ca: Some("ca.pem".into()),
            certificate: Some("../tls/own.crt".into()),
            key: Some("/run/own.key".into()),
            names: vec![
                CertificatePattern::Uri("spiffe://a.test/users".into()),
                CertificatePattern::Label(".users.test".into()),
            ],
        },
        health: Check {
            path: Some("/health?x".into()),
            interval: seconds(9),
            timeout: seconds(8),
            healthy: 4,
            unhealthy: 6,
            status: (204, 204),
        },
        ejection: Ejection { failures: 0, base: seconds(1), max: seconds(1), share: Percent::ALL },
        slow_start: seconds(6),
        panic: Percent::whole(7),
        retry: Retry { attempts: 1, budget: Percent(0), minimum: 0 },
        hedge: Some(Duration::from_millis(80)),
        upgrade: false,
        tunnels: 256,
    };
    assert_eq!(spec, expected);
    assert!(read(&format!("{SOME}upgrade = true")).unwrap().upgrade);
    assert_eq!(read("upstream.replicas_file = 'x'").unwrap().replicas_file.as_deref(), Some("x"));
}

#[test]
fn problems_have_lines_and_ways_out() {
    let check = |text: &str, expected: &str| {
        let problem = read(text).unwrap_err();
        assert!(problem.contains(expected), "{problem}");
        assert!(!problem.contains('\n'), "one line: {problem}");
    };
    let with = |key: &str, expected: &str| check(&format!("{SOME}{key}"), expected);
    let secure = |tls: &str, expected: &str| {
        check(&format!("[upstream]\nreplicas = ['https://a']\ntls = {{ {tls} }}"), expected);
    };
    secure("certificate = 'a'", "upstream.tls.certificate: needs its key; set `tls.key`");
    secure("key = 'a'", "upstream.tls.key: needs its certificate; set `tls.certificate`");
    secure("names = []", "upstream.tls.names: write a list");
    secure("names = 'spiffe://*'", "upstream.tls.names: write a list");
    secure("ca_file = 'a'", "unknown key `upstream.tls.ca_file`");
    with("tls.ca = 'a'", "upstream.tls.ca: holds for https only, and without TLS no replica is verified");
    with("tls.names = 'a.test'", "upstream.tls.names: holds for https only");
    for plain in ["http://b", "dns://b:80", "srv://_http._tcp.b", "k8s://shop/users:http"] {
        let mixed = format!("[upstream]\nreplicas = ['https://a', '{plain}']\ntls.names = 'a.test'");
        check(&mixed, "line 3: upstream.tls.names: holds for https only");
    }
    assert!(read("[upstream]\nreplicas = ['https://a', 'srv://_https._tcp.b']\ntls.names = 'a.test'").is_ok());
    // A request says to another host of the cluster for which service it is, so that all replicas must be for one.
    for (replicas, is_right) in [
        ("replicas = ['cluster://users', 'cluster+https://users']", true),
        ("replicas = ['cluster://users', 'cluster://orders']", false),
        ("replicas = ['cluster://users', 'http://b']", false),
        ("replicas = ['cluster://users']\nreplicas_file = 'a.list'", false),
    ] {
        let of_cluster = read(&format!("[upstream]\n{replicas}"));
        match is_right {
            true => assert_eq!(of_cluster.unwrap().cluster_service().map(|name| &**name), Some("users")),
            false => {
                check(&format!("[upstream]\n{replicas}"), "hosts of the cluster are the only replicas of an upstream")
            }
        }
    }
    check("upstream = 'http://a'", "line 1: upstream: write a section [upstream], with `replicas` in it");
    check("[upstream]", "upstream.replicas: there are none; write replicas = [");
    check("[upstream]\nreplicas = []", "upstream.replicas: there are none");
    check("[upstream]\nreplicas = 'http://a'", "line 2: upstream.replicas: must be a list");
    check("[upstream]\nreplicas = [7]", "line 2: upstream.replicas: a replica is a URL, or a table");
    check("[upstream]\nreplicas = [{ weight = 2 }]", "a replica needs its `url`");
    check("[upstream]\nreplicas = [{ url = 'http://a', wieght = 2 }]", "has no `wieght`; did you mean `weight`?");
    check("[upstream]\nreplicas = [{ url = 'http://a', weight = 0 }]", "\"weight=0\" is not from 1 to 65535");
    check("[upstream]\nreplicas = [{ url = 'http://a', weight = 'x' }]", "`weight` is a whole number");
    check("[upstream]\nreplicas = [{ url = 7 }]", "a replica's `url` is text");
    check("[upstream]\nreplicas = ['http://a weight=65536']", "is not from 1 to 65535");
    check("[upstream]\nreplicas = ['http://a', 'http://A:80/']", "duplicate replica `http://a:80`");
    with("conect = '1s'", "line 3: unknown key `upstream.conect`; did you mean `upstream.connect`?");
    with(
        "[upstream.health]\npath = '/'\nintervall = '1s'",
        "line 5: unknown key `upstream.health.intervall`; did you mean `upstream.health.interval`?",
    );
    with("[upstream.helth]\npath = '/'", "did you mean `upstream.health.path`?");
    with("retry = 3", "line 3: unknown key `upstream.retry`; did you mean `upstream.retry.attempts`?");
    with("retries = 3", "did you mean `upstream.retry.attempts`?");
    with("ready.path = '/'", "`ready` is a section of the manifest; write [ready]");
    with("policy = 'least-connections'", "`hash`; did you mean `least-in-flight`?");
    check(
        "[upstream]\nreplicas = ['file:x']",
        "line 2: upstream.replicas: `file:x`: use replicas_file for a file of replicas",
    );
    check("[upstream]\nreplicas = ['localhost:3000']", "has no scheme: write http://localhost:3000");
    with("connect = ['1s']", "line 3: upstream.connect: must be one value, not array");
    with("connect = 1", "upstream.connect: `1` is not a time span");
    with("connect = '2m'", "upstream.connect: must be between");
    with("connections = 0", "upstream.connections: must be between 1 and 100000");
    with("policy = 'roundrobin'", "`roundrobin` is not one of `round-robin`, `weighted`");
    with("policy = 'hash'\nhash = 'ip'", "line 4: upstream.hash: `ip` is not one of `client`, `header:NAME`");
    with("policy = 'hash'\nhash = 'header:a b'", "is not one of `client`");
    with("policy = 'hash'\nhash = 'cookie:'", "is not one of `client`");
    with("hash = 'cookie:sid'", "upstream.hash: only policy = \"hash\" uses it");
    with("replicas_file = '../x'", "must be the name of a file in the same directory");
    with("replicas_file = 'users.toml'", "must be the name of a file in the same directory");
    with("panic = '101%'", "`101%` is not between 0% and 100%");
    with("panic = 0.5", "write it like \"20%\"");
    with("upgrade = 'yes'", "`yes` is not one of `true`, `false`");
    with("upgrade = true\nprotocol = 'http2'", "upstream.upgrade: needs HTTP/1.1");
    with("hedge = '0s'", "upstream.hedge: must be between");
    with("health.interval = '1s'", "upstream.health.path: is missing; write it like \"/health\"");
    with("health.path = 'health'", "`health` is not a path");
    with("health = { path = '/', status = '399-200' }", "`399-200` is not a range of statuses");
    with("health = { path = '/', status = '20' }", "is not a range of statuses");
    with("health = { path = '/', timeout = '6s' }", "upstream.health.timeout: is more than health.interval");
    with("ejection = { base = '10m' }", "upstream.ejection.base: is more than ejection.max");
    with("policy = 'random'\nslow_start = '5s'", "upstream.slow_start: the policy ignores weights");
    let weighs = "[upstream]\nreplicas = [{ url = 'http://a', weight = 2 }]\npolicy = 'round-robin'";
    check(weighs, "upstream.replicas: the policy ignores weights; use \"weighted\"");
    let both = read(&format!("{SOME}read = 'x'\nidel = '1s'\nconnect = 'y'")).unwrap_err();
    let lines: Vec<_> = both.lines().map(|line| &line[..7]).collect();
    assert_eq!(lines, ["line 3:", "line 4:", "line 5:"], "{both}");
}

#[test]
fn whose_name() {
    let keeps = |host: HostName| [Scheme::Http, Scheme::Https].map(|scheme| host.keeps_clients(scheme));
    assert_eq!(keeps(HostName::Auto), [true, false]);
    assert_eq!(keeps(HostName::Client), [true, true]);
    assert_eq!(keeps(HostName::Replica), [false, false]);
}

proptest! {
    /// Any text for any key gives a value within its bounds or a problem that names the key.
    #[test]
    fn any_text_for_any_key(index in 0..KEYS.len(), text in "[ -&(-~]{0,12}|[0-9]{1,25}(ms|s|h|%)?") {
        let name = KEYS[index].name;
        if let Err(problem) = read(&format!("{SOME}{name} = '{text}'")) {
            prop_assert!(problem.contains("upstream."), "{name} = {text}: {problem}");
        }
    }

    #[test]
    fn any_section(text in "((replicas|health|panic|retry|\\[|\\]|=|'|\\{|\\}|\n|[a-z0-9/.:%]) ?){0,40}") {
        let _ = read(&format!("[upstream]\n{text}"));
        let _ = read(&text);
    }
}
