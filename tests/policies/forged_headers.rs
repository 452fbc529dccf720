//! Promise: what a manifest sets, removes or checks in the headers of a request comes to its service from no client: not in another
//! spelling, which some servers cannot distinguish, and not as a trailer, which some merge into the headers.

use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::admission::refused;
use crate::harness::{TestHost, host, raw};

/// A replica that responds with what it has received. Returns its address.
async fn replica() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut text = String::new();
            let is_whole = |text: &str| match text.split_once("\r\n\r\n") {
                Some((head, _)) if head.contains("transfer-encoding: chunked") => {
                    text.ends_with("\r\n\r\n") && text.contains("\r\n0\r\n")
                }
                Some((head, body)) => {
                    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                    body.len() >= length.map_or(0, |length| length.parse().unwrap())
                }
                None => false,
            };
            let mut bytes = [0; 8192];
            while !is_whole(&text) {
                let Ok(read @ 1..) = stream.read(&mut bytes).await else { break };
                text += &String::from_utf8_lossy(&bytes[..read]);
            }
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", text.len());
            let _ = stream.write_all((head + &text).as_bytes()).await;
        }
    });
    format!("http://{address}")
}

async fn start() -> TestHost {
    let document = serde_json::json!({ "openapi": "3.1.0", "paths": { "/{id}": { "post": {
        "parameters": [
            { "name": "id", "in": "path", "required": true, "schema": { "type": "string" } },
            { "name": "X-Limit", "in": "header", "schema": { "type": "integer", "maximum": 10 } },
        ],
        "requestBody": { "content": { "application/json": { "schema": { "type": "object" } }, "text/plain": {} } },
    } } } });
    let manifest = format!(
        "routes = ['/shop']\napi = {{ openapi = 'api.json', base = '/shop' }}\n\
         [upstream]\nreplicas = ['{}']\n\
         [headers]\nrequest.set = {{ x-run-mode = 'production' }}\nrequest.remove = 'x-debug-user'\n\
         [[rules]]\nset = {{ x-tier = 'gold' }}",
        replica().await
    );
    let setup = host(&[]).manifest("shop", &manifest).file("api.json", document.to_string().as_bytes());
    let host = setup.start().await;
    assert_eq!(host.refusals(), Vec::<String>::new());
    host
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_and_no_trailer_replaces_a_header() {
    let host = start().await;
    let request = "POST /shop/1 HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-type: text/plain\r\n\
        transfer-encoding: chunked\r\nx-run-mode: evil\r\nx_run_mode: evil\r\nx-run_mode: evil\r\nx_debug_user: evil\r\n\
        x_tier: evil\r\nx.tier: evil\r\nx.run~mode: evil\r\nx-lodge-auth.subject: evil\r\nx.forwarded.for: evil\r\nproxy: evil\r\n\
        trailer: x-run-mode, x-other\r\n\r\n\
        2\r\nhi\r\n0\r\nx-run-mode: evil\r\nx_run_mode: evil\r\nx-debug-user: evil\r\nx-tier: evil\r\nx-limit: evil\r\n\
        x_limit: evil\r\nx.tier: evil\r\nx.request.id: evil\r\ncontent-type: evil\r\nx-other: kept\r\n\r\n";
    let seen = raw(host.address, request).await;
    assert!(seen.starts_with("HTTP/1.1 200") && !seen.contains("evil"), "{seen}");
    for line in ["x-run-mode: production\r\n", "x-tier: gold\r\n", "x-other: kept\r\n"] {
        assert!(seen.contains(line), "{line}: {seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_avoids_a_check() {
    let host = start().await;
    let ask = async |headers: &[(&str, &str)]| host.connect().await.ask(Method::POST, "/shop/1", headers, "{}").await;
    let json = ("content-type", "application/json");
    assert_eq!(ask(&[json, ("x-limit", "9"), ("x_other", "99")]).await.status, 200);
    for (name, value, expected) in [
        ("x-limit", "99", (400, "parameter-invalid")),
        ("x_limit", "9", (400, "parameter-invalid")),
        ("x.limit", "9", (400, "parameter-invalid")),
        ("content_type", "text/plain", (415, "body-type")),
        ("content.type", "text/plain", (415, "body-type")),
        ("content_encoding", "gzip", (415, "body-type")),
        ("content-encoding", "gzip", (415, "body-type")),
    ] {
        let refusal = ask(&[json, (name, value)]).await;
        assert_eq!(refused(&refusal), (expected.0, expected.1.to_owned()), "{name}");
    }
}
