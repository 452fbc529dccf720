//! The latency of one service while others compute without end.

use std::time::Duration;

use super::load::{Hogs, Target, paced, quantile};
use super::servers::{self, Server, free};
use super::{Bench, median, progress};

/// The rate of the measured service, in requests per second.
const RATE: u32 = 500;
/// The number of connections to the other services.
const HOGS: usize = 64;
/// The number of other services.
const SERVICES: usize = 10;

/// The 99th percentile of the measured service.
#[derive(Debug)]
pub(crate) struct Fairness {
    /// The cores of the server.
    pub(crate) place: &'static str,
    pub(crate) alone: Duration,
    pub(crate) one: Duration,
    pub(crate) ten: Duration,
    /// The ratios of the percentiles, each of two measurements in one round.
    pub(crate) one_ratio: f64,
    pub(crate) ten_ratio: f64,
}

pub(crate) fn measure(bench: &Bench, core: Option<usize>) -> Fairness {
    let spin = std::fs::read(bench.wasm("spin")).unwrap();
    let directory = bench.directory("hogs", &[("hello.wasm", &std::fs::read(bench.wasm("hello")).unwrap())]);
    let names: Vec<_> = (0..SERVICES).map(|n| format!("spin{n}")).collect();
    for name in &names {
        std::fs::write(directory.join(format!("{name}.wasm")), &spin).unwrap();
    }
    let at = free();
    let hello = Target::new(at, "/hello");
    let server = Server::start(servers::lodge(&directory, &bench.cache(), at), &hello, core).expect("Lodge");
    std::thread::sleep(Duration::from_secs(1));
    let p99 = |hogs: &[String]| {
        let targets: Vec<_> = hogs.iter().map(|name| server.at(&format!("/{name}"))).collect();
        let hogs = (!hogs.is_empty()).then(|| Hogs::start(targets, HOGS));
        std::thread::sleep(Duration::from_millis(500));
        let took = paced(&hello, RATE, bench.time).expect("every answer");
        drop(hogs);
        std::thread::sleep(Duration::from_millis(500));
        quantile(&took, 0.99)
    };
    let place = core.map_or("on all cores", |_| "on one core");
    let rounds: Vec<_> = (1..=bench.rounds)
        .map(|round| {
            let all = bench.rounds;
            progress(format_args!("round {round} of {all}, {place}: hello alone, beside one that spins, beside ten"));
            (p99(&[]), p99(&names[..1]), p99(&names))
        })
        .collect();
    let ratio = |other: Duration, alone: Duration| other.as_secs_f64() / alone.as_secs_f64();
    Fairness {
        place,
        alone: median(rounds.iter().map(|round| round.0)),
        one: median(rounds.iter().map(|round| round.1)),
        ten: median(rounds.iter().map(|round| round.2)),
        one_ratio: median(rounds.iter().map(|round| ratio(round.1, round.0))),
        ten_ratio: median(rounds.iter().map(|round| ratio(round.2, round.0))),
    }
}
