//! Compares Lodge with other servers on this machine: `cargo bench -p lodge --bench peers`.
//!
//! The servers are started here, on loopback. The cost of a request is the CPU time (user and system) of the server
//! process divided by the number of responses, with server and load on one core each. It is repeatable within 5 %,
//! while throughput varies by half. Every value is the median of rounds in which all servers are measured in turn.
//! Ratios carry over to other machines.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a benchmark ends at the first thing that is wrong, and blocks its own threads"
)]

mod backends;
mod calls;
mod checks;
mod cluster;
mod density;
mod fairness;
mod front;
mod load;
mod overload;
mod proxies;
mod pull;
mod report;
mod requests;
mod scale;
mod seen;
mod servers;
mod small;
mod state;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::{Arg, ArgAction};

/// The arguments, and the files that the benchmarks use.
pub(crate) struct Bench {
    pub(crate) rounds: usize,
    pub(crate) time: Duration,
    /// The directory of built guests.
    guests: PathBuf,
    /// The directory for all files that are written, removed at the end.
    pub(crate) scratch: tempfile::TempDir,
}

impl Bench {
    /// Returns the path of the component of a guest.
    pub(crate) fn wasm(&self, name: &str) -> PathBuf {
        self.guests.join(format!("{name}.wasm"))
    }

    /// Creates a directory with these files.
    pub(crate) fn directory(&self, name: &str, files: &[(&str, &[u8])]) -> PathBuf {
        let directory = self.scratch.path().join(name);
        std::fs::create_dir_all(&directory).expect("a writable scratch directory");
        for (name, bytes) in files {
            std::fs::write(directory.join(name), bytes).expect("a writable scratch directory");
        }
        directory
    }

    /// The compile cache that all Lodge processes share.
    pub(crate) fn cache(&self) -> PathBuf {
        self.scratch.path().join("cache")
    }
}

fn arguments() -> clap::ArgMatches {
    clap::Command::new("peers")
        .about("Measures Lodge beside its peers")
        .arg(
            Arg::new("only")
                .long("only")
                .help("parts to run; `pull` and `cluster` run by these names only")
                .value_delimiter(',')
                .default_value("requests,seen,calls,state,backends,checks,front,proxies,overload,fairness,density,scale"),
        )
        .arg(
            Arg::new("rounds")
                .long("rounds")
                .help("rounds of each measurement")
                .default_value("3")
                .value_parser(clap::value_parser!(usize)),
        )
        .arg(
            Arg::new("seconds")
                .long("seconds")
                .help("length of one measurement")
                .default_value("4")
                .value_parser(clap::value_parser!(u64)),
        )
        .arg(
            Arg::new("services")
                .long("services")
                .help("services of the density part; the pull part has half of them")
                .default_value("1000")
                .value_parser(clap::value_parser!(usize)),
        )
        .arg(
            Arg::new("rate")
                .long("rate")
                .help("requests per second of the cluster part (2000 unless given), and in the step of the scale part (10000)")
                .value_parser(clap::value_parser!(u32).range(1..=100_000)),
        )
        .arg(
            Arg::new("svg")
                .long("svg")
                .action(ArgAction::SetTrue)
                .help("draw what requests cost anew, for docs/performance.md"),
        )
        .arg(Arg::new("serve").long("serve").num_args(1..).hide(true))
        // cargo passes this flag to every benchmark.
        .arg(Arg::new("bench").long("bench").action(ArgAction::SetTrue).hide(true))
        .get_matches()
}

