//! The cost of observing requests: a log line for each, traces, and traces whose collector is not reachable.

use std::time::Duration;

use super::load::{Target, paced, quantile};
use super::servers::{self, Server, free, itself};
use super::{Bench, median, progress};

/// The rate, in requests per second, at which latency is measured.
const RATE: u32 = 1000;

/// A configuration of Lodge, compared with one without logs and traces of requests.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// CPU time of a request, and its ratio to that without logs and traces.
    pub(crate) cpu: Duration,
    pub(crate) cpu_ratio: f64,
    pub(crate) p99: Duration,
    pub(crate) p99_ratio: f64,
}

pub(crate) fn measure(bench: &Bench) -> Vec<Row> {
    let (server_core, load_core) = servers::cores();
    let wasm = std::fs::read(bench.wasm("deaf")).unwrap();
    let directory = bench.directory("seen", &[("hello.wasm", &wasm)]);
    let (collector, nobody) = (free(), free());
    let takes = itself("collector", collector, &[]);
    let _collector = Server::start(takes, &Target::new(collector, "/"), load_core);
    let (collector, nobody) = (format!("http://{collector}"), format!("http://{nobody}"));
    let line = ["--log-requests", "on", "--log-format", "json"];
    let traced = |endpoint: &str, sample: &str| {
        let words = ["--traces-exporter", "otlp", "--traces-endpoint", endpoint, "--traces-sample", sample];
        words.map(str::to_owned).to_vec()
    };
    let ways = [
        ("nobody looks", Vec::new()),
        ("a line for every request", line.map(str::to_owned).to_vec()),
        ("1 % traced", traced(&collector, "0.01")),
        ("all traced", traced(&collector, "1")),
        ("1 % traced, the collector is down", traced(&nobody, "0.01")),
        ("all traced, the collector is down", traced(&nobody, "1")),
    ];
    let servers: Vec<_> = ways
        .iter()
        .map(|(name, arguments)| {
            progress(format_args!("starting Lodge: {name}"));
            let at = free();
            let mut command = servers::lodge(&directory, &bench.cache(), at);
            command.args(arguments);
            Server::start(command, &Target::new(at, "/hello"), server_core).expect("Lodge")
        })
        .collect();
    let rounds: Vec<Vec<(f64, f64)>> = (1..=bench.rounds)
        .map(|round| {
            let sample = |(server, (name, _)): (&Server, &(&str, _))| {
                progress(format_args!("round {round} of {}: {name}", bench.rounds));
                let target = server.at("/hello");
                let (spent, answered) = server.spent(&target, load_core, bench.time).expect("every answer");
                let cpu = spent.as_secs_f64() / answered as f64;
                let took = paced(&target, RATE, bench.time).expect("every answer");
                (cpu, quantile(&took, 0.99).as_secs_f64())
            };
            servers.iter().zip(&ways).map(sample).collect()
        })
        .collect();
    let rows = ways.iter().enumerate().map(|(n, (name, _))| {
        let of = |read: fn(&(f64, f64)) -> f64| {
            let value = median(rounds.iter().map(|round| read(&round[n])));
            (Duration::from_secs_f64(value), median(rounds.iter().map(|round| read(&round[n]) / read(&round[0]))))
        };
        let ((cpu, cpu_ratio), (p99, p99_ratio)) = (of(|it| it.0), of(|it| it.1));
        Row { name, cpu, cpu_ratio, p99, p99_ratio }
    });
    rows.collect()
}
