//! Promise: the modules of the host are layers. A path in the code leads to the module itself or to one below it.
//!
//! The compiler enforces the order of the crates. This test enforces the order of the modules in each of them.

use std::collections::BTreeSet;

use super::tidy::{code, host_files};

/// The crates of the host and their layers, from the bottom up: each layer uses only those before it. A layer with the
/// name of its crate consists of the modules of no other layer. `docs/architecture.md` describes each.
const CRATES: &[(&str, &[&str])] = &[
    ("base", &["base", "config", "telemetry", "cpu"]),
    ("manifest", &["manifest"]),
    ("state", &["state"]),
    (
        "traffic",
        &[
            "routing",
            "live_files",
            "error_pages",
            "auth",
            "rules",
            "admission",
            "validation",
            "proxy",
            "service",
            "upstreams",
            "cache",
            "static_files",
        ],
    ),
    ("runtime", &["error", "capabilities", "outgoing", "runtime"]),
    (
        "host",
        &[
            "audit",
            "registry",
            "data",
            "guests",
            "cluster",
            "certificates",
            "request",
            "messages",
            "listener",
            "admin",
            "host",
            "cli",
            "fuzz",
            "main",
        ],
    ),
];

/// The number of a layer, counted from the bottom: that of the module `module` of the crate `of`.
fn layer(of: &str, module: &str) -> Option<usize> {
    let all = CRATES.iter().flat_map(|(name, layers)| layers.iter().map(move |layer| (*name, *layer)));
    let find = |module: &str| all.clone().position(|known| known == (of, module));
    find(module).or_else(|| find(of).filter(|_| of != "host"))
}

/// The crate of a file and its path in that crate, where the file is code of the host.
fn placed(file: &str) -> Option<(&str, &str)> {
    let (folder, path) = file.split_once("src/")?;
    let name = folder.trim_end_matches('/').rsplit('/').next()?;
    Some((name, path))
}

/// The modules that a file names, with their crates: after `lodge_CRATE::`, after `crate::`, or after as many `super::` as
/// lead to the top of its crate.
fn named(of: &str, path: &str, text: &str) -> BTreeSet<(String, String)> {
    let depth = if path == "lib.rs" { 0 } else { path.trim_end_matches(".rs").split('/').count() };
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let ident = |text: &str| text.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap().to_owned();
    let mut found = BTreeSet::new();
    let mut rest = text;
    while let Some(at) = ["crate::", "super::", "lodge_"].iter().filter_map(|start| rest.find(start)).min() {
        let before = rest[..at].chars().next_back();
        // Not `$crate::`, nor the end of another name.
        let begins = before.is_none_or(|before| !before.is_alphanumeric() && !matches!(before, '_' | '$' | ':'));
        rest = &rest[at..];
        let mut climbs = 0;
        while let Some(after) = rest.strip_prefix("super::") {
            (rest, climbs) = (after, climbs + 1);
        }
        let mut to = of.to_owned();
        let top = if let Some(after) = rest.strip_prefix("crate::") {
            rest = after;
            begins
        } else if let Some(after) = rest.strip_prefix("lodge_") {
            to = ident(after);
            rest = &after[to.len()..];
            let path = rest.strip_prefix("::");
            rest = path.unwrap_or(rest);
            begins && path.is_some()
        } else {
            climbs > 0 && climbs >= depth
        };
        if !top {
            continue;
        }
        let Some(list) = rest.strip_prefix('{') else {
            found.insert((to, ident(rest)));
            continue;
        };
        // The first word of every member of the list.
        let (mut open, mut member) = (0, String::new());
        for c in list.chars() {
            match c {
                '{' => open += 1,
                '}' if open == 0 => break,
                '}' => open -= 1,
                ',' if open == 0 => found.extend([(to.clone(), ident(std::mem::take(&mut member).trim()))]),
                c => member.push(c),
            }
        }
        found.extend([(to, ident(member.trim()))]);
    }
    found.retain(|(_, module)| !module.is_empty());
    found
}

#[test]
fn every_path_points_down() {
    let (mut inside, mut across) = (0, 0);
    // Backends for servers are above `state` and below the host, and the compiler keeps that.
    for (file, text) in host_files().into_iter().filter(|(file, _)| !file.starts_with("host/backends/")) {
        let (of, path) = placed(&file).unwrap_or_else(|| panic!("{file} is in no crate"));
        let tests = path.ends_with("tests.rs") || path.contains("tests/") || path.ends_with("lockstep.rs");
        let root = path == "lib.rs" && ["host", "traffic"].contains(&of);
        if tests || root || path.ends_with("fuzz.rs") {
            continue;
        }
        let module = path.trim_end_matches(".rs").split('/').next().unwrap();
        let own = layer(of, module).unwrap_or_else(|| panic!("{file}: `{module}` is not in CRATES"));
        for (to, used) in named(of, path, &code(&text)) {
            let Some(other) = layer(&to, &used) else { continue };
            assert!(other <= own, "{file} uses `{used}` of the crate `{to}`, which is in a layer above it");
            (inside, across) = (inside + usize::from(to == of && other < own), across + usize::from(to != of));
        }
    }
    assert!(inside > 50 && across > 250, "only {inside} and {across} paths were found");
}

/// The map of the docs has every layer in this order, with its crate.
#[test]
fn the_map_is_this_list() {
    let map = std::fs::read_to_string(crate::harness::root().join("docs/architecture.md")).unwrap();
    let rows = map.split("## The map").nth(1).unwrap().split("\n## ").next().unwrap();
    let cells = rows.lines().filter(|line| line.starts_with("| `")).map(|row| {
        let names: Vec<_> = row.split('`').skip(1).step_by(2).take(2).collect();
        (names[1].to_owned(), names[0].to_owned())
    });
    let folder = |of: &str| if of == "host" { "lodge".to_owned() } else { format!("lodge-{of}") };
    let listed =
        CRATES.iter().rev().flat_map(|(of, layers)| layers.iter().rev().map(|layer| (folder(of), (*layer).to_owned())));
    let listed: Vec<_> = listed.filter(|(_, layer)| layer != "main" && layer != "fuzz").collect();
    assert_eq!(cells.collect::<Vec<_>>(), listed);
}

#[test]
fn paths_are_found() {
    let check = |path: &str, text: &str, expected: &[(&str, &str)]| {
        let found = named("runtime", path, text);
        let found: Vec<_> = found.iter().map(|(of, module)| (of.as_str(), module.as_str())).collect();
        assert_eq!(found, expected, "{text}");
    };
    check("a/b.rs", "use crate::x::Y;\nlet z = crate::z();", &[("runtime", "x"), ("runtime", "z")]);
    check("a/b.rs", "use crate::{c::{D, E}, f};", &[("runtime", "c"), ("runtime", "f")]);
    check(
        "a/b.rs",
        "use super::x::Y; super::super::q::R; super::super::{s, t::U};",
        &[("runtime", "q"), ("runtime", "s"), ("runtime", "t")],
    );
    check("a.rs", "super::x(); other_crate::y(); $crate::z!(); my_lodge_base::u()", &[("runtime", "x")]);
    check(
        "a.rs",
        "use lodge_base::lock::lock; lodge_traffic::{error::E, cache}",
        &[("base", "lock"), ("traffic", "cache"), ("traffic", "error")],
    );
}
