//! The habits of the house, kept by a test: who may know whom, what every file has, what the README holds.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{guest_names, root};

fn rust_files(directory: &str) -> Vec<(String, String)> {
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
        let serves = name == "request/serve.rs";
        assert!(serves || !code(&text).contains("hyper::server"), "host/src/{name}: hyper's server is for serve");
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
        let most = if name == "config.rs" || name == "request/instance.rs" { 500 } else { 400 };
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

/// The README shows every key with its default, and every way to fail with its status.
#[test]
fn the_readme_is_complete() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for (name, default, _) in lodge::config::described() {
        let default = if default.is_empty() { String::new() } else { format!("`{default}`") };
        let row = format!("| `{name}` | {default} |");
        assert!(readme.contains(&row), "the README has no row `{row}`");
    }
    let (_, errors) = rust_files("host/src").into_iter().find(|(name, _)| name == "error.rs").unwrap();
    let reasons = errors.split("fn reason").nth(1).unwrap().split("fn detail").next().unwrap();
    for reason in reasons.split('"').skip(1).step_by(2) {
        assert!(readme.contains(&format!("`{reason}`")), "the README does not explain `{reason}`");
    }
    let scrape = rust_files("host/src").into_iter().filter(|(name, _)| name.starts_with("admin/scrape"));
    let quoted = |(_, text): (_, String)| text.split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let names: Vec<_> = scrape.flat_map(quoted).filter(|name| is_metric(name)).collect();
    assert!(names.len() > 50, "the metrics are not where this test looks: {names:?}");
    for name in names {
        assert!(readme.contains(&format!("`{name}")), "the README does not explain `{name}`");
    }
    let hello = fs::read_to_string(root().join("guests/hello/src/lib.rs")).unwrap();
    assert!(readme.contains(hello.trim()), "the README's service is not guests/hello");
}

/// The rows of the table with this head: every key that the first cells name, and the default that the second ones do.
fn rows(readme: &str, head: &str) -> Vec<(String, String)> {
    let begin = readme.lines().skip_while(|line| !line.starts_with(&format!("| {head} |")));
    let rows = begin.skip(2).take_while(|line| line.starts_with('|'));
    let keys = rows.flat_map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let (names, mut defaults) = (cells[1].split(", "), cells[2].split(", "));
        let own = |name: &str| (name.trim_matches('`').to_owned(), defaults.next().unwrap_or_default().to_owned());
        names.map(own).collect::<Vec<_>>()
    });
    keys.collect()
}

/// The tables of what is written in manifests have every key, no other, and the defaults that hold.
#[test]
fn the_readmes_tables_are_the_readers() {
    use lodge::config::key::Key;
    use lodge::manifest::policies::{ADAPTIVE, BREAKER, RATE};
    use lodge::manifest::share::Rollback;
    fn known<T>(keys: &[Key<T>]) -> Vec<(String, String)> {
        keys.iter().map(|key| (key.name.to_owned(), key.default.to_owned())).collect()
    }
    let key = |name: &str, default: String| (name.to_owned(), default);
    let hundredths = |n: u32| (f64::from(n) / 100.0).to_string();
    let Rollback { errors, p99, minimum } = Rollback::default();
    let version = vec![
        key("percent", "0".into()),
        key("match", String::new()),
        key("mirror", "0".into()),
        key("rollback.errors", hundredths(errors.0)),
        key("rollback.p99", hundredths(p99)),
        key("rollback.minimum", minimum.to_string()),
        key("sticky", String::new()),
    ];
    let mut upstream = known(lodge::manifest::upstream::KEYS);
    upstream.push(key("replicas", String::new()));
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for (head, mut known) in [
        ("`[upstream]`", upstream),
        ("key of `[rate]`", known(RATE)),
        ("key of `[breaker]`", known(BREAKER)),
        ("key of `[adaptive]`", known(ADAPTIVE)),
        ("key of a version", version),
    ] {
        let mut rows = rows(&readme, head);
        rows.sort();
        known.sort();
        let names = |keys: &[(String, String)]| keys.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&rows), names(&known), "the keys of {head}");
        for ((name, shown), (_, default)) in rows.iter().zip(&known) {
            // What has no default may say in words what holds without it.
            let fits = if default.is_empty() { !shown.starts_with('`') } else { *shown == format!("`{default}`") };
            assert!(fits, "{head}: {name} is {default:?} by default, and not {shown:?}");
        }
    }
}

fn is_metric(text: &str) -> bool {
    let prefixed = ["lodge_", "http_server_", "process_"].iter().any(|prefix| text.starts_with(prefix));
    prefixed && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// What the README tells a newcomer to type is what CI types.
#[test]
fn ci_runs_what_the_readme_says() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let ci = fs::read_to_string(root().join(".ci/run")).unwrap();
    for command in ["cargo run -- dev", "cargo test"] {
        assert!(readme.contains(command) && ci.contains(command), "{command}");
    }
}
