//! Promise: the audit trail has what operators did, what changed, and who did what on the routes that ask for it; what is changed in it
//! is found.

use std::fs;
use std::path::Path;

use http::Method;
use serde_json::Value;

use crate::harness::{Connection, TestHost, get, host, lodge, output, until};
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

#[tokio::test(flavor = "multi_thread")]
async fn the_trail_says_who_did_what() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("audit.log");
    let setup = host(&["echo", "hello"]).set("audit.file", &file.display().to_string());
    let key = create(&setup.directory.path().join("keys.list"), "ada", &[]);
    let manifest = "audit = true\nroutes = ['/echo', { path = '/echo/open', auth = false, audit = false },\n\
                    { path = '/echo/once', rate = '1/h' }]\nauth = { api_keys = 'keys.list' }";
    let host = setup.manifest("echo", manifest).start().await;
    let ask = async |path: &str, key: &str| {
        let headers = [("x-api-key", key), ("x-secret", "s3cret")];
        host.connect().await.ask(Method::GET, path, &headers, "").await
    };
    let first = ask("/echo/head?token=s3cret", &key).await;
    assert_eq!(first.status, 200);
    assert_eq!(ask("/echo/head", "wrong").await.status, 401);
    assert_eq!([ask("/echo/once/head", &key).await.status, ask("/echo/once/head", &key).await.status], [200, 429]);
    // Neither of a route that does not want it, nor of a service without the key.
    assert_eq!([ask("/echo/open/head", "").await.status, ask("/hello", "").await.status], [200, 200]);
    assert_eq!(operate(&host, Method::POST, "/v1/services/hello/disable").await, 200);
    assert_eq!(operate(&host, Method::POST, "/v1/services/none/disable").await, 404);
    assert_eq!(get(host.admin, "/v1/services").await.status, 200);
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
        &[("kind", "change"), ("service", "hello")],
    ] {
        until(&format!("the trail has {fields:?}"), || has(fields)).await;
    }
    let all = lines(&file);
    let requests: Vec<_> = all.iter().filter(|line| line["kind"] == "request").collect();
    assert_eq!(requests.len(), 4, "{all:#?}");
    assert_eq!(requests[0]["request_id"], first.header("x-request-id").as_str());
    let text = fs::read_to_string(&file).unwrap();
    assert!(!text.contains("s3cret") && !text.contains(&key) && !text.contains("/v1/services\""), "{text}");
    drop(host);
    let path = file.display().to_string();
    let (code, stdout, stderr) = verify(&[&path]);
    assert!(code == Some(0) && stdout.contains("from the beginning of the trail to line"), "{stdout}{stderr}");
    let hash = stdout.lines().last().unwrap().rsplit(' ').next().unwrap().to_owned();
    assert_eq!(verify(&[&path, "--ends-with", &hash]).0, Some(0));
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
