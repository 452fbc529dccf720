//! Promise: components in front of a service see its requests and responses, within its limits, and change under load without a request
//! that is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use http::Method;

use serde_json::Value;

use crate::harness::{Connection, Process, Response, TestHost, cache, get, host, lodge, output, until, wasm};

/// The component of the guest `gate3`, with a section that changes nothing but its digest.
fn gate(number: u8) -> Vec<u8> {
    let mut bytes = std::fs::read(wasm("gate3")).unwrap();
    bytes.extend([0, 2, 1, number]);
    bytes
}

fn passed(response: &Response) -> usize {
    response.headers.get_all("x-gate").iter().filter(|value| *value == "passed").count()
}

fn version(host: &TestHost, service: &str) -> String {
    host.current.snapshot().target(service).unwrap().deployment().version.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_pass_middleware() {
    let setup = host(&["echo3", "echo", "gate3"])
        .named("echo3", "twice")
        .named("echo3", "bare")
        .named("echo3", "tight")
        .named("caller3", "odd");
    std::fs::create_dir(setup.directory.path().join("middleware")).unwrap();
    let host = setup
        .file("middleware/gate.wasm", &gate(0))
        .file("middleware/other.wasm", &gate(1))
        .manifest("echo3", "middleware = 'middleware/gate.wasm'")
        .manifest("twice", "middleware = ['middleware/gate.wasm', 'middleware/other.wasm']\nlimits.memory = '8MiB'\nisolation = 'service'")
        .manifest("tight", "middleware = ['middleware/gate.wasm', 'middleware/other.wasm']\nlimits.memory = '2MiB'")
        .manifest("bare", "limits.memory = '2MiB'")
        .manifest("echo", "middleware = 'middleware/gate.wasm'")
        .manifest("odd", "middleware = 'echo3.wasm'")
        .start()
        .await;
    let refusals = host.refusals().join("\n");
    for expected in [
        "gate3.wasm: it imports wasi:http/handler, to pass requests on to another component",
        "echo.wasm: it exports no wasi:http/handler of WASI 0.3",
        // Each part has a memory of its own, and the limit is for all of them.
        "tight.wasm: it ",
        "odd.toml: middleware echo3.wasm: it imports no wasi:http/handler, so that no request would reach the service",
    ] {
        assert!(refusals.contains(expected), "{refusals}");
    }
    assert_eq!(host.refusals().len(), 4, "{refusals}");
    let large = "a".repeat(300_000);
    for mut client in [Connection::http1(host.address).await, Connection::http2(host.address).await] {
        for (service, times) in [("echo3", 1), ("twice", 2), ("bare", 0)] {
            for body in ["", "small", &large] {
                let response = client.ask(Method::POST, &format!("/{service}"), &[], body).await;
                assert_eq!(
                    (response.status, response.text().len(), passed(&response)),
                    (200, body.len(), times),
                    "{service}"
                );
            }
            let refused = client.get(&format!("/{service}/refused")).await;
            let expected = if times == 0 { 200 } else { 403 };
            assert_eq!((refused.status, passed(&refused)), (expected, 0), "{service}");
        }
    }
    assert_ne!(version(&host, "echo3"), version(&host, "bare"), "the middleware is a part of the version");
    reloads(&host).await;
}

/// Another middleware is in front of the service within seconds, and a bad one leaves the last good composition.
async fn reloads(host: &TestHost) {
    let (stop, address) = (Arc::new(AtomicBool::new(false)), host.address);
    let loads: Vec<_> = (0..2)
        .map(|_| {
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                let (mut client, mut count) = (Connection::http1(address).await, 0);
                while !stop.load(Relaxed) {
                    let response = client.ask(Method::POST, "/echo3", &[], "body").await;
                    assert_eq!(
                        (response.status, response.text().as_str(), passed(&response)),
                        (200, "body", 1),
                        "{response:?}"
                    );
                    count += 1;
                }
                count
            })
        })
        .collect();
    let (before, file) = (version(host, "echo3"), host.directory().join("middleware/gate.wasm"));
    std::fs::write(&file, gate(2)).unwrap();
    until("the new middleware is in front", || version(host, "echo3") != before).await;
    let now = version(host, "echo3");
    std::fs::copy(wasm("echo"), &file).unwrap();
    until("a component that is none is refused", || {
        host.refusals().iter().any(|why| why.contains("echo3.toml: middleware middleware/gate.wasm: it exports no"))
    })
    .await;
    std::fs::write(&file, "no component").unwrap();
    until("a file that is none is refused", || {
        host.refusals().iter().any(|why| why.contains("middleware middleware/gate.wasm: it is not"))
    })
    .await;
    assert_eq!(version(host, "echo3"), now);
    std::fs::write(&file, gate(0)).unwrap();
    until("the first middleware is in front", || version(host, "echo3") == before).await;
    std::fs::remove_file(&file).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(version(host, "echo3"), before);
    stop.store(true, Relaxed);
    for load in loads {
        assert!(load.await.unwrap() > 10);
    }
}