fn main() {
    let arguments = arguments();
    if let Some(words) = arguments.get_many::<String>("serve") {
        return serve(&words.map(String::as_str).collect::<Vec<_>>());
    }
    let bench = Bench {
        rounds: arguments.get_one::<usize>("rounds").copied().unwrap().max(1),
        time: Duration::from_secs(arguments.get_one::<u64>("seconds").copied().unwrap().max(1)),
        guests: build(),
        scratch: tempfile::tempdir().expect("a scratch directory"),
    };
    println!("{}\n", report::machine());
    for part in arguments.get_many::<String>("only").unwrap() {
        match part.as_str() {
            "requests" => {
                let rows = requests::measure(&bench);
                println!("{}", report::requests(&rows));
                if arguments.get_flag("svg") {
                    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/figures.svg");
                    std::fs::write(file, report::picture(&rows)).expect("a writable file");
                }
            }
            "seen" => println!("{}", report::seen(&seen::measure(&bench))),
            "calls" => println!("{}", report::calls(&calls::measure(&bench))),
            "state" => println!("{}", report::state(&state::measure(&bench))),
            "backends" => println!("{}", report::backends(&backends::measure(&bench))),
            "checks" => println!("{}", report::checks(&checks::measure(&bench))),
            "front" => println!("{}", report::front(&front::measure(&bench))),
            "proxies" => println!("{}", report::proxies(&proxies::measure(&bench))),
            "overload" => println!("{}", report::overload(&overload::measure(&bench))),
            "fairness" => {
                let one_core = servers::cores().0;
                for core in [None].into_iter().chain(one_core.map(Some)) {
                    println!("{}", report::fairness(&fairness::measure(&bench, core)));
                }
            }
            "density" => {
                let services = arguments.get_one::<usize>("services").copied().unwrap();
                println!("{}", report::density(&density::measure(&bench, services)));
            }
            "scale" => {
                let rate = arguments.get_one::<u32>("rate").copied().unwrap_or(10_000);
                println!("{}", report::scale(&scale::measure(&bench, rate)));
            }
            "pull" => {
                // A thousand services are those of the density part.
                let services = arguments.get_one::<usize>("services").copied().unwrap() / 2;
                if let Some(pulled) = pull::measure(&bench, services) {
                    println!("{}", report::pull(&pulled));
                }
            }
            "cluster" => {
                let rate = arguments.get_one::<u32>("rate").copied().unwrap_or(2_000);
                if let Some(rows) = cluster::measure(&bench, rate) {
                    println!("{}", report::cluster(&rows, rate));
                }
            }
            other => panic!(
                "there is no part `{other}`; there are requests, seen, calls, state, backends, checks, front, proxies, overload, fairness, density, scale, pull and cluster"
            ),
        }
    }
}

/// Runs this program as one of its built-in servers.
fn serve(words: &[&str]) {
    match *words {
        ["collector", address] => small::collector(address.parse().expect("an address")),
        ["hyper", address] => small::hyper(address.parse().expect("an address")),
        [mode @ ("fresh02" | "warm02" | "fresh03" | "warm03"), address, wasm] => {
            let (address, same, concurrent) = (address.parse(), mode.starts_with("warm"), mode.ends_with("03"));
            small::embedded(address.expect("an address"), Path::new(wasm), same, concurrent);
        }
        _ => panic!("--serve hyper ADDRESS | fresh02 ADDRESS WASM | warm02 … | fresh03 … | warm03 …"),
    }
}

/// Builds the guests, with the profile of guests.
fn build() -> PathBuf {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let mut build = Command::new(env!("CARGO"));
    build.current_dir(root).args(["build", "--target", "wasm32-wasip2", "--profile", "guest"]);
    let guests = "hello deaf version spin caller caller3 echo users keyvalue publisher sleeper";
    build.args(guests.split(' ').flat_map(|guest| ["-p", guest]));
    assert!(build.status().expect("cargo runs").success(), "the guests do not build");
    // From .../target/release/lodge to .../target.
    let target = Path::new(env!("CARGO_BIN_EXE_lodge")).ancestors().nth(2).expect("target/profile/lodge");
    target.join("wasm32-wasip2/guest")
}

/// Returns the median; `values` must not be empty.
pub(crate) fn median<T: PartialOrd + Copy>(values: impl IntoIterator<Item = T>) -> T {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(|a, b| a.partial_cmp(b).expect("comparable"));
    values[values.len() / 2]
}

/// Prints a progress line to stderr, since a run takes minutes.
pub(crate) fn progress(what: impl std::fmt::Display) {
    eprintln!("  {what}");
}
