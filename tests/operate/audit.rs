//! Promise: the audit trail has what operators did, what changed, and who did what on the routes that ask for it; what is changed in it
//! is found.

use std::fs;
use std::path::Path;

use http::Method;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::{Connection, TestHost, eventually, get, host, lodge, metric, output, until};
use crate::policies::auth::create;

fn lines(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn verify(args: &[&str]) -> (Option<i32>, String, String) {
    output(&mut lodge(&[&["audit", "verify"], args].concat()))
}

async fn operate(host: &TestHost, method: Method, path: &str) -> u16 {
    Connection::http1(host.admin).await.ask(method, path, &[], "").await.status
}

/// Sends a change, and leaves when the host is in the middle of it.
async fn leave(host: &TestHost) {
    let mut stream = TcpStream::connect(host.admin).await.unwrap();
    let head = "POST /v1/services/hello@2/rollback HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    // The host writes a manifest, and waits for the version to be disabled before it removes both; a slow test may miss that.
    let [manifest, component] = ["hello@2.toml", "hello@2.wasm"].map(|name| host.directory().join(name));
    while !manifest.exists() && component.exists() {
        tokio::task::yield_now().await;
    }
    stream.set_zero_linger().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trail_says_who_did_what() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("audit.log");
    let setup =
        host(&["echo", "hello", "keyvalue"]).named("hello", "hello@2").set("audit.file", &file.display().to_string());
    let keys = setup.directory.path().join("keys.list");
    let key = create(&keys, "ada", &[]);
    let manifest = "audit = true\nlimits.request_body = 10\nauth = { api_keys = 'keys.list' }\n\
                    routes = ['/echo', { path = '/echo/open', auth = false, audit = false }, { path = '/echo/once', rate = '1/h' },\n\
                    { path = '/outer', strip_prefix = true }]";
    let host = setup.manifest("echo", manifest).manifest("keyvalue", "keyvalue = true").start().await;
    let ask = async |path: &str, key: &str| {
        let headers = [("x-api-key", key), ("x-secret", "s3cret")];
        host.connect().await.ask(Method::GET, path, &headers, "").await
    };
    let first = ask("/echo/head?token=s3cret", &key).await;
    assert_eq!(first.status, 200);
    assert_eq!(ask("/echo/head", "wrong").await.status, 401);
    assert_eq!([ask("/echo/once/head", &key).await.status, ask("/echo/once/head", &key).await.status], [200, 429]);
    assert_eq!(ask("/outer/head", &key).await.status, 200);
    // Refused before anybody looks at its key.
    assert_eq!(host.connect().await.ask(Method::POST, "/echo/head", &[], "more than ten bytes").await.status, 413);
    // Neither of a route that does not want it, nor of a service without the key.
    assert_eq!([ask("/echo/open/head", "").await.status, ask("/hello", "").await.status], [200, 200]);
    assert_eq!(operate(&host, Method::POST, "/v1/services/hello/disable").await, 200);
    assert_eq!(operate(&host, Method::POST, "/v1/services/none/disable").await, 404);
    assert_eq!(get(host.admin, "/v1/services").await.status, 200);
    assert_eq!(operate(&host, Method::GET, "/v1/services/keyvalue/data/entry?key=a").await, 404);
    let foreign = [("origin", "http://elsewhere.example")];
    assert_eq!(Connection::http1(host.admin).await.ask(Method::GET, "/v1/host", &foreign, "").await.status, 403);
    leave(&host).await;
    create(&keys, "bob", &[]);
    fs::remove_file(host.directory().join("hello.wasm")).unwrap();
    let wanted = |line: &Value, fields: &[(&str, &str)]| {
        fields
            .iter()
            .all(|(name, text)| line[*name].as_str().map_or_else(|| line[*name].to_string(), str::to_owned) == *text)
    };
    let has = |fields: &[(&str, &str)]| lines(&file).iter().any(|line| wanted(line, fields));
    for fields in [
        &[("kind", "started"), ("seq", "1")][..],
        &[("kind", "change"), ("service", "echo")],
        &[
            ("kind", "request"),
            ("subject", "ada"),
            ("auth", "api-key"),
            ("decision", "allow"),
            ("status", "200"),
            ("path", "/echo/head"),
        ],
        &[("kind", "request"), ("decision", "deny"), ("reason", "auth-invalid"), ("status", "401"), ("route", "/echo")],
        &[
            ("kind", "request"),
            ("subject", "ada"),
            ("decision", "deny"),
            ("reason", "rate-limited"),
            ("route", "/echo/once"),
        ],
        &[
            ("kind", "operator"),
            ("method", "POST"),
            ("path", "/v1/services/hello/disable"),
            ("status", "200"),
            ("client", "127.0.0.1"),
        ],
        &[("kind", "operator"), ("path", "/v1/services/none/disable"), ("status", "404")],
        &[("kind", "operator"), ("method", "GET"), ("path", "/v1/services/keyvalue/data/entry"), ("status", "404")],
        &[("kind", "operator"), ("path", "/v1/host"), ("status", "403")],
        &[("kind", "operator"), ("path", "/v1/services/hello@2/rollback"), ("status", "200")],
        &[("kind", "change"), ("file", &keys.display().to_string()), ("change", "added bob")],
        &[("kind", "request"), ("decision", "allow"), ("path", "/outer/head"), ("route", "/outer")],
        &[("kind", "request"), ("decision", "none"), ("status", "413")],
        &[("kind", "change"), ("service", "hello")],
    ] {
        until(&format!("the trail has {fields:?}"), || has(fields)).await;
    }
    let requests = || lines(&file).into_iter().filter(|line| line["kind"] == "request").collect::<Vec<_>>();
    until("the trail has all requests", || requests().len() >= 6).await;
    assert_eq!(requests().len(), 6, "{:#?}", requests());
    let id = first.header("x-request-id");
    assert!(
        requests().iter().any(|line| line["request_id"] == id && line["path"] == "/echo/head"),
        "{:#?}",
        requests()
    );
    let text = fs::read_to_string(&file).unwrap();
    assert!(!text.contains("s3cret") && !text.contains(&key) && !text.contains("/v1/services\""), "{text}");
    drop(host);
    let path = file.display().to_string();
    let (code, stdout, stderr) = verify(&[&path]);
    assert!(code == Some(0) && stdout.contains("from the beginning of the trail to line"), "{stdout}{stderr}");
    let hash = stdout.lines().last().unwrap().rsplit(' ').next().unwrap().to_owned();
    assert_eq!(verify(&[&path, "--ends-with", &hash, "--contains", &hash, "--from-beginning"]).0, Some(0));
    let (code, _, stderr) = verify(&[&path, "--contains", &hash, "--contains", &"a".repeat(64)]);
    assert!(code == Some(1) && stderr.contains("has the hash aaaa") && !stderr.contains("rotation"), "{stderr}");
    for option in ["--contains", "--ends-with"] {
        let (code, _, stderr) = verify(&[&path, option, &hash[..12]]);
        assert!(code == Some(64) && stderr.contains("which has 64 hexadecimal digits"), "{stderr}");
    }
    assert_eq!(verify(&[&path, "--contains", &hash.to_uppercase()]).0, Some(0));
    // Two files, in any order.
    let half = text.len() / 2 + text[text.len() / 2..].find('\n').unwrap() + 1;
    let [one, two] = ["one.log", "two.log"].map(|name| place.path().join(name).display().to_string());
    fs::write(&one, &text[..half]).unwrap();
    fs::write(&two, &text[half..]).unwrap();
    let (code, stdout, stderr) = verify(&[&two, &one, "--from-beginning"]);
    assert!(
        code == Some(0) && stderr.contains(&format!("in the order of their lines: {one} {two}")),
        "{stdout}{stderr}"
    );
    let (code, _, stderr) = verify(&[&two, "--contains", &"a".repeat(64)]);
    assert!(code == Some(1) && stderr.contains("or was removed by the rotation"), "{stderr}");
    // The beginning is cut off.
    let rest = text.split_once('\n').unwrap().1.to_owned();
    fs::write(&file, &rest).unwrap();
    let (code, stdout, _) = verify(&[&path]);
    assert!(code == Some(0) && stdout.contains("what was before line 2 is not in these files"), "{stdout}");
    let (code, _, stderr) = verify(&[&path, "--from-beginning"]);
    assert!(code == Some(1) && stderr.contains("these files begin with line 2"), "{stderr}");
    // The end is cut off, and then a line is changed.
    let cut = text.trim_end().rsplit_once('\n').unwrap().0.to_owned() + "\n";
    fs::write(&file, &cut).unwrap();
    assert_eq!(verify(&[&path]).0, Some(0));
    let (code, _, stderr) = verify(&[&path, "--ends-with", &hash]);
    assert!(code == Some(1) && stderr.contains("the trail ends with line"), "{stderr}");
    fs::write(&file, text.replace("\"subject\":\"ada\"", "\"subject\":\"bob\"")).unwrap();
    let (code, _, stderr) = verify(&[&path]);
    assert!(code == Some(1) && stderr.contains("the line before it was changed, removed or added"), "{stderr}");
}

/// A manifest that asks for a trail is not served without one, and a trail that cannot be written ends the start.
#[tokio::test(flavor = "multi_thread")]
async fn a_trail_is_there_or_nothing_is_served() {
    let host = host(&["hello"]).manifest("hello", "audit = true").start().await;
    let [refusal] = &*host.refusals() else { panic!("{:?}", host.refusals()) };
    assert!(refusal.contains("audit: this host has no audit trail; set `audit.file` in lodge.toml"), "{refusal}");
    let guests = host.directory().display().to_string();
    let args = ["serve", &guests, "--listen", "127.0.0.1:0", "--admin", "off", "--audit-file", "/nowhere/audit.log"];
    let (code, _, stderr) = output(&mut lodge(&args));
    assert!(code == Some(1) && stderr.contains("audit.file: /nowhere/audit.log: No such file"), "{stderr}");
}

/// With `audit.required`, operators change nothing while the trail cannot be written; what is lost is counted and told.
#[tokio::test(flavor = "multi_thread")]
async fn changes_need_a_trail_that_can_be_written() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("audit");
    fs::create_dir(&directory).unwrap();
    let file = directory.join("audit.log");
    let setup = host(&["hello"]).set("audit.file", &file.display().to_string()).set("audit.required", "true");
    let host = setup.start().await;
    let disable = async || operate(&host, Method::POST, "/v1/services/hello/disable").await;
    let becomes = async |status: u16| eventually("its status changes", async || disable().await == status).await;
    assert_eq!(disable().await, 200);
    fs::remove_dir_all(&directory).unwrap();
    becomes(503).await;
    assert_eq!(operate(&host, Method::GET, "/v1/services/hello").await, 200);
    let lost = async || metric(host.admin, "lodge_audit_lost_lines_total").await;
    eventually("what is lost is counted", async || lost().await > 0.0).await;
    fs::create_dir(&directory).unwrap();
    becomes(200).await;
    until("the trail says what it lost", || lines(&file).iter().any(|line| line["kind"] == "lost")).await;
}
