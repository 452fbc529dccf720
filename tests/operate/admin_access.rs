//! Promise: only operators use the admin listener, and clients that are slow or silent keep nobody from it.

use std::net::IpAddr;

use http::Method;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::admin_api::{ask, kind};
use crate::harness::{Connection, Narrow, eventually, get, host, lodge, output, unread, until, until_metric, within};
use crate::policies::auth::create;

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
    assert_eq!(status("/v1/host", &[("origin", "http://evil.example.com/\u{e9}")]).await, 403);
    // An image or a link needs no `Origin`. Pages of other ports and of names below a domain are of the same site.
    for (site, expected) in [("same-origin", 200), ("none", 200), ("same-site", 403), ("cross-site", 403), ("new", 403)]
    {
        for path in ["/v1/host", "/v1/data/backup"] {
            let found = status(path, &[("sec-fetch-site", site), ("sec-fetch-mode", "no-cors")]).await;
            assert!(found == expected || path != "/v1/host" && expected == 200, "{path} {site}: {found}");
        }
    }
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
    eventually("its place is free", async || follow().await.1 == "200").await;
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
    for n in 0..40 {
        for path in ["/healthz", "/readyz"] {
            let response = get(host.admin, path).await;
            assert_eq!(response.status, 200, "{path} after {n}: {}", response.text());
        }
        let other = get(host.admin, "/metrics").await;
        // Those whose request is over are given up for others.
        assert!(other.status == 200 || kind(&other) == "urn:lodge:admin:busy", "{}", other.status);
        // It takes a reserved place while the others are taken, and sends nothing.
        clients.push(within(TcpStream::connect(host.admin)).await.unwrap());
    }
    eventually("the places are free", async || get(host.admin, "/metrics").await.status == 200).await;
}

/// Clients without credentials keep no operator out by connections that do nothing.
#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_keep_no_operator_out() {
    let host = host(&["hello"]).set("listener.idle", "1h").set("listener.first_byte", "1h").start().await;
    let mut held = Vec::new();
    for number in 0..64 {
        let mut stream = within(TcpStream::connect(host.admin)).await.unwrap();
        if number % 2 == 0 {
            stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        }
        held.push(stream);
    }
    let name = host.admin.to_string();
    let status = async |operator: &mut Connection| {
        operator.ask(Method::GET, "/v1/host", &[("host", name.as_str())], "").await.status
    };
    let mut operator = Connection::from(IpAddr::from([127, 0, 0, 3]), host.admin).await;
    eventually("an operator is served", async || {
        let is_served = status(&mut operator).await == 200;
        if !is_served {
            operator = Connection::from(IpAddr::from([127, 0, 0, 3]), host.admin).await;
        }
        is_served
    })
    .await;
    // Its own connection is not given up for more of the others.
    for _ in 0..64 {
        held.push(within(TcpStream::connect(host.admin)).await.unwrap());
    }
    assert_eq!(status(&mut operator).await, 200);
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
    until_metric(host.admin, "lodge_unsent_bytes", 0).await;
}
