//! Promise: the code keeps the rules of the repository: layers, lengths of files, and what every file has.

mod names;

use std::collections::BTreeSet;
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

/// Every test file is in a group of `tests/main.rs`, and opens with what it promises.
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

/// The modules of the host, each above all that stand before it: a module uses only those below it. `docs/architecture.md`
/// says what each of them does.
const LAYERS: &[&str] = &[
    "base",
    "config",
    "telemetry",
    "cpu",
    "manifest",
    "routing",
    "admission",
    "error",
    "proxy",
    "service",
    "capabilities",
    "upstreams",
    "outgoing",
    "runtime",
    "cache",
    "guests",
    "request",
    "listener",
    "admin",
    "host",
    "cli",
    "fuzz",
    "main",
];

/// The modules at the top that a file names: after `crate::`, or after as many `super::` as lead there.
fn named(name: &str, text: &str) -> BTreeSet<String> {
    let depth = name.trim_end_matches(".rs").split('/').count();
    let mut found = BTreeSet::new();
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let mut rest = text;
    while let Some(at) = [rest.find("crate::"), rest.find("super::")].into_iter().flatten().min() {
        let before = rest[..at].chars().next_back();
        rest = &rest[at..];
        let mut climbs = 0;
        while let Some(after) = rest.strip_prefix("super::") {
            (rest, climbs) = (after, climbs + 1);
        }
        let top = match rest.strip_prefix("crate::") {
            Some(after) => {
                rest = after;
                // Not `$crate::` or the crate of something else.
                before.is_none_or(|before| !before.is_alphanumeric() && !matches!(before, '_' | '$' | ':'))
            }
            None => climbs >= depth,
        };
        if !top {
            continue;
        }
        let ident = |text: &str| text.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap().to_owned();
        let Some(list) = rest.strip_prefix('{') else {
            found.insert(ident(rest));
            continue;
        };
        // The first word of every member of the list.
        let (mut open, mut member) = (0, String::new());
        for c in list.chars() {
            match c {
                '{' => open += 1,
                '}' if open == 0 => break,
                '}' => open -= 1,
                ',' if open == 0 => found.extend([ident(std::mem::take(&mut member).trim())]),
                c => member.push(c),
            }
        }
        found.extend([ident(member.trim())]);
        found.remove("");
    }
    found
}

/// Every path in the code points down: see [`LAYERS`].
#[test]
fn every_path_points_down() {
    let layer = |module: &str| LAYERS.iter().position(|known| *known == module);
    let mut arrows = 0;
    for (name, text) in rust_files("host/src") {
        let tests = name.ends_with("tests.rs") || name.contains("/tests/") || name.ends_with("lockstep.rs");
        if tests || name == "lib.rs" || name.ends_with("fuzz.rs") {
            continue;
        }
        let room = name.trim_end_matches(".rs").split('/').next().unwrap();
        let above = layer(room).unwrap_or_else(|| panic!("host/src/{name}: `{room}` is not in LAYERS"));
        for used in named(&name, &code(&text)) {
            let Some(below) = layer(&used) else { continue };
            assert!(below <= above, "host/src/{name} is in `{room}` and uses `{used}`, which is above it");
            arrows += usize::from(below < above);
        }
    }
    assert!(arrows > 300, "only {arrows} paths were found");
}

#[test]
fn paths_are_found() {
    let check = |name: &str, text: &str, expected: &[&str]| {
        assert_eq!(named(name, text).iter().map(String::as_str).collect::<Vec<_>>(), expected, "{text}");
    };
    check("a/b.rs", "use crate::x::Y;\nlet z = crate::z();", &["x", "z"]);
    check("a/b.rs", "use crate::{c::{D, E}, f};", &["c", "f"]);
    check("a/b.rs", "use super::x::Y; super::super::q::R; super::super::{s, t::U};", &["q", "s", "t"]);
    check("a.rs", "super::x(); lodge_crate::y(); $crate::z!()", &["x"]);
}

/// What reads no clock, waits for nothing and does no I/O.
const PURE: &[&str] = &["wasmtime", "hyper", "tokio", "Instant::now", "std::fs", "spawn("];

/// (files, words that must not be in them, why)
const WALLS: &[(&str, &[&str], &str)] = &[
    ("request/", &[".publish(", "reconcile(", "Publisher"], "requests never write a snapshot"),
    ("guests/", &["hyper::", "http::Request"], "guests never see a request"),
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
];

#[test]
fn walls_stand() {
    for (name, text) in rust_files("host/src") {
        if name.ends_with("tests.rs") || name.contains("/tests/") {
            continue;
        }
        for (files, forbidden, why) in WALLS {
            if name.starts_with(files) {
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
