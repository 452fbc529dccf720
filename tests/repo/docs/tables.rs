//! Promise: the tables of the docs have a row for every setting, key, failure and metric, with the default of the code.

use super::page;
use crate::repo::tidy::{host_files, rust_files};

/// Every setting has a row with its default, every failure one with its reason, and every metric an explanation.
#[test]
fn tables_are_complete() {
    let (settings, errors, observe) = (page("docs/configuration.md"), page("docs/errors.md"), page("docs/observe.md"));
    for (name, default, _) in lodge_base::config::described() {
        let (place, text) = match name.starts_with("traces.") {
            true => ("docs/observe.md", &observe),
            false => ("docs/configuration.md", &settings),
        };
        let default = if default.is_empty() { String::new() } else { format!("`{default}`") };
        let row = format!("| `{name}` | {default} |");
        assert!(text.contains(&row), "{place} has no row `{row}`");
    }
    let (_, code) = host_files().into_iter().find(|(name, _)| name == "host/src/request/error.rs").unwrap();
    let reasons = code.split("fn row").nth(1).unwrap().split("pub fn status").next().unwrap();
    for reason in reasons.split('"').skip(1).step_by(2) {
        assert!(errors.contains(&format!("| `{reason}` |")), "docs/errors.md does not explain `{reason}`");
    }
    let scrape = rust_files("host/src").into_iter().filter(|(name, _)| name.starts_with("admin/scrape"));
    let quoted = |(_, text): (_, String)| text.split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let names: Vec<_> = scrape.flat_map(quoted).filter(|name| is_metric(name)).collect();
    assert!(names.len() > 50, "the metrics are not where this test looks: {names:?}");
    for name in names {
        assert!(observe.contains(&format!("`{name}")), "docs/observe.md does not explain `{name}`");
    }
}

fn is_metric(text: &str) -> bool {
    let prefixed = ["lodge_", "http_server_", "process_"].iter().any(|prefix| text.starts_with(prefix));
    prefixed && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// A row of a table: the first cell of the table's head, a key that the row names, and its default.
struct Row {
    head: String,
    key: String,
    default: String,
}

/// The rows of all tables of a page. A row may name several keys and, in the same order, their defaults.
fn rows(page: &str) -> Vec<Row> {
    let (mut rows, mut head) = (Vec::new(), None);
    for line in page.lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        if !line.starts_with('|') || cells.len() < 4 {
            head = None;
            continue;
        }
        let Some(head) = &head else {
            head = Some(cells[1].to_owned());
            continue;
        };
        let mut defaults = cells[2].split(", ");
        let keys = cells[1].split(", ").filter(|key| !key.starts_with('-'));
        rows.extend(keys.map(|key| Row {
            head: head.clone(),
            key: key.trim_matches('`').to_owned(),
            default: defaults.next().unwrap_or_default().to_owned(),
        }));
    }
    rows
}

/// Every section of a manifest is in the list of pages, and its page has a row for each of its keys, with the real
/// default. A table of one section has no other rows.
#[test]
fn tables_of_manifests_agree_with_the_reader() {
    let overview = page("docs/manifest.md");
    let mut checked = 0;
    for section in lodge_manifest::section::SECTIONS {
        let (name, path) = (section.name, format!("docs/{}.md", section.page));
        let listed = |line: &str| {
            let named = line.contains(&format!("`{name}`")) || line.contains(&format!("`[{name}]`"));
            named && line.contains(&format!("]({}.md", section.page))
        };
        let listed = section.page == "manifest" || overview.lines().filter(|line| line.starts_with('|')).any(listed);
        assert!(listed, "docs/manifest.md has no row for `{name}` that leads to {}.md", section.page);
        let rows = rows(&page(&path));
        let heads = [format!("`[{name}]`"), format!("key of `[{name}]`")];
        let own: Vec<_> = rows.iter().filter(|row| heads.contains(&row.head)).collect();
        let mut keys = section.keys();
        let schema = (section.schema)();
        // A value that is not a section, or has a short form beside it.
        if keys.is_empty() || schema["anyOf"][0]["type"] == "boolean" {
            keys.push((
                String::new(),
                schema["default"].as_str().map_or_else(|| schema["default"].to_string(), Into::into),
            ));
        }
        for (key, default) in &keys {
            let whole = if key.is_empty() { name.to_owned() } else { format!("{name}.{key}") };
            let row = own.iter().copied().find(|row| row.key == *key);
            let row = row.or_else(|| rows.iter().find(|row| row.key == whole));
            let shown = &row.unwrap_or_else(|| panic!("{path} has no row for `{whole}`")).default;
            // A key without a default may have words instead.
            let has_default = !default.is_empty() && default != "null";
            let fits = if has_default { *shown == format!("`{default}`") } else { !shown.starts_with('`') };
            assert!(fits, "{path}: `{whole}` is {default:?} by default, and not {shown:?}");
            checked += 1;
        }
        for row in own {
            assert!(keys.iter().any(|(key, _)| *key == row.key), "{path}: [{name}] has no key `{}`", row.key);
        }
    }
    assert!(checked >= 75, "{checked} keys");
}
