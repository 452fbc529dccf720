//! Promise: the code follows the rules of the repository: lengths of files, what every file has, and what a module must
//! not use.

mod names;

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{guest_names, root};

pub(crate) fn rust_files(directory: &str) -> Vec<(String, String)> {
    fn walk(directory: &Path, into: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, into);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                into.push(path);
            }
        }
    }
    let mut paths = Vec::new();
    walk(&root().join(directory), &mut paths);
    paths.sort();
    let read = |path: PathBuf| {
        let name = path.strip_prefix(root().join(directory)).unwrap().to_string_lossy().into_owned();
        (name, fs::read_to_string(path).unwrap())
    };
    paths.into_iter().map(read).collect()
}

/// Every Rust file of the host's crates, by its path from the root of the repository.
pub(crate) fn host_files() -> Vec<(String, String)> {
    let files = rust_files("host").into_iter().filter(|(name, _)| name.starts_with("src/") || name.contains("/src/"));
    files
        .filter(|(name, _)| !name.starts_with("fuzz/") && !name.contains("conformance/"))
        .map(|(name, text)| (format!("host/{name}"), text))
        .collect()
}

/// Code without comments, which may contain anything.
pub(crate) fn code(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_file_has_a_description() {
    for directory in ["host", "tests", "guests"] {
        for (name, text) in rust_files(directory) {
            let exempt = name.ends_with("tests.rs");
            assert!(exempt || text.starts_with("//! "), "{directory}/{name} does not open with `//!`");
            assert!(!name.ends_with("mod.rs"), "{directory}/{name}: use foo.rs and foo/");
        }
    }
}

/// Every test file is in a group of `tests/main.rs`, and begins with its promise.
#[test]
fn every_test_file_states_its_promise() {
    let files = rust_files("tests");
    let (_, main) = files.iter().find(|(name, _)| name == "main.rs").unwrap();
    let mut promises = 0;
    for (name, text) in &files {
        let path: Vec<_> = name.trim_end_matches(".rs").split('/').collect();
        let &[group, file] = path.as_slice() else {
            let known = path.len() > 1 || ["main", "harness"].contains(&path[0]);
            assert!(known, "tests/{name} is in no group: move it to one of the folders beside it");
            continue;
        };
        if group == "harness" {
            continue;
        }
        assert!(text.starts_with("//! Promise: "), "tests/{name} does not open with `//! Promise: `");
        let members = main.split(&format!("mod {group} {{")).nth(1).unwrap_or_default().split('}').next().unwrap();
        let declared =
            members.lines().any(|line| line.trim().trim_start_matches("pub(crate) ") == format!("mod {file};"));
        assert!(declared, "tests/main.rs does not have `mod {file};` in `mod {group}`: its tests never run");
        promises += 1;
    }
    assert!(promises > 40, "only {promises} test files were found");
}

/// Code that reads no clock, does not wait and does no I/O.
const PURE: &[&str] = &["wasmtime", "hyper", "tokio", "Instant::now", "std::fs", "spawn("];

/// (files, words that must not be in them, why)
const WALLS: &[(&str, &[&str], &str)] = &[
    ("host/src/request/", &[".publish(", "reconcile(", "Publisher"], "requests never write a snapshot"),
    ("host/src/guests/", &["hyper::", "http::Request"], "guests never see a request"),
    ("host/traffic/src/routing", &["wasmtime", "tokio", "Instant::now"], "routing is pure"),
    ("host/base/src/config", &["wasmtime", "tokio::", "Instant::now", "std::fs", "std::env"], "configuration is pure"),
    ("host/src/request/error", &["tokio", "Instant::now"], "errors are pure"),
    ("host/manifest/src/", &["wasmtime", "tokio", "Instant::now", "std::fs"], "manifests are pure"),
    ("host/traffic/src/admission", &["wasmtime", "hyper", "spawn("], "admission knows no engine"),
    ("host/traffic/src/upstreams/balance", PURE, "a choice is pure"),
    ("host/traffic/src/upstreams/budget", PURE, "a budget is pure"),
    ("host/traffic/src/upstreams/health", PURE, "health is pure"),
    ("host/traffic/src/upstreams/replicas", PURE, "a set of replicas is pure"),
    ("host/traffic/src/upstreams/retry", PURE, "retries are decided on facts"),
];

#[test]
fn modules_avoid_forbidden_words() {
    for (name, text) in host_files() {
        if name.ends_with("tests.rs") || name.contains("/tests/") {
            continue;
        }
        for (files, forbidden, why) in WALLS {
            if name.starts_with(files) {
                for word in *forbidden {
                    assert!(!code(&text).contains(word), "{name} knows `{word}`: {why}");
                }
            }
        }
        let serves = name == "host/src/listener/connection.rs";
        assert!(serves || !code(&text).contains("hyper::server"), "{name}: hyper's server is for the listener");
    }
}

/// Tasks that last as long as the host are restarted after a panic.
#[test]
fn lasting_tasks_are_restarted() {
    for name in [
        "host/src/host/tasks.rs",
        "host/traffic/src/upstreams.rs",
        "host/traffic/src/upstreams/transport.rs",
        "host/traffic/src/upstreams/discover.rs",
    ] {
        let (_, text) = host_files().into_iter().find(|(file, _)| file == name).unwrap();
        let code: String = code(&text).split_whitespace().collect();
        let spawned = code.matches("spawn(").count();
        let lasting = code.matches("spawn(forever(").count();
        assert!(lasting > 0 && spawned == lasting, "{name}: spawn(forever(\"name\", ..))");
    }
}

#[test]
fn files_are_short() {
    for (name, text) in host_files() {
        let lines = text.lines().count();
        let most = if ["host/base/src/config.rs", "host/runtime/src/instance.rs"].contains(&name.as_str()) {
            500
        } else {
            400
        };
        assert!(lines <= most, "{name} has {lines} lines; split it");
    }
}

/// Tests use every test guest.
#[test]
fn every_guest_is_used() {
    let tests: String = rust_files("tests")
        .into_iter()
        .filter(|(name, _)| !name.starts_with("guests/"))
        .map(|(_, text)| text)
        .collect();
    for name in guest_names() {
        assert!(tests.contains(&format!("\"{name}\"")), "tests/guests/{name} is used by no test");
    }
}
