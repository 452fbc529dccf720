//! Promise: the bodies of requests meet the schema of the manifest, or are refused before a sandbox with the places of their errors. A
//! schema changes under load without a request that is lost or not checked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::Method;

use super::admission::{metric, refused};
use crate::harness::{Connection, PATIENCE, Response, TestHost, host, lodge, output, wasm};

const SCHEMA: &str = r##"{
    "type": "object",
    "required": ["name"],
    "properties": { "name": { "type": "string", "maxLength": 8 }, "next": { "$ref": "#" }, "tags": { "items": { "enum": ["a", "b"] } } },
    "additionalProperties": false
}"##;

const JSON: (&str, &str) = ("content-type", "application/json");

async fn post(host: &TestHost, path: &str, body: &str) -> Response {
    host.connect().await.ask(Method::POST, path, &[JSON], body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_meet_their_schema() {
    let manifest =
        "routes = ['/echo', { path = '/echo/any', validate = false }]\n[validate]\nbody = 'user.json'\nsize = '200KiB'";
    let host = host(&["echo"]).manifest("echo", manifest).file("user.json", SCHEMA.as_bytes()).start().await;
    let sandboxes = async || metric(&host, "lodge_instantiation_seconds_count{service=\"echo\"}").await;
    let before = sandboxes().await;
    let secret =
        post(&host, "/echo", r#"{"name":"0123456789","next":{"name":7,"tags":["a","secret"]},"more":1}"#).await;
    assert_eq!(refused(&secret), (422, "body-invalid".into()));
    let problem: serde_json::Value = serde_json::from_slice(&secret.body).unwrap();
    let errors: Vec<_> = problem["errors"].as_array().unwrap().iter().map(|error| error.to_string()).collect();
    for expected in [
        r#"{"message":"must have at most 8 characters","pointer":"/name"}"#,
        r#"{"message":"must be of type string","pointer":"/next/name"}"#,
        r#"{"message":"must be one of the 2 values that the schema allows","pointer":"/next/tags/1"}"#,
        r#"{"message":"must not be there","pointer":"/more"}"#,
    ] {
        assert!(errors.iter().any(|error| error == expected), "{errors:?}");
    }
    assert!(
        errors.len() == 4 && !secret.text().contains("secret") && !secret.text().contains("0123456789"),
        "{errors:?}"
    );
    let twice = post(&host, "/echo", "{\n\"name\":\"a\",\"name\":7}").await;
    assert_eq!(refused(&twice), (400, "body-not-json".into()));
    assert!(twice.text().contains("line 2, column 20: the object that ends here has a key twice"), "{}", twice.text());
    assert_eq!(refused(&host.connect().await.ask(Method::POST, "/echo", &[], "{}").await), (415, "body-type".into()));
    // More levels than a body may have, which another reader would need its stack for.
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(refused(&post(&host, "/echo", &deep).await), (400, "body-not-json".into()));
    assert_eq!(sandboxes().await, before, "a sandbox was made for a body that is not valid");
    // Byte for byte, over both versions of HTTP, with trailers and in pieces; a large one is checked on another thread.
    let large = format!("{{ \"name\":\n\"\\u0061da\" {}}}", " ".repeat(100_000));
    for body in [r#"{"name":"ada"}"#, " {\t\"name\" : \"\\u0061\u{e9}\" }\r\n", &large] {
        for mut client in [Connection::http1(host.address).await, Connection::http2(host.address).await] {
            let reply = client.ask(Method::POST, "/echo", &[JSON], body).await;
            assert_eq!((reply.status, reply.text().as_str()), (200, body));
        }
    }
    let seen = host.connect().await.ask(Method::POST, "/echo/head", &[JSON], "{\"name\":\"a\"}").await.text();
    assert!(seen.contains("content-length: 12\n") && seen.contains("content-type: application/json\n"), "{seen}");
    assert_eq!(post(&host, "/echo/any", "no JSON").await.text(), "no JSON");
    assert_eq!(host.get("/echo/head").await.status, 200, "a request without a body is not validated");
    assert_eq!(metric(&host, "lodge_refusals_total{service=\"echo\",reason=\"body-invalid\"}").await, "1");
    assert_eq!(metric(&host, "lodge_validation_memory_bytes").await, "0");
    let admin = host.admin.to_string();
    let (code, shown, stderr) =
        tokio::task::spawn_blocking(move || output(&mut lodge(&["inspect", "echo", "--admin", &admin]))).await.unwrap();
    assert!(code == Some(0) && shown.contains("user.json"), "{shown}{stderr}");
    reloads(&host).await;
}

/// A new schema is in force within seconds, and a bad one or none changes nothing.
async fn reloads(host: &TestHost) {
    let (stop, address, file) = (Arc::new(AtomicBool::new(false)), host.address, host.directory().join("user.json"));
    let loads: Vec<_> = (0..2)
        .map(|_| {
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                let (mut client, mut count) = (Connection::http1(address).await, 0);
                while !stop.load(Relaxed) {
                    // Valid by both schemas, and by none.
                    let good = client.ask(Method::POST, "/echo", &[JSON], r#"{"name":"ada"}"#).await;
                    assert_eq!(good.status, 200, "{good:?}");
                    let bad = client.ask(Method::POST, "/echo", &[JSON], r#"{"name":7}"#).await;
                    assert_eq!(refused(&bad), (422, "body-invalid".into()));
                    count += 1;
                }
                count
            })
        })
        .collect();
    let (old, new) = (r#"{"name":"ada","tags":["a"]}"#, r#"{"name":"ada","age":1}"#);
    let changed = SCHEMA.replace("\"tags\": { \"items\": { \"enum\": [\"a\", \"b\"] } }", "\"age\": true");
    let both = async || [post(host, "/echo", old).await.status, post(host, "/echo", new).await.status];
    for (text, expected) in [(changed.as_str(), [422, 200]), (SCHEMA, [200, 422])] {
        std::fs::write(&file, &text[..text.len() - 9]).unwrap();
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let kept = both().await;
        assert!(kept != expected && kept.contains(&200), "a part of a file is no schema: {kept:?}");
        std::fs::write(&file, text).unwrap();
        let start = Instant::now();
        while both().await != expected {
            assert!(start.elapsed() < PATIENCE, "never {expected:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    std::fs::remove_file(&file).unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(both().await, [200, 422]);
    stop.store(true, Relaxed);
    for load in loads {
        assert!(load.await.unwrap() > 10);
    }
}

/// `lodge check` names the file and the place of a mistake.
#[test]
fn mistakes_are_found_before() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(wasm("hello"), directory.path().join("hello.wasm")).unwrap();
    std::fs::write(directory.path().join("hello.toml"), "validate.body = 'a.json'").unwrap();
    std::fs::write(directory.path().join("a.json"), r#"{"properties":{"age":{"type":"int"}}}"#).unwrap();
    let (code, stdout, stderr) = output(&mut lodge(&["check", directory.path().to_str().unwrap()]));
    let shown = format!("{stdout}{stderr}");
    assert!(
        code == Some(1) && shown.contains("a.json: /properties/age/type: write one of null, boolean"),
        "{code:?} {shown}"
    );
}
