//! Promise: `lodge deploy`, `promote` and `rollback` do what they say, and say it when it is so.

use std::fs;
use std::path::Path;

use http::Method;

use crate::harness::{Connection, Process, cache, get, lodge, output, wasm, within};
use crate::versions::{ELSEWHERE, asked, version};

fn order(process: &Process, directory: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = lodge(args);
    command.args(["--admin", &process.admin.to_string(), "--guests", &directory.display().to_string()]);
    output(command.env("LODGE_CACHE_DIRECTORY", cache()))
}

#[tokio::test(flavor = "multi_thread")]
async fn deploy_promote_and_roll_back() {
    let directory = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("users.wasm"), version(1)).unwrap();
    let file = |number: u32| {
        let path = elsewhere.path().join(format!("{number}.wasm"));
        fs::write(&path, version(number)).unwrap();
        path.display().to_string()
    };
    let process = Process::serve(directory.path(), &[]).await;
    let mut client = Connection::http1(process.address).await;
    let run = |args: &[&str]| order(&process, directory.path(), args);

    let (code, stdout, stderr) = run(&["deploy", "users", &file(2), "--canary", "100%"]);
    assert_eq!((code, stdout.starts_with("users@canary serves ")), (Some(0), true), "{stdout}{stderr}");
    assert_eq!(asked(&mut client, "/users", &[]).await, 2);
    let (code, stdout, stderr) = run(&["rollback", "users"]);
    assert_eq!((code, stdout.starts_with("users serves ")), (Some(0), true), "{stdout}{stderr}");
    // Done is done: not one more answer of it.
    assert!(
        !directory.path().join("users@canary.wasm").exists() && !directory.path().join("users@canary.toml").exists()
    );
    assert_eq!(asked(&mut client, "/users", &[]).await, 1);

    assert_eq!(run(&["deploy", "users", &file(3), "--canary", "0%"]).0, Some(0));
    let (code, stdout, stderr) = run(&["promote", "users"]);
    assert_eq!((code, stdout.starts_with("users serves ")), (Some(0), true), "{stdout}{stderr}");
    assert_eq!(asked(&mut client, "/users", &[]).await, 3);
    let own = within(client.ask(Method::GET, "/", &[("host", "canary.users.localhost")], "")).await;
    assert_eq!(own.status, 404, "the version is gone with the command");
    assert!(!directory.path().join("users@canary.toml").exists());
    let (code, ..) = run(&["rollback", "users"]);
    assert_eq!((code, asked(&mut client, "/users", &[]).await), (Some(0), 1));
    let (code, _, stderr) = run(&["rollback", "users"]);
    assert!(code == Some(1) && stderr.contains("nothing to go back to"), "{stderr}");

    // What went well is no alert.
    let metrics = get(process.admin, "/metrics").await.text();
    assert!(metrics.contains("\nlodge_reload_failures_total 0\n"), "{metrics}");

    // At once, without a trial; and what is no component touches nothing.
    assert_eq!(run(&["deploy", "users", &file(4)]).0, Some(0));
    assert_eq!(asked(&mut client, "/users", &[]).await, 4);
    let bad = elsewhere.path().join("bad.wasm");
    fs::write(&bad, "no").unwrap();
    let (code, _, stderr) = run(&["deploy", "users", &bad.display().to_string()]);
    assert!(code == Some(1) && stderr.contains("it is not WebAssembly"), "{stderr}");
    let (code, _, stderr) = run(&["promote", "users"]);
    assert!(code == Some(1) && stderr.contains("there is no"), "{stderr}");
    let (code, _, stderr) = run(&["deploy", "users", &file(5), "--canary", "ten"]);
    assert!(code == Some(64) && stderr.contains("--canary: `ten` is not a percentage"), "{stderr}");
    assert_eq!(asked(&mut client, "/users", &[]).await, 4);
    // A component under this name would not be what serves, so it is not put there.
    for (text, wanted) in [("component = \"other.wasm\"", "names other.wasm"), (ELSEWHERE, "is elsewhere")] {
        fs::write(directory.path().join("free.toml"), text).unwrap();
        let (code, _, stderr) = run(&["deploy", "free", &file(6)]);
        assert!(code == Some(1) && stderr.contains(wanted), "{stderr}");
        assert!(!directory.path().join("free.wasm").exists());
    }
}

/// A version that cannot be, or was found wanting, is not served by way of a command either.
#[tokio::test(flavor = "multi_thread")]
async fn deploy_and_promote_refuse_in_words() {
    let directory = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::copy(wasm("hello"), directory.path().join("hello.wasm")).unwrap();
    let bad = elsewhere.path().join("bad.wasm").display().to_string();
    fs::copy(wasm("panic"), &bad).unwrap();
    let process = Process::serve(directory.path(), &[]).await;
    let run = |args: &[&str]| order(&process, directory.path(), args);
    let files = || {
        let names =
            fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| !name.starts_with('.')).collect();
        names.sort();
        names
    };
    let (code, _, stderr) = run(&["deploy", "nope", &bad, "--canary", "10%"]);
    assert!(code == Some(1) && stderr.contains("there is neither nope.wasm nor nope.toml"), "{stderr}");
    assert_eq!(files(), ["hello.wasm"]);
    // The host refuses what is too much, and nothing of it stays; what was there before does.
    fs::copy(wasm("hello"), directory.path().join("hello@a.wasm")).unwrap();
    fs::write(directory.path().join("hello@a.toml"), "percent = 60").unwrap();
    assert_eq!(run(&["deploy", "hello", &bad, "--canary", "40%"]).0, Some(0));
    let before = fs::read(directory.path().join("hello@canary.toml")).unwrap();
    let (code, _, stderr) = run(&["deploy", "hello", &bad, "--canary", "50%"]);
    assert!(code == Some(1) && stderr.contains("it wants 50% of the requests"), "{stderr}");
    assert_eq!(fs::read(directory.path().join("hello@canary.toml")).unwrap(), before);
    assert_eq!(run(&["rollback", "hello"]).0, Some(0));
    let (code, _, stderr) = run(&["deploy", "hello", &bad, "--canary", "50%"]);
    assert!(code == Some(1) && stderr.contains("it wants 50% of the requests"), "{stderr}");
    assert_eq!(files(), ["hello.wasm", "hello@a.toml", "hello@a.wasm"]);
    assert_eq!(run(&["rollback", "hello", "--label", "a"]).0, Some(0));
    // One that the host took out.
    assert_eq!(run(&["deploy", "hello", &bad, "--canary", "50%"]).0, Some(0));
    fs::write(directory.path().join("hello@canary.toml"), "percent = 50\n[rollback]\nminimum = 20").unwrap();
    let mut client = Connection::http1(process.address).await;
    let mut withdrawn = false;
    for _ in 0..200 {
        for _ in 0..50 {
            within(client.get("/hello")).await;
        }
        withdrawn = get(process.admin, "/v1/services/hello@canary").await.text().contains("\"withdrawn\"");
        if withdrawn {
            break;
        }
    }
    assert!(withdrawn, "it goes on failing");
    let (code, _, stderr) = run(&["promote", "hello"]);
    assert!(code == Some(1) && stderr.contains("hello@canary was taken out by the host: "), "{stderr}");
    assert!(stderr.contains("`lodge rollback hello`") && stderr.contains("--force"), "{stderr}");
    assert_eq!(within(client.get("/hello")).await.status, 200);
    assert_eq!(run(&["promote", "hello", "--force"]).0, Some(0));
    assert_eq!(within(client.get("/hello")).await.status, 502);
}
