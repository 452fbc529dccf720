//! Promise: `lodge deploy`, `promote` and `rollback` do what they say, and report it after it has happened.

use std::fs;
use std::path::Path;

use http::Method;

use crate::harness::{Connection, Process, cache, eventually, get, lodge, metric, output, wasm, within};
use crate::versions::traffic_split::{ELSEWHERE, asked, version};

fn order(process: &Process, directory: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = lodge(args);
    command.args(["--admin", &process.admin.to_string(), "--guests", &directory.display().to_string()]);
    output(command.env("LODGE_CACHE_DIRECTORY", cache()))
}

#[tokio::test(flavor = "multi_thread")]
async fn deploy_promote_and_rollback() {
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
    // After the command no response comes from the previous version.
    assert!(
        !directory.path().join("users@canary.wasm").exists() && !directory.path().join("users@canary.toml").exists()
    );
    assert_eq!(asked(&mut client, "/users", &[]).await, 1);

    assert_eq!(run(&["deploy", "users", &file(3), "--canary", "0%"]).0, Some(0));
    let (code, stdout, stderr) = run(&["promote", "users"]);
    assert_eq!((code, stdout.starts_with("users serves ")), (Some(0), true), "{stdout}{stderr}");
    assert_eq!(asked(&mut client, "/users", &[]).await, 3);
    let own = within(client.ask(Method::GET, "/", &[("host", "canary.users.localhost")], "")).await;
    assert_eq!(own.status, 404, "the version is removed with the command");
    assert!(!directory.path().join("users@canary.toml").exists());
    // A second rollback undoes the first.
    for number in [1, 3, 1] {
        let (code, ..) = run(&["rollback", "users"]);
        assert_eq!((code, asked(&mut client, "/users", &[]).await), (Some(0), number));
    }
    fs::remove_file(directory.path().join("users.wasm.previous")).unwrap();
    let (code, _, stderr) = run(&["rollback", "users"]);
    assert!(code == Some(1) && stderr.contains("nothing to roll back to"), "{stderr}");

    // A success is not an error line.
    assert_eq!(metric(process.admin, "lodge_reload_failures_total").await, 0.0);

    // At once, without a trial. A file that is not a component changes nothing.
    assert_eq!(run(&["deploy", "users", &file(4)]).0, Some(0));
    assert_eq!(asked(&mut client, "/users", &[]).await, 4);
    let bad = elsewhere.path().join("bad.wasm");
    fs::write(&bad, "no").unwrap();
    let (code, _, stderr) = run(&["deploy", "users", &bad.display().to_string()]);
    assert!(code == Some(1) && stderr.contains("it is not WebAssembly"), "{stderr}");
    let (code, _, stderr) = run(&["promote", "users"]);
    assert!(code == Some(1) && stderr.contains("there is no"), "{stderr}");
    // A version that is a directory has nothing that could be moved, and is removed all the same.
    fs::create_dir(elsewhere.path().join("site")).unwrap();
    let site = format!("percent = 0\n[files]\nroot = '{}'", elsewhere.path().join("site").display());
    fs::write(directory.path().join("users@canary.toml"), site).unwrap();
    let (code, _, stderr) = run(&["promote", "users"]);
    assert!(code == Some(1) && stderr.contains("users@canary is no component that could be moved"), "{stderr}");
    let (code, stdout, stderr) = run(&["rollback", "users"]);
    assert!(code == Some(0) && !directory.path().join("users@canary.toml").exists(), "{stdout}{stderr}");
    let (code, _, stderr) = run(&["deploy", "users", &file(5), "--canary", "ten"]);
    assert!(code == Some(64) && stderr.contains("--canary: `ten` is not a percentage"), "{stderr}");
    assert_eq!(asked(&mut client, "/users", &[]).await, 4);
    // A component under this name would not be the one that is served, so it is not written.
    for (text, wanted) in
        [("component = \"other.wasm\"", "`component = \"other.wasm\"`"), (ELSEWHERE, "makes free an upstream")]
    {
        fs::write(directory.path().join("free.toml"), text).unwrap();
        let (code, _, stderr) = run(&["deploy", "free", &file(6)]);
        assert!(code == Some(1) && stderr.contains(wanted), "{stderr}");
        assert!(!directory.path().join("free.wasm").exists());
    }
}

