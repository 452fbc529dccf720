//! Promise: what a host refuses of a deployment, a promotion or a rollback leaves every file as it was, and only what was placed is
//! refused, not what was there before.

use std::fs;

use crate::harness::{host, lodge, output};
use crate::versions::traffic_split::{asked, version};

/// On hosts elsewhere and by the same commands on this machine.
#[tokio::test(flavor = "multi_thread")]
async fn refused_changes_are_taken_back() {
    let elsewhere = tempfile::tempdir().unwrap();
    let (good, cut) = (version(2), &version(1)[..1000]);
    let file = elsewhere.path().join("good.wasm").display().to_string();
    fs::write(&file, &good).unwrap();
    // Without machine code on disk, the host compiles for longer than it needs to notice files.
    let host = host(&[]).file("users.wasm", cut).set("cache.directory", "off").start().await;
    let files = || {
        let entries = fs::read_dir(host.directory()).unwrap().map(|entry| entry.unwrap());
        let mut all: Vec<_> =
            entries.map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap_or_default())).collect();
        all.sort();
        all
    };
    let url = format!("http://{}", host.admin);
    let far = |args: &[&str]| output(lodge(args).args(["--host", &url]));
    let near = |args: &[&str]| {
        let (admin, guests) = (host.admin.to_string(), host.directory().display().to_string());
        output(lodge(args).args(["--admin", &admin, "--guests", &guests]).env("LODGE_CACHE_DIRECTORY", "off"))
    };
    assert!(host.refusals()[0].contains("it is cut off"), "{:?}", host.refusals());
    let (code, stdout, stderr) = far(&["deploy", "users", &file]);
    assert!(code == Some(0) && stdout.starts_with("users serves "), "{stdout}{stderr}");
    // Back to the file that was cut off.
    let before = files();
    for back in [far(&["rollback", "users"]), near(&["rollback", "users"])] {
        let (code, stdout, stderr) = back;
        assert!(code != Some(0) && !stderr.is_empty(), "{code:?} {stdout}{stderr}");
        assert_eq!(files(), before, "{stderr}");
    }
    // To a canary that needs more than the service may have.
    fs::write(host.directory().join("users.toml"), "limits.memory = '1MiB'\n").unwrap();
    fs::write(host.directory().join("users@canary.toml"), "percent = 0\nlimits.memory = '64MiB'\n").unwrap();
    fs::write(host.directory().join("users@canary.wasm"), version(3)).unwrap();
    let is_served = || host.current.snapshot().target("users@canary").is_some();
    crate::harness::until("the canary is served", is_served).await;
    let before = files();
    for promoted in [far(&["promote", "users"]), near(&["promote", "users"])] {
        let (code, stdout, stderr) = promoted;
        assert!(code != Some(0) && stderr.contains("memory"), "{code:?} {stdout}{stderr}");
        assert_eq!(files(), before, "{stderr}");
    }
    assert_eq!(asked(&mut host.connect().await, "/users", &[]).await, 2);
}
