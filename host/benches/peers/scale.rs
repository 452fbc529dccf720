//! What sizes follow from: latency by utilisation beside that of a model, a step of the load, the first request of a service at
//! rest, and the memory of requests in flight.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::load::{Arrivals, OpenLoad, Target};
use super::servers::{self, Server, free};
use super::{Bench, median, progress};

/// The parts of what one core can do at which the latency is measured.
const UTILISATIONS: [f64; 5] = [0.2, 0.4, 0.6, 0.8, 0.9];
/// Requests per second before and after the step.
const CALM: u32 = 100;
/// Services whose first request is measured.
const COLD: usize = 50;
/// Requests in flight while the memory is measured.
const FLYING: usize = 500;

/// The measurements.
#[derive(Debug)]
pub(crate) struct Scale {
    /// CPU time of a request, with the server on one core.
    pub(crate) cpu: Duration,
    pub(crate) utilisations: Vec<Utilised>,
    /// Requests per second in the step.
    pub(crate) rate: u32,
    /// The phases of the step with their latencies in ascending order.
    pub(crate) step: Vec<(&'static str, Vec<Duration>)>,
    /// The first request of a service after its code has left memory, after the host was started, and a later one.
    pub(crate) first: [Vec<Duration>; 3],
    /// Bytes of memory for each request in flight.
    pub(crate) flying: u64,
}

/// The latency at a part of what one core can do.
#[derive(Debug)]
pub(crate) struct Utilised {
    pub(crate) part: f64,
    pub(crate) rate: u32,
    /// Latencies in ascending order.
    pub(crate) latencies: Vec<Duration>,
    /// The 99th percentile of the time in a queue by the model: Poisson arrivals, one server, exponential times.
    pub(crate) wait: Duration,
}

pub(crate) fn measure(bench: &Bench, rate: u32) -> Scale {
    let hello = std::fs::read(bench.wasm("deaf")).unwrap();
    let directory = bench.directory("scale", &[("hello.wasm", &hello)]);
    let start = |core| {
        let at = free();
        let target = Target::new(at, "/hello");
        (Server::start(servers::lodge(&directory, &bench.cache(), at), &target, core).expect("Lodge"), target)
    };
    let (cpu, utilisations) = {
        let (server_core, load_core) = servers::cores();
        let (server, target) = start(server_core);
        progress("the cost of a request");
        let (spent, answered) = server.spent(&target, load_core, bench.time).expect("answers");
        let cpu = spent / u32::try_from(answered.max(1)).unwrap();
        (cpu, UTILISATIONS.map(|part| utilised(bench, &target, (cpu, part))).into())
    };
    let (server, target) = start(None);
    let step = step(bench, &target, rate);
    drop(server);
    Scale { cpu, utilisations, rate, step, first: first(bench), flying: flying(bench) }
}

/// Measures the latency at a part of what one core can do.
fn utilised(bench: &Bench, target: &Target, (cpu, part): (Duration, f64)) -> Utilised {
    let rate = (part / cpu.as_secs_f64()) as u32;
    progress(format_args!("{rate} requests/s, {:.0} % of one core", part * 100.0));
    let load = OpenLoad { connections: 64, arrivals: Arrivals::Random, rate };
    let latencies = load.run(target, bench.time).expect("every answer");
    let wait = cpu.mul_f64((100.0 * part).ln() / (1.0 - part));
    Utilised { part, rate, latencies, wait }
}

/// Few requests, then many at once, then few again.
fn step(bench: &Bench, target: &Target, rate: u32) -> Vec<(&'static str, Vec<Duration>)> {
    progress(format_args!("a step from {CALM} to {rate} requests/s"));
    let run = |rate, time| {
        let load = OpenLoad { connections: 64, arrivals: Arrivals::Even, rate };
        load.run(target, time).expect("every answer")
    };
    let second = Duration::from_secs(1);
    let before = run(CALM, bench.time);
    let first = run(rate, second);
    let rest = run(rate, bench.time);
    vec![
        ("before", before),
        ("the first second", first),
        ("the seconds after", rest),
        ("afterwards", run(CALM, bench.time)),
    ]
}

/// The first request of each of many services, whose code is loaded from the cache, and a later one.
fn first(bench: &Bench) -> [Vec<Duration>; 3] {
    let version = std::fs::read(bench.wasm("version")).unwrap();
    let directory = bench.directory("cold", &[]);
    for n in 0..COLD {
        std::fs::write(directory.join(format!("s{n}.wasm")), super::density::variant(&version, n)).unwrap();
    }
    let once = |at: SocketAddr, n: usize| {
        let began = Instant::now();
        assert_eq!(Target::new(at, format!("/s{n}")).once().ok(), Some(200));
        began.elapsed()
    };
    let all = |at: SocketAddr| -> Vec<_> {
        let mut all: Vec<_> = (0..COLD).map(|n| once(at, n)).collect();
        all.sort();
        all
    };
    // A request would be the first one of its service: the operators' listener says when all are loaded.
    let start = || {
        let (at, admin) = (free(), free());
        let mut command = servers::lodge_without_admin(&directory, &bench.cache(), at);
        command.args(["--admin", &admin.to_string(), "--engine-idle-unload", "2s"]);
        (Server::start(command, &Target::new(admin, "/readyz"), None).expect("Lodge"), at)
    };
    progress("the first requests of services at rest");
    drop(start());
    let (_server, at) = start();
    let restarted = all(at);
    let later = all(at);
    std::thread::sleep(Duration::from_secs(5));
    [all(at), restarted, later]
}

/// The memory of each request in flight.
fn flying(bench: &Bench) -> u64 {
    progress(format_args!("{FLYING} requests in flight"));
    let sleeper = std::fs::read(bench.wasm("sleeper")).unwrap();
    let hello = std::fs::read(bench.wasm("deaf")).unwrap();
    let manifest = format!("[limits]\nin_flight = {FLYING}\nwall = '1h'\ncpu = '1m'\n");
    let files: [(&str, &[u8]); 3] =
        [("hello.wasm", &hello), ("sleeper.wasm", &sleeper), ("sleeper.toml", manifest.as_bytes())];
    let directory = bench.directory("flying", &files);
    let at = free();
    let server = Server::start(servers::lodge(&directory, &bench.cache(), at), &Target::new(at, "/hello"), None);
    let server = server.expect("Lodge");
    let sleeping: Vec<_> = (0..FLYING).map(|_| server.at("/sleeper").begin().expect("a connection")).collect();
    std::thread::sleep(Duration::from_secs(3));
    let with = median((0..3).map(|_| server.rss()));
    drop(sleeping);
    let at = free();
    let empty = Server::start(servers::lodge(&directory, &bench.cache(), at), &Target::new(at, "/hello"), None);
    std::thread::sleep(Duration::from_secs(3));
    with.saturating_sub(empty.expect("Lodge").rss()) / FLYING as u64
}
