//! Promise: the docs agree with the code. Links lead somewhere, tables have every row, and code blocks are what they
//! claim.

mod markdown;
mod tables;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use http::Method;

use crate::harness::{eventually, host, lodge, metric, output, root};
use crate::repo::tidy::rust_files;
use markdown::{anchors, blocks, commands, links, words};

/// A page of the docs: its path from the root of the repository, and its text.
struct Page {
    path: String,
    text: String,
}

/// The README and every page of `docs/`, by path.
fn pages() -> Vec<Page> {
    let mut paths = vec!["README.md".to_owned()];
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") {
            paths.push(format!("docs/{name}"));
        }
    }
    paths.sort();
    paths.into_iter().map(|path| Page { text: fs::read_to_string(root().join(&path)).unwrap(), path }).collect()
}

fn page(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn links_lead_somewhere() {
    let mut checked = 0;
    for Page { path, text } in pages() {
        let names = anchors(&text);
        let twice = names.iter().find(|name| names.iter().filter(|other| other == name).count() > 1);
        assert_eq!(twice, None, "{path} has two headings with one anchor");
        let folder = root().join(&path).parent().unwrap().to_owned();
        for link in links(&text).into_iter().filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { root().join(&path) } else { folder.join(file) };
            assert!(target.exists(), "{path}: there is no {link}");
            let resolved = target.canonicalize().unwrap();
            assert!(resolved.starts_with(root().canonicalize().unwrap()), "{path}: {link} is not in the repository");
            if !anchor.is_empty() {
                let text = fs::read_to_string(&target).unwrap();
                assert!(anchors(&text).iter().any(|name| name == anchor), "{path}: there is no heading {link}");
            }
            checked += 1;
        }
    }
    assert!(checked > 50, "{checked} links were found");
}

/// Links from the pages to files outside of `docs/` work in the book, which is a folder beside `docs/`. mdBook turns
/// links to `.md` into links to pages, so none leads to such a file.
#[test]
fn links_out_of_the_docs_work_in_the_book() {
    let book: toml::Table = page("docs/book.toml").parse().unwrap();
    let folder = root().join("docs").join(book["build"]["build-dir"].as_str().unwrap());
    assert_eq!(folder.parent().unwrap().canonicalize().unwrap(), root().canonicalize().unwrap());
    let mut checked = 0;
    for Page { path, text } in pages().into_iter().filter(|page| page.path.starts_with("docs/")) {
        for link in links(&text).into_iter().filter(|link| link.starts_with("../")) {
            assert!(!link.contains(".md"), "{path}: mdBook makes a page of {link}");
            checked += 1;
        }
    }
    assert!(checked > 10, "{checked} links were found");
}

/// Each version of the WIT is complete and has that version; the toolchains of the guide bind to its exact name.
#[test]
fn the_wit_has_the_versions_that_toolchains_bind_to() {
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    for (folder, version) in [("wit", "0.2.12"), ("wit/0.2.10", "0.2.10"), ("wit/0.3.2", "0.3.2")] {
        let folder = root().join(folder);
        assert!(read(&folder.join("service.wit")).contains(&format!("@{version};")));
        let mut packages = 0;
        for entry in fs::read_dir(folder.join("deps")).unwrap() {
            let path = entry.unwrap().path();
            let (name, text) = (path.file_stem().unwrap().to_str().unwrap().to_owned(), read(&path));
            // Not a part of WASI, and in versions of their own.
            let others = [
                ("config", "wasi:config@0.2.0-rc.1"),
                ("blobstore", "wasi:blobstore@0.2.0-draft"),
                ("keyvalue", "wasi:keyvalue@0.2.0-draft2"),
                ("lock", "lodge:lock@0.1.0"),
                ("messaging", "wasmcloud:messaging@0.2.0"),
                ("messaging", "wasmcloud:messaging@0.3.0"),
            ];
            let mut packages_of = others.iter().filter(|(other, _)| *other == name).peekable();
            if packages_of.peek().is_some() {
                let has = packages_of.any(|(_, package)| text.contains(&format!("\npackage {package};")));
                assert!(has, "{}", path.display());
                continue;
            }
            assert!(text.starts_with(&format!("package wasi:{name}@{version};")), "{}", path.display());
            let other = text.split("wasi:").skip(1).find(|rest| {
                let name = rest.split(|char: char| char.is_whitespace() || ";.{".contains(char)).next().unwrap();
                name.contains('@') && !rest.split('@').nth(1).unwrap().starts_with(version)
            });
            assert_eq!(other.map(|rest| &rest[..30]), None, "{}", path.display());
            packages += 1;
        }
        assert!(packages >= 6, "{}", folder.display());
    }
    let (newest, older) = (read(&root().join("wit/deps/http.wit")), read(&root().join("wit/0.2.10/deps/http.wit")));
    assert_eq!(newest.replace("0.2.12", "0.2.10"), older, "they differ in more than the version");
    let guide = page("docs/guide.md");
    for folder in ["wit/0.2.10", "wit/0.3.2"] {
        assert!(guide.contains(&format!("cp -r LODGE/{folder} ")), "the guide does not use {folder}");
    }
}

