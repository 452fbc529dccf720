//! Promise: a service uses a bucket of another one if both manifests say so, as far as the other one lets it, and not otherwise.

use std::fs;

use crate::harness::{PATIENCE, TestHost, host, until};

async fn run(host: &TestHost, path: &str) -> (u16, String) {
    let response = host.get(path).await;
    (response.status, response.text())
}

async fn ok(host: &TestHost, path: &str, expected: &str) {
    assert_eq!(run(host, path).await, (200, expected.into()), "{path}");
}

async fn denied(host: &TestHost, path: &str) {
    let (status, text) = run(host, path).await;
    assert!(status == 500 && text.contains("AccessDenied"), "{path}: {status} {text}");
}

const FROM: &str = "[keyvalue]\nfrom.people = { service = 'users', bucket = 'default' }\n";

/// `users` shares its bucket `default`, and has a bucket `private`.
async fn start(shared: &str) -> TestHost {
    let mut setup = host(&[]).named("keyvalue", "users").manifest("users", &format!("[keyvalue]\n{shared}"));
    for (guest, end) in [("keyvalue", ""), ("keyvalue3", "3")] {
        for name in ["reports", "billing", "stranger", "quiet"] {
            let name = format!("{name}{end}");
            let from = if name.starts_with("quiet") { "keyvalue = true" } else { FROM };
            setup = setup.named(guest, &name).manifest(&name, from);
        }
    }
    let host = setup.start().await;
    assert_eq!(host.refusals(), Vec::<String>::new());
    for bucket in ["default", "private"] {
        ok(&host, &format!("/users/draft2/set/{bucket}/k?of-{bucket}"), "()").await;
    }
    host
}

const SHARED: &str = "shared.default = { reports = 'read', reports3 = 'read', billing = 'write', billing3 = 'write', \
                      quiet = 'write', quiet3 = 'write' }";

/// The interfaces of both guests.
const INTERFACES: [(&str, &str); 5] = [("", "draft"), ("", "draft2"), ("", "spin"), ("3", "wasmcloud"), ("3", "spin")];

#[tokio::test(flavor = "multi_thread")]
async fn both_manifests_must_say_so() {
    let host = start(SHARED).await;
    for (end, interface) in INTERFACES {
        let path =
            |name: &str, operation: &str, bucket: &str| format!("/{name}{end}/{interface}/{operation}/{bucket}/k?new");
        ok(&host, &path("reports", "get", "people"), "of-default").await;
        ok(&host, &path("reports", "exists", "people"), "true").await;
        ok(&host, &path("billing", "get", "people"), "of-default").await;
        // Only one manifest says so.
        for operation in ["get", "set", "exists", "delete"] {
            denied(&host, &path("stranger", operation, "people")).await;
        }
        for bucket in ["people", "default", "users", "users/default", "private"] {
            ok(&host, &path("quiet", "get", bucket), "none").await;
        }
        // A bucket of its own has the name that the other one's has there.
        ok(&host, &path("reports", "get", "default"), "none").await;
    }
    ok(&host, "/users/draft2/get/default/k", "of-default").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_changes_nothing() {
    let host = start(SHARED).await;
    ok(&host, "/users/draft2/increment/default/n?5", "5").await;
    for (end, interface) in INTERFACES {
        let mut operations = vec!["set/people/k?new", "delete/people/k"];
        match interface {
            "draft" | "draft2" => {
                operations.extend(["increment/people/n?1", "set-many/people/k?new", "delete-many/people/k"])
            }
            "wasmcloud" => operations.extend([
                "increment/people/n?1",
                "set-many/people/k?new",
                "delete-many/people/k",
                "add/people/x?new",
                "count/people/n",
            ]),
            _ => {}
        }
        for operation in operations {
            denied(&host, &format!("/reports{end}/{interface}/{operation}")).await;
            ok(&host, "/users/draft2/get/default/k", "of-default").await;
            ok(&host, "/users/draft2/get/default/n", "5").await;
        }
    }
    denied(&host, "/reports/draft2/count/people/n").await;
    for (end, interface) in INTERFACES {
        ok(&host, &format!("/billing{end}/{interface}/set/people/k?by-{interface}{end}"), "()").await;
        ok(&host, "/users/draft2/get/default/k", &format!("by-{interface}{end}")).await;
    }
    ok(&host, "/billing/draft2/increment/people/n?1", "6").await;
    ok(&host, "/users/draft2/get/default/n", "6").await;
}

/// A service that may write uses the quota of the service that has the bucket.
#[tokio::test(flavor = "multi_thread")]
async fn quotas_are_those_of_the_owner() {
    let host = start(&format!("keys = 3\n{SHARED}")).await;
    ok(&host, "/billing/draft2/set/people/third?x", "()").await;
    let (status, text) = run(&host, "/billing/draft2/set/people/fourth?x").await;
    assert!(status == 500 && text.contains("quota of 3 keys"), "{text}");
    ok(&host, "/billing/draft2/set/own/first?x", "()").await;
}

/// A change holds for the next operation, also for a handle that was opened before.
#[tokio::test(flavor = "multi_thread")]
async fn a_grant_ends_with_the_manifest() {
    let host = start(SHARED).await;
    let write = async |name: &str, text: &str| host.edit(name, text).await;
    write("reports", &format!("isolation = 'service'\n{FROM}")).await;
    ok(&host, "/reports/kept/get/people/k", "of-default").await;
    write("users", "[keyvalue]\nshared.default = { reports = 'write' }").await;
    ok(&host, "/reports/kept/set/people/k?changed", "()").await;
    denied(&host, "/billing/draft2/get/people/k").await;
    write("users", "[keyvalue]\nshared.private = { reports = 'write' }").await;
    denied(&host, "/reports/kept/get/people/k").await;
    denied(&host, "/reports/draft2/get/people/k").await;
    write("reports", &format!("{FROM}from.secret = {{ service = 'users', bucket = 'private' }}")).await;
    ok(&host, "/reports/draft2/get/secret/k", "of-private").await;
    // A version shares what its service does.
    host.replace("users@2", &fs::read(crate::harness::wasm("keyvalue")).unwrap()).await;
    ok(&host, "/reports/draft2/get/secret/k", "of-private").await;
    // Without the service, there is nothing.
    for file in ["users@2.wasm", "users.wasm", "users.toml"] {
        fs::remove_file(host.directory().join(file)).unwrap();
    }
    until("the service is gone", || host.current.snapshot().target("users").is_none()).await;
    // Requests that it still handles may have been there a moment longer.
    let end = std::time::Instant::now() + PATIENCE;
    while run(&host, "/reports/draft2/get/secret/k").await.0 == 200 {
        assert!(std::time::Instant::now() < end, "the grant outlives the service");
    }
    denied(&host, "/reports/draft2/get/secret/k").await;
}
