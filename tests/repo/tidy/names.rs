//! A type name has one meaning in this repository, or `docs/architecture.md` lists its meanings.

use std::collections::BTreeMap;
use std::fs;

use crate::harness::root;

use super::rust_files;

/// All types that a file defines outside of its tests.
fn types(text: &str) -> Vec<&str> {
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap();
    let defined = text.lines().filter_map(|line| {
        let (indent, line) = (line.starts_with(' '), line.trim_start());
        // `pub`, `pub(super)` and `pub(in crate::cli)` precede it.
        let public =
            line.strip_prefix("pub").map(|rest| rest.split_once(") ").map_or(rest, |(_, rest)| rest).trim_start());
        let line = public.unwrap_or(line);
        let (kind, rest) = line.split_once(' ')?;
        // An indented `type` belongs to a trait.
        let is_type = ["struct", "enum", "trait"].contains(&kind) || kind == "type" && !indent;
        is_type.then(|| rest.split(|char: char| !char.is_alphanumeric()).next().unwrap())
    });
    defined.collect()
}

#[test]
fn shared_names_are_explained() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let own = |name: &str| ["tests.rs", "testing.rs", "fakes.rs", "fuzz.rs"].iter().any(|other| name.ends_with(other));
    let sources = rust_files("host")
        .into_iter()
        .filter(|(name, _)| name.contains("src/") && !name.starts_with("fuzz/") && !name.contains("conformance/"));
    for (file, text) in sources.filter(|(name, _)| !own(name) && !name.contains("/tests/")) {
        for name in types(&text) {
            places.entry(name.to_owned()).or_default().push(file.clone());
        }
    }
    assert!(places.len() > 300, "only {} types were found", places.len());
    let text = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let list = text.split("## Names of more than one type").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = list.lines().filter(|line| line.starts_with("| `")).filter_map(|row| row.split('|').nth(1));
    let explained: Vec<_> = rows.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    let missing: Vec<_> =
        places.iter().filter(|(name, files)| files.len() > 1 && !explained.contains(&name.as_str())).collect();
    assert!(
        missing.is_empty(),
        "these names have more than one type: rename all but one, or explain them in docs/architecture.md, \
         \"Names of more than one type\": {missing:#?}"
    );
}
