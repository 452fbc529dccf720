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
    let text = "routes = ['/', '/u']\nisolation = 'service'\n[limits]\nwall = '1m'\nmemory = '64MiB'\nin_flight = 2";
    let manifest = read(text).unwrap();
    assert_eq!(routes(&manifest), ["/", "/u"]);
    assert_eq!(manifest.isolation, Isolation::Service);
    assert_eq!(manifest.limits.wall, Duration::from_secs(60));
    assert_eq!((manifest.limits.memory, manifest.limits.in_flight), (64 << 20, 2));
    assert_eq!(manifest.limits.cpu, Duration::from_secs(5), "what it does not say is the default");
}

#[test]
fn problems_have_lines_and_ways_out() {
    let check = |text: &str, expected: &str| {
        let problem = read(text).unwrap_err();
        assert!(problem.contains(expected), "{problem}");
    };
    check("\nroute = ['/']", "line 2: unknown field `route`, expected one of `routes`");
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
