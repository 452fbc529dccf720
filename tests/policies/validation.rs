//! Promise: the bodies of requests meet the schema of the manifest, and requests are operations of its document of OpenAPI, or they are
//! refused before a sandbox with the places of their errors. A schema changes under load without a request that is lost or not checked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::Value;

use super::admission::refused;
use crate::harness::{
    Connection, PATIENCE, Response, TestHost, eventually, get, host, lodge, metric, output, until_metric, wasm,
};

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
    let sandboxes = async || metric(host.admin, "lodge_instantiation_seconds_count{service=\"echo\"}").await;
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
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let other = host.connect().await.ask(Method::POST, "/echo", &form, "{}").await;
    assert_eq!(refused(&other), (415, "body-type".into()));
    assert!(
        other.text().contains("Content-Type is application/x-www-form-urlencoded; send application/json"),
        "{other:?}"
    );
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
    until_metric(host.admin, "lodge_refusals_total{service=\"echo\",reason=\"body-invalid\"}", 1).await;
    until_metric(host.admin, "lodge_validation_memory_bytes", 0).await;
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
        eventually("the new schema is in force", async || both().await == expected).await;
    }
    std::fs::remove_file(&file).unwrap();
    let admin = host.admin.to_string();
    let shown = async |args: &'static [&'static str]| {
        let admin = admin.clone();
        let command = move || output(lodge(args).args(["--admin", admin.as_str()])).1;
        tokio::task::spawn_blocking(command).await.unwrap()
    };
    let told = format!("echo.toml: validate.body: {}: it cannot be read: ", file.display());
    eventually("operators see why", async || shown(&["ps"]).await.contains(&told)).await;
    let inspected = shown(&["inspect", "echo"]).await;
    assert!(inspected.contains(&told) && inspected.contains("will be refused at the next start"), "{inspected}");
    assert_eq!(both().await, [200, 422]);
    stop.store(true, Relaxed);
    for load in loads {
        assert!(load.await.unwrap() > 10);
    }
}

const API: &str = r##"{ "openapi": "3.1.0", "paths": {
    "/head": { "get": { "parameters": [
        { "name": "limit", "in": "query", "schema": { "type": "integer" } },
        { "name": "theme", "in": "cookie", "schema": { "enum": ["dark", "light"] } }
    ] } },
    "/users/{id}": {
        "parameters": [{ "name": "id", "in": "path", "required": true, "schema": { "$ref": "#/components/schemas/id" } }],
        "put": { "requestBody": { "required": true, "content": {
            "application/json": { "schema": { "type": "object", "properties": { "name": { "type": "string" } } } },
            "text/csv": {}
        } } }
    } },
    "components": { "schemas": { "id": { "type": "integer", "minimum": 1 } } } }"##;

