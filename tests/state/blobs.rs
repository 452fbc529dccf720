//! Promise: a service with `[blobstore]` has objects of its own. An object is there as a whole or not at all, no name leads to what
//! belongs to another service, and no object is in memory as a whole.

use std::path::Path;

use bytes::Bytes;
use http::{Method, Request};
use http_body::Frame;
use http_body_util::{BodyExt, Full};

use crate::harness::{
    AnyBody, Connection, Process, Response, TestHost, eventually, fed, get, host, metric, until, until_metric, wasm,
};

/// A path with each part encoded for the guest.
fn path(parts: &[&str]) -> String {
    let encode = |byte: u8| {
        if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("~{byte:02x}") }
    };
    parts.iter().map(|part| format!("/{}", part.bytes().map(encode).collect::<String>())).collect()
}

async fn send(address: std::net::SocketAddr, at: &str, body: AnyBody) -> Response {
    let request = Request::builder().method(Method::PUT).uri(at).body(body).unwrap();
    Response::read(Connection::http1(address).await.send(request).await.unwrap()).await
}

async fn put(host: &TestHost, at: &[&str], content: &[u8]) -> (u16, String) {
    let body = Full::new(Bytes::copy_from_slice(content)).boxed_unsync();
    let response = send(host.address, &path(at), body).await;
    (response.status, response.text())
}

async fn run(host: &TestHost, at: &[&str], argument: &str) -> (u16, String) {
    let response = host.get(&format!("{}?{argument}", path(at))).await;
    (response.status, response.text())
}

/// The result of an operation that must succeed.
async fn ok(host: &TestHost, at: &[&str], argument: &str) -> String {
    let (status, text) = run(host, at, argument).await;
    assert_eq!(status, 200, "{at:?} {argument}: {text}");
    text
}

/// The error of an operation that must fail.
async fn error(host: &TestHost, at: &[&str], argument: &str) -> String {
    let (status, text) = run(host, at, argument).await;
    assert_eq!(status, 500, "{at:?} {argument}: {text}");
    text
}

const LIMITS: &str = "limits = { wall = '2m', cpu = '1m', request_body = '200MiB' }";

async fn both() -> TestHost {
    let manifest = format!("blobstore = true\n{LIMITS}");
    let host = host(&["blobs", "blobs3"]).manifest("blobs", &manifest).manifest("blobs3", &manifest).start().await;
    assert_eq!(host.refusals(), Vec::<String>::new());
    for service in ["blobs", "blobs3"] {
        assert_eq!(ok(&host, &[service, "create", "c"], "").await, "c");
    }
    host
}

fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8).collect()
}

