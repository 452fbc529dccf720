//! Promise: operators read, change, copy and restore what services store, on a running host and on one that does not run, and
//! nothing is overwritten or half written unseen.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use http::Method;
use serde_json::Value;

use crate::harness::{Connection, Process, eventually, get, lodge, output, until, wasm};

/// A directory with the services `keyvalue`, whose data is read and written, and `hello`, which stores nothing.
fn guests() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for name in ["keyvalue", "hello"] {
        std::fs::copy(wasm(name), directory.path().join(format!("{name}.wasm"))).unwrap();
    }
    std::fs::write(directory.path().join("keyvalue.toml"), "[keyvalue]\nkeys = 1000").unwrap();
    directory
}

/// `lodge data` for a running host.
fn online(process: &Process, args: &[&str]) -> Command {
    let mut command = lodge(&["data"]);
    command.args(args).args(["--admin", &process.admin.to_string()]);
    command
}

/// `lodge data --offline` for a directory.
fn offline(directory: &Path, args: &[&str]) -> Command {
    let mut command = lodge(&["data"]);
    command.args(args).args(["--offline", "--guests"]).arg(directory);
    command
}

fn done(command: &mut Command) -> String {
    let (code, stdout, stderr) = output(command);
    assert_eq!(code, Some(0), "{command:?}: {stdout} {stderr}");
    stdout
}

fn fails(command: &mut Command, why: &str) {
    let (code, stdout, stderr) = output(command);
    assert!(code != Some(0) && stderr.contains(why), "{command:?}: {stdout} {stderr}");
}

fn fed(command: &mut Command, input: &[u8]) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    assert!(child.wait().unwrap().success());
}

/// All commands do the same on a running host and without one.
#[tokio::test(flavor = "multi_thread")]
async fn entries_are_read_and_changed() {
    let directory = guests();
    let mut process = Some(Process::serve(directory.path(), &[]).await);
    let (status, _) = {
        let response = get(process.as_ref().unwrap().address, "/keyvalue/draft2/set/default/seen?by-guest").await;
        (response.status, response.text())
    };
    assert_eq!(status, 200);
    for _ in 0..2 {
        let ask = |args: &[&str]| match &process {
            Some(process) => online(process, args),
            None => offline(directory.path(), args),
        };
        assert_eq!(done(&mut ask(&["get", "keyvalue", "default", "seen"])), "by-guest\n");
        done(&mut ask(&["set", "keyvalue", "a bucket", "a/key?&=\u{e4}", "value"]));
        assert_eq!(done(&mut ask(&["list", "keyvalue"])), "a bucket\ndefault\n");
        assert_eq!(done(&mut ask(&["list", "keyvalue", "a bucket"])), "a/key?&=\u{e4}\n");
        // Bytes go in and come out as they are; people see them escaped.
        let bytes = b"\xff\0\x1b[2J\n";
        fed(&mut ask(&["set", "keyvalue", "default", "bytes", "--ttl", "1h"]), bytes);
        let raw = ask(&["get", "keyvalue", "default", "bytes", "--raw"]).output().unwrap();
        assert_eq!(raw.stdout, bytes);
        assert_eq!(done(&mut ask(&["get", "keyvalue", "default", "bytes"])), "\\xff\\x00\\x1b[2J\\n\n");
        let entry: Value =
            serde_json::from_str(&done(&mut ask(&["get", "keyvalue", "default", "bytes", "--json"]))).unwrap();
        assert_eq!((entry["value"].as_str(), entry["expires"].is_string()), (Some("/wAbWzJKCg=="), true));
        fails(&mut ask(&["set", "keyvalue", "default", "seen", "x", "--if-absent"]), "the key exists already");
        fails(&mut ask(&["get", "keyvalue", "default", "none"]), "the bucket default has no key none");
        let deleted = done(&mut ask(&["delete", "keyvalue", "default", "bytes", "--json"]));
        assert_eq!(serde_json::from_str::<Value>(&deleted).unwrap()["deleted"], true);
        assert!(done(&mut ask(&["delete", "keyvalue", "default", "bytes"])).contains("there was no"));
        let services = done(&mut ask(&["list"]));
        let row: Vec<_> = services.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(row[..3], ["keyvalue", "2", "1000"], "{services}");
        fails(&mut ask(&["get", "keyvalu", "default", "seen"]), "did you mean `keyvalue`?");
        process = None;
    }
}

