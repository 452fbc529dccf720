//! Promise: a service with `[keyvalue]` has a store of its own, the same through every interface, that outlives the process.

use crate::harness::{Process, TestHost, eventually, get, host, scrape, until, until_metric, wasm};

/// Requests an operation, and returns the status and the text.
async fn run(host: &TestHost, path: &str) -> (u16, String) {
    let response = host.get(path).await;
    (response.status, response.text())
}

/// The text of an operation that must succeed.
async fn ok(host: &TestHost, path: &str) -> String {
    let (status, text) = run(host, path).await;
    assert_eq!(status, 200, "{path}: {text}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn interfaces_without_async_functions() {
    let host = host(&["keyvalue"]).manifest("keyvalue", "keyvalue = true").start().await;
    let at = async |path: &str| ok(&host, &format!("/keyvalue/{path}")).await;
    // What one writes, the others read.
    let interfaces = ["draft", "draft2", "spin"];
    for writer in interfaces {
        assert_eq!(at(&format!("{writer}/set/default/name?by-{writer}")).await, "()");
        for reader in interfaces {
            assert_eq!(at(&format!("{reader}/get/default/name")).await, format!("by-{writer}"), "{reader}");
            assert_eq!(at(&format!("{reader}/exists/default/name")).await, "true", "{reader}");
            assert_eq!(at(&format!("{reader}/get/other/name")).await, "none", "{reader}");
        }
        // No name is the default one.
        assert_eq!(at(&format!("{writer}/get//name")).await, format!("by-{writer}"));
        assert_eq!(at(&format!("{writer}/delete/default/name")).await, "()");
        assert_eq!(at(&format!("{writer}/get/default/name")).await, "none");
        assert_eq!(at(&format!("{writer}/delete/default/name")).await, "()");
    }
    for interface in ["draft", "draft2"] {
        at(&format!("{interface}/set-many/{interface}/a,b,c?value")).await;
        assert_eq!(at(&format!("{interface}/list/{interface}/")).await, "a,b,c");
        at(&format!("{interface}/delete-many/{interface}/b,nothing")).await;
        let expected = if interface == "draft" { "a=value,none,c=value" } else { "a=value,b=none,c=value" };
        assert_eq!(at(&format!("{interface}/get-many/{interface}/a,b,c")).await, expected);
        assert_eq!(at(&format!("{interface}/increment/{interface}/n?5")).await, "5");
        assert_eq!(at(&format!("{interface}/increment/{interface}/n?37")).await, "42");
        let (status, text) = run(&host, &format!("/keyvalue/{interface}/increment/{interface}/a?1")).await;
        assert!(status == 500 && text.contains("the value is not a decimal number"), "{text}");
    }
    assert_eq!(at("draft2/increment/draft2/n?-50").await, "-8");
    // The older interface has no numbers below 0.
    assert_eq!(run(&host, "/keyvalue/draft/increment/draft2/n?1").await.0, 500);
    assert_eq!(at("draft2/get/draft2/n").await, "-8", "an increment that failed has changed it");
    assert_eq!(at("draft/increment/draft2/n?10").await, "2");
    assert_eq!(at("draft2/race/default/raced?end").await, "first");
    assert_eq!(at("draft2/get/default/raced").await, "end");
    assert_eq!(at("spin/list/draft/").await, "a,c,n");
}

#[tokio::test(flavor = "multi_thread")]
async fn interfaces_with_async_functions() {
    let host = host(&["keyvalue3"]).manifest("keyvalue3", "keyvalue = true").start().await;
    let at = async |path: &str| ok(&host, &format!("/keyvalue3/{path}")).await;
    for (writer, reader) in [("wasmcloud", "spin"), ("spin", "wasmcloud")] {
        assert_eq!(at(&format!("{writer}/set/default/name?by-{writer}")).await, "()");
        assert_eq!(at(&format!("{reader}/get/default/name")).await, format!("by-{writer}"));
        assert_eq!(at(&format!("{reader}/exists/default/name")).await, "true");
        assert_eq!(at(&format!("{reader}/delete/default/name")).await, "()");
        assert_eq!(at(&format!("{writer}/exists/default/name")).await, "false");
    }
    at("wasmcloud/set-many/many/aa,ab,b?value").await;
    assert_eq!(at("wasmcloud/list/many/a").await, "aa,ab");
    assert_eq!(at("wasmcloud/list/many/*").await, "aa,ab,b");
    assert_eq!(at("spin/list/many/").await, "aa,ab,b");
    at("wasmcloud/delete-many/many/aa").await;
    assert_eq!(at("wasmcloud/get-many/many/aa,ab").await, "none,ab=value");
    assert_eq!(at("wasmcloud/increment/default/n?-3").await, "-3");
    // Only the first of two adds a key.
    assert_eq!(at("wasmcloud/add/default/once?1").await, "()");
    let (status, text) = run(&host, "/keyvalue3/wasmcloud/add/default/once?2").await;
    assert_eq!((status, text.as_str()), (500, "Error::PreconditionFailed"));
    assert_eq!(at("wasmcloud/get/default/once").await, "1");
    at("wasmcloud/set/default/swapped?old").await;
    assert_eq!(at("wasmcloud/replace/default/swapped?new").await, "swapped");
    assert_eq!(at("wasmcloud/replace/default/swapped?newer").await, "stale new");
    let (status, text) = run(&host, "/keyvalue3/wasmcloud/version/default/swapped?no-number").await;
    assert_eq!((status, text.as_str()), (500, "Error::InvalidArgument"));
    // An entry that expires is gone, and one that does not stays.
    at("wasmcloud/expire/default/short?300").await;
    at("wasmcloud/expire/default/long?300000").await;
    eventually("the entry is gone", async || at("wasmcloud/exists/default/short").await == "false").await;
    assert_eq!(at("wasmcloud/exists/default/long").await, "true");
}

/// Concurrent requests lose no increment, whichever way they count.
#[tokio::test(flavor = "multi_thread")]
async fn counts_are_exact() {
    let setup = host(&["keyvalue", "keyvalue3"]).manifest("keyvalue", "keyvalue = true");
    let host = setup.manifest("keyvalue3", "keyvalue = true").start().await;
    let ways = ["/keyvalue/draft2/increment", "/keyvalue/draft2/count", "/keyvalue3/wasmcloud/count"];
    for way in ways {
        let add = if way.ends_with("increment") { "?1" } else { "" };
        let path = format!("{way}/default/{}{add}", way.replace('/', "-"));
        let requests = (0..32).map(|_| tokio::spawn(get_text(host.address, path.clone())));
        let mut seen: Vec<u64> = Vec::new();
        for request in requests.collect::<Vec<_>>() {
            seen.push(request.await.unwrap().parse().unwrap());
        }
        seen.sort_unstable();
        assert_eq!(seen, (1..=32).collect::<Vec<_>>(), "{way}");
    }
}

async fn get_text(address: std::net::SocketAddr, path: String) -> String {
    get(address, &path).await.text()
}

/// A service reaches its own keys, whatever names it uses; versions of one service share them.
#[tokio::test(flavor = "multi_thread")]
async fn no_name_leads_to_another_service() {
    let setup = host(&["keyvalue"]).named("keyvalue", "other").named("keyvalue", "keyvalue@2");
    let setup = setup.manifest("keyvalue", "keyvalue = true").manifest("other", "keyvalue = true");
    let host = setup.manifest("keyvalue@2", "match = ['header:x-version=2']").start().await;
    ok(&host, "/keyvalue/draft2/set/default/secret?mine").await;
    for bucket in ["default", "keyvalue", "keyvalue%2Fdefault", "..", "*"] {
        for interface in ["draft", "draft2", "spin"] {
            for key in ["secret", "keyvalue/secret", "../default/secret", "default/secret"] {
                let path = format!("/other/{interface}/get/{bucket}/{key}");
                assert!(!run(&host, &path).await.1.contains("mine"), "{path}");
            }
            assert!(!run(&host, &format!("/other/{interface}/list/{bucket}/")).await.1.contains("secret"));
        }
    }
    let second = [("host", "localhost"), ("x-version", "2")];
    let response =
        host.connect().await.ask(http::Method::GET, "/keyvalue/draft2/get/default/secret", &second, "").await;
    assert_eq!(response.text(), "mine");
}

/// Without a grant there is no store, and a bucket that is not listed is not opened. The log says what would grant it.
#[tokio::test(flavor = "multi_thread")]
async fn denied_unless_granted() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["keyvalue", "some"] {
        std::fs::copy(wasm("keyvalue"), directory.path().join(format!("{name}.wasm"))).unwrap();
    }
    std::fs::write(directory.path().join("some.toml"), "[keyvalue]\nbuckets = ['a', 'b']").unwrap();
    let process = Process::serve(directory.path(), &[]).await;
    let ask = async |path: &str| {
        let response = get(process.address, path).await;
        (response.status, response.text())
    };
    for interface in ["draft", "draft2", "spin"] {
        assert_eq!(ask(&format!("/keyvalue/{interface}/get/a/key")).await, (500, "Error::AccessDenied".into()));
        assert_eq!(ask(&format!("/some/{interface}/get/a/key")).await, (200, "none".into()));
        assert_eq!(ask(&format!("/some/{interface}/get/c/key")).await, (500, "Error::AccessDenied".into()));
        assert_eq!(ask(&format!("/some/{interface}/get//key")).await, (500, "Error::AccessDenied".into()));
    }
    until("the denials are in the log", || {
        let log = process.log();
        log.contains("add `keyvalue = true` to keyvalue.toml") && log.contains("in [keyvalue] of some.toml")
    })
    .await;
    assert_eq!(process.log().matches("denied a key-value store").count(), 1);
    // A service that has no store does not make a database.
    let empty = tempfile::tempdir().unwrap();
    std::fs::copy(wasm("hello"), empty.path().join("hello.wasm")).unwrap();
    drop(Process::serve(empty.path(), &[]).await);
    assert!(!empty.path().join(".lodge").exists());
}

