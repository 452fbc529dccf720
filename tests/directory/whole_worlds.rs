//! Promise: a component that imports the whole world of an SDK is served, and a call fails only where Lodge lacks what is called, or
//! has it with other types, or the manifest does not grant it. Any other component that imports what Lodge lacks is refused.

use serde_json::Value;

use super::refused_files::renamed;
use crate::harness::{Process, get, host, lodge, output, until, wasm};

const LACKING: [&str; 5] = [
    "fermyon:spin/llm@2.0.0",
    "fermyon:spin/mqtt@2.0.0",
    "fermyon:spin/mysql@2.0.0",
    "fermyon:spin/redis@2.0.0",
    "wasi:cli/environment@0.3.0-rc-2026-03-15",
];

#[tokio::test(flavor = "multi_thread")]
async fn calls_fail_with_the_error_of_their_interface() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["worldly", "granted"] {
        std::fs::copy(wasm("worldly"), directory.path().join(format!("{name}.wasm"))).unwrap();
    }
    std::fs::write(directory.path().join("granted.toml"), "keyvalue = true").unwrap();
    let process = Process::serve(directory.path(), &[]).await;
    let call = async |path: &str| {
        let response = get(process.address, path).await;
        (response.status, response.text())
    };
    // Twice, for the log.
    for _ in 0..2 {
        for (interface, error) in [
            ("llm", "RuntimeError(\"fermyon:spin/llm@2.0.0: Lodge has no model"),
            ("mqtt", "Other(\"fermyon:spin/mqtt@2.0.0: Lodge has no message broker"),
            ("mysql", "Other(\"fermyon:spin/mysql@2.0.0: Lodge has no SQL database"),
            ("postgres", "ConnectionFailed(\"the manifest of the service grants no such database\")"),
            ("postgres3", "ConnectionFailed(\"the manifest of the service grants no such database\")"),
            ("redis", "Other(\"fermyon:spin/redis@2.0.0: Lodge has no message broker"),
        ] {
            let (status, text) = call(&format!("/granted/{interface}")).await;
            assert!(status == 200 && text.contains(error), "{interface}: {status} {text}");
        }
    }
    // A function without an error.
    assert_eq!(call("/granted/arguments").await.0, 502);
    // What is granted works, and what could be granted is denied when it is called.
    assert_eq!(call("/granted/visits").await, (200, "visit 1".into()));
    assert_eq!(call("/granted/visits").await, (200, "visit 2".into()));
    let (status, text) = call("/worldly/visits").await;
    assert!(status == 200 && text.contains("AccessDenied"), "{text}");
    // The log is in order: when this line is logged, all previous ones are.
    until("the last line", || process.log().contains("to worldly.toml")).await;
    for (service, line, times) in [
        (
            "granted",
            "called [static]connection.open of fermyon:spin/redis@2.0.0, and Lodge has no message broker; send",
            1,
        ),
        ("granted", "called [static]connection.open of fermyon:spin/mqtt@2.0.0, and Lodge has no", 1),
        ("granted", "called infer of fermyon:spin/llm@2.0.0, and Lodge has no", 1),
        (
            "granted",
            "called get-arguments of wasi:cli/environment@0.3.0-rc-2026-03-15, and Lodge does not have this",
            2,
        ),
        ("worldly", "add `keyvalue = true` to worldly.toml", 1),
        ("worldly", "fermyon:spin/redis", 0),
    ] {
        let count = || {
            let of_service = format!("service=\"{service}\"");
            process.log().lines().filter(|logged| logged.contains(line) && logged.contains(&of_service)).count()
        };
        assert_eq!(count(), times, "{line}: {}", process.log());
    }
    let shown: Value = serde_json::from_slice(&get(process.admin, "/v1/services/granted").await.body).unwrap();
    let lacking: Vec<_> = shown["absent_imports"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(lacking, LACKING);
    let (code, text, _) = output(&mut lodge(&["inspect", "granted", "--admin", &process.admin.to_string()]));
    assert!(code == Some(0) && text.contains("  lacks         fermyon:spin/llm@2.0.0\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_list_what_is_lacking() {
    let file = wasm("worldly");
    let (code, text, _) = output(&mut lodge(&["inspect", file.to_str().unwrap()]));
    let given = "imported with the whole world of an SDK; Lodge does not have it, and calls of it fail";
    assert!(code == Some(0) && text.contains(&format!("fermyon:spin/redis@2.0.0: {given}")), "{text}");
    let (code, text, _) =
        output(lodge(&["check", file.to_str().unwrap()]).env("LODGE_CACHE_DIRECTORY", crate::harness::cache()));
    let lines: Vec<_> = text.lines().skip_while(|line| !line.starts_with("  lacks")).collect();
    assert_eq!((code, lines.len()), (Some(0), LACKING.len()), "{text}");
    assert!(lines.iter().zip(LACKING).all(|(line, name)| line.ends_with(name)), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn others_are_refused() {
    let whole = std::fs::read(wasm("worldly")).unwrap();
    // Lodge knows this interface, but the component does not import all of the world.
    let most = renamed(&whole, "fermyon:spin/llm@2.0.0", "fermyon:spin/llm@2.0.1");
    // Lodge does not know this interface.
    let foreign =
        renamed(&whole, "wasi:cli/environment@0.3.0-rc-2026-03-15", "acme:cli/environment@0.3.0-rc-2026-03-15");
    // Lodge knows the versions of these interfaces, with other types. The second component does not import all of the world.
    let draft = renamed(&whole, "floating32", "floating23");
    let drafty = renamed(&std::fs::read(wasm("postgres")).unwrap(), "floating32", "floating23");
    let setup = host(&["worldly"]).file("most.wasm", &most).file("foreign.wasm", &foreign);
    let host = setup.file("draft.wasm", &draft).file("drafty.wasm", &drafty).start().await;
    let refusals = host.refusals();
    for (file, reason) in [
        ("most.wasm: ", "it imports fermyon:spin/"),
        ("foreign.wasm: ", "it imports acme:cli/environment@0.3.0-rc-2026-03-15, which Lodge does not have; compose"),
        ("drafty.wasm: ", " with other types than Lodge has, which are those of releases: instance export `"),
    ] {
        let line = refusals.iter().find(|line| line.starts_with(file));
        assert!(line.is_some_and(|line| line.contains(reason)), "{file}{refusals:#?}");
    }
    assert_eq!((refusals.len(), host.get("/worldly/redis").await.status), (3, 200));
    // Of the older version it only imports what has the same types in both.
    let text = host.get("/draft/postgres3").await.text();
    assert!(text.contains("Other(") && text.contains("Lodge has this version with other types"), "{text}");
    assert!(host.get("/draft/visits").await.text().contains("AccessDenied"));
}
