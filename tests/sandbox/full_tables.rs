//! Promise: a guest with as many handles, streams and futures as `limits.resources` gets the error of the interface that it uses. Where
//! that has none, its request ends, and says why. Nothing else ends, and no task of the host panics.

use std::fs;

use http::Method;

use crate::harness::{Connection, Process, get, until, wasm};

/// Few enough for one request, and more than a response takes.
const LIMIT: &str = "limits.resources = 60";

const TOO_MANY: &str = "too many handles are open; drop some, or raise limits.resources";

async fn ask(process: &Process, path: &str) -> (u16, String) {
    let response = get(process.address, path).await;
    (response.status, response.text())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_table_is_an_error_of_the_interface_or_ends_its_request() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: String| directory.path().join(name);
    fs::create_dir(at("files".into())).unwrap();
    for (service, grant) in [
        ("blobs", "blobstore = true"),
        ("blobs3", "blobstore = true"),
        ("sqlite3", "sqlite = true"),
        ("keyvalue3", "keyvalue = true"),
        ("files3", "volumes = { '/data' = { path = 'files' } }"),
        ("hello", ""),
    ] {
        fs::copy(wasm(service), at(format!("{service}.wasm"))).unwrap();
        fs::write(at(format!("{service}.toml")), format!("{LIMIT}\n{grant}")).unwrap();
    }
    let process = Process::serve(directory.path(), &[]).await;
    // The errors of interfaces. What is dropped leaves room.
    for service in ["blobs", "blobs3"] {
        assert_eq!(ask(&process, &format!("/{service}/create/c")).await.0, 200, "{}", process.log());
    }
    // A value has two handles: the first one has no error.
    let values = [0, 1].map(|more| format!("/blobs/hoard/c/new?{more}"));
    let mut values = [ask(&process, &values[0]).await, ask(&process, &values[1]).await];
    values.sort();
    assert_eq!((&values[0], values[1].0), (&(200, format!("Err({TOO_MANY:?}) false")), 502));
    let stored = Connection::http1(process.address).await.ask(Method::PUT, "/blobs3/put/c/o", &[], "content").await;
    assert_eq!(stored.status, 200, "{stored:?}");
    assert_eq!(ask(&process, "/blobs3/hoard/c/o").await, (200, format!("Some(Error::Other({TOO_MANY:?})) true")));
    let rows = ask(&process, "/sqlite3/hoard/default?SELECT%201").await;
    assert_eq!(rows, (200, format!("Error::Io({TOO_MANY:?}) true")));
    // Listings of these interfaces have no error of their own.
    until("the reason is in the log", || process.log().contains(TOO_MANY)).await;
    for (count, path) in (1..).zip(["/keyvalue3/spin/hoard/default/k?100", "/files3/unread"]) {
        assert_eq!(ask(&process, path).await.0, 502, "{path}");
        until("the reason is in the log", || process.log().matches(TOO_MANY).count() > count).await;
    }
    assert_eq!(ask(&process, "/keyvalue3/spin/hoard/default/k?2").await, (200, "2".into()));
    assert_eq!(ask(&process, "/hello").await.0, 200);
    assert!(!process.log().contains("panic"), "{}", process.log());
}