/// Every line of the threat model names tests that exist.
#[test]
fn the_threat_model_is_held_by_tests() {
    let text = page("docs/security.md");
    let model = text.split("## The threat model").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows: Vec<_> = model.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| cannot")).collect();
    assert!(rows.len() > 30, "only {} lines were found", rows.len());
    for row in rows {
        let tests: Vec<_> = row.split("[`").skip(1).map(|rest| rest.split_once("`](../").unwrap()).collect();
        assert!(!tests.is_empty(), "no test holds this: {row}");
        for (name, rest) in tests {
            let file = rest.split(')').next().unwrap();
            assert!(page(file).contains(&format!("fn {name}(")), "{file} has no test `{name}`");
        }
    }
}

/// mdBook shows exactly the pages that `SUMMARY.md` lists.
#[test]
fn the_summary_lists_every_page() {
    let mut listed = links(&page("docs/SUMMARY.md"));
    listed.sort();
    let pages = pages().into_iter().filter_map(|page| page.path.strip_prefix("docs/").map(str::to_owned));
    let pages: Vec<_> = pages.filter(|name| name != "SUMMARY.md").collect();
    assert_eq!(listed, pages);
    let book: toml::Table = page("docs/book.toml").parse().unwrap();
    assert_eq!(book["book"]["src"].as_str(), Some("."));
    let (readme, lines) = (page("README.md"), page("README.md").lines().count());
    assert!(lines <= 150, "README.md has {lines} lines: the details are for docs/");
    for name in pages {
        assert!(readme.contains(&format!("(docs/{name})")), "README.md does not lead to docs/{name}");
    }
}

/// Every code block has an info string that says what it is; blocks that can be read or run by a test are.
#[test]
fn blocks_are_what_they_claim() {
    const KNOWN: &[&str] = &[
        "console",
        "dockerfile",
        "go",
        "js",
        "json",
        "mermaid",
        "python",
        "rust",
        "sh",
        "text",
        "toml cargo",
        "toml lodge",
        "toml manifest",
        "yaml",
    ];
    let mut settings = 0;
    for Page { path, text } in pages() {
        for (info, code) in blocks(&text) {
            assert!(KNOWN.contains(&info.as_str()), "{path}: no block is `{info}`: say one of {KNOWN:?}");
            match info.as_str() {
                "json" => {
                    let json = serde_json::from_str::<serde_json::Value>(&code);
                    json.unwrap_or_else(|error| panic!("{path}: {error}:\n{code}"));
                }
                "toml cargo" => {
                    toml::from_str::<toml::Table>(&code).unwrap_or_else(|error| panic!("{path}: {error}:\n{code}"));
                }
                // Manifests are read by `cli::schema`, which compares their schema, too.
                "toml lodge" => {
                    let source = lodge_base::config::read_file(&code).unwrap();
                    let origin = lodge_base::config::Origin::File;
                    lodge_base::config::resolve(&[(origin, source)])
                        .map(drop)
                        .unwrap_or_else(|problems| panic!("{path}: {problems:?}:\n{code}"));
                    settings += 1;
                }
                _ => {}
            }
        }
    }
    assert!(settings > 0, "no page shows a lodge.toml");
}

