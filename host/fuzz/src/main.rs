//! One libFuzzer program for every target in `lodge::fuzz`; the variable `FUZZ_TARGET` names the one to run.
//!
//! Built by `.ci/fuzz`, which instruments Lodge's own code for coverage on the stable toolchain.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

/// The target that `FUZZ_TARGET` names.
#[cfg(fuzzing)]
#[expect(clippy::panic, reason = "a fuzzer ends when its command line is wrong")]
fn named() -> fn(&[u8]) {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let known = lodge::fuzz::TARGETS;
    let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
    let target = known.iter().find(|(known, _)| *known == name);
    target.unwrap_or_else(|| panic!("FUZZ_TARGET must be one of {}", names.join(", "))).1
}

/// Without `--cfg fuzzing` the library has no targets: this only keeps `cargo check --workspace` whole.
#[cfg(not(fuzzing))]
fn named() -> fn(&[u8]) {
    |_| {}
}

fuzz_target!(|bytes: &[u8]| TARGET.get_or_init(named)(bytes));
