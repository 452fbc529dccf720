//! The cost of a request, for each kind of server.

use std::time::Duration;

use super::load::{Target, paced, quantile};
use super::servers::{self, Server, daemon, free, itself, on_path};
use super::{Bench, median, progress};

/// The rate, in requests per second, at which latency is measured: far below the capacity of every server.
const RATE: u32 = 1000;

/// A kind of server and its measurements.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// CPU time of a request.
    pub(crate) cpu: Duration,
    /// The maximum rate, in requests per second.
    pub(crate) rate: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// Bytes of memory.
    pub(crate) rss: u64,
}

/// The groups of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Native,
    Fresh02,
    Warm02,
    Fresh03,
    Warm03,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    cpu: Duration,
    rate: f64,
    p50: Duration,
    p99: Duration,
    rss: u64,
}

/// The arguments of [`servers::wasmtime`] with which it is fastest.
const TUNED: &[&str] = &[
    "-O",
    "pooling-allocator=y",
    "-O",
    "pooling-memory-keep-resident=2097152",
    "-O",
    "pooling-table-keep-resident=102400",
    "-O",
    "pooling-pagemap-scan=y",
];
const WASI_03: &[&str] = &["-Sp3", "-Sconfig", "-Wcomponent-model-async"];

pub(crate) fn measure(bench: &Bench) -> Vec<Row> {
    let (server_core, load_core) = servers::cores();
    let started = start(bench, server_core);
    let mut samples = vec![Vec::new(); started.iter().map(|(_, rows)| rows.len()).sum()];
    for round in 1..=bench.rounds {
        let mut samples = samples.iter_mut();
        for (server, rows) in &started {
            for (name, _, path) in rows {
                progress(format_args!("round {round} of {}: {name}", bench.rounds));
                let sample = sample(server, &server.at(path), load_core, bench.time);
                samples.next().unwrap().push(sample.unwrap_or_else(|error| panic!("{name}: {error}")));
            }
        }
    }
    let rows = started.iter().flat_map(|(_, rows)| rows);
    let rows = rows.zip(samples).map(|((name, kind, _), samples)| Row {
        name,
        kind: *kind,
        cpu: median(samples.iter().map(|sample| sample.cpu)),
        rate: median(samples.iter().map(|sample| sample.rate)),
        p50: median(samples.iter().map(|sample| sample.p50)),
        p99: median(samples.iter().map(|sample| sample.p99)),
        rss: median(samples.iter().map(|sample| sample.rss)),
    });
    let mut rows: Vec<_> = rows.collect();
    rows.sort_by_key(|row| row.kind as usize);
    rows
}

fn sample(server: &Server, target: &Target, core: Option<usize>, time: Duration) -> Result<Sample, String> {
    let (spent, answered) = server.spent(target, core, time)?;
    let cpu = spent / u32::try_from(answered).unwrap();
    let rss = server.rss();
    let took = paced(target, RATE, time)?;
    let (p50, p99) = (quantile(&took, 0.5), quantile(&took, 0.99));
    Ok(Sample { cpu, rate: answered as f64 / time.as_secs_f64(), p50, p99, rss })
}

type Started = (Server, Vec<(&'static str, Kind, &'static str)>);

fn start(bench: &Bench, core: Option<usize>) -> Vec<Started> {
    let (hello02, hello03) = (bench.wasm("deaf"), bench.wasm("hello"));
    let mut started: Vec<Started> = Vec::new();
    let mut add = |rows: &[(&'static str, Kind, &'static str)], command: std::process::Command, address| {
        progress(format_args!("starting {}", rows[0].0));
        match Server::start(command, &Target::new(address, rows[0].2), core) {
            Ok(server) => started.push((server, rows.to_vec())),
            Err(error) => progress(format_args!("left out: {error}")),
        }
    };
    let at = free();
    add(&[("hyper, a native handler", Kind::Native, "/")], itself("hyper", at, &[]), at);
    if let Some(program) = on_path("go") {
        let at = free();
        match servers::go(&program, bench.scratch.path(), at) {
            Ok(command) => add(&[("Go net/http, a native handler", Kind::Native, "/")], command, at),
            Err(error) => progress(format_args!("left out: {error}")),
        }
    }
    if let Some(program) = daemon("nginx") {
        let at = free();
        add(&[("nginx, a fixed answer", Kind::Native, "/")], servers::nginx(&program, bench.scratch.path(), at), at);
    }
    let (read02, read03) = (std::fs::read(&hello02).unwrap(), std::fs::read(&hello03).unwrap());
    let warm = b"isolation = 'service'".as_slice();
    let files = [
        ("fresh02.wasm", &*read02),
        ("warm02.wasm", &*read02),
        ("warm02.toml", warm),
        ("fresh03.wasm", &*read03),
        ("warm03.wasm", &*read03),
        ("warm03.toml", warm),
    ];
    let (directory, at) = (bench.directory("hello", &files), free());
    let rows = [
        ("Lodge, fresh sandbox", Kind::Fresh02, "/fresh02"),
        ("Lodge, warm instance", Kind::Warm02, "/warm02"),
        ("Lodge, fresh sandbox", Kind::Fresh03, "/fresh03"),
        ("Lodge, warm instance", Kind::Warm03, "/warm03"),
    ];
    add(&rows, servers::lodge(&directory, &bench.cache(), at), at);
    for (mode, kind, wasm) in [
        ("fresh02", Kind::Fresh02, &hello02),
        ("warm02", Kind::Warm02, &hello02),
        ("fresh03", Kind::Fresh03, &hello03),
        ("warm03", Kind::Warm03, &hello03),
    ] {
        let (at, wasm) = (free(), wasm.to_string_lossy());
        add(&[("wasmtime in hyper, nothing else", kind, "/")], itself(mode, at, &[&wasm]), at);
    }
    if let Some(program) = on_path("wasmtime") {
        for (name, kind, wasm, options) in [
            ("wasmtime serve", Kind::Fresh02, &hello02, vec![]),
            ("wasmtime serve, pooling tuned", Kind::Fresh02, &hello02, TUNED.to_vec()),
            ("wasmtime serve, reuse 1000", Kind::Warm02, &hello02, vec!["--max-instance-reuse-count", "1000"]),
            (
                "wasmtime serve, reuse 1",
                Kind::Fresh03,
                &hello03,
                [WASI_03, &["--max-instance-reuse-count", "1"]].concat(),
            ),
            ("wasmtime serve", Kind::Warm03, &hello03, WASI_03.to_vec()),
        ] {
            let at = free();
            add(&[(name, kind, "/")], servers::wasmtime(&program, wasm, at, &options), at);
        }
    }
    started
}
