//! Promise: modules beside each other do not use each other in a circle. A module stands for itself and all below it.
//!
//! A module and its own submodules may use each other: they are one unit, split into files.

use std::collections::{BTreeMap, BTreeSet};

use super::tidy::{code, host_files};

/// Modules that list the modules beside them, by crate. Sections of a manifest are read with hints about the others, so
/// each uses the list that it is in.
const LISTS: &[(&str, &str)] = &[("manifest", "section")];

/// The name of a module in its crate; empty for the root.
type Module = Vec<String>;

/// The modules of a crate, with the paths that each of them uses.
#[derive(Default)]
struct Crate {
    name: String,
    modules: BTreeMap<Module, Vec<UsedPath>>,
}

/// A path in the code of a module.
struct UsedPath {
    segments: Vec<String>,
    /// The name that it has in the module, for a `use`.
    name: Option<String>,
    /// Whether it is only passed on to other modules.
    exported: bool,
}

impl Crate {
    fn add(&mut self, file: &str, text: &str) {
        let module: Module = match file.trim_end_matches(".rs") {
            "lib" | "main" => Module::new(),
            path => path.split('/').map(str::to_owned).collect(),
        };
        self.modules.entry(module).or_default().extend(used_paths(text));
    }

    /// The module that a path in `module` leads to, and `None` outside of the crate. Follows names that a module passes
    /// on, so that a use of `super::Name` counts as one of the module that defines it.
    fn resolve(&self, module: &Module, path: &[String], depth: usize) -> Option<Module> {
        let first = path.first().filter(|_| depth < 8)?.as_str();
        let mut at = module.clone();
        let mut rest = match first {
            "crate" => {
                at.clear();
                &path[1..]
            }
            "self" => &path[1..],
            "super" => path,
            own if own.strip_prefix("lodge_") == Some(&self.name) => {
                at.clear();
                &path[1..]
            }
            _ if self.modules.contains_key(&joined(module, first)) => path,
            _ => return None,
        };
        while rest.first().is_some_and(|segment| segment == "super") {
            at.pop();
            rest = &rest[1..];
        }
        while let Some(segment) = rest.first() {
            let below = joined(&at, segment);
            if self.modules.contains_key(&below) {
                at = below;
            } else {
                let named = |used: &&UsedPath| used.name.as_ref() == Some(segment);
                let passed_on = self.modules.get(&at).filter(|_| at != *module)?.iter().find(named);
                let target = passed_on.and_then(|used| self.resolve(&at, &used.segments, depth + 1));
                return Some(target.unwrap_or(at));
            }
            rest = &rest[1..];
        }
        Some(at)
    }

    /// For every module with submodules: which of these use which others, and by what.
    fn uses(&self) -> BTreeMap<Module, BTreeMap<(String, String), String>> {
        let mut found: BTreeMap<Module, BTreeMap<_, _>> = BTreeMap::new();
        let lists = |module: &Module| LISTS.iter().any(|(of, list)| *of == self.name && module.join("/") == *list);
        for (module, paths) in self.modules.iter().filter(|(module, _)| !lists(module)) {
            for used in paths.iter().filter(|used| !used.exported) {
                let Some(target) = self.resolve(module, &used.segments, 0) else { continue };
                let common = module.iter().zip(&target).take_while(|(a, b)| a == b).count();
                if let (Some(from), Some(to)) = (module.get(common), target.get(common)) {
                    let how = format!("{} uses {}", module.join("/"), used.segments.join("::"));
                    found.entry(module[..common].to_vec()).or_default().insert((from.clone(), to.clone()), how);
                }
            }
        }
        found
    }

    /// The circles of the crate, one line each.
    fn circles(&self) -> Vec<String> {
        let mut circles = Vec::new();
        for edges in self.uses().values() {
            let members: BTreeSet<_> = edges.keys().map(|(from, _)| from).collect();
            let mut done = BTreeSet::new();
            for start in members {
                if let Some(circle) = circle_from(start, edges, &mut Vec::new(), &mut done) {
                    circles.push(circle);
                }
            }
        }
        circles
    }
}

/// Follows uses from `at`, and describes the first circle that it comes back on. `done` are modules that lead into none.
fn circle_from<'a>(
    at: &'a String,
    edges: &'a BTreeMap<(String, String), String>,
    path: &mut Vec<&'a String>,
    done: &mut BTreeSet<&'a String>,
) -> Option<String> {
    if let Some(begin) = path.iter().position(|module| *module == at) {
        let circle: Vec<_> = path[begin..].iter().copied().chain([at]).collect();
        let steps = circle.windows(2).map(|step| edges[&(step[0].clone(), step[1].clone())].as_str());
        return Some(steps.collect::<Vec<_>>().join("; "));
    }
    if done.contains(at) {
        return None;
    }
    path.push(at);
    let next = edges.keys().filter(|(from, _)| from == at).map(|(_, to)| to);
    let found = next.into_iter().find_map(|to| circle_from(to, edges, path, done));
    path.pop();
    done.insert(at);
    found
}

fn joined(module: &[String], segment: &str) -> Module {
    module.iter().cloned().chain([segment.to_owned()]).collect()
}

