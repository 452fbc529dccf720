//! Promise: the sample service `users` keeps its entries across restarts, and refuses writes based on an old version.

use http::Method;

use crate::harness::{Connection, Process, Response, TestHost, host, wasm};

const HOST: (&str, &str) = ("host", "localhost");

async fn ask(host: &TestHost, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
    let headers: Vec<_> = [HOST].iter().chain(headers).copied().collect();
    host.connect().await.ask(method, path, &headers, body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_created_changed_and_deleted() {
    let host = host(&["users"]).manifest("users", "keyvalue = true").start().await;
    let two = r#"[{"id":1,"name":"Alice"},{"id":2,"name":"Bob"}]"#;
    assert_eq!(host.get("/users").await.text(), two);
    let created = ask(&host, Method::POST, "/users", &[], r#"{"name":"Carol","email":"carol@example.org"}"#).await;
    assert_eq!((created.status, created.header("location").as_str()), (201, "/users/3"));
    let carol = host.get("/users/3").await;
    assert_eq!(carol.text(), r#"{"id":3,"name":"Carol","email":"carol@example.org"}"#);
    let tag = carol.header("etag");
    assert_eq!(created.header("etag"), tag);
    let replaced = ask(&host, Method::PUT, "/users/3", &[("if-match", &tag)], r#"{"name":"Caroline"}"#).await;
    assert_eq!((replaced.status, replaced.text().as_str()), (200, r#"{"id":3,"name":"Caroline"}"#));
    assert_ne!(replaced.header("etag"), tag);
    // The version that the client has seen is not there any more.
    let late = ask(&host, Method::PUT, "/users/3", &[("if-match", &tag)], r#"{"name":"Carla"}"#).await;
    assert_eq!(late.status, 412);
    assert_eq!(host.get("/users/3").await.text(), r#"{"id":3,"name":"Caroline"}"#);
    assert_eq!(ask(&host, Method::DELETE, "/users/3", &[], "").await.status, 204);
    for (method, path) in [(Method::GET, "/users/3"), (Method::PUT, "/users/3"), (Method::DELETE, "/users/3")] {
        assert_eq!(ask(&host, method, path, &[], r#"{"name":"x"}"#).await.status, 404);
    }
    assert_eq!(host.get("/users").await.text(), two);
    for (body, status, detail) in [
        ("{", 400, "EOF"),
        (r#"{"name":" "}"#, 422, "name: 1 to 100 characters"),
        (r#"{"name":"x","email":"y"}"#, 422, "email: an address"),
        (r#"{"name":"x","admin":true}"#, 400, "unknown field `admin`"),
    ] {
        let refused = ask(&host, Method::POST, "/users", &[], body).await;
        assert_eq!((refused.status, refused.header("content-type").as_str()), (status, "application/problem+json"));
        assert!(refused.text().contains(detail), "{}", refused.text());
    }
    assert_eq!(ask(&host, Method::PATCH, "/users", &[], "").await.status, 405);
}

/// RFC 7396, with the version that the client has seen.
#[tokio::test(flavor = "multi_thread")]
async fn a_patch_changes_what_it_names() {
    let host = host(&["users"]).manifest("users", "keyvalue = true").start().await;
    let merge = ("content-type", "application/merge-patch+json; charset=utf-8");
    let patch = async |headers: &[(&str, &str)], body: &str| ask(&host, Method::PATCH, "/users/1", headers, body).await;
    let mailed = patch(&[merge], r#"{"email":"alice@example.org"}"#).await;
    assert_eq!(
        (mailed.status, mailed.text().as_str()),
        (200, r#"{"id":1,"name":"Alice","email":"alice@example.org"}"#)
    );
    let tag = mailed.header("etag");
    assert_eq!(host.get("/users/1").await.header("etag"), tag);
    // The id is the store's, whatever a client sends.
    let renamed = patch(&[merge, ("if-match", &tag)], r#"{"name":"Alicia","id":7}"#).await;
    assert_eq!(renamed.text(), r#"{"id":1,"name":"Alicia","email":"alice@example.org"}"#);
    assert_eq!(patch(&[merge, ("if-match", &tag)], r#"{"name":"Al"}"#).await.status, 412);
    // Null removes a member, and one that is required cannot be removed.
    let removed = patch(&[merge], r#"{"email":null}"#).await;
    assert_eq!(removed.text(), r#"{"id":1,"name":"Alicia"}"#);
    for (body, status, detail) in [
        (r#"{"name":null}"#, 400, "missing field `name`"),
        (r#"{"name":""}"#, 422, "name: 1 to 100 characters"),
        (r#"{"admin":true}"#, 400, "unknown field `admin`"),
        (r#"["name"]"#, 400, "invalid"),
        ("{", 400, "EOF"),
    ] {
        let refused = patch(&[merge], body).await;
        assert!(refused.status == status && refused.text().contains(detail), "{body}: {}", refused.text());
    }
    for headers in [&[][..], &[("content-type", "application/json")]] {
        let refused = patch(headers, "{}").await;
        assert_eq!((refused.status, refused.header("accept-patch").as_str()), (415, "application/merge-patch+json"));
    }
    assert_eq!(host.get("/users/1").await.text(), r#"{"id":1,"name":"Alicia"}"#);
    assert_eq!(ask(&host, Method::PATCH, "/users/99", &[merge], "{}").await.status, 404);
    // Deleted only as the client has seen it.
    assert_eq!(ask(&host, Method::DELETE, "/users/1", &[("if-match", &tag)], "").await.status, 412);
    let tag = removed.header("etag");
    assert_eq!(ask(&host, Method::DELETE, "/users/1", &[("if-match", &tag)], "").await.status, 204);
    assert_eq!(host.get("/users/1").await.status, 404);
    assert_eq!(host.get("/users").await.text(), r#"[{"id":2,"name":"Bob"}]"#);
}

/// Of patches at the same time, none is lost.
#[tokio::test(flavor = "multi_thread")]
async fn patches_do_not_overwrite_each_other() {
    let host = host(&["users"]).manifest("users", "keyvalue = true").start().await;
    let (address, kind) = (host.address, ("content-type", "application/merge-patch+json"));
    let patch = |body: String| {
        tokio::spawn(async move {
            let mut client = Connection::http1(address).await;
            client.ask(Method::PATCH, "/users/1", &[HOST, kind], &body).await.status
        })
    };
    let patches: Vec<_> = (0..8)
        .flat_map(|n| [format!(r#"{{"name":"name {n}"}}"#), format!(r#"{{"email":"{n}@example.org"}}"#)])
        .map(patch)
        .collect();
    for patch in patches {
        assert_eq!(patch.await.unwrap(), 200);
    }
    let user: serde_json::Value = serde_json::from_str(&host.get("/users/1").await.text()).unwrap();
    assert!(user["name"].as_str().unwrap().starts_with("name "), "{user}");
    assert!(user["email"].as_str().unwrap().ends_with("@example.org"), "{user}");
}

/// The list has pages, and the pages have every user once.
#[tokio::test(flavor = "multi_thread")]
async fn the_list_has_pages() {
    let host = host(&["users"]).manifest("users", "keyvalue = true").start().await;
    let mut client = Connection::http1(host.address).await;
    for n in 0..1_100 {
        let body = format!(r#"{{"name":"user {n}"}}"#);
        assert_eq!(client.ask(Method::POST, "/users", &[HOST], &body).await.status, 201);
    }
    assert_eq!(client.ask(Method::DELETE, "/users/7", &[HOST], "").await.status, 204);
    let (mut path, mut ids, mut pages) = ("/users".to_owned(), Vec::new(), 0);
    loop {
        pages += 1;
        let page = host.get(&path).await;
        let users: Vec<serde_json::Value> = serde_json::from_str(&page.text()).unwrap();
        ids.extend(users.iter().map(|user| user["id"].as_u64().unwrap()));
        let next = page.header("link");
        let Some((to, _)) = next.strip_prefix('<').and_then(|rest| rest.split_once('>')) else { break };
        path = to.to_owned();
    }
    assert_eq!(pages, 2, "a page of the store has 1,000 keys");
    ids.sort_unstable();
    assert_eq!(ids, (1..=1_102).filter(|id| *id != 7).collect::<Vec<_>>());
    let wrong = host.get(&format!("/users?cursor={}", "x".repeat(5_000))).await;
    assert_eq!(wrong.status, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_outlive_the_process() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(wasm("users"), directory.path().join("users.wasm")).unwrap();
    std::fs::write(directory.path().join("users.toml"), "keyvalue = true").unwrap();
    let process = Process::serve(directory.path(), &[]).await;
    let mut client = Connection::http1(process.address).await;
    assert_eq!(client.ask(Method::POST, "/users", &[HOST], r#"{"name":"Carol"}"#).await.status, 201);
    // Dropped, it is killed.
    drop(process);
    let process = Process::serve(directory.path(), &[]).await;
    assert_eq!(crate::harness::get(process.address, "/users/3").await.text(), r#"{"id":3,"name":"Carol"}"#);
}

/// Without a store there are two users, and a change is refused in words.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_store_nothing_changes() {
    let host = host(&["users"]).start().await;
    assert_eq!(host.get("/users/1").await.text(), r#"{"id":1,"name":"Alice"}"#);
    let refused = ask(&host, Method::POST, "/users", &[], r#"{"name":"x"}"#).await;
    assert!(refused.status == 503 && refused.text().contains("keyvalue = true"), "{}", refused.text());
}
