//! Promise: an operator sees and controls a host through its API.

use std::time::Duration;

use http::Method;
use serde_json::Value;

use super::api_contract::Contract;
use crate::harness::{Connection, Response, TestHost, get, host, raw, until, within};

pub(super) async fn ask(host: &TestHost, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
    let mut headers = headers.to_vec();
    if !headers.iter().any(|(name, _)| *name == "host") {
        headers.push(("host", "localhost"));
    }
    Connection::http1(host.admin).await.ask(method, path, &headers, body).await
}

async fn json(host: &TestHost, path: &str) -> Value {
    let response = ask(host, Method::GET, path, &[], "").await;
    assert_eq!(response.status, 200, "{path}: {}", response.text());
    serde_json::from_slice(&response.body).unwrap()
}

/// The type of the problem response.
pub(super) fn kind(response: &Response) -> Value {
    assert_eq!(response.header("content-type"), "application/problem+json");
    serde_json::from_slice::<Value>(&response.body).unwrap()["type"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_described_completely() {
    let host = host(&["hello", "trap"]).file("broken.wasm", b"\0asm nonsense").start().await;
    host.get("/hello").await;
    let failed = host.get("/trap").await;
    let services = json(&host, "/v1/services").await;
    let of = |file: &str| services.as_array().unwrap().iter().find(|report| report["file"] == file).unwrap().clone();
    let hello = &of("hello.wasm")["service"];
    assert_eq!(
        (&hello["state"], &hello["errors"], &hello["routes"][0]),
        (&"serving".into(), &0.into(), &"/hello".into())
    );
    assert!(hello["since"].as_str().unwrap().ends_with('Z') && hello["imports"].is_null());
    assert!(of("broken.wasm")["refused"]["remedy"].is_string());
    let trap = json(&host, "/v1/services/trap").await;
    assert_eq!((&trap["name"], &trap["limits"]["memory"]), (&"trap".into(), &"128.0 MiB".into()));
    assert!(trap["imports"].as_array().is_some_and(|imports| !imports.is_empty()));
    let error = &json(&host, "/v1/services/trap/errors").await[0];
    assert_eq!(error["request_id"], failed.header("x-request-id"));
    assert_eq!((&error["status"], &error["reason"]), (&502.into(), &"trapped".into()));
    assert!(!error["backtrace"].as_array().unwrap().is_empty(), "{error}");
    assert_eq!(trap["recent_errors"][0], *error);
    let nobody = ask(&host, Method::GET, "/v1/services/nobody", &[], "").await;
    assert_eq!((nobody.status, kind(&nobody)), (404, "urn:lodge:admin:no-service".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_can_be_disabled_and_enabled() {
    let host = host(&["hello"]).start().await;
    let act = async |act: &str| {
        let response = ask(&host, Method::POST, &format!("/v1/services/hello/{act}"), &[], "").await;
        (response.status, response.text())
    };
    assert_eq!(act("disable").await, (200, r#"{"service":"hello","state":"disabled"}"#.into()));
    let refused = host.get("/hello").await;
    assert_eq!((refused.status, refused.problem().as_str()), (503, "disabled"));
    // A new version of the service stays disabled.
    host.edit("hello", "env.A = 'b'").await;
    assert_eq!(host.get("/hello").await.status, 503);
    assert_eq!(act("enable").await.0, 200);
    assert_eq!(host.get("/hello").await.status, 200);
    assert_eq!(act("unload").await, (200, r#"{"service":"hello","state":"unloaded"}"#.into()));
    assert_eq!(host.get("/hello").await.status, 200, "the next request loads it again");
}

/// The stream begins with all services, continues with changes, and ends with its reader.
#[tokio::test(flavor = "multi_thread")]
async fn the_stream_reports_changes() {
    let host = host(&["hello"]).start().await;
    let reading = raw(host.admin, "GET /v1/stream HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let read = tokio::time::timeout(Duration::from_millis(2500), reading).await;
    assert!(read.is_err(), "it does not end by itself: {read:?}");
    let mut stream = tokio::net::TcpStream::connect(host.admin).await.unwrap();
    let (mut text, asked) = (String::new(), b"GET /v1/stream HTTP/1.1\r\nhost: localhost\r\n\r\n");
    tokio::io::AsyncWriteExt::write_all(&mut stream, asked).await.unwrap();
    let hears = async |stream: &mut tokio::net::TcpStream, text: &mut String, what: &str| {
        let mut bytes = [0; 4096];
        while !text.contains(what) {
            let read = tokio::io::AsyncReadExt::read(stream, &mut bytes).await.unwrap();
            text.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
    };
    within(hears(&mut stream, &mut text, "event: services\ndata: [{\"file\":\"hello.wasm\"")).await;
    // Request lines were not requested, but there is a listener.
    host.get("/hello?name=Ada").await;
    within(hears(&mut stream, &mut text, "GET /hello?name=Ada 200")).await;
}

/// A follower of a silent service still gets heartbeats, however much other services log.
#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_stream_has_heartbeats() {
    let host = host(&["hello", "users"]).start().await;
    let mut stream = tokio::net::TcpStream::connect(host.admin).await.unwrap();
    let asked = b"GET /v1/logs?follow=true&service=users HTTP/1.1\r\nhost: localhost\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stream, asked).await.unwrap();
    let address = host.address;
    let talking = tokio::spawn(async move {
        loop {
            get(address, "/hello").await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let pulse = async {
        let (mut bytes, mut text) = ([0; 4096], String::new());
        // One at once, and one after five seconds.
        while text.matches("\r\n:\n\n").count() < 2 {
            let read = tokio::io::AsyncReadExt::read(&mut stream, &mut bytes).await.unwrap();
            text.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
        text
    };
    let text = within(pulse).await;
    talking.abort();
    assert!(!text.contains("hello"), "it is of another service: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_can_stop_the_host() {
    let host = host(&["hello"]).start().await;
    assert_eq!(ask(&host, Method::POST, "/v1/drain", &[], "").await.status, 202);
    assert_eq!(host.end().await, lodge::host::Ended::Drained);
}

/// An operator promotes and removes versions as the commands do: the files of the directory change, and the host follows.
#[tokio::test(flavor = "multi_thread")]
async fn versions_are_promoted_and_removed() {
    let share = "match = ['header:x-version=2']";
    let host = host(&["hello"]).named("counter", "hello@2").manifest("hello@2", share).start().await;
    let contract = Contract::of(&host).await;
    let act = async |name: &str, act: &str| {
        let response = ask(&host, Method::POST, &format!("/v1/services/{name}/{act}"), &[], "").await;
        contract.check_response("post", &format!("/v1/services/{{name}}/{act}"), &response);
        (response.status, response.text())
    };
    // As a browser writes it.
    assert_eq!(json(&host, "/v1/services/hello%402").await["name"], "hello@2");
    let is_there = |name: &str| host.directory().join(name).exists();
    let read = |name: &str| std::fs::read(host.directory().join(name)).unwrap();
    let served = || host.current.snapshot().target("hello").unwrap().deployment().digest();
    let (component, before) = (read("hello@2.wasm"), served());
    for (name, status) in [("nobody", 404), ("hello", 409)] {
        assert_eq!([act(name, "promote").await.0, act(name, "rollback").await.0], [status; 2], "{name}");
    }
    // A command changes the same files.
    let lock = std::fs::File::create(host.directory().join(".hello.lock")).unwrap();
    lock.lock().unwrap();
    let (status, why) = act("hello@2", "promote").await;
    assert!(status == 409 && why.contains("urn:lodge:admin:locked"), "{why}");
    drop(lock);
    let (status, promoted) = act("hello@2", "promote").await;
    assert!(status == 200 && promoted.starts_with(r#"{"service":"hello","state":"serving","digest":"#), "{promoted}");
    assert!(read("hello.wasm") == component && !is_there("hello@2.wasm") && !is_there("hello@2.toml"));
    assert!(is_there("hello.wasm.previous"), "for a rollback by command");
    until("the version is the service", || served() != before).await;
    std::fs::write(host.directory().join("hello@3.toml"), share).unwrap();
    std::fs::write(host.directory().join("hello@3.wasm"), read("hello.wasm.previous")).unwrap();
    until("there is a version", || host.current.snapshot().target("hello@3").is_some()).await;
    assert_eq!(act("hello@3", "rollback").await.0, 200);
    assert!(!is_there("hello@3.wasm") && !is_there("hello@3.toml") && read("hello.wasm") == component);
}

/// The API and `lodge inspect` show the origins and services that a guest may send requests to, and never its
/// environment.
#[tokio::test(flavor = "multi_thread")]
async fn grants_are_shown() {
    let granted = "calls = ['users', 'hello']\nhttp = ['https://*.example.org', 'http://10.0.0.0:5000/8']";
    let host = host(&["caller", "caller3", "hello"])
        .manifest("caller", &format!("{granted}\n[env]\nTOKEN = 'a secret'"))
        .manifest("caller3", "calls = '*'")
        .named("caller", "caller@2")
        .manifest("caller@2", "calls = ['hello']")
        .start()
        .await;
    let of = async |name: &str| {
        let service = json(&host, &format!("/v1/services/{name}")).await;
        assert!(!service.to_string().contains("a secret"), "{service}");
        (service["sections"]["calls"].clone(), service["sections"]["http"].clone())
    };
    let world = serde_json::json!(["https://*.example.org", "http://10.0.0.0:5000/8"]);
    assert_eq!(of("caller").await, (serde_json::json!(["users", "hello"]), world.clone()));
    assert_eq!(of("caller@2").await, (serde_json::json!(["hello"]), world.clone()), "a version has its own");
    assert_eq!(of("caller3").await, (serde_json::json!(["*"]), Value::Null));
    assert_eq!(of("hello").await, (Value::Null, Value::Null));
    let told = crate::caching::reuse::command(&host, &["inspect", "caller"]).await;
    let lines = "  may call      users, hello\n  may send to   https://*.example.org, http://10.0.0.0:5000/8\n";
    assert!(told.contains(lines) && !told.contains("a secret"), "{told}");
    let told = crate::caching::reuse::command(&host, &["inspect", "caller", "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&told).unwrap()["sections"]["http"], world);
    let told = crate::caching::reuse::command(&host, &["inspect", "hello"]).await;
    assert!(!told.contains("may call") && !told.contains("may send to"), "{told}");
}
