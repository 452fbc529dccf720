use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use http::{HeaderValue, header};
use proptest::prelude::*;

use lodge_manifest::share::Rule;

use super::*;

/// A version with only a name, and whether it is in rotation.
struct Fake(&'static str, bool);

impl InRotation for Fake {
    fn is_in_rotation(&self) -> bool {
        self.1
    }
}

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn part(name: &'static str, percent: u32) -> (TrafficShare, Arc<Fake>) {
    (TrafficShare { percent: Percent(percent), ..TrafficShare::default() }, Arc::new(Fake(name, true)))
}

fn counted(split: &Split<Fake>, requests: usize) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..requests {
        let name =
            split.choose(&HeaderMap::new(), CLIENT, Instant::now()).version.map_or("service", |version| version.0);
        *counts.entry(name).or_default() += 1;
    }
    counts
}

proptest! {
    #[test]
    fn every_version_gets_its_exact_share(one in 0..=10_000_u32, other in 0..=10_000_u32, before in 0..20_000_usize) {
        prop_assume!(one + other <= 10_000);
        let split = Split::new([part("a", one), part("b", other)], None).unwrap();
        counted(&split, before);
        let counts = counted(&split, 10_000);
        let of = |name: &str| u32::try_from(counts.get(name).copied().unwrap_or(0)).unwrap();
        prop_assert_eq!((of("a"), of("b"), of("service")), (one, other, 10_000 - one - other));
    }

    /// Shares are spread evenly: of any hundred requests in a row, a version gets about its percentage.
    #[test]
    fn shares_are_spread_evenly(percent in 1..=99_u32, before in 0..20_000_usize) {
        let split = Split::new([part("a", percent * 100)], None).unwrap();
        counted(&split, before);
        let got = counted(&split, 100).get("a").copied().unwrap_or(0);
        prop_assert!(got.abs_diff(percent as usize) <= 4, "{got} of 100 instead of {percent}");
    }

    #[test]
    fn a_client_keeps_its_version(user in "[a-z0-9]{1,12}", percent in 0..=10_000_u32, more in 0..=10_000_u32) {
        let sticky = Some(RequestKey::Cookie("session".into()));
        let headers: HeaderMap =
            [(header::COOKIE, HeaderValue::try_from(format!("theme=dark; session={user}")).unwrap())].into_iter().collect();
        let chosen = |percent| {
            let split = Split::new([part("a", percent)], sticky.clone()).unwrap();
            let first = split.choose(&headers, CLIENT, Instant::now()).version.is_some();
            for _ in 0..20 {
                assert_eq!(split.choose(&headers, CLIENT, Instant::now()).version.is_some(), first);
            }
            first
        };
        // A client that has the new version keeps it while the version's share grows.
        prop_assert!(!chosen(percent) || chosen(percent.max(more)));
    }
}

#[test]
fn sticky_clients_follow_the_shares() {
    let split = Split::new([part("a", 2_500)], Some(RequestKey::Header("x-user".parse().unwrap()))).unwrap();
    let with = |n: usize| {
        let value = HeaderValue::try_from(format!("user-{n}")).unwrap();
        split
            .choose(&[("x-user".parse().unwrap(), value)].into_iter().collect(), CLIENT, Instant::now())
            .version
            .is_some()
    };
    let got = (0..10_000).filter(|n| with(*n)).count();
    assert!((2_300..2_700).contains(&got), "{got} of 10,000 instead of 2,500");
}

#[test]
fn rules_precede_shares() {
    let rules = vec![
        Rule { place: RequestKey::Header("x-version".parse().unwrap()), value: "2".into() },
        Rule { place: RequestKey::Cookie("version".into()), value: "2".into() },
    ];
    let version = |is_in_rotation| {
        (TrafficShare { rules: rules.clone(), ..TrafficShare::default() }, Arc::new(Fake("2", is_in_rotation)))
    };
    let split = Split::new([version(true)], None).unwrap();
    let chosen = |split: &Split<Fake>, name: &'static str, value: &'static str| {
        let headers: HeaderMap = [(name.parse().unwrap(), HeaderValue::from_static(value))].into_iter().collect();
        split.choose(&headers, CLIENT, Instant::now()).version.is_some()
    };
    assert!(chosen(&split, "x-version", "2"));
    assert!(chosen(&split, "cookie", "a=b;version=2; c=d"));
    assert!(!chosen(&split, "x-version", "20"));
    assert!(!chosen(&split, "cookie", "xversion=2; version=20; version"));
    assert!(!chosen(&split, "accept", "*/*"));
    // A version that is out of rotation gets no requests, not even by rule.
    let split = Split::new([version(false)], None).unwrap();
    assert!(!chosen(&split, "x-version", "2"));
}

#[test]
fn the_service_gets_the_share_of_an_unavailable_version() {
    let out =
        |percent| (TrafficShare { percent: Percent(percent), ..TrafficShare::default() }, Arc::new(Fake("out", false)));
    let split = Split::new([out(5_000), part("in", 2_000)], None).unwrap();
    assert_eq!(counted(&split, 10_000), BTreeMap::from([("in", 2_000), ("service", 8_000)]));
}