/// What the manifest names is beside the manifest, wherever the new component comes from.
#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_manifest_are_beside_it() {
    let (directory, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(directory.path().join("users.wasm"), version(1)).unwrap();
    fs::create_dir(directory.path().join("pictures")).unwrap();
    fs::write(directory.path().join("users.toml"), "[volumes]\n\"/pictures\" = { path = \"pictures\" }").unwrap();
    let process = Process::serve(directory.path(), &[]).await;
    let mut client = Connection::http1(process.address).await;
    for (number, canary) in [(2, None), (3, Some("100%"))] {
        let file = elsewhere.path().join(format!("{number}.wasm"));
        fs::write(&file, version(number)).unwrap();
        let mut args = vec!["deploy", "users", file.to_str().unwrap()];
        args.extend(canary.map(|share| ["--canary", share]).into_iter().flatten());
        let (code, _, stderr) = order(&process, directory.path(), &args);
        assert_eq!((code, asked(&mut client, "/users", &[]).await), (Some(0), number), "{stderr}");
    }
}

/// Deploying or promoting the bytes that are served already keeps the version for a rollback, and the files keep their
/// mode.
#[tokio::test(flavor = "multi_thread")]
async fn deploying_the_same_bytes_changes_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let (directory, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let service = directory.path().join("users.wasm");
    fs::write(&service, version(1)).unwrap();
    fs::set_permissions(&service, fs::Permissions::from_mode(0o640)).unwrap();
    let file = elsewhere.path().join("2.wasm");
    fs::write(&file, version(2)).unwrap();
    let file = file.display().to_string();
    let process = Process::serve(directory.path(), &[]).await;
    let mut client = Connection::http1(process.address).await;
    let run = |args: &[&str]| {
        let (code, stdout, stderr) = order(&process, directory.path(), args);
        assert_eq!(code, Some(0), "{args:?}: {stdout}{stderr}");
        for name in ["users.wasm", "users.wasm.previous", "users@canary.wasm"] {
            if let Ok(metadata) = fs::metadata(directory.path().join(name)) {
                assert_eq!(metadata.permissions().mode() & 0o777, 0o640, "{name} after {args:?}");
            }
        }
    };
    run(&["deploy", "users", &file]);
    run(&["deploy", "users", &file]);
    run(&["deploy", "users", &file, "--canary", "10%"]);
    run(&["promote", "users"]);
    assert_eq!(asked(&mut client, "/users", &[]).await, 2);
    run(&["rollback", "users"]);
    assert_eq!(asked(&mut client, "/users", &[]).await, 1);
}

/// A command does not put an invalid or withdrawn version into service.
#[tokio::test(flavor = "multi_thread")]
async fn deploy_and_promote_refuse_with_reasons() {
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
    // The host refuses a share that is too large: the new files are removed, and the previous ones restored.
    fs::copy(wasm("hello"), directory.path().join("hello@a.wasm")).unwrap();
    fs::write(directory.path().join("hello@a.toml"), "percent = 60").unwrap();
    // A version that serves keeps its share.
    let serves = async || get(process.admin, "/v1/services/hello@a").await.text().contains("\"state\":\"serving\"");
    eventually("hello@a serves", serves).await;
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
    // A version that the host has withdrawn.
    assert_eq!(run(&["deploy", "hello", &bad, "--canary", "50%"]).0, Some(0));
    fs::write(directory.path().join("hello@canary.toml"), "percent = 50\n[rollback]\nminimum = 20").unwrap();
    // With the previous manifest another version would be withdrawn.
    let in_force = async || get(process.admin, "/v1/services/hello@canary").await.text().contains("\"minimum\":20");
    eventually("the manifest is in force", in_force).await;
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
    assert!(withdrawn, "it is never withdrawn");
    let (code, _, stderr) = run(&["promote", "hello"]);
    assert!(code == Some(1) && stderr.contains("the host withdrew hello@canary: "), "{stderr}");
    assert!(stderr.contains("`lodge rollback hello --label canary`") && stderr.contains("--force"), "{stderr}");
    assert_eq!(within(client.get("/hello")).await.status, 200);
    assert_eq!(run(&["promote", "hello", "--force"]).0, Some(0));
    assert_eq!(within(client.get("/hello")).await.status, 502);
}

