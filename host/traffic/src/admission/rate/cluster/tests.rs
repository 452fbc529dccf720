mod edits;
mod model;

use std::time::Duration;

use http::HeaderMap;
use lodge_manifest::rate::{By, Scope, Settings};
use proptest::prelude::*;

use self::model::Model;
use super::super::Rate;
use super::*;
use crate::admission::RequestView;

const SECOND: Duration = Duration::from_secs(1);

/// Exchanges at once while other hosts write.
const ATTEMPTS: usize = 4;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// So many requests of a client.
    Request(usize, usize),
    Begin,
    Deliver,
    Lose,
    Settle,
    Sweep,
    /// The host finds out that the server is away, or is back.
    Away(bool),
    /// The rate of the manifest becomes so many times as high.
    Edit(u32),
}

fn steps(with_outages: bool, with_edits: bool) -> impl Strategy<Value = Vec<(u64, usize, Step)>> {
    // Mostly at once, so that what hosts do not know of each other adds up before it refills.
    let gap = prop_oneof![60 => Just(0), 6 => 0..2_000_000_u64, 1 => 0..200_000_000_u64, 1 => 0..20_000_000_000_u64];
    let (away, edit) = (u32::from(with_outages), u32::from(with_edits));
    let step = prop_oneof![
        30 => (prop_oneof![5 => Just(0), 1 => Just(1_usize)], 1..20_usize).prop_map(|(client, count)| Step::Request(client, count)),
        10 => Just(Step::Begin),
        20 => Just(Step::Deliver),
        1 => Just(Step::Lose),
        20 => Just(Step::Settle),
        1 => Just(Step::Sweep),
        away => any::<bool>().prop_map(Step::Away),
        edit => (1..4_u32).prop_map(Step::Edit),
    ];
    prop::collection::vec((gap, 0..4_usize, step), 1..600)
}

fn run(settings: &Settings, skews: &[u64], steps: &[(u64, usize, Step)]) -> Model {
    let mut model = Model::new(settings, skews);
    for (gap, host, step) in steps {
        model.now += Duration::from_nanos(*gap);
        let host = host % skews.len();
        match step {
            Step::Request(client, count) => (0..*count).for_each(|_| drop(model.request(host, *client))),
            Step::Begin => model.begin(host),
            Step::Deliver => model.deliver(host),
            Step::Lose => model.lose(host),
            Step::Settle => model.settle(host),
            Step::Sweep => drop(model.hosts[host].rates.sweep(model.hosts[host].start + model.now)),
            Step::Away(away) => drop(model.hosts[host].rates.set_away(*away)),
            Step::Edit(times) => model.edit(&Settings { count: settings.count * times, ..settings.clone() }),
        }
    }
    model
}

fn settings(count: u32, per: Duration, burst: u32, by: By) -> Settings {
    Settings { count, per, burst, by, scope: Scope::Cluster }
}

