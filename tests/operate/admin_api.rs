//! Promise: an operator sees and controls a host through its admin listener, and no other client can.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::api_contract::Contract;
use crate::harness::{Connection, Narrow, Response, TestHost, get, host, lodge, output, raw, unread, until, within};
use crate::policies::auth::create;

async fn ask(host: &TestHost, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
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
fn kind(response: &Response) -> Value {
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
    let generation = host.current.snapshot().generation;
    std::fs::write(host.directory().join("hello.toml"), "env.A = 'b'").unwrap();
    until("it has another manifest", || host.current.snapshot().generation > generation).await;
    assert_eq!(host.get("/hello").await.status, 503);
    assert_eq!(act("enable").await.0, 200);
    assert_eq!(host.get("/hello").await.status, 200);
    assert_eq!(act("unload").await, (200, r#"{"service":"hello","state":"unloaded"}"#.into()));
    assert_eq!(host.get("/hello").await.status, 200, "the next request loads it again");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_this_machine_and_its_own_page_are_allowed() {
    let host = host(&["hello"]).start().await;
    let status = async |path: &str, headers: &[(&str, &str)]| ask(&host, Method::GET, path, headers, "").await.status;
    assert_eq!(status("/v1/host", &[]).await, 200);
    assert_eq!(status("/v1/host", &[("host", "rebound.example.com")]).await, 403);
    let own = host.admin.to_string();
    assert_eq!(status("/v1/host", &[("host", &own), ("origin", &format!("http://{own}"))]).await, 200);
    assert_eq!(status("/v1/host", &[("origin", "http://evil.example.com")]).await, 403);
    assert_eq!(status("/v1/host", &[("origin", "null")]).await, 403);
    assert_eq!(status("/metrics", &[("host", "lodge.cluster.local")]).await, 200, "a scraper names it as it likes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_required() {
    let host = host(&["hello"]).set("admin_token", "0123456789abcdef").start().await;
    let status = async |path: &str, token: &str| {
        let headers: &[_] = if token.is_empty() { &[] } else { &[("authorization", token)] };
        ask(&host, Method::GET, path, headers, "").await.status
    };
    for wrong in ["", "0123456789abcdef", "Bearer", "Bearer 0123456789abcdee", "Bearer 0123456789abcdef0"] {
        assert_eq!(status("/v1/services", wrong).await, 401, "{wrong:?}");
    }
    assert_eq!(status("/v1/services", "Bearer 0123456789abcdef").await, 200);
    for open in ["/", "/healthz", "/readyz", "/metrics"] {
        assert_eq!(status(open, "").await, 200, "{open}");
    }
}

/// Guesses at the token have a rate, which bounds those of one address only. A key that has expired is no guess.
#[tokio::test(flavor = "multi_thread")]
async fn attempts_at_tokens_are_bounded() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("admin.keys");
    let [expired, read] = ["old", "now"].map(|name| create(&file, name, &["--scope", "read"]));
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replacen("created = ", "expires = '2020-01-01T00:00:00Z'\ncreated = ", 1)).unwrap();
    let (_, listed, _) = output(&mut lodge(&["keys", "list", "--file", &file.display().to_string()]));
    let marked: Vec<_> = listed.lines().filter(|line| line.ends_with("2020-01-01T00:00:00Z (expired)")).collect();
    assert!(marked.len() == 1 && marked[0].starts_with("old ") && !listed.contains("now (expired)"), "{listed}");
    let setup = host(&["hello"]).set("admin_keys", &file.display().to_string()).set("auth_failures", "3");
    let host = setup.set("admin_token", "short-and-guessed").set("trusted_proxies", "127.0.0.3/32").start().await;
    let status = async |token: &str| {
        let bearer = format!("Bearer {token}");
        let headers: &[_] = if token.is_empty() { &[] } else { &[("authorization", &*bearer)] };
        ask(&host, Method::GET, "/v1/services", headers, "").await.status
    };
    for _ in 0..5 {
        assert_eq!([status("").await, status(&expired).await, status(&read).await], [401, 401, 200]);
    }
    assert_eq!([status("a").await, status("b").await, status("c").await], [401; 3]);
    // Those who know a key that nobody can guess are not kept out by those who guess.
    assert_eq!([status("d").await, status(&read).await, status("").await], [429, 200, 401]);
    assert_eq!(
        [status(&expired).await, status("short-and-guessed").await],
        [401, 429],
        "a token that can be guessed is limited"
    );
    let limited = ask(&host, Method::GET, "/v1/services", &[("authorization", "Bearer d")], "").await;
    assert_eq!(
        (kind(&limited), limited.header("retry-after").is_empty()),
        ("urn:lodge:admin:auth-limited".into(), false)
    );
    let mut other = Connection::from([127, 0, 0, 2].into(), host.admin).await;
    let headers = [("authorization", &*format!("Bearer {read}")), ("host", "localhost")];
    assert_eq!(other.ask(Method::GET, "/v1/services", &headers, "").await.status, 200);
    // Clients of a trusted proxy have attempts of their own.
    let mut proxy = Connection::from([127, 0, 0, 3].into(), host.admin).await;
    for (client, expected) in
        [("192.0.2.1", 401), ("192.0.2.1", 401), ("192.0.2.1", 401), ("192.0.2.1", 429), ("192.0.2.2", 401)]
    {
        let headers = [("authorization", "Bearer x"), ("host", "localhost"), ("x-forwarded-for", client)];
        assert_eq!(proxy.ask(Method::GET, "/v1/services", &headers, "").await.status, expected, "{client}");
    }
    // A file that is not there, or where others can write it, ends the start.
    let guests = host.directory().display().to_string();
    for (file, why) in
        [("/nowhere/keys".to_owned(), "cannot be read"), (format!("{guests}/keys"), "is inside the guests directory")]
    {
        let args = ["serve", &guests, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--admin-keys", &file];
        let (code, _, stderr) = output(&mut lodge(&args));
        assert!(code != Some(0) && stderr.contains("admin_keys: ") && stderr.contains(why), "{stderr}");
    }
}

/// The page is complete, and has a content security policy that allows nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_has_a_strict_policy() {
    let host = host(&["hello"]).start().await;
    let page = get(host.admin, "/").await;
    assert!(page.text().contains("<title>") && page.header("content-type").starts_with("text/html"));
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
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
    let text = tokio::time::timeout(Duration::from_secs(20), pulse).await.expect("a pulse");
    talking.abort();
    assert!(!text.contains("hello"), "it is of another service: {text}");
}

/// With any number of followers, a probe gets a response; and a connection that ends frees its place.
#[tokio::test(flavor = "multi_thread")]
async fn followers_do_not_block_probes() {
    let host = host(&["hello"]).start().await;
    let follow = async || {
        let mut stream = tokio::net::TcpStream::connect(host.admin).await.unwrap();
        let asked = b"GET /v1/logs?follow=true HTTP/1.1\r\nhost: localhost\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut stream, asked).await.unwrap();
        let mut head = [0; 12];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut head).await.unwrap();
        (stream, String::from_utf8_lossy(&head[9..]).into_owned())
    };
    let mut followers = Vec::new();
    for _ in 0..lodge::admin::FOLLOWERS {
        let (stream, status) = follow().await;
        assert_eq!(status, "200");
        followers.push(stream);
    }
    assert_eq!(follow().await.1, "503");
    assert_eq!(get(host.admin, "/healthz").await.status, 200);
    followers.pop();
    let waiting = std::time::Instant::now();
    while follow().await.1 != "200" {
        assert!(waiting.elapsed() < Duration::from_secs(20), "its place is lost");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_can_stop_the_host() {
    let host = host(&["hello"]).start().await;
    assert_eq!(ask(&host, Method::POST, "/v1/drain", &[], "").await.status, 202);
    let (admin, stopping) = (host.admin, std::time::Instant::now());
    while get(admin, "/readyz").await.status == 200 {
        assert!(stopping.elapsed() < Duration::from_secs(10), "it goes on");
    }
    assert_eq!(host.ended().await, lodge::host::Ended::Drained);
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

/// Without a token, the API is for clients on this machine, but not through a proxy on it.
#[tokio::test(flavor = "multi_thread")]
async fn requests_through_a_proxy_are_not_local() {
    let host = host(&["hello"]).start().await;
    for (by, expected) in [
        (("x-forwarded-for", "192.0.2.1"), 401),
        (("x-forwarded-proto", "https"), 401),
        (("x-real-ip", "192.0.2.1"), 401),
        (("forwarded", "for=192.0.2.1"), 401),
        (("via", "1.1 front"), 401),
        (("x-other", "1"), 200),
    ] {
        assert_eq!(ask(&host, Method::GET, "/v1/host", &[by], "").await.status, expected, "{by:?}");
    }
    let mut client = Connection::http1(host.admin).await;
    assert_eq!(
        client.ask(Method::GET, "/healthz", &[("via", "1.1 front")], "").await.status,
        200,
        "probes may come so"
    );
}

/// Clients that read nothing, or send nothing, do not block probes, and are disconnected.
#[tokio::test(flavor = "multi_thread")]
async fn probes_have_reserved_places() {
    let host = host(&["hello"]).set("listener.idle", "2s").start().await;
    let mut clients = Vec::new();
    for _ in 0..64 {
        let mut stream = within(TcpStream::connect(host.admin)).await.unwrap();
        // A request whose body never arrives, with more requests behind it: no response is read.
        stream.write_all(b"POST /v1/none HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n").await.unwrap();
        clients.push(stream);
    }
    let mut refused = 0;
    for n in 0..40 {
        for path in ["/healthz", "/readyz"] {
            let response = get(host.admin, path).await;
            assert_eq!(response.status, 200, "{path} after {n}: {}", response.text());
        }
        let other = get(host.admin, "/metrics").await;
        refused += usize::from(other.status == 503 && kind(&other) == "urn:lodge:admin:busy");
        // It takes a reserved place while the others are taken, and sends nothing.
        clients.push(within(TcpStream::connect(host.admin)).await.unwrap());
    }
    assert!(refused > 0, "the ordinary places are taken");
    let start = Instant::now();
    while get(host.admin, "/metrics").await.status != 200 {
        assert!(start.elapsed() < Duration::from_secs(30), "the places are taken for ever");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Unread responses are reset, as on the listener of the services.
#[tokio::test(flavor = "multi_thread")]
async fn unread_responses_end() {
    let host = host(&["hello"]).set("listener.idle", "500ms").start().await;
    let paths = ["/", "/metrics", "/v1/services", "/v1/stream", "/v1/none"];
    for window in [0, 1] {
        for path in paths {
            let mut client = Narrow::connect(host.admin, window).await;
            let response = client.get(path).await.unwrap();
            assert_eq!(response.status(), if path == "/v1/none" { 404 } else { 200 }, "{path}");
            let mut body = response.into_body();
            while let Some(Ok(_)) = within(body.data()).await {}
            drop(body);
            until("the connection is idle, or stuck", || client.is_over()).await;
        }
    }
    let mut stream = unread(host.admin, "/").await;
    // The host closes the connection, so reading reaches an end.
    let mut rest = Vec::new();
    let _ = within(tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest)).await;
    let metrics = get(host.admin, "/metrics").await.text();
    assert!(metrics.contains("lodge_unsent_bytes 0\n"), "{metrics}");
}