/// The temporary files of a host.
fn temporary(directory: &Path) -> usize {
    std::fs::read_dir(directory.join(".lodge/blobs/.temporary")).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn content_passes_in_both_directions() {
    let host = both().await;
    let large = content(1_000_000);
    for (service, operation) in [("blobs", "put"), ("blobs", "put-late"), ("blobs3", "put")] {
        for (name, content) in [("large", &large[..]), ("piece", &large[..65_536]), ("small", b"x"), ("empty", b"")] {
            let stored = put(&host, &[service, operation, "c", name], content).await;
            assert_eq!(stored, (200, "stored".into()), "{service} {operation} {name}");
            let response = host.get(&path(&[service, "get", "c", name])).await;
            assert!(!response.broken && response.body == content, "{service} {operation} {name}");
            let info = ok(&host, &[service, "object-info", "c", name], "").await;
            assert_eq!(info, format!("c {name} {}", content.len()));
        }
        for (range, expected) in [
            ("0-0", &large[..1]),
            ("65535-131072", &large[65_535..=131_072]),
            ("999999-", &large[999_999..]),
            ("1000000-", &[]),
        ] {
            let response = host.get(&format!("{}?{range}", path(&[service, "get", "c", "large"]))).await;
            assert!(response.status == 200 && response.body == expected, "{service} {range}");
        }
        assert!(error(&host, &[service, "get", "c", "large"], "2-1").await.contains("ends before it starts"));
    }
    let sum: u64 = large.iter().map(|byte| u64::from(*byte)).sum();
    assert_eq!(ok(&host, &["blobs", "whole", "c", "large"], "").await, format!("1000000 {sum}"));
    assert_eq!(ok(&host, &["blobs", "size", "c", "large"], "10-19").await, "10");
    assert_eq!(ok(&host, &["blobs", "put-empty", "c", "large"], "").await, "stored");
    assert_eq!(ok(&host, &["blobs", "size", "c", "large"], "").await, "0");
    put(&host, &["blobs", "put", "c", "large"], &content((4 << 20) + 1)).await;
    let refused = error(&host, &["blobs", "whole", "c", "large"], "").await;
    assert!(refused.contains("not consumed as a stream has more than 4194304 bytes"), "{refused}");
}

/// Neither a guest that fails nor a client that leaves stores anything, and what was there before stays.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_there_as_a_whole_or_not_at_all() {
    let host = both().await;
    let large = content(300_000);
    for service in ["blobs", "blobs3"] {
        put(&host, &[service, "put", "c", "o"], b"before").await;
    }
    for (service, operation, status) in
        [("blobs", "unfinished", 200), ("blobs", "trap", 502), ("blobs", "nowhere", 500), ("blobs3", "trap", 502)]
    {
        for name in ["o", "new"] {
            let (found, text) = put(&host, &[service, operation, "c", name], &large).await;
            assert_eq!(found, status, "{service} {operation}: {text}");
        }
    }
    // These clients leave in the middle.
    for (service, operation) in [("blobs", "put"), ("blobs", "put-late"), ("blobs3", "put")] {
        for name in ["o", "new"] {
            let (sender, body) = fed();
            let request = Request::builder().method(Method::PUT).uri(path(&[service, operation, "c", name]));
            let mut client = Connection::http1(host.address).await;
            let sending = tokio::spawn(async move { client.send(request.body(body).unwrap()).await.map(drop) });
            for piece in large.chunks(100_000) {
                sender.send(Frame::data(Bytes::copy_from_slice(piece))).await.unwrap();
            }
            until("it is being written", || temporary(host.directory()) > 0).await;
            sending.abort();
            until("the temporary file is gone", || temporary(host.directory()) == 0).await;
            // Before that, it would have been the end of the body.
            drop(sender);
        }
    }
    until("nothing is left", || temporary(host.directory()) == 0).await;
    for service in ["blobs", "blobs3"] {
        assert!(ok(&host, &[service, "get", "c", "o"], "").await == "before", "{service}");
        assert_eq!(ok(&host, &[service, "list", "c"], "").await, "o");
    }
    // Stores are read every two seconds.
    for (name, value) in [
        (r#"lodge_blob_objects{service="blobs"}"#, 1),
        (r#"lodge_blob_bytes{service="blobs"}"#, 6),
        (r#"lodge_blob_bytes_limit{service="blobs3"}"#, 1 << 30),
        (r#"lodge_blob_objects_limit{service="blobs3"}"#, 10_000),
    ] {
        until_metric(host.admin, name, value).await;
    }
    for name in [
        r#"lodge_blob_operations_total{service="blobs3",outcome="ok"}"#,
        r#"lodge_blob_operation_seconds_count{service="blobs3"}"#,
    ] {
        eventually(name, async || metric(host.admin, name).await > 0.0).await;
    }
}

/// What was confirmed is there after the process was killed, and of what was being written there is nothing.
#[tokio::test(flavor = "multi_thread")]
async fn objects_outlive_the_process() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["blobs", "blobs@2"] {
        std::fs::copy(wasm("blobs"), directory.path().join(format!("{name}.wasm"))).unwrap();
    }
    std::fs::write(directory.path().join("blobs.toml"), format!("blobstore = true\n{LIMITS}")).unwrap();
    std::fs::write(directory.path().join("blobs@2.toml"), "percent = 50").unwrap();
    for round in 0..4 {
        let process = Process::serve(directory.path(), &[]).await;
        assert_eq!(temporary(directory.path()), 0);
        if round == 0 {
            get(process.address, "/blobs/create/c").await;
        }
        for earlier in 0..round {
            let found = get(process.address, &format!("/blobs/get/c/o{earlier}")).await;
            assert_eq!(found.body, content(100_000 + earlier));
        }
        let stored = Full::new(Bytes::from(content(100_000 + round))).boxed_unsync();
        assert_eq!(send(process.address, &format!("/blobs/put/c/o{round}"), stored).await.status, 200);
        let (sender, body) = fed();
        let (address, mut client) = (process.address, Connection::http1(process.address).await);
        let request = Request::builder().method(Method::PUT).uri("/blobs/put/c/o0").body(body).unwrap();
        let sending = tokio::spawn(async move { client.send(request).await.map(drop) });
        sender.send(Frame::data(content(200_000).into())).await.unwrap();
        until("it is being written", || temporary(directory.path()) > 0).await;
        // Dropped, it is killed.
        drop(process);
        assert!(tokio::net::TcpStream::connect(address).await.is_err());
        sending.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_object_is_in_memory_as_a_whole() {
    let directory = tempfile::tempdir().unwrap();
    let names = ["blobs", "blobs3"];
    for name in names {
        std::fs::copy(wasm(name), directory.path().join(format!("{name}.wasm"))).unwrap();
        std::fs::write(directory.path().join(format!("{name}.toml")), format!("blobstore = true\n{LIMITS}")).unwrap();
    }
    let process = Process::serve(directory.path(), &[]).await;
    let most_memory = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() / 1024
    };
    let piece = Bytes::from(content(1 << 20));
    let mut before = 0;
    for (name, mebibytes) in names.into_iter().flat_map(|name| [(name, 1), (name, 96)]) {
        if mebibytes == 1 {
            get(process.address, &format!("/{name}/create/c")).await;
        } else {
            before = most_memory();
        }
        let (sender, body) = fed();
        let address = process.address;
        let sending = tokio::spawn(async move { send(address, &format!("/{name}/put/c/large"), body).await });
        for _ in 0..mebibytes {
            sender.send(Frame::data(piece.clone())).await.unwrap();
        }
        drop(sender);
        assert_eq!(sending.await.unwrap().text(), "stored");
        let read = get(process.address, &format!("/{name}/get/c/large")).await;
        assert_eq!(read.body.len(), mebibytes << 20);
        if mebibytes > 1 {
            let grown = most_memory() - before;
            assert!(grown < 48, "{name}: {grown} MiB more for an object of {mebibytes} MiB");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_and_objects_have_any_names() {
    let host = both().await;
    let names = ["o", "O", "..", "../../x", "/etc/passwd", "a//b", "\0", "é", "e\u{301}", "%2e", &"L".repeat(1024)];
    for service in ["blobs", "blobs3"] {
        for container in ["C", "..", "a/b", "\0"] {
            assert_eq!(ok(&host, &[service, "create", container], "").await, container);
            assert_eq!(ok(&host, &[service, "list", container], "").await, "");
            let again = error(&host, &[service, "create", container], "").await;
            assert!(again.contains("exists") || again.contains("Exists"), "{again}");
        }
        for name in names {
            assert_eq!(put(&host, &[service, "put", "c", name], name.as_bytes()).await.0, 200, "{name:?}");
        }
        for name in names {
            assert_eq!(ok(&host, &[service, "get", "c", name], "").await, name);
        }
        let mut all = names;
        all.sort_unstable();
        for page in ["", "1", "4"] {
            assert_eq!(ok(&host, &[service, "list", "c"], page).await, all.join(","));
        }
        assert!(error(&host, &[service, "has", "c", &"x".repeat(1025)], "").await.contains("more than 1024 bytes"));
        // The guest takes the part before the first slash for the container.
        ok(&host, &[service, "copy", "c", "o"], "C/../c/O").await;
        assert_eq!(ok(&host, &[service, "list", "C"], "").await, "../c/O");
        assert_eq!(ok(&host, &[service, "get", "c", "O"], "").await, "O");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_listed_copied_moved_and_deleted() {
    let host = both().await;
    for service in ["blobs", "blobs3"] {
        ok(&host, &[service, "create", "d"], "").await;
        for name in ["a", "b", "x"] {
            put(&host, &[service, "put", "c", name], name.as_bytes()).await;
        }
        ok(&host, &[service, "copy", "c", "a"], "d/a2").await;
        ok(&host, &[service, "move", "c", "b"], "d/a2").await;
        assert_eq!(ok(&host, &[service, "get", "d", "a2"], "").await, "b");
        assert_eq!(ok(&host, &[service, "list", "c"], "").await, "a,x");
        for (operation, of, to) in
            [("copy", "b", "d/z"), ("move", "b", "d/z"), ("copy", "a", "e/z"), ("move", "a", "e/z")]
        {
            let failed = error(&host, &[service, operation, "c", of], to).await.to_lowercase();
            assert!(failed.contains("no such") || failed.contains("nosuch"), "{failed}");
        }
        assert_eq!(ok(&host, &[service, "has", "c", "a"], "").await, "true");
        ok(&host, &[service, "delete", "c", "a"], "").await;
        ok(&host, &[service, "delete", "c", "a"], "").await;
        ok(&host, &[service, "delete-many", "c", "x,y"], "").await;
        assert_eq!(ok(&host, &[service, "list", "c"], "").await, "");
        ok(&host, &[service, "info", "d"], "").await;
        ok(&host, &[service, "clear", "d"], "").await;
        assert_eq!(ok(&host, &[service, "has", "d", "a2"], "").await, "false");
        put(&host, &[service, "put", "d", "o"], b"x").await;
        ok(&host, &[service, "delete-container", "d"], "").await;
        assert_eq!(ok(&host, &[service, "exists", "d"], "").await, "false");
        for operation in ["get", "list", "clear", "info", "has", "delete", "delete-container"] {
            let failed = error(&host, &[service, operation, "d", "o"], "").await;
            assert!(failed.contains("no such container") || failed == "Error::NoSuchContainer", "{failed}");
        }
        assert_eq!(put(&host, &[service, "put", "d", "o"], b"x").await.0, 500);
    }
    for number in 0..25 {
        put(&host, &["blobs", "put", "c", &format!("o{number}")], b"").await;
    }
    assert_eq!(ok(&host, &["blobs", "skip", "c"], "20").await, "(20, false) 5");
    assert_eq!(ok(&host, &["blobs", "skip", "c"], "100").await, "(25, true) 0");
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_hold_and_can_be_raised() {
    let manifest = format!("{LIMITS}\n[blobstore]\nobjects = 2\nbytes = '100KiB'");
    let host = host(&["blobs", "blobs3"]).manifest("blobs", &manifest).manifest("blobs3", &manifest).start().await;
    for service in ["blobs", "blobs3"] {
        ok(&host, &[service, "create", "c"], "").await;
        let (status, text) = put(&host, &[service, "put", "c", "large"], &content(200_000)).await;
        assert!(status == 500 && (text.contains("quota of 102400 bytes") || text == "Error::QuotaExceeded"), "{text}");
        assert_eq!(ok(&host, &[service, "has", "c", "large"], "").await, "false");
        for name in ["a", "b"] {
            assert_eq!(put(&host, &[service, "put", "c", name], &content(50_000)).await.0, 200);
        }
        let (status, text) = put(&host, &[service, "put", "c", "third"], b"").await;
        assert!(status == 500 && (text.contains("quota of 2 objects") || text == "Error::QuotaExceeded"), "{text}");
    }
    host.edit("blobs", "blobstore = true").await;
    assert_eq!(put(&host, &["blobs", "put", "c", "third"], &content(200_000)).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn services_have_objects_of_their_own() {
    let manifest = "blobstore = true";
    let setup = host(&["blobs"]).named("blobs", "other").named("blobs", "none");
    let host = setup.manifest("blobs", manifest).manifest("other", manifest).start().await;
    ok(&host, &["blobs", "create", "c"], "").await;
    put(&host, &["blobs", "put", "c", "secret"], b"canary-object").await;
    for container in ["c", "../blobs/c", "blobs/c", "/blobs/c", "..", "../blobs", ".temporary", ".lock"] {
        assert_eq!(ok(&host, &["other", "exists", container], "").await, "false");
        assert!(error(&host, &["other", "get", container, "secret"], "").await.contains("no such container"));
        ok(&host, &["other", "create", container], "").await;
        for object in ["secret", "../../blobs/c/secret", "../c/secret"] {
            assert_eq!(ok(&host, &["other", "has", container, object], "").await, "false");
            assert!(error(&host, &["other", "copy", container, object], "c/x").await.contains("no such object"));
        }
        ok(&host, &["other", "delete-container", container], "").await;
    }
    assert_eq!(ok(&host, &["blobs", "get", "c", "secret"], "").await, "canary-object");
    for operation in ["create", "exists", "get", "delete-container"] {
        let denied = error(&host, &["none", operation, "c", "o"], "").await;
        assert!(denied.contains("the manifest of the service has no [blobstore]"), "{denied}");
    }
    assert!(!host.directory().join(".lodge/blobs/none").exists());
}

/// The reason of an outage is not for guests.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_ends_by_itself() {
    let host = both().await;
    put(&host, &["blobs", "put", "c", "o"], b"before").await;
    let directory = host.directory().join(".lodge/blobs/.temporary");
    std::fs::remove_dir(&directory).unwrap();
    assert_eq!(put(&host, &["blobs", "put", "c", "o"], b"new").await, (500, "no stream".into()));
    assert_eq!(put(&host, &["blobs3", "put", "c", "o"], b"new").await, (500, "Error::StoreUnavailable".into()));
    let failed = error(&host, &["blobs", "put-empty", "c", "o"], "").await;
    assert_eq!(failed, "the store is unavailable: try again later; the log of the host says why");
    assert_eq!(ok(&host, &["blobs", "get", "c", "o"], "").await, "before");
    std::fs::create_dir(&directory).unwrap();
    assert_eq!(put(&host, &["blobs", "put", "c", "o"], b"new").await.0, 200);
    assert_eq!(ok(&host, &["blobs", "get", "c", "o"], "").await, "new");
}

/// The log says which line grants objects.
#[tokio::test(flavor = "multi_thread")]
async fn denials_name_the_manifest() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["blobs", "blobs3"] {
        std::fs::copy(wasm(name), directory.path().join(format!("{name}.wasm"))).unwrap();
    }
    let process = Process::serve(directory.path(), &[]).await;
    for _ in 0..2 {
        assert_eq!(get(process.address, "/blobs3/exists/c").await.text(), "Error::AccessDenied");
        assert_eq!(get(process.address, "/blobs/unfinished/c/o").await.text(), "no stream");
    }
    until("the denials are in the log", || {
        let log = process.log();
        ["blobs", "blobs3"].iter().all(|name| log.contains(&format!("add `blobstore = true` to {name}.toml")))
    })
    .await;
    assert_eq!(process.log().matches("denied a container of objects").count(), 2);
    assert!(!directory.path().join(".lodge/blobs").exists());
}
