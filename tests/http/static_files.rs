//! Promise: a manifest with `[files]` serves a directory: its files and nothing else, as they are now, under the policies of
//! any service.

use std::fs;
use std::path::Path;
use std::time::Duration;

use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{
    Connection, Narrow, Response, Setup, TestHost, eventually, get, host, lodge, output, raw, until, within,
};

const SECRET: &str = "not for clients";

/// A host with a directory of files beside its manifest, and secrets around it.
async fn site(manifest: &str) -> TestHost {
    let host = public(manifest).start().await;
    assert_eq!(host.refusals(), [""; 0]);
    host
}

fn public(manifest: &str) -> Setup {
    let setup = host(&["hello"]);
    let directory = setup.directory.path().join("public");
    for (path, content) in [
        ("index.html", "home"),
        ("a.txt", "0123456789"),
        ("docs/index.html", "docs"),
        (".env", SECRET),
        (".git/config", SECRET),
        (".well-known/security.txt", "contact"),
        ("a.js", "plain"),
        ("a.js.gz", "gzip"),
    ] {
        let path = directory.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        let time = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
        fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }
    fs::create_dir_all(setup.directory.path().join("publics")).unwrap();
    fs::write(setup.directory.path().join("publics/secret"), SECRET).unwrap();
    std::os::unix::fs::symlink("..", directory.join("up")).unwrap();
    setup.file("secret", SECRET.as_bytes()).manifest("site", manifest)
}