/// The commands in the docs exist, with their flags.
#[test]
fn commands_exist() {
    let mut help: BTreeMap<String, String> = BTreeMap::new();
    let mut checked = 0;
    for Page { path, text } in pages() {
        for line in commands(&text) {
            let mut words = line.split([' ', '[', ']', '=']).skip(1).filter(|word| !word.is_empty()).peekable();
            let is_command = |word: &&str| word.starts_with(|char: char| char.is_ascii_lowercase());
            let Some(command) = words.next().filter(is_command) else { continue };
            let below = words.next_if(|word| ["audit", "data", "keys"].contains(&command) && is_command(word));
            let command = [Some(command), below].into_iter().flatten().collect::<Vec<_>>();
            let known = help.entry(command.join(" ")).or_insert_with(|| {
                let (code, known, error) = output(&mut lodge(&[&*command, &["--help"]].concat()));
                assert_eq!(code, Some(0), "{path}: `{line}`: {error}");
                known
            });
            for flag in words.filter(|word| word.starts_with('-')) {
                let has = known.split([' ', ',', '\n', '[']).any(|word| word == flag);
                assert!(has, "{path}: `{line}`: `lodge {}` has no {flag}", command.join(" "));
                checked += 1;
            }
        }
    }
    assert!(help.len() > 15 && checked > 10, "{checked} flags of {:?}", help.keys());
}

/// The services in the docs are guests that the tests run.
#[test]
fn services_are_guests_that_run() {
    for (path, guest) in [
        ("README.md", "guests/hello"),
        ("docs/guide.md", "tests/guests/orders"),
        ("docs/middleware.md", "tests/guests/gate3"),
        ("docs/messages.md", "tests/guests/shop"),
        ("docs/messages.md", "tests/guests/mail"),
    ] {
        let code = page(&format!("{guest}/src/lib.rs"));
        // In the docs they are beside the services of the repository.
        let code = code.replace("\"../../../wit/deps/", "\"../../wit/deps/");
        assert!(page(path).contains(&format!("```rust\n{}\n```", code.trim())), "the service in {path} is not {guest}");
    }
}

