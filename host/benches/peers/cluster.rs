//! Three hosts of a cluster under load while one is killed, all are restarted one after the other, and the server of their state is
//! suspended and lost.

mod front;
mod hosts;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use self::front::{Front, Sent};
use self::hosts::{ClusterHost, StateServer};
use super::load::quantile;
use super::{Bench, progress};

/// Of the idempotent requests while a host is killed, one in so many may fail, and none later than this.
const KILL_LOSES: usize = 1_000;
const KILL_LASTS: Duration = Duration::from_secs(2);

/// How long each thing is looked at.
const LOOK: Duration = Duration::from_secs(10);
const REST: Duration = Duration::from_secs(5);

/// Something that happened, and the requests meanwhile.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) seconds: f64,
    /// Requests that are idempotent, and others.
    pub(crate) requests: [usize; 2],
    /// Those of them that have failed.
    pub(crate) failed: [usize; 2],
    /// How many have failed for which reason.
    pub(crate) reasons: BTreeMap<String, usize>,
    /// Requests that the load balancer has sent more than once.
    pub(crate) repeated: usize,
    /// From the event to the last failure.
    pub(crate) last_failure: Option<Duration>,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) longest: Duration,
    /// Whether this is what is promised.
    pub(crate) holds: bool,
}

/// A time in which something happened.
struct Phase {
    name: &'static str,
    begin: Instant,
    end: Instant,
}

/// Runs all of it at so many requests a second. `None` if this machine or this build cannot.
pub(crate) fn measure(bench: &Bench, rate: u32) -> Option<Vec<Row>> {
    if !cfg!(feature = "redis") {
        progress("left out: this build has no Redis; add `--features redis` before `--bench`");
        return None;
    }
    let Some(mut server) = StateServer::start(bench) else {
        progress("left out: redis-server is not installed");
        return None;
    };
    progress("starting three hosts");
    let mut hosts: Vec<_> = (0..3).map(|number| ClusterHost::start(bench, number, &server)).collect();
    hosts.iter_mut().for_each(ClusterHost::until_ready);
    let all_join = |hosts: &[ClusterHost]| hosts.iter().for_each(|host| host.until_joined(hosts.len()));
    all_join(&hosts);
    let places: Vec<_> = hosts.iter().map(|host| host.place).collect();
    let (front, mut phases) = (Front::start(&places, rate), Vec::new());
    std::thread::sleep(REST);
    let mut phase = |name, happen: &mut dyn FnMut()| {
        progress(name);
        let begin = Instant::now();
        happen();
        phases.push(Phase { name, begin, end: Instant::now() });
    };
    phase("nothing happens", &mut || std::thread::sleep(LOOK));
    phase("one host is killed", &mut || {
        hosts[1].kill();
        std::thread::sleep(LOOK);
    });
    phase("it comes back", &mut || {
        hosts[1].begin();
        hosts[1].until_ready();
        all_join(&hosts);
        std::thread::sleep(REST);
    });
    phase("all are restarted in turn", &mut || {
        for host in &mut hosts {
            host.stop();
            host.begin();
            host.until_ready();
        }
        std::thread::sleep(REST);
    });
    phase("the server is suspended", &mut || {
        server.suspend(true);
        std::thread::sleep(LOOK);
        server.suspend(false);
        std::thread::sleep(LOOK);
    });
    phase("the server is killed, and comes back empty", &mut || {
        server.kill();
        std::thread::sleep(REST);
        server.begin();
        std::thread::sleep(LOOK);
    });
    all_join(&hosts);
    let sent = front.finish();
    let rows: Vec<_> = phases.iter().map(|phase| row(phase, &sent)).collect();
    if rows.iter().any(|row| !row.holds) {
        hosts.iter().for_each(show);
    }
    Some(rows)
}

fn row(phase: &Phase, sent: &[Sent]) -> Row {
    // What is on its way when something happens is a part of that.
    let its: Vec<_> = sent.iter().filter(|sent| (phase.begin..phase.end).contains(&sent.done)).collect();
    let count = |is_counted: &dyn Fn(&Sent) -> bool| {
        [true, false].map(|safe| its.iter().filter(|sent| sent.is_idempotent == safe && is_counted(sent)).count())
    };
    let (requests, failed) = (count(&|_| true), count(&|sent| sent.failure.is_some()));
    let mut took: Vec<_> = its.iter().map(|sent| sent.done - sent.due).collect();
    took.sort();
    let last = |safe_only: bool| {
        let lost = its.iter().filter(|sent| sent.failure.is_some() && (sent.is_idempotent || !safe_only));
        lost.map(|sent| sent.done - phase.begin).max()
    };
    let mut reasons = BTreeMap::new();
    its.iter().filter_map(|sent| sent.failure.clone()).for_each(|why| *reasons.entry(why).or_default() += 1);
    let holds = match phase.name {
        "one host is killed" => failed[0] * KILL_LOSES <= requests[0] && last(true).is_none_or(|at| at <= KILL_LASTS),
        _ => failed == [0, 0],
    };
    Row {
        name: phase.name,
        seconds: (phase.end - phase.begin).as_secs_f64(),
        requests,
        failed,
        reasons,
        repeated: its.iter().filter(|sent| sent.tries > 1).count(),
        last_failure: last(false),
        p50: quantile(&took, 0.5),
        p99: quantile(&took, 0.99),
        longest: took.last().copied().unwrap_or_default(),
        holds,
    }
}

/// Prints what a host has logged, for whoever looks for the cause.
fn show(host: &ClusterHost) {
    let log = std::fs::read_to_string(&host.log).unwrap_or_default();
    eprintln!("{}:\n{log}", host.log.display());
}