/// Only what the document describes reaches a service, whatever the spelling, and a new document is in force within seconds.
#[tokio::test(flavor = "multi_thread")]
async fn operations_are_those_of_the_document() {
    let manifest =
        "routes = ['/echo', { path = '/echo/any', validate = false }]\napi = { openapi = 'api.json', base = '/echo' }";
    let host = host(&["echo"]).manifest("echo", manifest).file("api.json", API.as_bytes()).start().await;
    let sandboxes = async || metric(host.admin, "lodge_instantiation_seconds_count{service=\"echo\"}").await;
    let (before, csv) = (sandboxes().await, ("content-type", "text/csv"));
    for (method, path, headers, body, expected) in [
        (Method::GET, "/echo/other", &[][..], "", (404, "no-operation")),
        (Method::GET, "/echo", &[], "", (404, "no-operation")),
        (Method::GET, "/echo/HEAD", &[], "", (404, "no-operation")),
        (Method::GET, "/echo/head/", &[], "", (404, "no-operation")),
        (Method::GET, "/echo//head", &[], "", (400, "bad-request")),
        (Method::GET, "/echo/any%2F..%2Fhead", &[], "", (400, "bad-request")),
        (Method::POST, "/echo/head", &[JSON], "{}", (405, "method-not-allowed")),
        (Method::GET, "/echo/h%65ad?limit=x", &[], "", (400, "parameter-invalid")),
        (Method::GET, "/echo/head", &[("cookie", "theme=pink")], "", (400, "parameter-invalid")),
        (Method::GET, "/echo/head", &[JSON], "{}", (400, "body-unexpected")),
        (Method::PUT, "/echo/users/a", &[JSON], "{}", (400, "parameter-invalid")),
        (Method::PUT, "/echo/users/7", &[JSON], "", (400, "body-not-json")),
        (Method::PUT, "/echo/users/7", &[JSON], "{", (400, "body-not-json")),
        (Method::PUT, "/echo/users/7", &[JSON], r#"{"name":7}"#, (422, "body-invalid")),
        (Method::PUT, "/echo/users/7", &[("content-type", "text/plain")], "{}", (415, "body-type")),
    ] {
        let reply = host.connect().await.ask(method.clone(), path, headers, body).await;
        assert_eq!(refused(&reply), (expected.0, expected.1.into()), "{method} {path}");
        match expected.1 {
            "method-not-allowed" => assert_eq!(reply.header("allow"), "GET, HEAD"),
            "body-type" => assert_eq!(reply.header("accept"), "application/json, text/csv"),
            _ => {}
        }
    }
    assert_eq!(sandboxes().await, before, "a sandbox was made for what is no operation");
    let problem: serde_json::Value = serde_json::from_slice(&host.get("/echo/head?limit=x").await.body).unwrap();
    let error = r#"{"in":"query","message":"must be of type integer","name":"limit","pointer":""}"#;
    assert_eq!(problem["errors"][0].to_string(), error);
    let put =
        async |path: &str, kind, body: &str| host.connect().await.ask(Method::PUT, path, &[kind], body).await.text();
    assert_eq!(put("/echo/users/7", JSON, r#" {"name":"ada"}"#).await, r#" {"name":"ada"}"#);
    assert_eq!(put("/echo/users/7", csv, "a,b").await, "a,b", "other types are not read");
    assert_eq!(put("/echo/any", csv, "a,b").await, "a,b", "a route without operations");
    assert!(host.get("/echo/head?limit=3&more=x").await.text().contains("limit=3&more=x"));
    // A part of a document, or one of another version, changes nothing.
    let file = host.directory().join("api.json");
    let changed = API.replace("/head", "/other/head").replace("integer\" } },", "boolean\" } },");
    for (text, until) in [(&API[..API.len() - 9], None), (&API.replace("3.1.0", "3.0.0"), None), (&changed, Some(404))]
    {
        std::fs::write(&file, text).unwrap();
        let start = Instant::now();
        let mut status = 200;
        while until.map_or(start.elapsed() < Duration::from_millis(1_500), |expected| status != expected) {
            assert!(start.elapsed() < PATIENCE, "never {until:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
            status = host.get("/echo/head?limit=3").await.status;
            assert!(status == 200 || Some(status) == until, "{status}");
        }
    }
    assert_eq!(host.get("/echo/other/head?limit=true").await.status, 200);
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
        code == Some(1) && shown.contains("a.json: line 1: /properties/age/type: write one of null, boolean"),
        "{code:?} {shown}"
    );
    std::fs::write(directory.path().join("hello.toml"), "api.openapi = 'b.yaml'").unwrap();
    let document = "openapi: 3.1.0\npaths:\n  /users/{id}:\n    get: {}\n";
    std::fs::write(directory.path().join("b.yaml"), document).unwrap();
    let (code, stdout, stderr) = output(&mut lodge(&["check", directory.path().to_str().unwrap()]));
    let shown = format!("{stdout}{stderr}");
    let expected = "b.yaml: line 4: /paths/~1users~1{id}/get: the parameter `id` of its path is not described";
    assert!(code == Some(1) && shown.contains(expected), "{code:?} {shown}");
    // What is valid and looks like a slip is told.
    let slip = "openapi: 3.1.0\npaths:\n  /v1/users:\n    post:\n      requestBdy: {}\n";
    std::fs::write(directory.path().join("b.yaml"), slip).unwrap();
    let (code, stdout, stderr) = output(&mut lodge(&["check", directory.path().to_str().unwrap()]));
    let shown = format!("{stdout}{stderr}");
    assert_eq!(code, Some(0), "{shown}");
    for expected in [
        "hello.toml: api.openapi: b.yaml: /paths/~1v1~1users/post/requestBdy is no field of an operation; did you mean `requestBody`?",
        "hello.toml: api.openapi: b.yaml: no operation of it is below the route /hello,",
    ] {
        assert!(shown.contains(expected), "{shown}");
    }
    std::fs::write(
        directory.path().join("hello.toml"),
        "routes = [{ path = '/v1', strip_prefix = true }, '/v1/users']\napi.openapi = 'b.yaml'",
    )
    .unwrap();
    let (_, stdout, stderr) = output(&mut lodge(&["check", directory.path().to_str().unwrap()]));
    assert!(!format!("{stdout}{stderr}").contains("no operation of it"), "{stdout}{stderr}");
}

/// A document in YAML that is cut anywhere is a document, which may allow more: it has to stay for a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_document_has_to_stay() {
    let whole = "openapi: 3.1.0\npaths:\n  /head:\n    get:\n      parameters:\n      - name: limit\n        in: query\n        schema:\n          type: integer\n          maximum: 100\n";
    let cut = whole.trim_end_matches("          maximum: 100\n");
    let manifest = "routes = ['/echo']\napi = { openapi = 'api.yaml', base = '/echo' }";
    let host = host(&["echo"]).manifest("echo", manifest).file("api.yaml", whole.as_bytes()).start().await;
    let file = host.directory().join("api.yaml");
    let status = async || host.get("/echo/head?limit=101").await.status;
    assert_eq!(status().await, 400);
    let (start, mut last) = (Instant::now(), 400);
    std::fs::write(&file, cut).unwrap();
    while last != 200 {
        assert!(start.elapsed() < PATIENCE, "never in force");
        tokio::time::sleep(Duration::from_millis(50)).await;
        last = status().await;
    }
    assert!(start.elapsed() >= Duration::from_secs(5), "a cut document was in force after {:?}", start.elapsed());
}

/// What the service `users` responds to each of these differs but for the last one.
const RESPONSES: &str = r##"{ "openapi": "3.1.0", "paths": {
    "/users": { "get": { "responses": { "200": { "content": { "application/json": { "schema": { "type": "integer" } } } } } } },
    "/users/{id}": { "parameters": [{ "name": "id", "in": "path", "required": true, "schema": { "type": "string" } }],
        "get": { "responses": { "404": { "description": "the only one" } } },
        "head": { "responses": { "2XX": { "content": { "application/json": { "schema": { "type": "integer" } } } } } },
        "delete": { "responses": { "default": { "content": { "text/html": {} } } } } } } }"##;