/// Waits until the files have tags, and returns one of them.
async fn tagged(host: &TestHost) -> Response {
    let mut client = host.connect().await;
    // The one that was written last.
    while client.ask(Method::GET, "/site/a.js", &[("accept-encoding", "gzip")], "").await.header("etag").is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    client.get("/site/a.txt").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_a_service() {
    let host = site("[files]\nroot = 'public'").await;
    let home = host.get("/site/").await;
    assert_eq!(
        (home.status, home.text().as_str(), home.header("content-type").as_str()),
        (200, "home", "text/html; charset=utf-8")
    );
    assert_eq!(home.header("cache-control"), "no-cache");
    let file = within(tagged(&host)).await;
    assert_eq!((file.status, file.text().as_str()), (200, "0123456789"));
    assert_eq!(host.get("/site/.well-known/security.txt").await.text(), "contact");
    // Relative links in a page depend on the `/`.
    for (path, location) in [("/site", "./site/"), ("/site/docs", "./docs/"), ("/site/docs?a=b", "./docs/?a=b")] {
        let moved = host.get(path).await;
        assert_eq!((moved.status, moved.header("location").as_str()), (301, location), "{path}");
    }
    let mut client = host.connect().await;
    let named = client.ask(Method::GET, "/docs/", &[("host", "site.localhost")], "").await;
    assert_eq!((named.status, named.text().as_str()), (200, "docs"));
    // On one connection, over both versions: whole, in part, not at all, and refused.
    for mut client in [host.connect().await, Connection::http2(host.address).await] {
        let tag = file.header("etag");
        for (method, path, fields, status, body) in [
            (Method::GET, "/site/a.txt", ("range", "bytes=2-4"), 206, "234"),
            (Method::HEAD, "/site/a.txt", ("accept", "*/*"), 200, ""),
            (Method::GET, "/site/a.txt", ("if-none-match", tag.as_str()), 304, ""),
            (Method::GET, "/site/a.js", ("accept-encoding", "gzip"), 200, "gzip"),
            (Method::GET, "/site/a.js", ("accept-encoding", "br"), 200, "plain"),
        ] {
            let found = client.ask(method.clone(), path, &[fields], "").await;
            assert_eq!((found.status, found.text().as_str()), (status, body), "{method} {path} {fields:?}");
            assert!(!found.header("etag").is_empty() && !found.header("x-request-id").is_empty());
        }
        let missing = client.get("/site/none.txt").await;
        assert_eq!((missing.status, missing.problem().as_str()), (404, "no-file"));
        let posted = client.ask(Method::POST, "/site/a.txt", &[], "body").await;
        let refused = (posted.status, posted.problem(), posted.header("allow"));
        assert_eq!(refused, (405, "method-not-allowed".into(), "GET, HEAD".into()));
        let beyond = client.ask(Method::GET, "/site/a.txt", &[("range", "bytes=99-")], "").await;
        let refused = (beyond.status, beyond.problem(), beyond.header("content-range"));
        assert_eq!(refused, (416, "bad-range".into(), "bytes */10".into()));
        let other = client.ask(Method::GET, "/site/a.txt", &[("if-match", "\"x\"")], "").await;
        assert_eq!((other.status, other.problem().as_str()), (412, "precondition-failed"));
    }
}

/// Whatever a path is, it leads to a file below the directory, or to none.
#[tokio::test(flavor = "multi_thread")]
async fn no_path_leads_out() {
    let host = site("routes = '/*'\n[files]\nroot = 'public'").await;
    let absolute = host.directory().join("secret").display().to_string();
    let mut paths: Vec<String> = [
        "/../secret",
        "/../../secret",
        "/./../secret",
        "/docs/../../secret",
        "/%2e%2e/secret",
        "/%2E%2E/secret",
        "/.%2e/secret",
        "/%2e./secret",
        "/%2e%2e%2fsecret",
        "/..%2fsecret",
        "/..%2Fsecret",
        "/docs/..%2f..%2fsecret",
        "/%252e%252e/secret",
        "/%252e%252e%252fsecret",
        "/..%5csecret",
        "/..\\secret",
        "/%5c..%5csecret",
        "/....//secret",
        "/..//secret",
        "//../secret",
        "/..;/secret",
        "/docs/..;/..;/secret",
        "/%c0%ae%c0%ae/secret",
        "/%c0%ae%c0%ae%c0%afsecret",
        "/%e0%80%ae%e0%80%ae/secret",
        "/..%c0%afsecret",
        "/%uff0e%uff0e/secret",
        "/．．/secret",
        "/..%00/secret",
        "/secret%00.txt",
        "/%00/../secret",
        "/../publics/secret",
        "/../public/.env",
        "/up/secret",
        "/up/publics/secret",
        "/up/public/.env",
        "/.env",
        "/%2eenv",
        "/%2Eenv",
        "/docs/../.env",
        "/.git/config",
        "/.git%2fconfig",
        "/%2egit/config",
        "/.well-known/../.env",
        "/.well-known%2f..%2f.env",
        "/.env/",
        "/.env%20",
        "/file:///etc/passwd",
        "/proc/self/root/etc/passwd",
        "/~/.env",
        "/site.toml",
        "/hello.wasm",
    ]
    .map(str::to_owned)
    .into();
    paths.extend([absolute.clone(), format!("/{absolute}"), format!("/%2f{absolute}")]);
    assert!(paths.len() >= 50);
    for path in &paths {
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let response = raw(host.address, &request).await;
        let status = response.split(' ').nth(1).unwrap_or_default();
        assert!(["400", "404"].contains(&status), "{path}: {response}");
        assert!(!response.contains(SECRET) && !response.contains("root:"), "{path}: {response}");
        assert!(!response.contains(&absolute), "{path}: {response}");
    }
    assert_eq!(host.get("/a.txt").await.status, 200);
}

/// Files, and the directory itself, may change at any time; the manifest decides under which rules they are read.
#[tokio::test(flavor = "multi_thread")]
async fn changes_and_policies_hold() {
    let manifest = "routes = ['/site', { path = '/site/docs', deny = ['127.0.0.0/8'] }]\nrate = '3/h'\n\
                    cors.origins = 'https://app.test'\n[files]\nroot = 'public'\nfallback = 'site/app.html'";
    let host = site(manifest).await;
    let app = host.directory().join("public/site/app.html");
    fs::create_dir_all(app.parent().unwrap()).unwrap();
    fs::write(&app, "one").unwrap();
    let mut client = host.connect().await;
    let first = client.ask(Method::GET, "/site/some/page", &[("origin", "https://app.test")], "").await;
    assert_eq!((first.status, first.text().as_str()), (200, "one"));
    assert_eq!(first.header("access-control-allow-origin"), "https://app.test");
    assert!(first.header("ratelimit").contains("r=2"), "{first:?}");
    fs::write(&app, "two").unwrap();
    assert_eq!(client.get("/site/some/page").await.text(), "two");
    assert_eq!(client.get("/site/docs/").await.status, 403);
    fs::rename(host.directory().join("public"), host.directory().join("old")).unwrap();
    let gone = client.get("/site/some/page").await;
    assert_eq!((gone.status, gone.problem().as_str()), (503, "no-files"));
    assert_eq!(client.get("/site/some/page").await.status, 429);
    // What operators see.
    let details =
        async || serde_json::from_slice::<serde_json::Value>(&get(host.admin, "/v1/services/site").await.body).unwrap();
    eventually("all requests are counted", async || details().await["requests"] == 5).await;
    let service = details().await;
    assert_eq!(service["sections"]["files"]["root"], "public");
    assert_eq!(service["state"], "serving");
    assert!(service["recent_errors"][0]["detail"].as_str().unwrap().contains("public"), "{service}");
    let text = get(host.admin, "/metrics").await.text();
    assert!(text.contains("service=\"site\""), "{text}");
    let address = host.admin.to_string();
    let run = |command: &'static str, name: &'static [&'static str]| {
        let address = address.clone();
        tokio::task::spawn_blocking(move || output(&mut lodge(&[&[command], name, &["--admin", &address]].concat())))
    };
    let (_, inspected, _) = run("inspect", &["site"]).await.unwrap();
    for part in ["serving; a directory of files", "root public", "cache_control no-cache", "precompressed true"] {
        assert!(inspected.contains(part), "{inspected}");
    }
    let (_, listed, _) = run("ps", &[]).await.unwrap();
    assert!(listed.contains("site") && listed.contains("serving"), "{listed}");
}

/// Clients that read slowly take no sandboxes from other services, and get all of their file after `limits.wall`.
#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_of_files_harm_nobody() {
    const SIZE: u64 = 16 << 20;
    const WALL: Duration = Duration::from_secs(1);
    let setup = public("routes = '/*'\nlimits = { in_flight = 4, queue = 0, wall = '1s' }\n[files]\nroot = 'public'");
    fs::File::create(setup.directory.path().join("public/large")).unwrap().set_len(SIZE).unwrap();
    let host = setup.set("engine.instances", "2").set("engine.warm", "0").start().await;
    let mut client = Narrow::connect(host.address, 0).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(client.get("/large").await.unwrap());
    }
    assert_eq!(host.get("/hello").await.status, 200, "the sandboxes are free");
    // One place of the service is left.
    let mut slow = tokio::net::TcpStream::connect(host.address).await.unwrap();
    let request = "GET /large HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    slow.write_all(request.as_bytes()).await.unwrap();
    let mut first = [0; 15];
    within(slow.read_exact(&mut first)).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    let full = host.get("/a.txt").await;
    assert_eq!((full.status, full.problem().as_str()), (503, "queue-full"), "its own service has a bound");
    tokio::time::sleep(WALL + WALL / 2).await;
    let mut rest = Vec::new();
    within(slow.read_to_end(&mut rest)).await.unwrap();
    let head = rest.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    assert_eq!(rest.len() - head - 4, SIZE as usize);
    drop((held, client));
    eventually("a place is free", async || host.get("/a.txt").await.status == 200).await;
}