/// What was written is there after a restart, also after the process was killed.
#[tokio::test(flavor = "multi_thread")]
async fn state_outlives_the_process() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(wasm("keyvalue"), directory.path().join("keyvalue.wasm")).unwrap();
    std::fs::write(directory.path().join("keyvalue.toml"), "keyvalue = true").unwrap();
    for round in 1..=3 {
        let process = Process::serve(directory.path(), &[]).await;
        let response = get(process.address, "/keyvalue/draft2/increment/default/starts?1").await;
        assert_eq!((response.status, response.text()), (200, round.to_string()));
        // Dropped, it is killed.
        drop(process);
    }
    assert!(directory.path().join(".lodge/state.db").is_file());
}

/// After a stop the file is complete: a copy of it is a backup.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_host_leaves_one_file() {
    let [directory, copy] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    for to in [&directory, &copy] {
        std::fs::copy(wasm("keyvalue"), to.path().join("keyvalue.wasm")).unwrap();
        std::fs::write(to.path().join("keyvalue.toml"), "keyvalue = true").unwrap();
    }
    let mut process = Process::serve(directory.path(), &[]).await;
    assert_eq!(get(process.address, "/keyvalue/draft2/set/default/name?value").await.status, 200);
    process.signal(rustix::process::Signal::TERM);
    assert!(process.ended().await.success());
    let names = std::fs::read_dir(directory.path().join(".lodge")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert_eq!(names, ["state.db", "state.db-lock"]);
    std::fs::create_dir(copy.path().join(".lodge")).unwrap();
    std::fs::copy(directory.path().join(".lodge/state.db"), copy.path().join(".lodge/state.db")).unwrap();
    let process = Process::serve(copy.path(), &[]).await;
    assert_eq!(get(process.address, "/keyvalue/draft2/get/default/name").await.text(), "value");
}