/// Lists have pages, and say how they continue.
#[tokio::test(flavor = "multi_thread")]
async fn lists_are_bounded() {
    let directory = guests();
    let process = Process::serve(directory.path(), &[]).await;
    let mut client = Connection::http1(process.admin).await;
    for n in 0..25 {
        let path = format!("/v1/services/keyvalue/data/entry?key=k{n:02}");
        let put = client.ask(Method::PUT, &path, &[("host", "localhost")], "x").await;
        assert_eq!(put.status, 200, "{}", put.text());
    }
    let (_, stdout, stderr) = output(&mut online(&process, &["list", "keyvalue", "default", "--limit", "20"]));
    assert_eq!((stdout.lines().count(), stderr.contains("--cursor 'k19'")), (20, true), "{stderr}");
    fails(&mut online(&process, &["list", "hello"]), "lodge: hello: its manifest has no [keyvalue]");
    let rest = done(&mut online(&process, &["list", "keyvalue", "default", "--cursor", "k19"]));
    assert_eq!(rest.lines().collect::<Vec<_>>(), ["k20", "k21", "k22", "k23", "k24"]);
    let some = done(&mut online(&process, &["list", "keyvalue", "default", "--prefix", "k1"]));
    assert_eq!(some.lines().count(), 10);
}

/// An export has everything, with its expiry; an import of it into another store gives the same, and a file that is not
/// complete changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_can_be_imported() {
    let directory = guests();
    let process = Process::serve(directory.path(), &[]).await;
    let mut client = Connection::http1(process.admin).await;
    for n in 0..600 {
        let path = format!("/v1/services/keyvalue/data/entry?bucket=b{}&key=k{n}&ttl={}h", n % 3, n + 1);
        assert_eq!(client.ask(Method::PUT, &path, &[("host", "localhost")], "v").await.status, 200);
    }
    let file = directory.path().join("export.jsonl");
    let path = file.display().to_string();
    done(&mut online(&process, &["export", "keyvalue", &path]));
    fails(&mut online(&process, &["export", "keyvalue", &path]), "exists");
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.lines().count(), 602);
    let sorted = |text: &str| {
        let entry = |line: &str| {
            let mut entry: Value = serde_json::from_str(line).unwrap();
            entry.as_object_mut().unwrap().remove("version");
            // An import takes some milliseconds, by which clocks are rounded.
            let expires = entry["expires"].as_str().unwrap_or_default().get(..16).unwrap_or_default().to_owned();
            (entry["bucket"].to_string(), entry["key"].to_string(), entry["value"].to_string(), expires)
        };
        let mut entries: Vec<_> = text.lines().filter(|line| line.contains("\"key\"")).map(entry).collect();
        entries.sort();
        entries
    };
    let other = guests();
    let cut = other.path().join("cut.jsonl");
    std::fs::write(&cut, &text[..text.len() - 20]).unwrap();
    fails(&mut offline(other.path(), &["import", "keyvalue", &cut.display().to_string()]), "the file was cut off");
    fails(&mut offline(other.path(), &["list"]), "there is no");
    let imported = done(&mut offline(other.path(), &["import", "keyvalue", &path]));
    assert_eq!(imported, "keyvalue: stored 600 entries\n");
    let again = done(&mut offline(other.path(), &["export", "keyvalue", "-"]));
    assert_eq!(sorted(&again), sorted(&text));
    // A quota of the service holds for imports too: 601 keys of 1000 leave room for 399.
    done(&mut online(&process, &["import", "keyvalue", &path]));
}