/// The log and `inspect` name the part that wrote a line or failed, and every list has the same version.
#[tokio::test(flavor = "multi_thread")]
async fn operators_see_which_part_it_was() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("middleware")).unwrap();
    for (from, to) in
        [("witness3", "middleware/witness.wasm"), ("gate3", "middleware/gate.wasm"), ("cutoff3", "cutoff3.wasm")]
    {
        std::fs::copy(wasm(from), directory.path().join(to)).unwrap();
    }
    let manifest = "middleware = ['middleware/gate.wasm', 'middleware/witness.wasm']\nlimits.cpu = '300ms'";
    std::fs::write(directory.path().join("cutoff3.toml"), manifest).unwrap();
    let process = Process::serve(directory.path(), &["--log-format", "json"]).await;
    for (path, status) in [("lines", 200), ("panic", 502), ("loop", 504)] {
        assert_eq!(get(process.address, &format!("/cutoff3/{path}")).await.status, status, "{path}");
    }
    let log = || process.log();
    until("all failures are logged", || log().contains("cpu-time") && log().matches("\"trapped\"").count() > 1).await;
    let lines: Vec<Value> = log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let part_of = |text: &str| {
        let line =
            lines.iter().find(|line| line.to_string().contains(text)).unwrap_or_else(|| panic!("{text}: {}", log()));
        line["part"].as_str().map(str::to_owned)
    };
    let witness = Some("middleware/witness.wasm".to_owned());
    for text in [
        "a line to stdout",
        "an unfinished line to stderr",
        "a line by WASI 0.3",
        "index out of bounds",
        "seat_of",
        "cpu-time",
    ] {
        assert_eq!(part_of(text), witness, "{text}");
    }
    assert_eq!(part_of("transfer aborted"), None, "the service itself failed");
    let admin = process.admin.to_string();
    let details: Value = serde_json::from_slice(&get(process.admin, "/v1/services/cutoff3").await.body).unwrap();
    let files: Vec<_> =
        details["parts"].as_array().unwrap().iter().map(|part| part["file"].as_str().unwrap()).collect();
    assert_eq!(files, ["middleware/gate.wasm", "middleware/witness.wasm", "cutoff3.wasm"]);
    assert_eq!(details["parts"][2]["digest"], details["digest"]);
    // The function of the guest is the innermost one that is shown, by its name in the source.
    let failures = details["recent_errors"].as_array().unwrap();
    let panicked = failures.iter().find(|it| it["detail"].to_string().contains("seat_of")).unwrap();
    assert_eq!(
        (&panicked["part"], &panicked["backtrace"][0]),
        (&"middleware/witness.wasm".into(), &"witness3::seat_of".into())
    );
    let version = details["version"].as_str().unwrap();
    assert!(lines.iter().any(|line| line["version"] == version), "{version}");
    let (_, listed, _) = output(&mut lodge(&["ps", "--admin", &admin]));
    let (_, inspected, _) = output(&mut lodge(&["inspect", "cutoff3", "--admin", &admin]));
    assert!(listed.contains(version) && inspected.contains(version), "{listed}{inspected}");
    assert!(
        inspected.contains("middleware/witness.wasm") && inspected.contains("trapped in middleware/witness.wasm"),
        "{inspected}"
    );
}

/// A command that replaces a part, and the line about one that is refused, have the version that every list has.
#[tokio::test(flavor = "multi_thread")]
async fn the_version_is_told_everywhere() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("middleware")).unwrap();
    for (from, to) in [("gate3", "middleware/gate.wasm"), ("echo3", "shop.wasm")] {
        std::fs::copy(wasm(from), directory.path().join(to)).unwrap();
    }
    std::fs::write(directory.path().join("shop.toml"), "middleware = 'middleware/gate.wasm'").unwrap();
    let process = Process::serve(directory.path(), &[]).await;
    let (admin, guests) = (process.admin.to_string(), directory.path().display().to_string());
    let run = |args: &[&str]| {
        let (code, stdout, stderr) =
            output(lodge(args).args(["--admin", &admin]).env("LODGE_CACHE_DIRECTORY", cache()));
        assert_eq!(code, Some(0), "{args:?}: {stdout}{stderr}");
        stdout
    };
    let component = |guest: &str| wasm(guest).display().to_string();
    let placed = run(&["deploy", "shop", &component("hello"), "--guests", &guests]);
    let version = |details: Value| details["version"].as_str().unwrap().to_owned();
    let details = || serde_json::from_str(&run(&["inspect", "shop", "--json"])).unwrap();
    let now = version(details());
    assert!(placed.ends_with(&format!(", as version {now} with its middleware\n")), "{placed}");
    let again = run(&["deploy", "shop", &component("hello"), "--guests", &guests]);
    assert!(again.contains(&format!("version {now} with its middleware, which was there")), "{again}");
    let elsewhere = run(&["deploy", "shop", &component("echo3"), "--host", &format!("http://{admin}")]);
    let now = version(details());
    assert!(elsewhere.ends_with(&format!(", as version {now} with its middleware\n")), "{elsewhere}");
    // A part that is none.
    std::fs::write(directory.path().join("middleware/gate.wasm"), "none").unwrap();
    let stays = format!("; still serving version {now}");
    let refused = |line: &str| line.contains("refused shop.toml: middleware") && line.contains(&stays);
    until("the version that stays is in the log", || process.log().lines().any(refused)).await;
    let inspected = run(&["inspect", "shop"]);
    assert!(inspected.contains("  refused       shop.toml: middleware middleware/gate.wasm: it is not"), "{inspected}");
}
