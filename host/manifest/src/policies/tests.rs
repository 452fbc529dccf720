use ipnet::IpNet;

use super::*;
use crate::Manifest;
use lodge_base::config;

fn read(text: &str) -> Result<Policies, String> {
    let defaults = config::resolve(&[]).unwrap().config.limits;
    Manifest::read("users", text, &defaults, 1 << 30).map(|manifest| manifest.policies).map_err(|all| all.join("\n"))
}

#[test]
fn nothing_said_is_nothing_asked() {
    assert_eq!(
        read("").unwrap(),
        Policies { routes: vec![("/users".into(), PolicySettings::default())], ..Policies::default() }
    );
}

#[test]
fn every_key() {
    let terms = read(
        "allow = ['10.0.0.0/8', '192.0.2.7']\ndeny = ['2001:db8::/32']\npriority = 'low'\n\
         routes = ['/', { path = '/login', deny = ['10.9.0.0/16'], priority = 'high', rate = { limit = '5/m' }, breaker = {} }]\n\
         [rate]\nlimit = '100/s'\nburst = 200\nby = 'header:X-Api-Key'\n\
         [breaker]\nfailures = '30%'\nslow = '1s'\nslow_calls = '70%'\ncalls = 5\nwindow = '1m'\nopen = '2s'\nprobes = 1\n\
         [adaptive]\nlatency = '80ms'\nfloor = 4",
    )
    .unwrap();
    let shown = |nets: &[IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let PolicySettings { clients, auth: _, rate, breaker, priority, audit: _, rules: _, validation: _ } =
        &terms.service;
    assert_eq!(
        (shown(&clients.allow).as_str(), shown(&clients.deny).as_str()),
        ("10.0.0.0/8 192.0.2.7/32", "2001:db8::/32")
    );
    assert_eq!(*priority, Some(Priority::Low));
    assert_eq!(rate.as_ref().unwrap().to_string(), "100/s, burst 200, by header:x-api-key");
    let breaker = breaker.unwrap().to_string();
    assert_eq!(breaker, "30% failures or 70% over 1s of 5 calls or more in 1m, open for 2s, 1 probes");
    assert_eq!(terms.adaptive.unwrap().to_string(), "latency 80ms, floor 4");
    let (route, login) = &terms.routes[1];
    assert_eq!((route.as_str(), shown(&login.clients.deny).as_str()), ("/login", "10.9.0.0/16"));
    assert_eq!(login.rate.as_ref().unwrap().to_string(), "5/m, burst 5, by client");
    assert_eq!(login.breaker.unwrap().to_string(), "50% failures of 20 calls or more in 10s, open for 5s, 3 probes");
    assert!(terms.is_high() && terms.has_routes());
    assert_eq!(read("rate = '5/h'").unwrap().service.rate.unwrap().to_string(), "5/h, burst 5, by client");
    let shared = read("rate = { limit = '5/h', scope = 'cluster' }").unwrap().service.rate.unwrap();
    assert_eq!(shared.to_string(), "5/h, burst 5, by client, of all hosts together");
    assert_eq!(read("rate.limit = '10/30s'").unwrap().service.rate.unwrap().to_string(), "10/30s, burst 10, by client");
}

#[test]
fn problems_have_lines_and_ways_out() {
    let check = |text: &str, expected: &str| {
        let problem = read(text).unwrap_err();
        assert!(problem.contains(expected), "{problem}");
    };
    check("\nallow = 10", "line 2: allow: write a list, like [\"10.0.0.0/8\"]");
    check("allow = []", "line 1: allow: it is empty, so no client would be allowed");
    check("deny = ['10.0.0/8']", "line 1: deny: `10.0.0/8` is not a network; write it like");
    check("\n\npriority = 'lowest'", "line 3: priority: `lowest` is not one of `low`, `normal`, `high`");
    check("[rate]\nburst = 2", "line 1: rate.limit is missing: requests per time: `100/s`");
    check("[rate]\nlimit = '5'", "line 2: rate.limit: `5` is not a rate; write it like 100/s");
    check("[rate]\nlimit = '0/s'", "must be between 1 and 1000000 requests");
    check("[rate]\nlimit = '5/s'\nper = 'client'", "line 3: unknown key `rate.per`");
    check("\nrate = 5", "line 2: rate.limit: `5` is not a rate");
    check(
        "[rate]\nlimit = '1/d'\nburst = 1000",
        "line 3: rate.burst: at this rate it would take over a year to refill",
    );
    check("[rate]\nlimt = '5/s'", "unknown key `rate.limt`; did you mean `rate.limit`?");
    check(
        "rate = { limit = '5/s', by = 'ip' }",
        "line 1: rate.by: `ip` is not one of `client`, `service`, `identity`, `header:NAME`, `claim:NAME`",
    );
    check("[breaker]\nfailures = 50", "line 2: breaker.failures: `50` is not a percentage of calls; write it like 50%");
    check("[breaker]\nslow_calls = '50%'", "line 2: breaker.slow_calls: no call is slow without `slow`");
    check("[adaptive]", "line 1: adaptive.latency is missing");
    check("[adaptiv]", "did you mean `adaptive`?");
    check("routes = ['/',\n { path = '/x', rate = { limit = 'x' } }]", "line 2: rate.limit: `x` is not a rate");
    check("routes = [{ path = '/x', rates = {} }]", "did you mean `rate`?");
    check("routes = [{ path = '/x', adaptive = { latency = '1s' } }]", "unknown key `adaptive`");
    let all = read("deny = ['x', 'y']\n[rate]\nlimit = 'x'\nby = 'y'\n[breaker]\nopen = 'x'").unwrap_err();
    assert_eq!(all.lines().count(), 5, "{all}");
}
