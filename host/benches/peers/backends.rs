//! The cost of keys and messages where they are kept: in the file of the host, and on servers that hosts share.

mod places;
mod sink;

use std::time::{Duration, Instant};

use self::places::{KeptAt, StateServer};
use self::sink::Sink;
use super::load::{Target, closed, paced, quantile};
use super::servers::{self, Server, free};
use super::{Bench, median, progress};

/// The operations on keys: name and path. `{n}` is the number of the connection.
const KEYS: [(&str, &str); 4] = [
    ("get", "/keyvalue/draft2/get/default/a"),
    ("set", "/keyvalue/draft2/set/default/a{n}?1"),
    ("increment one counter", "/keyvalue/draft2/increment/default/n?1"),
    ("increment different counters", "/keyvalue/draft2/increment/default/n{n}?1"),
];

/// What latencies are measured with: requests a second, and messages one after the other.
const RATE: u32 = 100;
const ONE_BY_ONE: u32 = 200;

/// The longest time that published messages may wait for their consumer.
const DRAINED: Duration = Duration::from_secs(120);

/// An operation at a place.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) place: &'static str,
    pub(crate) name: &'static str,
    /// CPU time of the host, without that of the server.
    pub(crate) cpu: Duration,
    /// Operations per second at full rate, on all cores.
    pub(crate) throughput: f64,
    /// Of requests at a low rate; of messages from the request that publishes to the consumer.
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

/// A measurement: CPU seconds of an operation, operations per second, and both latencies in seconds.
type Sample = [f64; 4];

pub(crate) fn measure(bench: &Bench) -> Vec<Row> {
    let mut rows = Vec::new();
    for kept in KeptAt::ALL {
        let server = match StateServer::start(bench, kept) {
            Ok(server) => server,
            Err(why) => {
                progress(format_args!("{} is left out: {why}", kept.name()));
                continue;
            }
        };
        let host = start(bench, kept, &server, None);
        for (name, path) in KEYS {
            let sample = || keys(bench, &host, path);
            rows.push(row(bench, kept.name(), name, sample));
        }
        drop(host);
        let sink = Sink::start();
        let host = start(bench, kept, &server, Some(&sink));
        let sample = || messages(bench, &host, &sink);
        rows.push(row(bench, kept.name(), "publish a message, and consume it", sample));
    }
    rows
}

/// Takes a sample in each round, and makes a row of their medians.
fn row(bench: &Bench, place: &'static str, name: &'static str, sample: impl Fn() -> Sample) -> Row {
    let samples: Vec<Sample> = (1..=bench.rounds)
        .map(|round| {
            progress(format_args!("round {round} of {}: {place}: {name}", bench.rounds));
            sample()
        })
        .collect();
    let middle = |part: usize| median(samples.iter().map(|sample| sample[part]));
    let time = |part| Duration::from_secs_f64(middle(part));
    Row { place, name, cpu: time(0), throughput: middle(1), p50: time(2), p99: time(3) }
}

fn keys(bench: &Bench, host: &Server, path: &str) -> Sample {
    let target = host.at(path);
    let begin = Instant::now();
    let (spent, responses) = host.spent(&target, None, bench.time).expect("every response");
    // A fifth of it was the warm-up.
    let throughput = responses as f64 / (begin.elapsed().as_secs_f64() * 0.8);
    let took = paced(&host.at(&path.replace("{n}", "0")), RATE, bench.time).expect("every response");
    [
        spent.as_secs_f64() / responses as f64,
        throughput,
        quantile(&took, 0.5).as_secs_f64(),
        quantile(&took, 0.99).as_secs_f64(),
    ]
}

fn messages(bench: &Bench, host: &Server, sink: &Sink) -> Sample {
    let target = host.at("/publisher/publish/work.done?0123456789");
    let (before, cpu, begin) = (sink.received(), host.cpu(), Instant::now());
    let published = closed(&target, None, bench.time).expect("every response");
    sink.wait(before + published, DRAINED);
    let throughput = published as f64 / begin.elapsed().as_secs_f64();
    let spent = (host.cpu() - cpu).as_secs_f64() / published as f64;
    let mut took: Vec<_> = (0..ONE_BY_ONE)
        .map(|_| {
            let (before, begin) = (sink.received(), Instant::now());
            assert_eq!(target.once().ok(), Some(200), "{target:?}");
            sink.wait(before + 1, DRAINED).saturating_duration_since(begin)
        })
        .collect();
    took.sort();
    [spent, throughput, quantile(&took, 0.5).as_secs_f64(), quantile(&took, 0.99).as_secs_f64()]
}

/// Starts a host with this state, and with a consumer if there is a `sink`.
fn start(bench: &Bench, kept: KeptAt, server: &StateServer, sink: Option<&Sink>) -> Server {
    progress(format_args!("starting Lodge with its state in {}", kept.name()));
    let read = |name: &str| std::fs::read(bench.wasm(name)).expect("a built guest");
    let (keyvalue, publisher) = (read("keyvalue"), read("publisher"));
    let worker = sink.map_or(String::new(), |sink| {
        format!("[consume]\nsubject = 'work.*'\nconcurrency = 64\n[upstream]\nreplicas = ['http://{}']\n", sink.address)
    });
    let mut files = vec![("keyvalue.wasm", &*keyvalue), ("keyvalue.toml", b"keyvalue = true")];
    if sink.is_some() {
        files.extend([
            ("publisher.wasm", &*publisher),
            ("publisher.toml", b"publish = '>'"),
            ("worker.toml", worker.as_bytes()),
        ]);
    }
    let directory = bench.directory(&format!("backends-{}-{}", kept.name().replace(' ', "-"), sink.is_some()), &files);
    let at = free();
    let mut command = servers::lodge(&directory, &bench.cache(), at);
    if let Some(url) = server.url() {
        command.args(["--state-url", url]);
    }
    let host = Server::start(command, &Target::new(at, "/keyvalue/none/-/-/-"), None).expect("Lodge");
    // Until the service has its store, and the publisher its consumer.
    let ready = if sink.is_some() { "/publisher/publish/work.first?x" } else { "/keyvalue/draft2/set/default/a?1" };
    while !matches!(host.at(ready).once(), Ok(200)) {
        std::thread::sleep(Duration::from_millis(10));
    }
    if let Some(sink) = sink {
        sink.wait(1, DRAINED);
    }
    host
}
