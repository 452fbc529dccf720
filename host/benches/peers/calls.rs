//! The cost of a call between services: between guests of one host, between guests over loopback, and between two Go
//! services.

use std::time::Duration;

use super::load::{Target, closed, paced, quantile};
use super::servers::{self, Server, free, on_path};
use super::{Bench, median, progress};

/// Sequential calls of one request. The cost of a call is the difference to a request without calls, divided by this
/// number.
const CALLS: u32 = 20;

/// The rate, in requests per second, at which latency is measured.
const RATE: u32 = 200;

/// A kind of calls between services.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// CPU time of a call, of caller and callee together, and its ratio to that over loopback.
    pub(crate) cpu: Duration,
    pub(crate) ratio: Option<f64>,
    /// The median latency of a call.
    pub(crate) p50: Duration,
}

/// Caller and callee: one process of Lodge, or two of Go.
struct Pair {
    name: &'static str,
    servers: Vec<Server>,
    none: Target,
    many: Target,
    /// The row that this one is compared with.
    beside: Option<usize>,
}

pub(crate) fn measure(bench: &Bench) -> Vec<Row> {
    let (server_core, load_core) = servers::cores();
    let pairs = start(bench, server_core);
    let rounds: Vec<Vec<_>> = (1..=bench.rounds)
        .map(|round| {
            let sample = |pair: &Pair| {
                progress(format_args!("round {round} of {}: {}", bench.rounds, pair.name));
                let [none, many] = [&pair.none, &pair.many].map(|target| {
                    let took = paced(target, RATE, bench.time).expect("every answer");
                    (pair.spent(target, load_core, bench.time), quantile(&took, 0.5).as_secs_f64())
                });
                ((many.0 - none.0) / f64::from(CALLS), (many.1 - none.1) / f64::from(CALLS))
            };
            pairs.iter().map(sample).collect()
        })
        .collect();
    let row = |(n, pair): (usize, &Pair)| Row {
        name: pair.name,
        cpu: Duration::from_secs_f64(median(rounds.iter().map(|round| round[n].0))),
        ratio: pair.beside.map(|other| median(rounds.iter().map(|round| round[n].0 / round[other].0))),
        p50: Duration::from_secs_f64(median(rounds.iter().map(|round| round[n].1))),
    };
    pairs.iter().enumerate().map(row).collect()
}

impl Pair {
    /// Returns the seconds of CPU time of a request, of caller and callee together.
    fn spent(&self, target: &Target, core: Option<usize>, time: Duration) -> f64 {
        closed(target, core, time / 4).expect("every answer");
        let cpu = || self.servers.iter().map(Server::cpu).sum::<Duration>();
        let before = cpu();
        let answered = closed(target, core, time).expect("every answer");
        (cpu() - before).as_secs_f64() / answered as f64
    }
}

fn start(bench: &Bench, core: Option<usize>) -> Vec<Pair> {
    let read = |name: &str| std::fs::read(bench.wasm(name)).unwrap();
    let (caller, caller3, users) = (read("caller"), read("caller3"), read("users"));
    let manifest = "isolation = 'service'\n\
                    calls = ['users']\n\
                    http = ['http://127.0.0.1:*']\n\
                    [limits]\n\
                    outgoing = 1000\n\
                    outgoing_rate = 1000000\n";
    let files = [
        ("caller.wasm", &*caller),
        ("caller.toml", manifest.as_bytes()),
        ("caller3.wasm", &*caller3),
        ("caller3.toml", manifest.as_bytes()),
        ("users.wasm", &*users),
        ("users.toml", b"isolation = 'service'"),
    ];
    let directory = bench.directory("calls", &files);
    let (inside, mut pairs) = ("http://users.internal/users/1".to_owned(), Vec::new());
    for (over, local, caller) in [
        ("wasi:http 0.2, over loopback", "wasi:http 0.2, Lodge in-process", "/caller"),
        ("wasi:http 0.3, over loopback", "wasi:http 0.3, Lodge in-process", "/caller3"),
    ] {
        for (name, in_process) in [(over, false), (local, true)] {
            let at = free();
            let users = Target::new(at, "/users/1");
            let server = Server::start(servers::lodge(&directory, &bench.cache(), at), &users, core).expect("Lodge");
            let to = if in_process { inside.clone() } else { format!("http://{at}/users/1") };
            let [none, many] = [0, CALLS].map(|times| server.at(caller).with("x-to", &to).with("x-times", times));
            // Wait for the caller as well: all of them are compiled when it responds.
            while !matches!(many.once(), Ok(200)) {
                std::thread::sleep(Duration::from_millis(10));
            }
            let beside = in_process.then(|| pairs.len() - 1);
            pairs.push(Pair { name, servers: vec![server], none, many, beside });
        }
    }
    if let Some(program) = on_path("go") {
        let started = [free(), free()].map(|at| {
            let command = servers::go(&program, bench.scratch.path(), at)?;
            Server::start(command, &Target::new(at, "/"), core)
        });
        match started {
            [Ok(caller), Ok(callee)] => {
                let to = format!("http://{}/", callee.address);
                let [none, many] = [0, CALLS].map(|times| caller.at("/call").with("x-to", &to).with("x-times", times));
                pairs.push(Pair { name: "Go, over loopback", servers: vec![caller, callee], none, many, beside: None });
            }
            [caller, callee] => {
                let error = caller.err().or(callee.err()).unwrap_or_default();
                progress(format_args!("left out: {error}"));
            }
        }
    }
    pairs
}
