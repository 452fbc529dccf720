//! The habits of the house, kept by a test: who may know whom, what every file has.

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

/// Code without comments and test modules, which may say anything.
fn code(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_file_says_what_it_is() {
    for directory in ["host/src", "tests", "guests"] {
        for (name, text) in rust_files(directory) {
            let exempt = name.ends_with("tests.rs");
            assert!(exempt || text.starts_with("//! "), "{directory}/{name} does not open with `//!`");
            assert!(!name.ends_with("mod.rs"), "{directory}/{name}: use foo.rs and foo/");
        }
    }
}

/// What reads no clock, waits for nothing and does no I/O.
const PURE: &[&str] = &["wasmtime", "hyper", "tokio", "Instant::now", "std::fs", "spawn("];

/// (room, what it must not know, why)
const WALLS: &[(&str, &[&str], &str)] = &[
    (
        "guests/",
        &["hyper::", "http::Request", "request::handle", "request::serve", "request::respond"],
        "guests never see a request",
    ),
    ("request/", &[".publish(", "reconcile(", "Publisher"], "requests never write a snapshot"),
    ("capabilities", &["crate::request", "crate::guests", "crate::admission"], "capabilities know only their Store"),
    ("routing", &["wasmtime", "tokio", "Instant::now"], "routing is pure"),
    ("config", &["wasmtime", "tokio::", "Instant::now", "std::fs", "std::env"], "configuration is pure"),
    ("error", &["tokio", "Instant::now"], "errors are pure"),
    ("manifest", &["wasmtime", "tokio", "Instant::now", "std::fs"], "manifests are pure"),
    ("admission", &["wasmtime", "hyper", "spawn("], "admission knows no engine"),
    ("upstreams/balance", PURE, "a choice is pure"),
    ("upstreams/budget", PURE, "a budget is pure"),
    ("upstreams/health", PURE, "health is pure"),
    ("upstreams/replicas", PURE, "a set of replicas is pure"),
    ("upstreams/retry", PURE, "retries are decided on facts"),
    ("manifest/upstream", PURE, "manifests are pure"),
];

#[test]
fn walls_stand() {
    for (name, text) in rust_files("host/src") {
        if name.ends_with("tests.rs") || name.contains("/tests/") {
            continue;
        }
        for (room, forbidden, why) in WALLS {
            if name.starts_with(room) {
                for word in *forbidden {
                    assert!(!code(&text).contains(word), "host/src/{name} knows `{word}`: {why}");
                }
            }
        }
        let serves = name == "listener/connection.rs";
        assert!(
            serves || !code(&text).contains("hyper::server"),
            "host/src/{name}: hyper's server is for the listener"
        );
        let knows_host = ["cli.rs", "lib.rs", "host.rs", "main.rs"].contains(&name.as_str());
        assert!(knows_host || !code(&text).contains("crate::host"), "host/src/{name} knows the composition root");
    }
}

/// What lasts as long as the host is started again when it panics.
#[test]
fn tasks_that_last_are_started_again() {
    for name in ["host.rs", "upstreams.rs", "upstreams/transport.rs", "upstreams/discover.rs"] {
        let (_, text) = rust_files("host/src").into_iter().find(|(file, _)| file == name).unwrap();
        let code: String = code(&text).split_whitespace().collect();
        let spawned = code.matches("spawn(").count();
        let lasting = code.matches("spawn(forever(").count();
        assert!(lasting > 0 && spawned == lasting, "host/src/{name}: spawn(forever(\"name\", ..))");
    }
}

#[test]
fn files_are_rooms_not_halls() {
    for (name, text) in rust_files("host/src") {
        let lines = text.lines().count();
        let most = if name == "config.rs" || name == "runtime/instance.rs" { 500 } else { 400 };
        assert!(lines <= most, "host/src/{name} has {lines} lines; split it");
    }
}

/// A guest that no test uses proves nothing.
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