/// A backup is made while the service writes; it is restored only where nothing is lost, and only if it is sound.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_can_be_restored() {
    let directory = guests();
    let database = directory.path().join(".lodge/state.db");
    let process = Process::serve(directory.path(), &[]).await;
    fails(&mut lodge(&["data", "restore", "/none", "--guests", &directory.path().display().to_string()]), "in use");
    let count = async |process: &Process| {
        get(process.address, "/keyvalue/draft2/increment/default/n?1").await.text().parse::<u64>().unwrap()
    };
    for number in 1..=20 {
        assert_eq!(count(&process).await, number);
    }
    let backup = directory.path().join("backup.db");
    let path = backup.display().to_string();
    let address = process.address;
    let writing = tokio::spawn(async move {
        for _ in 0..200 {
            get(address, "/keyvalue/draft2/increment/default/n?1").await;
        }
    });
    done(&mut online(&process, &["backup", &path]));
    writing.await.unwrap();
    fails(&mut online(&process, &["backup", &path]), "exists");
    assert!(!directory.path().join(".lodge/state.db-backup").exists());
    assert_eq!(count(&process).await, 221);
    fails(&mut offline(directory.path(), &["list"]), "is in use by a host; leave out --offline");
    drop(process);
    let restore = |file: &Path, force: bool| {
        let mut command = lodge(&["data", "restore"]);
        command.arg(file).arg("--guests").arg(directory.path()).args(force.then_some("--force"));
        command
    };
    fails(&mut restore(&backup, false), "--force replaces it");
    // What is no sound backup is refused, and the database stays.
    let mut bytes = std::fs::read(&backup).unwrap();
    let foreign = directory.path().join("foreign.db");
    std::fs::write(&foreign, b"SQLite format 4\0 or something else").unwrap();
    fails(&mut restore(&foreign, true), "is not a backup of Lodge");
    let middle = bytes.len() / 2;
    bytes[4096..middle].iter_mut().for_each(|byte| *byte ^= 0x55);
    let broken = directory.path().join("broken.db");
    std::fs::write(&broken, &bytes).unwrap();
    fails(&mut restore(&broken, true), "nothing was restored");
    std::fs::write(&broken, &std::fs::read(&backup).unwrap()[..middle]).unwrap();
    fails(&mut restore(&broken, true), "nothing was restored");
    assert_eq!(done(&mut offline(directory.path(), &["get", "keyvalue", "default", "n"])), "221\n");
    assert!(!directory.path().join(".lodge/state.db.restore").exists());
    // Another user runs the host, and has to open what an administrator restores.
    let is_root = chown(&database, Some(4_321), Some(4_322)).is_ok();
    done(&mut restore(&backup, true));
    let owner = std::fs::metadata(&database).unwrap();
    assert_eq!((owner.uid(), owner.gid()) == (4_321, 4_322), is_root);
    let process = Process::serve(directory.path(), &[]).await;
    let number = count(&process).await;
    assert!((21..=221).contains(&number), "{number}");
    drop(process);
    // Into a directory where nothing is, it needs no flag. Its owner has the files.
    let state = database.parent().unwrap();
    std::fs::remove_dir_all(state).unwrap();
    std::fs::create_dir(state).unwrap();
    let _ = chown(state, Some(4_321), Some(4_322));
    done(&mut restore(&backup, false));
    let owner = std::fs::metadata(&database).unwrap();
    assert_eq!((owner.uid(), owner.gid()) == (4_321, 4_322), is_root);
    assert!(!state.join("state.db-lock").exists(), "its owner could not open it");
}