#[test]
fn a_mirror_gets_its_share() {
    let share = TrafficShare { mirror: Percent(500), ..TrafficShare::default() };
    let split = Split::new([(share, Arc::new(Fake("shadow", true)))], None).unwrap();
    assert_eq!((0..10_000).filter(|_| split.mirror().is_some()).count(), 500);
    assert!(split.named(|_| true).is_none(), "its responses are for nobody");
    assert!(Split::new([part("a", 0)], None).unwrap().named(|_| true).is_some());
    assert_eq!(counted(&split, 1_000), BTreeMap::from([("service", 1_000)]));
    assert!(Split::new([part("a", 1)], None).unwrap().mirror().is_none());
}

#[test]
fn every_mirror_gets_its_share() {
    let shadow = |name, percent| {
        (TrafficShare { mirror: Percent(percent), ..TrafficShare::default() }, Arc::new(Fake(name, true)))
    };
    let split = Split::new([shadow("a", 500), shadow("b", 500), shadow("c", 2_000)], None).unwrap();
    let mut counts = BTreeMap::new();
    (0..10_000).filter_map(|_| split.mirror()).for_each(|mirrored| *counts.entry(mirrored.0).or_default() += 1);
    assert_eq!(counts, BTreeMap::from([("a", 500), ("b", 500), ("c", 2_000)]));
}

/// Drawn requests count for a version; requests by rule count only where the version gets no others.
#[test]
fn judged_requests() {
    use lodge_manifest::share::Rollback;
    let rule = || Rule { place: RequestKey::Header("x-version".parse().unwrap()), value: "2".into() };
    let version = |percent, rollback: Option<Rollback>| {
        let share =
            TrafficShare { percent: Percent(percent), rules: vec![rule()], rollback, ..TrafficShare::default() };
        (share, Arc::new(Fake("a", true)))
    };
    let chosen: HeaderMap = [("x-version".parse().unwrap(), HeaderValue::from_static("2"))].into_iter().collect();
    for (percent, rollback, aimed, drawn) in [
        (5_000, Some(Rollback::default()), false, true),
        (0, Some(Rollback::default()), true, true),
        (5_000, None, false, false),
        (0, None, false, false),
    ] {
        let split = Split::new([version(percent, rollback)], None).unwrap();
        let by_rule = split.choose(&chosen, CLIENT, Instant::now());
        assert!(by_rule.version.is_some());
        assert_eq!(
            (by_rule.judged, split.choose(&HeaderMap::new(), CLIENT, Instant::now()).judged),
            (aimed, drawn),
            "{percent}"
        );
    }
}

/// A client chooses its version through the `sticky` value, so each value counts once in a window, for each version.
#[test]
fn a_sticky_value_counts_once_in_a_window() {
    use lodge_manifest::share::Rollback;
    let share =
        TrafficShare { percent: Percent(5_000), rollback: Some(Rollback::default()), ..TrafficShare::default() };
    let split = |sticky: &str| {
        let version = (share.clone(), Arc::new(Fake("a", true)));
        Split::new([version], Some(RequestKey::read(sticky).unwrap())).unwrap()
    };
    let (start, second) = (Instant::now(), std::time::Duration::from_secs(1));
    for (sticky, header) in [("header:x-user", "x-user"), ("cookie:x-user", "cookie")] {
        let split = split(sticky);
        let judged = |user: &str, after: u32| {
            let value = if header == "cookie" { format!("x-user={user}") } else { user.to_owned() };
            let headers = [(header.parse().unwrap(), HeaderValue::try_from(value).unwrap())].into_iter().collect();
            split.choose(&headers, CLIENT, start + second * after).judged
        };
        for user in ["ann", "bob", "cyd"] {
            assert_eq!((0..1_000).filter(|_| judged(user, 1)).count(), 1, "{user}");
            assert!(!judged(user, WINDOW) && judged(user, WINDOW + 1) && !judged(user, WINDOW + 2), "{user}");
        }
        // Nearly every one of many clients counts, and memory is bounded for any number of them.
        assert!((950..=1_000).contains(&(0..1_000).filter(|n| judged(&format!("user-{n}"), 200)).count()));
        let all = (0..200_000).filter(|n| judged(&format!("other-{n}"), 400)).count();
        assert!((30_000..=2 * SLOTS).contains(&all), "{all}");
        // Requests without the value are drawn.
        assert!((0..100).all(|_| split.choose(&HeaderMap::new(), CLIENT, start).judged));
    }
    let split = split("client");
    let judged = |client: &str| split.choose(&HeaderMap::new(), client.parse().unwrap(), start).judged;
    assert!(judged("192.0.2.1") && judged("192.0.2.1"), "a client cannot choose its IPv4 address");
    let mut judged_of_network = (0..1_000).filter(|n| judged(&format!("2001:db8::{n:x}")));
    assert!(judged_of_network.by_ref().count() <= 2, "at most one for each version");
}
