use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config;

fn read(text: &str) -> Result<Manifest, String> {
    let defaults = config::resolve(&[]).unwrap().config.limits;
    Manifest::read("users", text, &defaults, 1 << 30).map_err(|problems| problems.join("\n"))
}

fn routes(manifest: &Manifest) -> Vec<String> {
    manifest.routes.iter().map(ToString::to_string).collect()
}

#[test]
fn no_manifest_is_an_empty_one() {
    let manifest = read("").unwrap();
    assert_eq!(routes(&manifest), ["/users"]);
    assert_eq!(manifest.isolation, Isolation::Request);
    assert_eq!(manifest.limits, config::resolve(&[]).unwrap().config.limits);
}

#[test]
fn says_what_it_says() {
    let text = "routes = ['/', '/u']\nisolation = 'service'\ncpu_weight = 300\n[limits]\nwall = '1m'\nmemory = '64MiB'\nin_flight = 2";
    let manifest = read(text).unwrap();
    assert_eq!(routes(&manifest), ["/", "/u"]);
    assert_eq!(manifest.isolation, Isolation::Service);
    assert_eq!((manifest.cpu_weight, read("").unwrap().cpu_weight), (300, 100));
    assert_eq!(manifest.limits.wall, Duration::from_secs(60));
    assert_eq!((manifest.limits.memory, manifest.limits.in_flight), (64 << 20, 2));
    assert_eq!(manifest.limits.cpu, Duration::from_secs(5), "what it does not say is the default");
}

#[test]
fn every_key() {
    let digest = "0123456789abcdef".repeat(4);
    let text = format!(
        "enabled = false\ncomponent = 'other.wasm'\ndigest = 'sha256:{digest}'\nready.path = '/health?x'\n\
         routes = [{{ path = '/a/{{b}}', host = 'API.example.com', methods = ['GET', 'PUT'], strip_prefix = true }}]\n\
         [env]\nB = '2'\nA = '1'"
    );
    let manifest = read(&text).unwrap();
    assert!(!manifest.enabled);
    assert_eq!(manifest.component.as_deref(), Some("other.wasm"));
    assert_eq!(manifest.digest.unwrap().to_string(), digest);
    assert_eq!(manifest.ready.as_deref(), Some("/health?x"));
    assert_eq!(routes(&manifest), ["GET|PUT api.example.com/a/{b}"]);
    assert!(manifest.routes[0].strip_prefix);
    assert_eq!(manifest.env, [("A".into(), "1".into()), ("B".into(), "2".into())]);
}

#[test]
fn an_upstream() {
    assert_eq!(read("").unwrap().upstream, None);
    let text = "routes = ['/u']\n[upstream]\nreplicas = ['http://10.0.0.7:8080']\nread = '2s'";
    let manifest = read(text).unwrap();
    assert_eq!(manifest.upstream.as_ref().unwrap().read, Duration::from_secs(2));
    assert_eq!(manifest, read(text).unwrap());
    assert_ne!(manifest, read(&text.replace("2s", "3s")).unwrap(), "a change is seen");
    let problem = read("cpu_weight = 0\n[upstream]\nreplica = ['http://10.0.0.7:8080']").unwrap_err();
    assert!(
        problem.contains("cpu_weight") && problem.contains("line 3: there is no key `upstream.replica`"),
        "{problem}"
    );
}