/// What a service has left in the file can be read, changed and deleted after it is gone, also while the host runs.
#[tokio::test(flavor = "multi_thread")]
async fn the_data_of_removed_services() {
    let directory = guests();
    let process = Process::serve(directory.path(), &[]).await;
    done(&mut online(&process, &["set", "keyvalue", "b", "a", "1"]));
    let export = directory.path().join("export").display().to_string();
    done(&mut online(&process, &["export", "keyvalue", &export]));
    for file in ["keyvalue.wasm", "keyvalue.toml"] {
        std::fs::remove_file(directory.path().join(file)).unwrap();
    }
    let status = async || get(process.address, "/keyvalue/draft2/get/b/a").await.status;
    eventually("the service is gone", async || status().await == 404).await;
    assert_eq!(done(&mut online(&process, &["get", "keyvalue", "b", "a"])), "1\n");
    done(&mut online(&process, &["delete", "keyvalue", "b", "a"]));
    done(&mut online(&process, &["import", "keyvalue", &export]));
    assert_eq!(done(&mut online(&process, &["list", "keyvalue", "b"])), "a\n");
    // A name that never had data gets none by an import.
    let (_, _, problem) = output(&mut online(&process, &["import", "keyvalu", &export]));
    assert!(problem.contains("there is no service `keyvalu`") && !problem.contains("0 entries"), "{problem}");
}

/// A mistyped path is refused, and no directory is made for it.
#[test]
fn commands_make_no_directories() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("backup.db"), "").unwrap();
    let run = |args: &[&str]| {
        let mut command = lodge(&["data"]);
        command.args(args);
        command
    };
    let (guests, backup, none) = (at("typo/guests"), at("backup.db"), at("none.db"));
    let [guests, backup, none] = [&guests, &backup, &none].map(|path| path.display().to_string());
    fails(&mut run(&["restore", &backup, "--guests", &guests]), "there is no directory");
    fails(&mut run(&["restore", &none, "--guests", &guests]), "nothing was restored");
    fails(&mut run(&["set", "users", "b", "a", "1", "--offline", "--guests", &guests]), "there is no directory");
    let state = at("other/place/state.db").display().to_string();
    fails(&mut run(&["restore", &backup, "--state-path", &state]), "there is no directory");
    assert!(!at("typo").exists() && !at("other").exists());
}

/// Every access needs the token, is in the log without the value, and a service without a store is told apart.
#[tokio::test(flavor = "multi_thread")]
async fn accesses_are_protected_and_logged() {
    let directory = guests();
    let host = Process::serve(directory.path(), &["--admin-token", "0123456789abcdef"]).await;
    let ask = async |method: Method, path: &str, token: &str, body: &str| {
        let headers = [("host", "localhost"), ("authorization", token)];
        Connection::http1(host.admin).await.ask(method, path, &headers, body).await
    };
    let token = "Bearer 0123456789abcdef";
    let entry = "/v1/services/keyvalue/data/entry?key=a-key";
    for (method, path) in [(Method::GET, entry), (Method::PUT, entry), (Method::GET, "/v1/data/backup")] {
        assert_eq!(ask(method, path, "Bearer wrong", "x").await.status, 401, "{path}");
    }
    assert_eq!(ask(Method::PUT, entry, token, "canary-value").await.status, 200);
    assert_eq!(ask(Method::GET, entry, token, "").await.status, 200);
    assert_eq!(ask(Method::DELETE, entry, token, "").await.status, 200);
    let none = ask(Method::GET, "/v1/services/hello/data", token, "").await;
    assert!(none.status == 409 && none.text().contains("has no [keyvalue]"), "{}", none.text());
    assert_eq!(ask(Method::PUT, entry, token, &"x".repeat((1 << 20) + 1)).await.status, 400);
    for what in ["set the key a-key", "read the key a-key", "deleted the key a-key"] {
        until(what, || host.log().contains(what)).await;
    }
    let log = ask(Method::GET, "/v1/logs?service=keyvalue", token, "").await.text() + &host.log();
    assert!(!log.contains("canary-value"), "{log}");
}