/// The paths that a file uses: those of its `use` declarations, and those in its code that begin with `crate`, `self` or
/// `super`.
fn used_paths(text: &str) -> Vec<UsedPath> {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let (mut paths, mut lines) = (Vec::new(), text.lines());
    while let Some(line) = lines.next() {
        let line = line.trim();
        let declaration = line.strip_prefix("use ").map(|tree| (tree, false)).or_else(|| {
            let (visibility, tree) = line.split_once(" use ")?;
            let public = visibility == "pub" || visibility.starts_with("pub(") && visibility.ends_with(')');
            public.then_some((tree, true))
        });
        if let Some((tree, exported)) = declaration {
            let mut tree = tree.to_owned();
            while !tree.ends_with(';') {
                let Some(line) = lines.next() else { break };
                tree.push_str(line.trim());
            }
            expand(tree.trim_end_matches(';'), &[], exported, &mut paths);
            continue;
        }
        for start in ["crate::", "self::", "super::"] {
            for (at, _) in line.match_indices(start) {
                let before = line[..at].chars().next_back();
                if before.is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '_' | '$' | ':')) {
                    let path = line[at..].split(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | ':')));
                    let segments = path.into_iter().next().unwrap().split("::").map(str::to_owned);
                    let segments = segments.filter(|segment| !segment.is_empty()).collect();
                    paths.push(UsedPath { segments, name: None, exported: false });
                }
            }
        }
    }
    paths
}

/// Adds every path of a `use` tree.
fn expand(tree: &str, before: &[String], exported: bool, into: &mut Vec<UsedPath>) {
    let tree = tree.trim();
    if let Some((path, list)) = tree.split_once('{') {
        let before: Vec<_> = before.iter().cloned().chain(segments(path)).collect();
        let list = list.trim_end().strip_suffix('}').unwrap_or(list);
        let (mut open, mut begin) = (0, 0);
        for (at, c) in list.char_indices().chain([(list.len(), ',')]) {
            match c {
                '{' => open += 1,
                '}' => open -= 1,
                ',' if open == 0 => {
                    expand(&list[begin..at], &before, exported, into);
                    begin = at + 1;
                }
                _ => {}
            }
        }
    } else if !tree.is_empty() {
        let (path, name) = tree.split_once(" as ").unwrap_or((tree, ""));
        let mut all: Vec<_> = before.iter().cloned().chain(segments(path)).collect();
        if all.len() > 1 && all.last().is_some_and(|last| last == "self") {
            all.pop();
        }
        let name = if name.is_empty() { all.last().cloned() } else { Some(name.trim().to_owned()) };
        into.push(UsedPath { segments: all, name, exported });
    }
}

fn segments(path: &str) -> impl Iterator<Item = String> {
    path.split("::").map(str::trim).filter(|segment| !segment.is_empty()).map(str::to_owned)
}

/// The crates of the host, without their tests.
fn crates() -> BTreeMap<String, Crate> {
    let mut crates: BTreeMap<String, Crate> = BTreeMap::new();
    for (file, text) in host_files() {
        let Some((folder, path)) = file.split_once("src/") else { continue };
        let name = folder.trim_end_matches('/').rsplit('/').next().unwrap().to_owned();
        let tests = path.split('/').any(|part| {
            ["tests", "testing", "fuzz", "lockstep"].contains(&part.trim_end_matches(".rs")) || path == "main.rs"
        });
        if !tests {
            let of = crates.entry(name.clone()).or_insert_with(|| Crate { name, ..Crate::default() });
            of.add(path, &code(&text));
        }
    }
    crates
}

#[test]
fn no_modules_use_each_other_in_a_circle() {
    let crates = crates();
    let circles: Vec<_> = crates.values().flat_map(Crate::circles).collect();
    assert!(circles.is_empty(), "{} circles:\n{}", circles.len(), circles.join("\n"));
    let edges: usize = crates.values().flat_map(|of| of.uses().into_values()).map(|edges| edges.len()).sum();
    assert!(edges > 400, "only {edges} uses were found");
}

/// Turning one `use` around makes a circle, however the path is written.
#[test]
fn a_turned_use_is_found() {
    let check = |turned: &str| {
        let mut of = Crate { name: "x".to_owned(), ..Crate::default() };
        of.add("lib.rs", "mod room;");
        of.add("room.rs", "mod a;\nmod b;\nmod c;\npub(crate) use self::a::Thing;\nuse b::Other as Alias;");
        of.add("room/a.rs", turned);
        of.add("room/b.rs", "use super::a::{\n    Thing,\n};");
        of.add("room/c.rs", "use crate::room::b;\nuse std::fmt::{self, Debug};");
        of.add("room/c/d.rs", "fn f() { super::g() }");
        of.circles()
    };
    assert_eq!(check("use super::Elsewhere; use std::fmt;"), [""; 0]);
    for turned in [
        "use super::c::d::f;",
        "use super::{c::{d::{self}}, x};",
        "use crate::room::b;",
        "use lodge_x::room::c;",
        "fn f() { crate::room::c::g() }",
        "use super::Alias;",
    ] {
        assert_eq!(check(turned).len(), 1, "{turned}");
    }
}