#[test]
fn problems_have_lines_and_ways_out() {
    let check = |text: &str, expected: &str| {
        let problem = read(text).unwrap_err();
        assert!(problem.contains(expected), "{problem}");
    };
    check("cpu_weight = 0", "cpu_weight: 0 is not between 1 and 10000");
    check("\nroute = ['/']", "line 2: unknown field `route`, expected one of `enabled`");
    check("\nroute = ['/']", "did you mean `routes`?");
    check("\nroutes = ['/',\n { path = '/x', method = ['GET'] }]", "line 3: a route: unknown field `method`");
    check("routes = [{ path = '/x', methods = ['get'] }]", "method `get`: write it like \"GET\"");
    check("routes = [{ path = '/x', host = 'a:80' }]", "host `a:80`: write it like");
    check("routes = [7]", "line 1: a route is a path, or a table");
    check("routes = ['/x', '/x']", "route `/x` is there twice");
    check("component = '../x.wasm'", "must be the name of a .wasm file");
    check("digest = 'sha256:12'", "64 hexadecimal digits");
    check("ready.path = 'x'", "ready.path: `x` is not a path");
    check("env = { 'A=B' = 'x' }", "env: `A=B` cannot be the name");
    check(&format!("env.A = '{}'", "x".repeat(70_000)), "are more than");
    check("isolation = 'none'", "expected `request` or `service`");
    check("[limits]\nwal = '1s'", "line 2: there is no limit `wal`; did you mean `wall`?");
    check("[limits]\nwall = '1s'\nqueue = -1", "line 3: limits.queue: `-1` is not a whole number");
    check("[limits]\nmemory = '2GiB'", "more than engine.max_memory");
    check("[limits]\ncpu = '40s'", "more than limits.wall");
    check("routes = ['users']", "route `users`: write it like");
    let both = read("routes = ['x']\n[limits]\nwall = 'x'\ncpu = 'y'").unwrap_err();
    assert_eq!(both.lines().count(), 3, "{both}");
}

proptest! {
    #[test]
    fn any_text(text in "\\PC{0,100}|(routes|isolation|limits|\\[|\\]|=|'|\"|\n|[a-z0-9/. ]){0,40}") {
        let _ = read(&text);
    }
}

fn version(text: &str) -> Result<Manifest, String> {
    let service =
        read("routes = [\"/u\"]\nready = { path = \"/health\" }\n[limits]\nwall = \"40s\"\n[env]\nA = \"1\"").unwrap();
    service.version(text, 1 << 30).map_err(|problems| problems.join("\n"))
}

#[test]
fn a_version_begins_with_what_its_service_says() {
    let manifest = version("percent = 2.5\nmatch = [\"header:x-version=2\"]\n[limits]\nmemory = \"8MiB\"").unwrap();
    let share = manifest.share.unwrap();
    assert_eq!((share.percent, share.rules.len(), share.rollback), (share::Percent(250), 1, None));
    assert!(manifest.routes.is_empty());
    assert_eq!((manifest.limits.wall.as_secs(), manifest.limits.memory), (40, 8 << 20));
    assert_eq!((manifest.env.len(), manifest.ready.as_deref()), (1, Some("/health")));
    assert_eq!(version("[rollback]").unwrap().share.unwrap().rollback, Some(share::Rollback::default()));
    assert_eq!(version("percent = \"10%\"").unwrap().share.unwrap().percent, share::Percent(1_000));
}

#[test]
fn a_version_is_not_a_service_nor_the_other_way_round() {
    for (text, wanted) in [
        ("routes = [\"/v2\"]", "routes: it is the service's"),
        ("sticky = \"client\"", "sticky: it is the service's"),
        ("percent = 101", "percent: 101 is not a percentage"),
        ("percent = \"ten\"", "percent: `ten` is not a percentage"),
        ("match = [\"x-version=2\"]", "match: `x-version=2`: write it like"),
        ("match = [\"client=1\"]", "match: `client=1`: write it like"),
        ("rollback = { p99 = 0.5 }", "rollback.p99: 0.5 is not between 1 and 100"),
        ("percents = 1", "did you mean `percent`?"),
    ] {
        let problem = version(text).unwrap_err();
        assert!(problem.contains(wanted), "{text}: {problem}");
    }
    for (text, wanted) in [
        ("percent = 1", "percent: it is a version's; write it in a file such as `NAME@2.toml`"),
        ("mirror = 1", "mirror: it is a version's"),
        ("sticky = \"session\"", "sticky: `session` is not one of `client`"),
    ] {
        let problem = read(text).unwrap_err();
        assert!(problem.contains(wanted), "{text}: {problem}");
    }
}
