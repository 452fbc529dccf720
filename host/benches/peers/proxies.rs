//! The cost of a forwarded request: Lodge, nginx and HAProxy before the same three replicas.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use super::load::{Target, paced, quantile};
use super::servers::{self, Server, daemon, free, itself};
use super::{Bench, median, progress};

/// The rate, in requests per second, at which latency is measured.
const RATE: u32 = 1000;

const REPLICAS: usize = 3;

/// A proxy and its measurements, compared with nginx.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// CPU time of a request in the proxy alone, and its ratio to that of the first proxy.
    pub(crate) cpu: Duration,
    pub(crate) ratio: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

pub(crate) fn measure(bench: &Bench) -> Vec<Row> {
    let (server_core, load_core) = servers::cores();
    let replicas: Vec<_> = (0..REPLICAS)
        .map(|_| {
            let address = free();
            let command = itself("hyper", address, &[]);
            Server::start(command, &Target::new(address, "/"), load_core).expect("a replica")
        })
        .collect();
    let addresses: Vec<_> = replicas.iter().map(|replica| replica.address).collect();
    let mut started = Vec::new();
    let mut add =
        |name, command: Command, address| match Server::start(command, &Target::new(address, "/hello"), server_core) {
            Ok(server) => started.push((name, server)),
            Err(error) => progress(format_args!("left out: {error}")),
        };
    let scratch = bench.scratch.path();
    if let Some(program) = daemon("nginx") {
        let at = free();
        add("nginx", servers::nginx_before(&program, scratch, at, &addresses), at);
    }
    if let Some(program) = daemon("haproxy") {
        let at = free();
        add("HAProxy", servers::haproxy_before(&program, scratch, at, &addresses), at);
    }
    for (name, directory, more) in [
        ("Lodge", "upstream", ""),
        ("Lodge, round robin, no retries", "plain", "policy = 'round-robin'\nretry = { attempts = 0 }\n"),
    ] {
        let manifest = manifest(&addresses, more);
        let directory = bench.directory(directory, &[("hello.toml", manifest.as_bytes())]);
        let at = free();
        add(name, servers::lodge(&directory, &bench.cache(), at), at);
    }
    let rounds: Vec<Vec<_>> = (1..=bench.rounds)
        .map(|round| {
            let sample = |(name, server): &(&str, Server)| {
                progress(format_args!("round {round} of {}: {name}", bench.rounds));
                let target = server.at("/hello");
                let (spent, answered) = server.spent(&target, load_core, bench.time).expect("every answer");
                let cpu = spent.as_secs_f64() / answered as f64;
                let took = paced(&target, RATE, bench.time).expect("every answer");
                (cpu, quantile(&took, 0.5), quantile(&took, 0.99))
            };
            started.iter().map(sample).collect()
        })
        .collect();
    let row = |(n, (name, _)): (usize, &(&'static str, Server))| Row {
        name,
        cpu: Duration::from_secs_f64(median(rounds.iter().map(|round| round[n].0))),
        ratio: median(rounds.iter().map(|round| round[n].0 / round[0].0)),
        p50: median(rounds.iter().map(|round| round[n].1)),
        p99: median(rounds.iter().map(|round| round[n].2)),
    };
    started.iter().enumerate().map(row).collect()
}

fn manifest(replicas: &[SocketAddr], more: &str) -> String {
    let replicas: Vec<_> = replicas.iter().map(|address| format!("'http://{address}'")).collect();
    format!("[upstream]\nreplicas = [{}]\n{more}", replicas.join(", "))
}