/// A store that is full refuses to grow, and says which key of the manifest bounds it. A new quota holds without a restart.
#[tokio::test(flavor = "multi_thread")]
async fn quotas_hold() {
    let host = host(&["keyvalue"]).manifest("keyvalue", "[keyvalue]\nkeys = 2\nbytes = '1KiB'").start().await;
    ok(&host, "/keyvalue/draft2/set/default/a?1").await;
    ok(&host, "/keyvalue/draft2/set/default/b?1").await;
    let (status, text) = run(&host, "/keyvalue/draft2/set/default/c?1").await;
    assert!(status == 500 && text.contains("the quota of 2 keys is used up"), "{text}");
    let long = "x".repeat(2000);
    let (status, text) = run(&host, &format!("/keyvalue/draft2/set/default/a?{long}")).await;
    assert!(status == 500 && text.contains("the quota of 1024 bytes is used up"), "{text}");
    ok(&host, "/keyvalue/draft2/delete/default/b").await;
    ok(&host, "/keyvalue/draft2/set/default/c?1").await;
    host.edit("keyvalue", "keyvalue = true").await;
    ok(&host, "/keyvalue/draft2/set/default/d?1").await;
    assert_eq!(ok(&host, "/keyvalue/draft2/list/default/").await, "a,c,d");
}