/// The names in a directory, without hidden ones.
fn names(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    names
}

/// Only a checked component is placed, for a service that exists or is to be new.
#[tokio::test(flavor = "multi_thread")]
async fn only_checked_components_are_placed() {
    let (directory, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (path, at) = (directory.path(), |name: &str| elsewhere.path().join(name).display().to_string());
    fs::write(path.join("users.wasm"), version(1)).unwrap();
    fs::write(path.join("pinned.toml"), format!("digest = 'sha256:{}'", "0".repeat(64))).unwrap();
    fs::write(path.join("wrong.toml"), "route = []").unwrap();
    fs::write(path.join("off.toml"), "enabled = false").unwrap();
    // The manifest beside FILE is not the service's, and FILE is not a component.
    fs::write(at("new.wasm"), version(2)).unwrap();
    fs::write(at("new.toml"), "limits.wall = '5s'").unwrap();
    fs::write(at("core.wasm"), b"\0asm\x01\0\0\0").unwrap();
    let process = Process::serve(path, &[]).await;
    let run = |args: &[&str]| order(&process, path, args);
    let before = names(path);
    for (service, file, wanted) in [
        ("users", "new.toml", "new.toml: it is not WebAssembly"),
        ("users", "core.wasm", "core.wasm: it is a core module, not a component"),
        ("users", "none.wasm", "none.wasm: No such file"),
        ("users", ".", "it is not a regular file"),
        ("user", "new.wasm", "did you mean `users`?; --new creates a service at /user"),
        ("pinned", "new.wasm", "its manifest requires sha256:0000"),
        ("wrong", "new.wasm", "wrong.toml: line 1: unknown key `route`"),
        ("off", "new.wasm", "off.toml has `enabled = false`"),
    ] {
        let (code, _, stderr) = run(&["deploy", service, &at(file)]);
        assert!(code == Some(1) && stderr.contains(wanted), "{service} {file}: {stderr}");
        assert_eq!(names(path), before, "{service} {file}");
    }
    let mut client = Connection::http1(process.address).await;
    assert_eq!(asked(&mut client, "/users", &[]).await, 1);
    let (code, stdout, stderr) = run(&["deploy", "people", &at("new.wasm"), "--new"]);
    assert_eq!((code, stdout.starts_with("people serves ")), (Some(0), true), "{stdout}{stderr}");
    assert_eq!(asked(&mut client, "/people", &[]).await, 2);
    // For an existing service the output says nothing more.
    assert_eq!(run(&["deploy", "users", &at("new.wasm"), "--new"]).0, Some(0));
    assert_eq!(asked(&mut client, "/users", &[]).await, 2);
}

/// A command uses the directory that the host serves, whatever the working directory is; another directory is refused.
#[tokio::test(flavor = "multi_thread")]
async fn commands_use_the_directory_of_the_host() {
    let (directory, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(directory.path().join("users.wasm"), version(1)).unwrap();
    let wrong = elsewhere.path().join("guests");
    fs::create_dir(&wrong).unwrap();
    fs::write(wrong.join("users.wasm"), version(9)).unwrap();
    let file = elsewhere.path().join("new.wasm");
    fs::write(&file, version(2)).unwrap();
    std::os::unix::fs::symlink(directory.path(), elsewhere.path().join("link")).unwrap();
    let process = Process::serve(directory.path(), &[]).await;
    let run = |more: &[&str]| {
        let mut command = lodge(&["deploy", "users", &file.display().to_string(), "--admin"]);
        command.arg(process.admin.to_string()).args(more).current_dir(elsewhere.path());
        output(command.env("LODGE_CACHE_DIRECTORY", cache()))
    };
    let (code, _, stderr) = run(&["--guests", &wrong.display().to_string()]);
    assert!(code == Some(1) && stderr.contains("nothing was changed"), "{stderr}");
    let real = directory.path().canonicalize().unwrap();
    assert!(stderr.contains(&format!("serves {}, but `guests` is", real.display())), "{stderr}");
    assert_eq!(fs::read(wrong.join("users.wasm")).unwrap(), version(9));
    let mut client = Connection::http1(process.address).await;
    assert_eq!(asked(&mut client, "/users", &[]).await, 1);
    // There is a `guests` in the working directory, which is not the host's.
    let (code, stdout, stderr) = run(&[]);
    assert_eq!((code, stdout.starts_with("users serves ")), (Some(0), true), "{stdout}{stderr}");
    assert_eq!(fs::read(wrong.join("users.wasm")).unwrap(), version(9));
    assert_eq!(asked(&mut client, "/users", &[]).await, 2);
    fs::write(&file, version(3)).unwrap();
    assert_eq!(run(&["--guests", "link"]).0, Some(0));
    assert_eq!(asked(&mut client, "/users", &[]).await, 3);
}

/// Concurrent commands each do all of their work: what a command reports as served was served then.
#[tokio::test(flavor = "multi_thread")]
async fn commands_wait_for_each_other() {
    let (directory, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(directory.path().join("users.wasm"), version(0)).unwrap();
    let process = Process::serve(directory.path(), &[]).await;
    let children: Vec<_> = (1..=4)
        .map(|number| {
            let file = elsewhere.path().join(format!("{number}.wasm"));
            fs::write(&file, version(number)).unwrap();
            let mut command = lodge(&["deploy", "users", &file.display().to_string()]);
            command.args(["--admin", &process.admin.to_string(), "--guests", &directory.path().display().to_string()]);
            command.env("LODGE_CACHE_DIRECTORY", cache());
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let mut digests = Vec::new();
    for (number, child) in (1..).zip(children) {
        let done = child.wait_with_output().unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        let digest = lodge_manifest::digest::Digest::of(&version(number)).to_string();
        assert!(done.status.success() && stdout.contains(&digest[..12]), "{stdout}{stderr}");
        digests.push(digest);
    }
    // Each was served, one after another, and the last one stays.
    crate::harness::until("all are logged", || process.log().matches("users replaced, ").count() == 4).await;
    let log = process.log();
    let replaced: Vec<_> = log.lines().filter(|line| line.contains("users replaced, ")).collect();
    let last = fs::read(directory.path().join("users.wasm")).unwrap();
    let last = lodge_manifest::digest::Digest::of(&last).to_string();
    assert!(digests.contains(&last) && replaced[3].contains(&format!("by {}", &last[..12])), "{log}");
    assert_eq!(names(directory.path()), ["users.wasm", "users.wasm.previous"]);
    // No temporary file remains, and no lock.
    let hidden = fs::read_dir(directory.path())
        .unwrap()
        .filter(|file| file.as_ref().unwrap().file_name().to_string_lossy().starts_with('.'));
    assert_eq!(hidden.count(), 0);
}

/// What a host reports decides what is safe to change: one that does not accept the token is not taken for none.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_accepts_no_token_is_no_missing_one() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("users.wasm"), version(1)).unwrap();
    let own = "the-token-of-this-host-which-is-long-enough";
    let process = Process::serve(directory.path(), &["--admin-token", own, "--auth-failures", "2"]).await;
    let file = directory.path().join("2.bytes");
    fs::write(&file, version(2)).unwrap();
    let file = file.display().to_string();
    let before = fs::read(directory.path().join("users.wasm")).unwrap();
    for args in [&["deploy", "users", &file][..], &["promote", "users"], &["rollback", "users"]] {
        for token in [&[][..], &["--admin-token", "a-token-of-another"]] {
            let (code, _, stderr) = order(&process, directory.path(), &[args, token].concat());
            assert!(code == Some(1) && stderr.contains(" token"), "{args:?}: {stderr}");
        }
    }
    assert_eq!(fs::read(directory.path().join("users.wasm")).unwrap(), before);
    let token = ["--admin-token", own];
    let (code, _, stderr) = order(&process, directory.path(), &[&["deploy", "users", &*file][..], &token].concat());
    assert_eq!(code, Some(0), "{stderr}");
    // What was refused is in the log, and that its address has to wait.
    for line in
        ["admin: refused 127.0.0.1 at /v1/host: this token is not valid", "admin: 127.0.0.1 has had 2 failed attempts"]
    {
        crate::harness::until(line, || process.log().contains(line)).await;
    }
}
