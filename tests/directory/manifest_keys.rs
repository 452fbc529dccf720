//! Promise: every key of a manifest does what the docs say.

use http::Method;

use crate::harness::{Response, host, lodge, output, until, wasm};

/// One component as two services: routes by host, path and method, a prefix that the guest does not see, variables.
#[tokio::test(flavor = "multi_thread")]
async fn routes_and_variables() {
    let host = host(&["echo"])
        .manifest(
            "echo",
            "routes = [{ path = '/v1/{tenant}', host = 'api.example.com', methods = ['GET', 'PUT'], strip_prefix = true },\
             '/echo']\n[env]\nGREETING = 'hi'\nEMPTY = ''",
        )
        .manifest("twin", "component = 'echo.wasm'\nroutes = [{ path = '/v1/{t}', methods = ['PUT'] }]")
        .start()
        .await;
    assert_eq!(host.refusals(), Vec::<String>::new());
    let mut client = host.connect().await;
    let api = [("host", "api.example.com")];
    let inside = client.ask(Method::GET, "/v1/acme/deep/head?q=1", &api, "").await.text();
    let first = inside.lines().next().unwrap();
    assert!(first.ends_with("api.example.com /deep/head?q=1"), "{inside}");
    assert!(inside.contains("x-forwarded-prefix: /v1/acme\n"), "{inside}");
    assert!(inside.contains("GREETING=hi\n") && inside.contains("EMPTY=\n"), "{inside}");
    assert_eq!(client.ask(Method::HEAD, "/v1/acme", &api, "").await.status, 200, "HEAD comes with GET");
    let refused: Response = client.ask(Method::POST, "/v1/acme", &api, "").await;
    assert_eq!((refused.status, refused.problem().as_str()), (405, "method-not-allowed"));
    assert_eq!(refused.header("allow"), "GET, HEAD, PUT");
    // The other host leads to the twin, which has no variables.
    let twin = client.ask(Method::PUT, "/v1/acme/head", &[], "").await.text();
    assert!(twin.contains("/v1/acme/head") && !twin.contains("GREETING"), "{twin}");
    let other = client.ask(Method::GET, "/v1/acme", &[], "").await;
    assert_eq!((other.status, other.header("allow").as_str()), (405, "PUT"));
}

#[tokio::test(flavor = "multi_thread")]
async fn services_can_be_pinned_and_disabled() {
    let bytes = std::fs::read(wasm("hello")).unwrap();
    let digest = lodge_manifest::digest::Digest::of(&bytes);
    let host = host(&["hello", "users", "deaf"])
        .set("watch.poll", "100ms")
        .manifest("hello", &format!("digest = 'sha256:{digest}'"))
        .manifest("users", &format!("digest = 'sha256:{digest}'"))
        .manifest("deaf", "enabled = false")
        .manifest("lost", "component = 'nowhere.wasm'")
        .start()
        .await;
    let status = async |path: &str| host.get(path).await.status;
    assert_eq!([status("/hello").await, status("/users").await, status("/deaf").await], [200, 503, 503]);
    let refusals = host.refusals();
    assert!(refusals.iter().any(|line| line.starts_with("users.wasm: it is sha256:")), "{refusals:?}");
    let missing = "lost.toml: line 1: component: there is no nowhere.wasm in ";
    assert!(refusals.iter().any(|line| line.starts_with(missing)), "{refusals:?}");
    assert_eq!(refusals.len(), 2, "{refusals:?}");
    std::fs::write(host.directory().join("deaf.toml"), "enabled = true").unwrap();
    until("it is served", || host.current.snapshot().targets.len() == 2).await;
    std::fs::write(host.directory().join("hello.toml"), "enabled = false").unwrap();
    until("it is not served any more", || host.current.snapshot().targets.len() == 1).await;
    assert_eq!([status("/hello").await, status("/deaf").await], [503, 200]);
}

/// A version whose own check fails is not served; the previous one stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_not_ready_is_not_served() {
    let host = host(&["status"])
        .set("watch.poll", "100ms")
        .manifest("status", "ready.path = '/status/204'\nroutes = ['/status']")
        .start()
        .await;
    assert_eq!(host.get("/status/201").await.status, 201);
    let manifest = host.directory().join("status.toml");
    std::fs::write(&manifest, "ready.path = '/status/503'\nroutes = ['/elsewhere']").unwrap();
    until("it is refused", || {
        host.refusals().iter().any(|line| line.contains("GET /status/503 returned 503 Service Unavailable"))
    })
    .await;
    assert_eq!((host.get("/status/201").await.status, host.get("/elsewhere").await.status), (201, 404));
    std::fs::write(&manifest, "ready.path = '/status/200'\nroutes = ['/elsewhere']").unwrap();
    until("it is served", || host.refusals().is_empty()).await;
    let start = std::time::Instant::now();
    while host.get("/elsewhere/201").await.status != 201 {
        assert!(start.elapsed() < crate::harness::PATIENCE);
    }
    assert_eq!(host.get("/status/201").await.status, 404);
}

/// A check that may need calls is only made by a host, where calls have a destination.
#[tokio::test(flavor = "multi_thread")]
async fn readiness_is_checked_by_a_host() {
    // The guest needs a URL to call, and has none here.
    let check = "ready.path = '/'";
    let checked = |manifest: String| {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("caller.wasm");
        std::fs::copy(wasm("caller"), &file).unwrap();
        std::fs::write(directory.path().join("caller.toml"), manifest).unwrap();
        let (code, stdout, stderr) = output(&mut lodge(&["check", &file.display().to_string()]));
        (code, format!("{stdout}{stderr}"))
    };
    for grant in ["calls = ['users']", "http = ['https://api.example.com']"] {
        let manifest = format!("{grant}\n{check}");
        let (code, said) = checked(manifest.clone());
        assert_eq!(code, Some(0), "{said}");
        let host = host(&["caller"]).manifest("caller", &manifest).start().await;
        assert!(host.refusals().iter().any(|line| line.contains("GET / ")), "{:?}", host.refusals());
    }
    let (code, said) = checked(check.to_owned());
    assert!(code == Some(1) && said.contains("GET / "), "{said}");
}