/// What all hosts may have admitted ahead, with their own buckets.
fn ahead(burst: u32, hosts: u32) -> u64 {
    u64::from(2 * hosts * (burst / (4 * hosts)).max(1))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// In no period do all hosts together admit more than a burst, the rate times its length, and what they have ahead; whatever their
    /// clocks show, and whichever messages are late or lost.
    #[test]
    fn hosts_keep_the_bound_together(
        count in 1..500_u32, per_ms in 1_000..100_000_u64, burst in 1..60_u32,
        skews in prop::collection::vec(0..1_000_000_u64, 1..5), steps in steps(false, false),
    ) {
        let settings = settings(count, Duration::from_millis(per_ms), burst, By::Client);
        let model = run(&settings, &skews, &steps);
        let base = u64::from(burst) + ahead(burst, skews.len() as u32);
        prop_assert_eq!(model.exceeds(&settings, base, 1), None);
    }

    /// Hosts that believe that the server is away, rightly or not, have their shares besides.
    #[test]
    fn hosts_without_the_server_have_their_shares(
        count in 1..500_u32, per_ms in 1_000..100_000_u64, burst in 1..60_u32,
        skews in prop::collection::vec(0..1_000_000_u64, 1..5), steps in steps(true, false),
    ) {
        let settings = settings(count, Duration::from_millis(per_ms), burst, By::Client);
        let model = run(&settings, &skews, &steps);
        let hosts = skews.len() as u32;
        let shares = hosts * (burst / hosts).max(1);
        let base = u64::from(burst + shares) + ahead(burst, hosts);
        prop_assert_eq!(model.exceeds(&settings, base, 2), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// However often the rate changes, the bound is that of the highest one.
    #[test]
    fn hosts_keep_the_bound_over_edits(
        count in 1..500_u32, per_ms in 1_000..100_000_u64, burst in 1..60_u32,
        skews in prop::collection::vec(0..1_000_000_u64, 1..5), steps in steps(false, true),
    ) {
        let settings = settings(count, Duration::from_millis(per_ms), burst, By::Client);
        let model = run(&settings, &skews, &steps);
        let base = u64::from(burst) + ahead(burst, skews.len() as u32);
        prop_assert_eq!(model.exceeds(&Settings { count: 3 * count, ..settings }, base, 1), None);
    }
}

/// Sends `per_ms` requests each millisecond to each of the hosts `to`, which exchange once in `exchange` milliseconds, for 20 seconds.
fn load(settings: &Settings, hosts: usize, to: &[usize], (per_ms, exchange): (usize, u64)) -> Model {
    let mut model = Model::new(settings, &[0, 7, 1_000_000][..hosts]);
    for ms in 0..20_000_u64 {
        model.now = Duration::from_millis(ms);
        for host in to {
            (0..per_ms).for_each(|_| drop(model.request(*host, 0)));
        }
        for host in 0..hosts {
            if ms % exchange == host as u64 % exchange {
                model.settle(host);
            }
        }
    }
    model
}

/// A key gets what the rate allows, at whichever hosts its requests arrive: all of it, or 95 % and this host's part if that is one.
#[test]
fn a_key_gets_its_rate() {
    for by in [By::Service, By::Client] {
        let settings = settings(100, SECOND, 50, by);
        for to in [&[0][..], &[2], &[0, 1], &[0, 1, 2]] {
            let model = load(&settings, 3, to, (1, 5));
            let (admitted, rate) = (model.admitted[0].len(), 2_000);
            let least = rate * 95 / 100 + rate / 20 * to.len() / 3;
            let most = rate + 50 + ahead(50, 3) as usize;
            assert!((least..=most).contains(&admitted), "{admitted} at {to:?}, of {least} to {most}");
            assert_eq!(model.exceeds(&settings, 50 + ahead(50, 3), 1), None);
            // Whatever the number of requests, 20,000 at each host, the server has few.
            assert!(model.server.writes < 2_000, "{}", model.server.writes);
        }
    }
}

/// The server does not know a key that uses less at each host than the host's part.
#[test]
fn light_keys_concern_one_host() {
    let settings = settings(100, SECOND, 100, By::Client);
    let mut model = Model::new(&settings, &[0, 0]);
    // One request a second at each host, which has five in two seconds for itself.
    for second in 0..60_u64 {
        model.now = Duration::from_millis(second * 1_000 / 2);
        assert!(model.request((second % 2) as usize, 0).is_ok());
        model.settle(0);
        model.settle(1);
    }
    assert_eq!((model.server.writes, model.hosts[0].rates.keys()), (0, 0));
}

/// The first requests of a key find room at every host, and the server is asked before they have used it up.
#[test]
fn a_lead_is_asked_for_ahead() {
    let settings = settings(10, SECOND, 80, By::Client);
    let mut model = Model::new(&settings, &[0, 0]);
    let lead = 10;
    for n in 0..lead {
        let left = model.request(0, 0).unwrap().remaining();
        assert!((60..=79).contains(&left), "{left} after {n}");
        // With an exchange in between, no request is refused.
        model.settle(0);
    }
    for _ in 0..80 {
        assert!(model.request(0, 0).is_ok());
        model.settle(0);
    }
    let refused = model.request(0, 0).unwrap_err();
    assert_eq!((refused.remaining(), refused.retry_after()), (0, 1));
    // When all is charged, the other host finds out, and has its own part only.
    assert!(model.hosts[0].rates.sweep(model.hosts[0].start));
    model.settle(0);
    let others = (0..40).filter(|_| {
        let taken = model.request(1, 0).is_ok();
        model.settle(1);
        taken
    });
    assert_eq!(others.count(), lead);
    model.now += SECOND;
    assert!(model.request(1, 0).is_ok(), "by what it knows, refilled");
}

/// A key below its rate is not refused, however seldom it comes, at one host or at several in turn.
#[test]
fn a_slow_key_finds_room() {
    for (count, per, burst) in [(6, 60, 4), (60, 3_600, 60), (5, 60, 5), (60, 60, 1), (120, 60, 16)] {
        let settings = settings(count, per * SECOND, burst, By::Client);
        for (hosts, to) in [(1, &[0][..]), (3, &[0][..]), (3, &[1, 2][..]), (3, &[0, 1, 2][..])] {
            let mut model = Model::new(&settings, &[0, 7, 1_000_000][..hosts]);
            let (pause, mut swept) = (per * SECOND * 11 / 10 / count, Duration::ZERO);
            for (n, host) in (0..3_600 * SECOND.as_nanos() / pause.as_nanos()).zip(to.iter().cycle()) {
                model.now = pause * n as u32;
                // As hosts do each second.
                while swept + SECOND <= model.now {
                    swept += SECOND;
                    for host in 0..hosts {
                        model.hosts[host].rates.sweep(model.hosts[host].start + swept);
                        (0..ATTEMPTS).for_each(|_| model.settle(host));
                    }
                }
                assert!(model.request(*host, 0).is_ok(), "{n} of {count} in {per} s, {burst}, at {to:?} of {hosts}");
                (0..ATTEMPTS).for_each(|_| model.settle(*host));
            }
        }
    }
}

/// What is admitted while an exchange is on its way is charged by the next one.
#[test]
fn requests_during_an_exchange_are_charged() {
    let mut model = Model::new(&settings(1, SECOND, 80, By::Client), &[0]);
    // Those of the host's own bucket are not charged.
    (0..20).for_each(|_| drop(model.request(0, 0).unwrap()));
    model.settle(0);
    (0..12).for_each(|_| drop(model.request(0, 0).unwrap()));
    model.begin(0);
    (0..5).for_each(|_| drop(model.request(0, 0).unwrap()));
    model.deliver(0);
    model.deliver(0);
    assert_eq!(model.server.charged(), 12);
    model.hosts[0].rates.sweep(model.hosts[0].start);
    model.settle(0);
    assert_eq!(model.server.charged(), 17);
}

/// Without the server, the hosts have the rate and the burst together, each its share.
#[test]
fn a_host_without_the_server_has_its_share() {
    let settings = settings(30, SECOND, 30, By::Client);
    let mut model = Model::new(&settings, &[0, 0, 0]);
    for host in 0..3 {
        assert!(model.hosts[host].rates.set_away(true) && !model.hosts[host].rates.set_away(true));
        assert_eq!((0..50).filter(|_| model.request(host, 0).is_ok()).count(), 10);
        let refused = model.request(host, 0).unwrap_err();
        assert_eq!((refused.remaining(), refused.retry_after()), (0, 1));
    }
    model.now += SECOND + SECOND / 1_000;
    assert_eq!((0..50).filter(|_| model.request(0, 0).is_ok()).count(), 10);
    assert_eq!(model.hosts[0].rate.shared().unwrap(), "the server is away: this host has its share, 1 of 3");
    model.hosts[0].rates.set_away(false);
    assert_eq!(model.hosts[0].rate.shared().unwrap(), "shared by 3 hosts");
    assert!(model.request(0, 0).is_ok(), "its part of the cluster's bucket");
}

/// Memory for keys is bounded. When it is used up by what is not charged, other keys have the part that is this host's own.
#[test]
fn keys_are_bounded() {
    let (rates, start) = (Arc::<ClusterRates>::default(), Instant::now());
    rates.join();
    let settings = settings(1, SECOND, 4, By::Client);
    let rate = Rate::new(&settings, "", start).in_cluster(&rates, "users", "");
    let request = |client: u32| {
        let headers = HeaderMap::new();
        let client = std::net::Ipv4Addr::from(client).into();
        rate.take(&RequestView::new(client, &headers), start).is_ok()
    };
    let settle = || {
        for exchange in rates.due(usize::MAX) {
            exchange.found(None, start);
        }
    };
    for client in 0..4_200 {
        assert!(request(client), "the first one");
    }
    assert_eq!(rates.keys(), 4_096);
    settle();
    // Those that are known get more, and are not forgotten before that is charged.
    let known: Vec<_> = (0..4_200).filter(|client| request(*client)).collect();
    // The table of the host may have forgotten one or two.
    assert!((4_096..4_100).contains(&known.len()) && rates.keys() == 4_096, "{}", known.len());
    assert!(request(20_000) && rates.keys() == 4_096 && !request(20_000));
    // What could not be charged is not forgotten for a new key.
    drop(rates.due(usize::MAX));
    assert!(request(30_000) && rates.keys() == 4_096);
    assert!(rates.sweep(start));
    let charges: Vec<_> = rates.due(usize::MAX);
    assert_eq!(charges.len(), 4_096);
    for (version, mut exchange) in charges.into_iter().enumerate() {
        assert!(exchange.charge(start).is_some());
        exchange.wrote(version as u64, start);
    }
    // What is charged makes room, and is forgotten when it is not used.
    assert!(!request(20_000));
    settle();
    assert!(request(20_000));
    drop(rates.due(usize::MAX));
    rates.sweep(start + 2 * SECOND);
    assert_eq!(rates.due(usize::MAX).into_iter().filter_map(|mut exchange| exchange.charge(start)).count(), 1);
    rates.sweep(start + 20 * SECOND);
    assert_eq!(rates.keys(), 1, "the one that is not charged");
    drop(rate);
    rates.sweep(start);
    assert!(!rates.is_used() && rates.keys() == 0);
}

/// After a failure that concerns others, an exchange finds out whether it was made.
#[test]
fn what_was_written_is_charged_once() {
    let mut model = Model::new(&settings(1, SECOND, 80, By::Client), &[0]);
    (0..23).for_each(|_| drop(model.request(0, 0).unwrap()));
    let (rates, now) = (Arc::clone(&model.hosts[0].rates), model.hosts[0].start);
    let next = || {
        rates.sweep(now);
        let mut exchange = rates.due(1).pop()?;
        let charge = exchange.charge(now)?;
        Some((exchange, charge))
    };
    let (exchange, _) = next().unwrap();
    exchange.found_after_failure(None, now);
    let (exchange, charge) = next().unwrap();
    assert!(charge.version.is_none() && charge.value.ends_with(" 3 3"), "the server had none: {charge:?}");
    exchange.found_after_failure(Some((1, b"7 3 3")), now);
    let (exchange, charge) = next().unwrap();
    assert!(charge.version == Some(1) && charge.value.ends_with("7 6 6"), "that of another host: {charge:?}");
    exchange.found_after_failure(Some((1, b"7 3 3")), now);
    let (exchange, charge) = next().unwrap();
    assert_eq!((charge.version, charge.value.as_str()), (Some(1), "7 6 6"), "as it was before");
    exchange.found_after_failure(Some((2, b"7 6 6")), now);
    assert!(next().is_none(), "it was made");
    let mut model = Model::new(&settings(1, SECOND, 80, By::Client), &[0]);
    (0..23).for_each(|_| drop(model.request(0, 0).unwrap()));
    let (rates, now) = (&model.hosts[0].rates, model.hosts[0].start);
    let mut exchange = rates.due(1).pop().unwrap();
    let charge = exchange.charge(now).unwrap();
    let epoch = charge.value.split(' ').next().unwrap();
    exchange.found_after_failure(Some((2, format!("{epoch} 5 5").as_bytes())), now);
    rates.sweep(now);
    assert!(rates.due(1).is_empty(), "it was made, and another host has gone on");
}