/// A directory that is missing, or that must not be served, is a refusal.
#[tokio::test(flavor = "multi_thread")]
async fn some_directories_are_refused() {
    let setup = host(&["hello"]).file("hello.toml", b"[files]\nroot = 'public'");
    let path = |name: &str| setup.directory.path().join(name);
    fs::create_dir(path("public")).unwrap();
    std::os::unix::fs::symlink(setup.directory.path(), path("public/all")).unwrap();
    for (name, root) in
        [("missing", "none"), ("all", "."), ("more", ".."), ("link", "public/all"), ("file", "all.toml")]
    {
        fs::write(path(&format!("{name}.toml")), format!("[files]\nroot = '{root}'")).unwrap();
    }
    let check = |directory: &Path| output(&mut lodge(&["check", directory.to_str().unwrap()]));
    let (code, text, _) = check(setup.directory.path());
    assert_eq!(code, Some(1), "{text}");
    let host = setup.begin().await;
    until("all are refused", || host.refusals().len() == 6).await;
    for (file, reason) in [
        ("missing.toml", "files.root: "),
        ("missing.toml", "there is no such directory"),
        ("all.toml", "it contains the directory of manifests"),
        ("more.toml", "it contains the directory of manifests"),
        ("link.toml", "it contains the directory of manifests"),
        ("file.toml", "it is not a directory"),
        ("hello.wasm", "its manifest has [files]"),
    ] {
        let found = host.refusals().iter().any(|refusal| refusal.contains(file) && refusal.contains(reason));
        assert!(found && text.contains(reason), "{file} {reason}: {:?}\n{text}", host.refusals());
    }
    // It is tried again.
    fs::create_dir(host.directory().join("none")).unwrap();
    fs::write(host.directory().join("none/a.txt"), "late").unwrap();
    until("it is served", || host.refusals().len() == 5).await;
    assert_eq!(host.get("/missing/a.txt").await.text(), "late");
}
