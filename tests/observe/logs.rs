//! Promise: the log has one true line for every event, whatever guests and clients write.

use serde_json::Value;

use crate::harness::{Connection, Process, eventually, get, lodge, metric, output, until, wasm};

fn directory(guests: &[&str]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for guest in guests {
        std::fs::copy(wasm(guest), directory.path().join(format!("{guest}.wasm"))).unwrap();
    }
    directory
}

/// All lines of the log, each of which is a JSON object.
fn lines(log: &str) -> Vec<Value> {
    log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

async fn put_level(process: &Process, level: &str) -> u16 {
    let mut client = Connection::http1(process.admin).await;
    let body = format!(r#"{{"level":"{level}"}}"#);
    client.ask(http::Method::PUT, "/v1/log-level", &[("host", "localhost")], &body).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_cannot_forge_or_colour_lines() {
    let directory = directory(&["logger"]);
    let process = Process::serve(directory.path(), &["--log-format", "json"]).await;
    let id = get(process.address, "/logger").await.header("x-request-id");
    until("the last line is logged", || process.log().contains("no end")).await;
    let all = lines(&process.log());
    let said: Vec<_> = all.iter().filter(|line| line["target"] == "guest").collect();
    assert_eq!(said.len(), 6, "{said:#?}");
    for line in &said {
        assert_eq!((&line["service"], &line["request_id"]), (&"logger".into(), &id.as_str().into()));
        let text = line["message"].as_str().unwrap();
        assert!(!text.chars().any(|c| c.is_control() || c == '\u{202e}'), "{text:?}");
        assert_eq!(line["version"].as_str().unwrap().len(), 12);
    }
    assert!(!all.iter().any(|line| line["service"] == "users"), "a line was forged");
    let level =
        |text: &str| said.iter().find(|line| line["message"].as_str().unwrap().contains(text)).map(|it| &it["level"]);
    assert_eq!(level("orders: stock is low"), Some(&"WARN".into()));
    assert_eq!(level("red"), Some(&"ERROR".into()));
    assert_eq!(level("too quiet"), None);
    // Each request is logged on demand, and with more detail at a lower level.
    let kept: Value = serde_json::from_slice(&get(process.admin, "/v1/logs?service=logger").await.body).unwrap();
    assert_eq!(kept.as_array().unwrap().iter().filter(|line| line["kind"] == "guest").count(), 6);
    assert_eq!(put_level(&process, "debug").await, 200);
    get(process.address, "/logger").await;
    // The log is in order: this line comes before that one.
    until("debug lines are logged", || process.log().contains("too quiet")).await;
    assert_eq!(process.log().matches("stock is low").count(), 2);
    assert_eq!(put_level(&process, "error").await, 200);
    get(process.address, "/logger").await;
    until("errors are logged", || process.log().matches("red").count() == 3).await;
    assert_eq!(process.log().matches("stock is low").count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_has_a_line() {
    let directory = directory(&["hello", "trap"]);
    let args = ["--log-format", "json", "--log-requests", "on", "--log-headers", "user-agent,authorization"];
    let process = Process::serve(directory.path(), &args).await;
    let mut client = Connection::http1(process.address).await;
    let headers = [("user-agent", "a\"b"), ("authorization", "Bearer secret"), ("host", "localhost")];
    for n in 0..100 {
        client.ask(http::Method::GET, &format!("/hello?n={n}&token=secret"), &headers, "").await;
    }
    let trapped = client.get("/trap").await.header("x-request-id");
    client.get("/nobody").await;
    let requests = || process.log().lines().filter(|line| line.contains(r#""target":"request""#)).count();
    until("all lines are logged", || requests() >= 102).await;
    assert!(!process.log().contains("secret"));
    let all = lines(&process.log());
    let of = |path: &str| {
        let path = path.to_owned();
        all.iter().filter(move |line| line["target"] == "request" && line["path"].as_str().unwrap().starts_with(&path))
    };
    assert_eq!(of("/hello").count(), 100);
    let hello = of("/hello").next().unwrap();
    assert_eq!(
        (&hello["status"], &hello["sent"], &hello["path"]),
        (&200.into(), &13.into(), &"/hello?n=0&token=***".into())
    );
    assert_eq!((&hello["header_user-agent"], &hello["header_authorization"]), (&"a\"b".into(), &"***".into()));
    let phases = ["queue_ms", "instantiate_ms", "guest_ms", "ms"].map(|phase| hello[phase].as_f64().unwrap());
    assert!(phases[..3].iter().sum::<f64>() <= phases[3], "{hello}");
    let trap = of("/trap").next().unwrap();
    assert_eq!(
        (&trap["reason"], &trap["level"], &trap["request_id"]),
        (&"trapped".into(), &"WARN".into(), &trapped.into())
    );
    let nobody = of("/nobody").next().unwrap();
    assert_eq!((&nobody["status"], nobody.get("service")), (&404.into(), None));
}

/// Neither lines of 10 MiB nor many concurrent requests flood the log: excess output is dropped and counted.
#[tokio::test(flavor = "multi_thread")]
async fn floods_are_bounded_and_counted() {
    let directory = directory(&["logger", "noisy", "hello"]);
    std::fs::write(directory.path().join("noisy.toml"), "limits.output_rate = '100KiB'").unwrap();
    let process = Process::serve(directory.path(), &["--log-format", "json"]).await;
    assert_eq!(get(process.address, "/logger/flood").await.status, 200);
    until("the flood is reported", || process.log().contains("over limits.output")).await;
    let flooded = process.log().len();
    assert!(flooded < 100 << 10, "{flooded} bytes of log");
    let dropped = async || metric(process.admin, r#"lodge_output_dropped_bytes_total{service="logger"}"#).await;
    eventually("it is counted", async || dropped().await > f64::from((20 << 20) - (64 << 10))).await;
    // 20 requests have 64 KiB each, and the service 100 KiB per second.
    let began = std::time::Instant::now();
    for _ in 0..20 {
        get(process.address, "/noisy").await;
    }
    let seconds = began.elapsed().as_secs() as usize + 2;
    until("all floods are reported", || process.log().matches("over limits.output").count() == 21).await;
    let noise: usize = process.log().lines().filter(|line| line.contains("noise noise")).map(str::len).sum();
    // A log line is a fifth longer than the guest's output.
    assert!(noise < seconds * (100 << 10) * 3 / 2, "{noise} bytes in {seconds} s");
    assert_eq!(get(process.address, "/hello").await.text(), "Hello, World!");
    lines(&process.log());
}

/// A function whose name looks like the end of a line, with a line that an operator would believe.
const FORGING: &str = r#"(component
    (core module $m
        (func $"x\0a2026-11-28T00:00:00.000000Z  INFO lodge: forged\0a{\22forged\22:true}\0a\1b[31m" unreachable)
        (memory (export "memory") 1)
        (func (export "handle") (param i32 i32)
            call $"x\0a2026-11-28T00:00:00.000000Z  INFO lodge: forged\0a{\22forged\22:true}\0a\1b[31m"))
    (core instance $i (instantiate $m))
    (import "wasi:http/types@0.2.0" (instance $types
        (export "incoming-request" (type (sub resource)))
        (export "response-outparam" (type (sub resource)))))
    (alias export $types "incoming-request" (type $request))
    (alias export $types "response-outparam" (type $out))
    (func $handle (param "request" (own $request)) (param "response-out" (own $out))
        (canon lift (core func $i "handle")))
    (instance $h (export "handle" (func $handle)))
    (export "wasi:http/incoming-handler@0.2.0" (instance $h)))"#;

/// Names of functions and files are as untrusted as the output of guests.
#[tokio::test(flavor = "multi_thread")]
async fn names_cannot_forge_lines() {
    let directory = directory(&[]);
    std::fs::write(directory.path().join("forge.wasm"), wat::parse_str(FORGING).unwrap()).unwrap();
    let name = "bad\n2026-11-28T00:00:00.000000Z  INFO lodge: forged\u{1b}[31m.wasm";
    std::fs::write(directory.path().join(name), "no component").unwrap();
    for format in ["text", "json"] {
        let process = Process::serve(directory.path(), &["--log-format", format]).await;
        assert_eq!(get(process.address, "/forge").await.status, 502);
        until("both are logged", || process.log().matches("forged").count() >= 2).await;
        let log = process.log();
        let hostile = |text: &str| text.chars().any(|c| c.is_control() || c == '\u{202e}');
        for line in log.lines() {
            assert!(!hostile(line), "{line:?}");
            if format == "json" {
                let line: Value = serde_json::from_str(line).unwrap();
                let texts = line.as_object().unwrap().values().filter_map(Value::as_str);
                assert!(!texts.into_iter().any(hostile), "{line}");
            } else {
                assert!(!line.starts_with("2026-11-28T00:00:00.000000Z"), "{line}");
            }
        }
        let kept: Value = serde_json::from_slice(&get(process.admin, "/v1/logs?tail=1000").await.body).unwrap();
        for line in kept.as_array().unwrap() {
            let fields = line["fields"].as_object().into_iter().flat_map(|fields| fields.values());
            assert!(!fields.chain([&line["message"]]).filter_map(Value::as_str).any(hostile), "{line}");
        }
    }
}

/// Denied sockets and files are logged once, with an alternative.
#[tokio::test(flavor = "multi_thread")]
async fn denied_sockets_and_files_are_logged_once() {
    let directory = directory(&["echo", "echo3"]);
    let process = Process::serve(directory.path(), &[]).await;
    for guest in ["echo", "echo3"] {
        for _ in 0..3 {
            assert_eq!(get(process.address, &format!("/{guest}/head")).await.status, 200);
        }
    }
    // The log is in order: when this line is logged, all previous ones are.
    assert_eq!(put_level(&process, "info").await, 200);
    until("the level was changed", || process.log().contains("set the log level to")).await;
    let count = |what: &str, service: &str| {
        let line = |line: &&str| line.contains(what) && line.contains(&format!("service=\"{service}\""));
        process.log().lines().filter(line).count()
    };
    let instead =
        "send HTTP requests, which `http = [\"http://HOST:PORT\"]` in echo.toml, above its first [section], allows";
    for what in [
        format!("denied a TCP socket, which no manifest can grant; {instead}"),
        format!("denied the resolution of a name, which no manifest can grant; {instead}"),
        "denied files: the guest looked for directories, and there are none; if the guest needs a file, embed it"
            .to_owned(),
    ] {
        assert_eq!(count(&what, "echo"), 1, "{}", process.log());
    }
}

/// The end of a guest's stderr is shown with its failure.
#[tokio::test(flavor = "multi_thread")]
async fn stderr_is_shown_with_the_failure() {
    let directory = directory(&["panic"]);
    std::fs::write(directory.path().join("panic.toml"), "isolation = 'service'").unwrap();
    let process = Process::serve(directory.path(), &[]).await;
    let id = get(process.address, "/panic").await.header("x-request-id");
    let whole: Value = serde_json::from_slice(&get(process.admin, "/v1/services/panic").await.body).unwrap();
    let failure = &whole["recent_errors"][0];
    assert_eq!(failure["request_id"], id);
    let stderr: Vec<_> = failure["stderr"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(stderr.iter().any(|line| line.contains("panicked at")), "{failure}");
    let (code, text, _) = output(&mut lodge(&["inspect", "panic", "--admin", &process.admin.to_string()]));
    assert!(code == Some(0) && text.contains("  stderr: ") && text.contains("panicked at"), "{text}");
    assert!(text.contains("isolation     service: several instances"), "{text}");
}
