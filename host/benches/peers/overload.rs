//! Ten times as many requests as a rate limit admits: the number of admitted requests, and their latency compared to
//! that without overload.

use std::time::Duration;

use super::load::{self, Target, quantile};
use super::servers::{self, Server, free};
use super::{Bench, median, progress};

/// The rate limit, in requests per second.
const LIMIT: u32 = 1_000;
/// The burst of the rate limit.
const BURST: u32 = 100;
/// Requests per second without and with overload.
const CALM: u32 = LIMIT / 2;
const STORM: u32 = LIMIT * 10;

#[derive(Debug)]
pub(crate) struct Overload {
    /// The rate of admitted requests, as a ratio of the limit.
    pub(crate) admitted: f64,
    /// The 99th percentile of their latency, and its ratio to that without overload.
    pub(crate) p99: Duration,
    pub(crate) p99_ratio: f64,
}

pub(crate) fn measure(bench: &Bench) -> Overload {
    let wasm = std::fs::read(bench.wasm("deaf")).unwrap();
    let manifest = format!("[rate]\nlimit = '{LIMIT}/s'\nburst = {BURST}\nby = 'service'\n");
    let directory = bench.directory("limited", &[("hello.wasm", &wasm), ("hello.toml", manifest.as_bytes())]);
    let at = free();
    let target = Target::new(at, "/hello");
    let _server = Server::start(servers::lodge(&directory, &bench.cache(), at), &target, None).expect("Lodge");
    let rounds: Vec<_> = (1..=bench.rounds)
        .map(|round| {
            progress(format_args!("round {round} of {}: ten times the limit", bench.rounds));
            let calm = good(&target, CALM, bench.time);
            // Wait until the burst is available again.
            std::thread::sleep(Duration::from_secs(1));
            let storm = good(&target, STORM, bench.time);
            std::thread::sleep(Duration::from_secs(1));
            let admitted = (storm.len() as f64 - f64::from(BURST)) / bench.time.as_secs_f64();
            (admitted / f64::from(LIMIT), quantile(&storm, 0.99), quantile(&calm, 0.99))
        })
        .collect();
    Overload {
        admitted: median(rounds.iter().map(|round| round.0)),
        p99: median(rounds.iter().map(|round| round.1)),
        p99_ratio: median(rounds.iter().map(|round| round.1.as_secs_f64() / round.2.as_secs_f64())),
    }
}

/// Returns the latencies of the admitted requests in ascending order. Every other request must have been refused by the
/// limit.
fn good(target: &Target, rate: u32, time: Duration) -> Vec<Duration> {
    let answers = load::answers(target, rate, time).expect("every answer");
    assert!(answers.iter().all(|(_, status)| [200, 429].contains(status)), "another status");
    answers.into_iter().filter(|(_, status)| *status == 200).map(|(took, _)| took).collect()
}
