//! Promise: browsers get the pages of operators where the host responds with an error, and everybody else gets problem details. Pages
//! change under load without a response that is lost or in parts.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::Method;

use crate::harness::{Connection, PATIENCE, Response, TestHost, host, lodge, output, wasm};

const BROWSER: (&str, &str) = ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8");
const PROGRAM: (&str, &str) = ("accept", "*/*");

/// Starts a host that has pages of its own in `elsewhere`.
async fn start(elsewhere: &Path) -> TestHost {
    for (name, text) in [("404.html", "host {status} <b>{request-id}</b>"), ("down.html", "host is down {status}")] {
        std::fs::write(elsewhere.join(name), text).unwrap();
    }
    let pages = ["404=404.html", "5xx=down.html"].map(|page| page.replace('=', &format!("={}/", elsewhere.display())));
    let setup = host(&["hello", "trap", "errorcode", "status", "echo"]).set("errors.pages", &pages.join(","));
    std::fs::create_dir(setup.directory.path().join("errors")).unwrap();
    setup
        .file("errors/trap.html", b"trapped {status}")
        .file("own.html", b"own {status}")
        .manifest("trap", "errors.pages = { 502 = 'errors/trap.html' }")
        .manifest("errorcode", "compress = { min_size = '0B' }")
        .manifest(
            "hello",
            "routes = ['/hello', { path = '/hello/api', errors = false }]\nrate = '1/h'\nerrors.pages = { 429 = 'own.html' }",
        )
        .manifest(
            "echo",
            "routes = ['/echo', { path = '/echo/get', methods = 'GET' }]\nlimits.request_body = '10B'\n\
             errors.pages = { 4xx = 'own.html' }\n[headers]\nsecurity = true",
        )
        .manifest(
            "status",
            "errors.pages = { 404 = 'own.html' }\n[[rules]]\nwhen = 'request.path == \"/status/hidden\"'\ndeny = 404\n\
             [[rules]]\nwhen = 'request.path == \"/status/told\"'\ndeny = 404\nmessage = 'not here'",
        )
        .manifest("far", "upstream.replicas_file = 'none.list'")
        .start()
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_get_pages() {
    let elsewhere = tempfile::tempdir().unwrap();
    let host = start(elsewhere.path()).await;
    assert!(host.refusals().is_empty(), "{:?}", host.refusals());
    assert_eq!(host.get("/hello").await.status, 200);
    // At the host of a service, too.
    let browser = [BROWSER, ("host", "trap.localhost")];
    let named = host.connect().await.ask(Method::GET, "/any", &browser, "").await;
    assert_eq!((named.status, named.text()), (502, "trapped 502".into()));
    for mut client in [Connection::http1(host.address).await, Connection::http2(host.address).await] {
        // The page, if there is one, and the reason in problem details.
        for (path, status, page, reason) in [
            ("/nobody", 404, "host 404 <b>ID</b>", "no-route"),
            ("/trap", 502, "trapped 502", "trapped"),
            ("/errorcode/timeout", 504, "host is down 504", "guest-error"),
            ("/errorcode/denied", 403, "", "guest-error"),
            ("/far", 503, "host is down 503", "no-replica"),
            ("/hello", 429, "own 429", "rate-limited"),
            ("/hello/api", 429, "", "rate-limited"),
            // As if there were no service: the page of the host.
            ("/status/hidden", 404, "host 404 <b>ID</b>", "no-route"),
            ("/status/told", 404, "own 404", "rule-denied"),
            ("/echo", 413, "own 413", "body-too-large"),
            // No route matches, so the page would be that of the host.
            ("/echo/get", 405, "", "method-not-allowed"),
        ] {
            let (method, body) =
                if path.starts_with("/echo") { (Method::POST, "more than ten bytes") } else { (Method::GET, "") };
            let shown = client.ask(method.clone(), path, &[BROWSER], body).await;
            let problem = client.ask(method.clone(), path, &[PROGRAM], body).await;
            assert_eq!((problem.status, problem.problem().as_str()), (status, reason), "{path}");
            check(path, &shown, status, page, reason);
            let varies = |response: &Response| {
                let vary: Vec<_> =
                    response.headers.get_all("vary").iter().map(|value| value.to_str().unwrap()).collect();
                vary.iter().filter(|name| **name == "accept").count()
            };
            assert_eq!([varies(&shown), varies(&problem)], [usize::from(!page.is_empty()); 2], "{path}");
            for name in ["retry-after", "ratelimit", "x-content-type-options"] {
                assert_eq!(shown.headers.contains_key(name), problem.headers.contains_key(name), "{path} {name}");
            }
            if method == Method::GET {
                for (accept, whole) in [(BROWSER, &shown), (PROGRAM, &problem)] {
                    let head = client.ask(Method::HEAD, path, &[accept], "").await;
                    assert_eq!((head.status, head.body.len(), head.broken), (status, 0, false), "{path}");
                    for name in ["content-length", "content-type", "vary"] {
                        assert_eq!(head.header(name), whole.header(name), "{path} {name}");
                    }
                    assert_eq!(head.header("content-length"), whole.body.len().to_string(), "{path}");
                }
            }
        }
        assert_eq!(client.ask(Method::GET, "/far", &[BROWSER], "").await.header("retry-after"), "1");
        // What a guest responds stays as it is.
        let own = client.ask(Method::GET, "/status/404", &[BROWSER], "").await;
        assert_eq!(
            (own.status, own.text(), own.header("content-type"), own.header("vary")),
            (404, "".into(), "".into(), "".into())
        );
        // A page is compressed as other responses of its service are.
        let packed = client.ask(Method::GET, "/errorcode/timeout", &[BROWSER, ("accept-encoding", "gzip")], "").await;
        assert_eq!((packed.status, packed.header("content-encoding").as_str()), (504, "gzip"));
    }
    reloads(&host).await;
}

fn check(path: &str, response: &Response, status: u16, page: &str, reason: &str) {
    assert_eq!(response.status, status, "{path}");
    if page.is_empty() {
        return assert_eq!(response.problem(), reason, "{path}");
    }
    let expected = page.replace("ID", &response.header("x-request-id"));
    assert_eq!(
        (response.text(), response.header("content-type")),
        (expected, "text/html; charset=utf-8".into()),
        "{path}"
    );
}

/// A new page is sent within seconds. An empty file and none change nothing, and a manifest that names none keeps the last good version.
async fn reloads(host: &TestHost) {
    let (stop, address) = (Arc::new(AtomicBool::new(false)), host.address);
    let load = tokio::spawn({
        let stop = Arc::clone(&stop);
        async move {
            let (mut client, mut count) = (Connection::http1(address).await, 0);
            while !stop.load(Relaxed) {
                let response = client.ask(Method::GET, "/trap", &[BROWSER], "").await;
                let whole = ["trapped 502", "changed 502 502", "other 502"].contains(&response.text().as_str());
                assert!(response.status == 502 && whole, "{response:?}");
                count += 1;
            }
            count
        }
    });
    let page = async || host.connect().await.ask(Method::GET, "/trap", &[BROWSER], "").await.text();
    let becomes = async |expected: &str| {
        let start = Instant::now();
        while page().await != expected {
            assert!(start.elapsed() < PATIENCE, "never {expected}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let file = host.directory().join("errors/trap.html");
    std::fs::write(&file, "").unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(page().await, "trapped 502");
    std::fs::write(&file, "changed {status} {status}").unwrap();
    becomes("changed 502 502").await;
    std::fs::remove_file(&file).unwrap();
    let manifest = host.directory().join("trap.toml");
    std::fs::write(&manifest, "errors.pages = { 502 = 'errors/none.html' }").unwrap();
    let start = Instant::now();
    while host.refusals().is_empty() {
        assert!(start.elapsed() < PATIENCE, "never refused");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let refused = host.refusals().join("\n");
    assert!(
        refused.contains("trap.toml") && refused.contains("errors.pages: errors/none.html: it cannot be read"),
        "{refused}"
    );
    assert_eq!(page().await, "changed 502 502");
    // It is tried again without another edit.
    std::fs::write(host.directory().join("errors/none.html"), "other {status}").unwrap();
    becomes("other 502").await;
    stop.store(true, Relaxed);
    assert!(load.await.unwrap() > 10);
}

/// `lodge check` names the file, also of a setting.
#[test]
fn missing_pages_are_found_before() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    std::fs::create_dir(at("guests")).unwrap();
    std::fs::copy(wasm("hello"), at("guests/hello.wasm")).unwrap();
    std::fs::write(at("guests/hello.toml"), "errors.pages = { 404 = 'none.html' }").unwrap();
    let check = |more: &[&str]| {
        let (code, stdout, stderr) = output(&mut lodge(&[&["check", &at("guests")], more].concat()));
        (code, format!("{stdout}{stderr}"))
    };
    let (code, shown) = check(&[]);
    assert!(code == Some(1) && shown.contains("errors.pages: none.html: it cannot be read"), "{code:?} {shown}");
    let (code, shown) = check(&["--errors-pages", &format!("5xx={}", at("down.html"))]);
    assert!(code != Some(0) && shown.contains("down.html: it cannot be read"), "{code:?} {shown}");
    std::fs::write(at("guests/none.html"), "<p>none</p>").unwrap();
    std::fs::write(at("down.html"), "<p>down</p>").unwrap();
    let (code, shown) = check(&["--errors-pages", &format!("5xx={}", at("down.html"))]);
    assert!(code == Some(0) && shown.contains("errors      404 none.html"), "{code:?} {shown}");
}

/// What guests can write is no page, of their own service or of another one.
#[tokio::test(flavor = "multi_thread")]
async fn guests_write_no_pages() {
    let setup = host(&["hello", "echo", "trap"]);
    let directory = setup.directory.path().to_owned();
    for name in ["own", "other"] {
        std::fs::create_dir(directory.join(name)).unwrap();
        std::fs::write(directory.join(name).join("404.html"), "page").unwrap();
    }
    let page = |name: &str| format!("errors.pages = {{ 404 = '{name}/404.html' }}\n");
    let volume =
        |name: &str| format!("volumes = {{ '/x' = {{ path = '{}', write = true }} }}", directory.join(name).display());
    let setup = setup.manifest("hello", &(page("own") + &volume("own"))).manifest("echo", &volume("other"));
    let host = setup.start().await;
    let refused = |file: &str| host.refusals().into_iter().find(|refusal| refusal.starts_with(file));
    assert!(refused("hello.toml").is_some_and(|why| why.contains("an error page")), "{:?}", host.refusals());
    assert_eq!(refused("echo"), None);
    std::fs::write(directory.join("trap.toml"), page("other")).unwrap();
    let start = Instant::now();
    while refused("trap.toml").is_none() {
        assert!(start.elapsed() < PATIENCE, "never refused");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(refused("trap.toml").unwrap().contains("guests of echo may write to"), "{:?}", host.refusals());
}
