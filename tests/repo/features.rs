//! Promise: `cargo run` and `cargo test` share what they build.

use std::collections::BTreeSet;
use std::process::Command;

use crate::harness::root;

/// Every crate that a command builds, with its features. Includes macros and build scripts.
fn crates(of: &[&str]) -> BTreeSet<String> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root()).args(["tree", "--locked", "--offline", "--prefix", "none", "--no-dedupe"]);
    let tree = cargo.args(["--format", "{p} [{f}]"]).args(of).output().unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    String::from_utf8(tree.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// A feature that only tests enable would build its crate, and every crate above it, once for each of the two commands.
#[test]
fn tests_enable_no_features_of_the_hosts_crates() {
    let run = crates(&["--package", "lodge", "--edges", "normal,build"]);
    let test = crates(&["--edges", "normal,build,dev"]);
    let twice: Vec<_> = run.difference(&test).collect();
    assert!(twice.is_empty(), "`cargo run` and `cargo test` build these with different features: {twice:#?}");
    assert!(run.len() > 200 && test.len() > run.len(), "{} and {} crates", run.len(), test.len());
}

/// Other crates are built without debug assertions; a crate of the host that is missing there would lose its own.
#[test]
fn the_dev_profile_names_every_crate_of_the_host() {
    let read = |path: &str| -> toml::Table { std::fs::read_to_string(root().join(path)).unwrap().parse().unwrap() };
    let whole = read("Cargo.toml");
    let named = whole["profile"]["dev"]["package"].as_table().unwrap();
    let members = whole["workspace"]["members"].as_array().unwrap().iter().map(|member| member.as_str().unwrap());
    let own: Vec<_> = members.filter(|path| path.starts_with("host") && *path != "host/fuzz").collect();
    assert!(own.contains(&"host"));
    for path in own {
        let name = read(&format!("{path}/Cargo.toml"))["package"]["name"].as_str().unwrap().to_owned();
        let checked = named.get(&name).and_then(|profile| profile.get("debug-assertions")?.as_bool());
        assert_eq!(checked, Some(true), "[profile.dev.package] has no line for {name}");
    }
}