/// The service of the guide prices orders, and rejects invalid ones.
#[tokio::test]
async fn the_guides_service_prices_orders() {
    let host = host(&["orders"]).start().await;
    let mut client = host.connect().await;
    let cake = r#"{"item":"cake","count":2}"#;
    for (method, path, body, status, expected) in [
        (Method::POST, "/orders", cake, 200, r#"{"item":"cake","count":2,"cents":1040}"#),
        (Method::POST, "/orders", r#"{"item":"tea"}"#, 422, r#"{"error":"missing field `count` at line 1 column 14"}"#),
        (Method::POST, "/orders", r#"{"item":"ale","count":1}"#, 422, r#"{"error":"there is no ale"}"#),
        (Method::GET, "/orders", "", 405, r#"{"error":"POST an order here"}"#),
        (Method::POST, "/orders/1", cake, 404, r#"{"error":"there is nothing here"}"#),
    ] {
        let response = client.ask(method, path, &[], body).await;
        assert_eq!((response.status, response.text().as_str()), (status, expected), "{path} {body}");
    }
}

/// An order that the shop of docs/messages.md publishes is handled by its mail.
#[tokio::test]
async fn the_services_of_the_page_of_messages_publish_and_consume() {
    let setup = host(&["shop", "mail"]).manifest("shop", "publish = 'orders.*'");
    let host = setup.manifest("mail", "[consume]\nsubject = 'orders.created'").start().await;
    let published = || async { host.connect().await.ask(Method::POST, "/shop/orders", &[], "3 x tea").await };
    // The first one may come before the subscription.
    eventually("it is published", async || published().await.status == 202).await;
    let handled = "lodge_messages_delivered_total{service=\"mail\",outcome=\"acknowledged\"}";
    eventually("it is handled", async || metric(host.admin, handled).await >= 1.0).await;
    assert_eq!(host.get("/shop/nothing").await.status, 404);
}

/// `curl` prints what README.md and the guide show.
#[tokio::test]
async fn curl_prints_what_the_docs_show() {
    let setup = host(&["hello", "users", "visits", "orders"]).manifest("users", "keyvalue = true");
    let host = setup.manifest("visits", "keyvalue = true").start().await;
    let mut client = host.connect().await;
    let mut checked = 0;
    for path in ["README.md", "docs/guide.md"] {
        for (_, code) in blocks(&page(path)).into_iter().filter(|(info, _)| info == "console") {
            let lines: Vec<_> = code.lines().collect();
            for pair in lines.windows(2) {
                let Some(command) = pair[0].strip_prefix("$ curl ") else { continue };
                let words = words(command);
                let after = |flag: &str| words.iter().position(|word| word == flag).map(|at| words[at + 1].as_str());
                let url = words.iter().find_map(|word| word.strip_prefix("localhost:8080")).unwrap();
                let method = if after("-d").is_some() { Method::POST } else { Method::GET };
                let headers: Vec<_> = after("-H").and_then(|header| header.split_once(": ")).into_iter().collect();
                let response = client.ask(method, url, &headers, after("-d").unwrap_or_default()).await;
                assert_eq!(response.text(), pair[1], "{path}: {command}");
                checked += 1;
            }
        }
    }
    assert!(checked >= 5, "{checked}");
}

/// The words of the glossary are sorted.
#[test]
fn the_glossary_is_in_order() {
    let map = page("docs/architecture.md");
    let glossary = map.split("## Glossary").nth(1).unwrap().split("\n## ").next().unwrap();
    let words = glossary.lines().filter(|line| line.starts_with("| ")).skip(1);
    let words: Vec<_> = words.collect();
    assert!(
        words.len() >= 40 && words.is_sorted_by_key(|row| row.to_lowercase()),
        "the glossary is not in order: {words:?}"
    );
}

/// Modules and functions that the docs name by their paths exist there.
#[test]
fn paths_of_the_code_exist() {
    let sources = ["host/src", "host/runtime/src", "host/traffic/src", "host/manifest/src", "host/base/src"];
    let names = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let mut found = 0;
    for name in ["architecture", "contributing", "decisions", "performance", "security"] {
        let text = page(&format!("docs/{name}.md"));
        for span in text.split('`').skip(1).step_by(2) {
            let path: Vec<_> = span.split("::").collect();
            let (last, parents) = path.split_last().unwrap();
            let module = |path: &[&str]| {
                let mut files =
                    sources.iter().map(|source| root().join(source).join(path.join("/")).with_extension("rs"));
                files.clone().find(|file| file.is_file()).or_else(|| files.next_back()).unwrap()
            };
            if parents.is_empty() || !path.iter().all(|word| names(word)) || !module(&path[..1]).is_file() {
                continue;
            }
            let function =
                || fs::read_to_string(module(parents)).is_ok_and(|text| text.contains(&format!("fn {last}(")));
            assert!(module(&path).is_file() || function(), "docs/{name}.md names `{span}`, which is not there");
            found += 1;
        }
    }
    assert!(found > 5, "only {found} paths were found");
}

/// CI runs the commands that the README gives to a newcomer.
#[test]
fn ci_runs_the_commands_of_the_readme() {
    let (readme, ci) = (page("README.md"), page(".ci/run"));
    for command in ["cargo run -- dev", "cargo test"] {
        assert!(readme.contains(&format!("```sh\n{command}\n```")) && ci.contains(command), "{command}");
    }
}

/// Every page of the docs that the code names exists.
#[test]
fn the_code_names_pages_that_exist() {
    let mut named = 0;
    for folder in ["host", "tests", "guests"] {
        for (file, text) in rust_files(folder) {
            for (before, rest) in text.match_indices("docs/").map(|(at, _)| (&text[..at], &text[at..])) {
                let name =
                    rest.split(|char: char| !char.is_ascii_alphanumeric() && !"/._-".contains(char)).next().unwrap();
                let whole = before.ends_with(|char: char| "`( \"/".contains(char));
                if whole && name.ends_with(".md") {
                    assert!(Path::new(&root()).join(name).is_file(), "{folder}/{file}: there is no {name}");
                    named += 1;
                }
            }
        }
    }
    assert!(named > 5, "{named} names were found");
}