/// Listings are complete beyond a page, and cursors that a guest made up lead nowhere else.
#[tokio::test(flavor = "multi_thread")]
async fn listings_have_pages() {
    let setup = host(&["keyvalue", "keyvalue3"]).manifest("keyvalue", "keyvalue = true");
    let host = setup.manifest("keyvalue3", "keyvalue = true").start().await;
    let mut expected = Vec::new();
    for batch in 0..12 {
        let keys: Vec<_> = (0..100).map(|n| format!("key-{batch:02}-{n:02}")).collect();
        ok(&host, &format!("/keyvalue/draft2/set-many/default/{}?v", keys.join(","))).await;
        ok(&host, &format!("/keyvalue3/wasmcloud/set-many/default/{}?v", keys.join(","))).await;
        expected.extend(keys);
    }
    let expected = expected.join(",");
    for interface in ["draft", "draft2", "spin"] {
        assert_eq!(ok(&host, &format!("/keyvalue/{interface}/list/default/")).await, expected, "{interface}");
    }
    assert_eq!(ok(&host, "/keyvalue3/wasmcloud/list/default/*").await, expected);
    assert_eq!(ok(&host, "/keyvalue3/spin/list/default/").await, expected);
    let (status, text) = run(&host, "/keyvalue/draft/page/default/x?17").await;
    assert!(status == 500 && text.contains("the cursor is not one of this handle"), "{text}");
}

/// Buckets are handles, and handles have a limit.
#[tokio::test(flavor = "multi_thread")]
async fn handles_are_bounded() {
    let setup = host(&["keyvalue"]).manifest("keyvalue", "keyvalue = true\n[limits]\nresources = 100");
    let host = setup.start().await;
    let opened: usize = ok(&host, "/keyvalue/draft2/open/default/default").await.parse().unwrap();
    assert!((50..=100).contains(&opened), "{opened}");
    assert_eq!(ok(&host, "/keyvalue/draft2/get/default/key").await, "none");
}

/// Handles of buckets and of compare-and-swap have a bound of their own, and hold no values.
#[tokio::test(flavor = "multi_thread")]
async fn handles_of_a_store_are_bounded() {
    let host = host(&["keyvalue"]).manifest("keyvalue", "keyvalue = true").start().await;
    let held = ok(&host, "/keyvalue/draft2/hold/default/key").await;
    assert!(held.starts_with("255 ") && held.contains("256 handles of buckets and of compare-and-swap"), "{held}");
    assert_eq!(ok(&host, "/keyvalue/draft2/moved/default/key?later").await, "later");
    assert_eq!(ok(&host, "/keyvalue/draft2/get/default/key").await, "later");
    let long = "b".repeat(200);
    let (status, text) = run(&host, &format!("/keyvalue/draft2/get/{long}/key")).await;
    assert!(status == 500 && text.contains("the name of the bucket"), "{text}");
}

/// What one request sends to its store at a time is bounded, and what it receives waits for room.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_flight_is_bounded() {
    let manifest = "[keyvalue]\nbytes = '128MiB'\n[limits]\nmemory = '128MiB'";
    let host = host(&["keyvalue3"]).manifest("keyvalue3", manifest).start().await;
    let few = ok(&host, "/keyvalue3/wasmcloud/flood/default/few?10").await;
    assert_eq!(few, "10 ");
    let many = ok(&host, "/keyvalue3/wasmcloud/flood/default/many?40").await;
    // 15 are below the bound; some may be stored while the guest sends the next ones.
    let stored: usize = many.split(' ').next().unwrap().parse().unwrap();
    assert!((15..40).contains(&stored) && many.contains("what this request sends to its store"), "{many}");
    let bytes = ok(&host, "/keyvalue3/wasmcloud/drink/default/few-0?60").await;
    assert_eq!(bytes, (60 << 20).to_string());
}

/// Metrics and the API have what a service stores and its quota, without a scan.
#[tokio::test(flavor = "multi_thread")]
async fn usage_is_exported() {
    let host = host(&["keyvalue", "hello"]).manifest("keyvalue", "[keyvalue]\nkeys = 5\nbytes = '2KiB'").start().await;
    for key in ["a", "b"] {
        assert_eq!(host.get(&format!("/keyvalue/draft2/set/default/{key}?1234")).await.status, 200);
    }
    for (name, value) in [
        ("lodge_state_keys{service=\"keyvalue\"}", 2),
        // The names of bucket and key, and the value.
        ("lodge_state_bytes{service=\"keyvalue\"}", 24),
        ("lodge_state_keys_limit{service=\"keyvalue\"}", 5),
        ("lodge_state_bytes_limit{service=\"keyvalue\"}", 2048),
    ] {
        until_metric(host.admin, name, value).await;
    }
    assert!(!scrape(host.admin).await.contains_key("lodge_state_keys{service=\"hello\"}"));
    let details: serde_json::Value =
        serde_json::from_str(&get(host.admin, "/v1/services/keyvalue").await.text()).unwrap();
    let stored = serde_json::json!({ "keys": 2, "bytes": 24, "most_keys": 5, "most_bytes": 2048 });
    assert_eq!(details["stored"], stored);
}