/// `lodge dev` tells of responses that are not as the document says, and changes none. No other host reads them.
#[tokio::test(flavor = "multi_thread")]
async fn responses_are_compared_for_developers() {
    let mut bodies = Vec::new();
    for dev in [true, false] {
        let setup =
            host(&["users"]).manifest("users", "api.openapi = 'users.json'").file("users.json", RESPONSES.as_bytes());
        let host = if dev { setup.explaining() } else { setup }.start().await;
        let mut client = host.connect().await;
        for (method, path) in [
            (Method::GET, "/users"),
            (Method::GET, "/users/1"),
            (Method::DELETE, "/users/1"),
            (Method::HEAD, "/users/1"),
        ] {
            let response = client.ask(method, path, &[], "").await;
            let mut headers = response.headers.clone();
            ["date", "x-request-id"].iter().for_each(|name| drop(headers.remove(*name)));
            bodies.push((dev, response.status, format!("{headers:?}"), response.text()));
        }
        let told = async || {
            let details: Value = serde_json::from_slice(&get(host.admin, "/v1/services/users").await.body).unwrap();
            let told = details["response_mismatches"].as_array().cloned().unwrap_or_default();
            told.iter().map(|it| format!("{} {}", it["operation"], it["why"])).collect::<Vec<_>>()
        };
        if !dev {
            assert_eq!(told().await, [""; 0]);
            continue;
        }
        eventually("three are told", async || told().await.len() == 3).await;
        for expected in [
            r#""GET /users" "the body does not meet the schema: the body: "#,
            r#""GET /users/1" "the document has no response 200; it has 404""#,
            r#""DELETE /users/1" "the body is not of a type that the document has: "#,
        ] {
            assert!(told().await.iter().any(|told| told.starts_with(expected)), "{:?}", told().await);
        }
        let admin = host.admin.to_string();
        let inspect = move || output(lodge(&["inspect", "users"]).args(["--admin", &admin])).1;
        let inspected = tokio::task::spawn_blocking(inspect).await.unwrap();
        assert!(
            inspected.contains("GET /users/1: the document has no response 200; it has 404 request_id="),
            "{inspected}"
        );
    }
    let (dev, other) = bodies.split_at(4);
    let sent = |all: &[(bool, u16, String, String)]| {
        all.iter().map(|(_, status, headers, body)| (*status, headers.clone(), body.clone())).collect::<Vec<_>>()
    };
    assert_eq!(sent(dev), sent(other), "responses are the same on every host");
}
