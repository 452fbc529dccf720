//! Promise: the samples are examples of configuration and of atomic counts: `hello` greets as its manifest says, `visits` loses none.

use crate::harness::{Process, eventually, get, host, wasm};

#[tokio::test(flavor = "multi_thread")]
async fn hello_greets_as_its_manifest_says() {
    let host = host(&["hello"]).named("hello", "moin").manifest("moin", "[config]\ngreeting = { file = 'greeting' }");
    let host = host.file("greeting", b"Moin\n").start().await;
    assert_eq!(host.get("/hello").await.text(), "Hello, World!");
    assert_eq!(host.get("/moin?name=Ada").await.text(), "Moin, Ada!");
    // The next request has the next value.
    std::fs::write(host.directory().join("greeting"), "Servus").unwrap();
    eventually("it is read", async || host.get("/moin").await.text() == "Servus, World!").await;
    let refused = host.connect().await.ask(http::Method::POST, "/moin", &[("host", "localhost")], "").await;
    assert_eq!((refused.status, refused.header("allow").as_str()), (405, "GET, HEAD"));
}

#[tokio::test(flavor = "multi_thread")]
async fn visits_are_counted_exactly() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(wasm("visits"), directory.path().join("visits.wasm")).unwrap();
    std::fs::write(directory.path().join("visits.toml"), "keyvalue = true").unwrap();
    let process = Process::serve(directory.path(), &[]).await;
    let address = process.address;
    let visit = move |page: &'static str| tokio::spawn(async move { get(address, page).await.text() });
    let visits: Vec<_> = (0..24).map(|n| visit(if n % 3 == 0 { "/visits/about" } else { "/visits?x=1" })).collect();
    let mut seen = Vec::new();
    for visit in visits {
        seen.push(visit.await.unwrap());
    }
    seen.sort();
    // Eight of one page and sixteen of the other, each number once.
    let mut expected: Vec<_> = (1..=8).chain(1..=16).map(|n| format!("{{\"visits\":{n}}}")).collect();
    expected.sort();
    assert_eq!(seen, expected);
    // Dropped, it is killed.
    drop(process);
    let process = Process::serve(directory.path(), &[]).await;
    let next = get(process.address, "/visits/").await;
    assert_eq!((next.text().as_str(), next.header("cache-control").as_str()), ("{\"visits\":17}", "no-store"));
}

#[tokio::test(flavor = "multi_thread")]
async fn visits_without_a_store_say_what_is_missing() {
    let host = host(&["visits"]).start().await;
    let refused = host.get("/visits").await;
    assert!(refused.status == 503 && refused.text().contains("keyvalue = true"), "{}", refused.text());
}
