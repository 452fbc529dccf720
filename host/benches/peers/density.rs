//! The cost of many services in one process.

use std::time::{Duration, Instant};

use super::load::Target;
use super::servers::{self, Server, free};
use super::{Bench, median, progress};

/// The measurements of a thousand services.
#[derive(Debug)]
pub(crate) struct Density {
    pub(crate) services: usize,
    /// The time from the start to the first 200 of one service, with machine code from the cache.
    pub(crate) first_answer: Duration,
    /// The time from the start to the first 200 of the last service, with machine code from the cache.
    pub(crate) all_answer: Duration,
    /// The same without a cache.
    pub(crate) cold: Duration,
    /// CPU time of a request among all services, as a ratio to that of the same service alone.
    pub(crate) cost: f64,
    /// The bytes of one more idle service.
    pub(crate) idle: u64,
    /// The same after it was unloaded.
    pub(crate) unloaded: u64,
    /// The latency of the first request to an unloaded service.
    pub(crate) reload: Duration,
}

/// A component that differs from the others, so that no machine code is shared.
pub(crate) fn variant(version: &[u8], n: usize) -> Vec<u8> {
    let (from, to) = (b"version-00000000", format!("version-{n:08}"));
    let at = version.windows(from.len()).position(|window| window == from).expect("its version");
    let mut bytes = version.to_vec();
    bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
    bytes
}

pub(crate) fn measure(bench: &Bench, services: usize) -> Density {
    let (server_core, load_core) = servers::cores();
    let version = std::fs::read(bench.wasm("version")).unwrap();
    let one = bench.directory("one", &[("s0.wasm", &variant(&version, 0))]);
    let many = bench.directory("many", &[]);
    for n in 0..services {
        std::fs::write(many.join(format!("s{n}.wasm")), variant(&version, n)).unwrap();
    }
    let start = |directory: &std::path::Path, path: &str| {
        let at = free();
        let began = Instant::now();
        let target = Target::new(at, path);
        let command = servers::lodge(directory, &bench.cache(), at);
        (Server::start(command, &target, None).expect("Lodge"), began.elapsed())
    };
    // Services are loaded in the order of their names, so the last one is among the last to respond.
    let last = format!("/s{}", services - 1);
    progress(format_args!("compiling {services} services"));
    let (_, cold) = start(&many, &last);
    drop(start(&many, &last));
    drop(start(&one, "/s0"));
    let first_answer = median((0..10).map(|_| start(&one, "/s0").1));
    let all_answer = median((0..bench.rounds).map(|_| start(&many, &last).1));
    let (alone, _) = start(&one, "/s0");
    let (among, _) = start(&many, &last);
    std::thread::sleep(Duration::from_secs(3));
    let idle = among.rss().saturating_sub(alone.rss()) / (services as u64 - 1).max(1);
    for server in [&alone, &among] {
        if let Some(core) = server_core {
            server.bind(core);
        }
    }
    let cost = |server: &Server| {
        let (spent, answered) = server.spent(&server.at("/s0"), load_core, bench.time).expect("answers");
        spent.as_secs_f64() / answered as f64
    };
    let rounds = (1..=bench.rounds).map(|round| {
        progress(format_args!("round {round} of {}: a service alone, and among {services}", bench.rounds));
        let alone = cost(&alone);
        cost(&among) / alone
    });
    let cost = median(rounds);
    drop(among);
    progress("waiting until all are unloaded");
    let at = free();
    let mut command = servers::lodge(&many, &bench.cache(), at);
    command.args(["--engine-idle-unload", "2s"]);
    let among = Server::start(command, &Target::new(at, last), None).expect("Lodge");
    std::thread::sleep(Duration::from_secs(6));
    let unloaded = among.rss().saturating_sub(alone.rss()) / (services as u64 - 1).max(1);
    let reload = median((0..services.min(100)).map(|n| {
        let began = Instant::now();
        assert_eq!(among.at(&format!("/s{n}")).once().ok(), Some(200));
        began.elapsed()
    }));
    Density { services, first_answer, all_answer, cold, cost, idle, unloaded, reload }
}
