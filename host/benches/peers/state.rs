//! The cost of state: an operation on the embedded store, beside a request of the same guest without one and beside the hello.

use std::time::Duration;

use super::load::{Target, closed};
use super::servers::{self, Server, free};
use super::{Bench, median, progress};

/// The operations: name, durability and path. `{n}` is the number of the connection, so that each has a key of its own.
const OPERATIONS: [(&str, &str, &str); 7] = [
    ("hello", "process", "/hello"),
    ("the guest of the rows below, without an operation", "process", "/keyvalue/none/-/-/-"),
    ("get", "process", "/keyvalue/draft2/get/default/a"),
    ("set", "process", "/keyvalue/draft2/set/default/a?1"),
    ("increment one counter", "process", "/keyvalue/draft2/increment/default/n?1"),
    ("increment different counters", "process", "/keyvalue/draft2/increment/default/n{n}?1"),
    ("increment one counter, `power`", "power", "/keyvalue/draft2/increment/default/n?1"),
];

/// The row that others are compared with.
const HELLO: usize = 0;
/// The row of the guest without an operation.
const IDLE: usize = 1;

/// An operation, compared with the hello.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// CPU time of a request.
    pub(crate) cpu: Duration,
    /// What the operation adds to a request of its guest, as a part of the CPU time of a hello.
    pub(crate) added: f64,
    /// Requests per second on all cores, as a part of those of the hello.
    pub(crate) throughput: f64,
}

/// A host on one core, and one on all of them.
struct Pair {
    bound: Server,
    free: Server,
}

pub(crate) fn measure(bench: &Bench) -> Vec<Row> {
    let (server_core, load_core) = servers::cores();
    let hosts = ["process", "power"]
        .map(|durability| Pair { bound: start(bench, durability, server_core), free: start(bench, durability, None) });
    let rounds: Vec<Vec<(f64, f64)>> = (1..=bench.rounds)
        .map(|round| {
            let sample = |(name, durability, path): &(&str, &str, &str)| {
                progress(format_args!("round {round} of {}: {name}", bench.rounds));
                let host = &hosts[usize::from(*durability == "power")];
                let (spent, responses) =
                    host.bound.spent(&host.bound.at(path), load_core, bench.time).expect("every response");
                let target = host.free.at(path);
                closed(&target, None, bench.time / 4).expect("every response");
                let throughput = closed(&target, None, bench.time).expect("every response") as f64;
                (spent.as_secs_f64() / responses as f64, throughput)
            };
            OPERATIONS.iter().map(sample).collect()
        })
        .collect();
    let row = |(n, (name, ..)): (usize, &(&'static str, &str, &str))| Row {
        name,
        cpu: Duration::from_secs_f64(median(rounds.iter().map(|round| round[n].0))),
        added: median(rounds.iter().map(|round| (round[n].0 - round[IDLE].0) / round[HELLO].0)),
        throughput: median(rounds.iter().map(|round| round[n].1 / round[HELLO].1)),
    };
    OPERATIONS.iter().enumerate().map(row).collect()
}

fn start(bench: &Bench, durability: &str, core: Option<usize>) -> Server {
    progress(format_args!("starting Lodge with `{durability}`"));
    let [hello, keyvalue] = ["deaf", "keyvalue"].map(|name| std::fs::read(bench.wasm(name)).unwrap());
    let files = [("hello.wasm", &*hello), ("keyvalue.wasm", &*keyvalue), ("keyvalue.toml", b"keyvalue = true")];
    let directory = bench.directory(&format!("state-{durability}-{}", core.is_some()), &files);
    let at = free();
    let mut command = servers::lodge(&directory, &bench.cache(), at);
    command.args(["--state-durability", durability]);
    let server = Server::start(command, &Target::new(at, "/hello"), core).expect("Lodge");
    // Wait for the other service as well, and give the reads a key.
    while !matches!(server.at("/keyvalue/draft2/set/default/a?1").once(), Ok(200)) {
        std::thread::sleep(Duration::from_millis(10));
    }
    server
}
