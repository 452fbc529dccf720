//! Promise: a guest sees the directories that `[volumes]` of its manifest names, and nothing else of the host. One that is read-only
//! does not change.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use crate::harness::{Neighbour, Setup, TestHost, host, until};

/// Everything below a directory: content, target or nothing, and the time of the last change.
fn everything(directory: &Path) -> BTreeMap<PathBuf, (String, i64, i64)> {
    fn walk(directory: &Path, into: &mut BTreeMap<PathBuf, (String, i64, i64)>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let content = if metadata.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else if metadata.is_dir() {
                walk(&path, into);
                String::new()
            } else {
                fs::read_to_string(&path).unwrap()
            };
            // The links of a file are no part of it: a link elsewhere is a change elsewhere.
            into.insert(path, (content, metadata.mtime(), metadata.mtime_nsec()));
        }
    }
    let mut all = BTreeMap::new();
    walk(directory, &mut all);
    all
}

/// A directory `outside` with a file `secret`, and below it the volume, from which links of the operator lead out.
fn outside() -> tempfile::TempDir {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "canary-secret").unwrap();
    let volume = outside.path().join("volume");
    fs::create_dir_all(volume.join("sub")).unwrap();
    fs::write(volume.join("file"), "inside").unwrap();
    symlink("../secret", volume.join("link")).unwrap();
    symlink("../../secret", volume.join("sub/link")).unwrap();
    symlink("link", volume.join("chain")).unwrap();
    symlink("..", volume.join("up")).unwrap();
    symlink("../..", volume.join("sub/up")).unwrap();
    symlink(outside.path(), volume.join("absolute")).unwrap();
    outside
}

fn volumes(lines: &[(&str, &Path, bool)]) -> String {
    let line = |(at, path, write): &(&str, &Path, bool)| {
        format!("'{at}' = {{ path = '{}', write = {write} }}\n", path.display())
    };
    format!("[volumes]\n{}", lines.iter().map(line).collect::<String>())
}

async fn ok(host: &TestHost, at: &str) -> String {
    let response = host.get(at).await;
    assert_eq!(response.status, 200, "{at}: {}", response.text());
    response.text()
}

async fn error(host: &TestHost, at: &str) -> String {
    let response = host.get(at).await;
    assert_eq!(response.status, 500, "{at}: {}", response.text());
    response.text()
}

async fn start(setup: Setup) -> TestHost {
    let host = setup.start().await;
    assert_eq!(host.refusals(), Vec::<String>::new());
    host
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_reads_and_writes_what_it_was_given() {
    let outside = outside();
    let volume = outside.path().join("volume");
    let setup = host(&["files", "files3"]);
    let site = setup.directory.path().join("site");
    fs::create_dir(&site).unwrap();
    fs::write(site.join("page"), "a page").unwrap();
    // A relative path begins at the manifest.
    let files = format!("{}'/site' = 'site'", volumes(&[("/data", &volume, true)]));
    let setup = setup.manifest("files", &files).manifest("files3", &volumes(&[("/data", &volume, true)]));
    let host = start(setup).await;
    assert_eq!(ok(&host, "/files/directories").await, r#"["/data", "/site"]"#);
    assert_eq!(ok(&host, "/files/read?/site/page").await, "a page");
    assert_eq!(ok(&host, "/files/list?/site").await, "page");
    error(&host, "/files/write?/site/page").await;
    for (service, before) in [("files", "/data/"), ("files3", "")] {
        assert_eq!(ok(&host, &format!("/{service}/read?{before}file")).await, "inside");
        assert_eq!(ok(&host, &format!("/{service}/write?{before}sub/of-{service}")).await, "written");
        assert_eq!(fs::read_to_string(volume.join(format!("sub/of-{service}"))).unwrap(), "written");
        assert_eq!(ok(&host, &format!("/{service}/read?{before}sub/of-{service}")).await, "written");
        assert_eq!(ok(&host, &format!("/{service}/list?/data")).await, "absolute,chain,file,link,sub,up");
        error(&host, &format!("/{service}/read?{before}absent")).await;
    }
    assert_eq!(ok(&host, "/files/remove?/data/sub/of-files").await, "removed");
    assert!(!volume.join("sub/of-files").exists());
    // Another instance sees what an operator has changed.
    fs::write(volume.join("file"), "changed").unwrap();
    assert_eq!(ok(&host, "/files/read?/data/file").await, "changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_path_leads_out() {
    for service in ["files", "files3"] {
        let outside = outside();
        let volume = outside.path().join("volume");
        let manifest = format!("limits = {{ wall = '2m', cpu = '1m' }}\n{}", volumes(&[("/data", &volume, true)]));
        let host = start(host(&[service]).manifest(service, &manifest)).await;
        let around = || {
            let mut all = everything(outside.path());
            // The volume itself may change.
            all.retain(|path, _| !path.starts_with(&volume));
            all
        };
        let before = around();
        assert_eq!(before.len(), 1, "{before:?}");
        let report = ok(&host, &format!("/{service}/escape?{}", outside.path().display())).await;
        assert!(report.ends_with("end"), "{report}");
        assert!(!report.contains("canary-secret") && !report.contains("root:"), "{service}: {report}");
        // It can rename the links that are there, and make hard links of them.
        for line in report.lines().filter(|line| !line.starts_with("DONE link") && !line.starts_with("DONE rename")) {
            assert_eq!(line, "end", "{service}: {report}");
        }
        assert_eq!(around(), before, "{service} has changed something");
        assert_eq!(fs::metadata(outside.path().join("secret")).unwrap().nlink(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_only_does_not_change() {
    let (outside, other) = (outside(), outside());
    let (volume, free) = (outside.path().join("volume"), other.path().join("volume"));
    let manifest = volumes(&[("/data", &volume, false)]);
    let setup = host(&["files", "files3"]).named("files", "both").manifest("files", &manifest);
    let crossing = volumes(&[("/fixed", &volume, false), ("/data", &free, true)]);
    let host = start(setup.manifest("files3", &manifest).manifest("both", &crossing)).await;
    let before = everything(outside.path());
    for at in ["/files/change?/data", "/files3/change", "/both/cross", "/both/change?/fixed"] {
        assert_eq!(ok(&host, at).await, "end", "{at}");
        assert_eq!(everything(outside.path()), before, "{at}");
    }
    assert_eq!(ok(&host, "/files/read?/data/file").await, "inside");
    // The same things can be done where they are allowed.
    let report = ok(&host, "/both/change?/data").await;
    for what in ["create", "truncate", "times", "link", "rename", "symlink", "make", "open to write"] {
        assert!(report.contains(&format!("DONE {what}\n")), "{what}: {report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_must_not_be_granted_is_refused() {
    let outside = outside();
    let setup = host(&["files"]).set("state.path", &outside.path().join("state/state.db").display().to_string());
    let guests = setup.directory.path().to_owned();
    fs::create_dir_all(guests.join(".lodge/sqlite")).unwrap();
    fs::create_dir_all(outside.path().join("state/blobs/files")).unwrap();
    fs::create_dir_all(outside.path().join("state/uploads")).unwrap();
    symlink(&guests, outside.path().join("guests")).unwrap();
    let file = outside.path().join("secret");
    let host = setup.manifest("files", &volumes(&[("/data", &outside.path().join("absent"), false)])).start().await;
    let refused = async |path: &Path, why: &str| {
        fs::write(guests.join("files.toml"), volumes(&[("/data", path, false)])).unwrap();
        let named = format!("volumes: {}: {why}", path.display());
        let found = || host.refusals().iter().any(|refusal| refusal.contains("files.toml") && refusal.contains(&named));
        until(&format!("the refusal says `{named}`"), found).await;
    };
    refused(&outside.path().join("absent"), "there is no such directory").await;
    refused(&file, "it is not a directory").await;
    let contains = "it contains the directory of manifests";
    for path in [guests.clone(), guests.join("."), outside.path().join("guests"), "/".into()] {
        refused(&path, contains).await;
    }
    let part = "it contains the state or the machine code";
    for path in [".lodge", ".lodge/sqlite"].map(|path| guests.join(path)) {
        refused(&path, part).await;
    }
    for path in ["state", "state/blobs", "state/blobs/files"].map(|path| outside.path().join(path)) {
        refused(&path, part).await;
    }
    refused(Path::new(crate::harness::cache()), part).await;
    // It is tried again, and starts when the directory is there.
    fs::write(guests.join("files.toml"), volumes(&[("/data", &outside.path().join("later"), false)])).unwrap();
    until("it is refused", || host.refusals().iter().any(|refusal| refusal.contains("later"))).await;
    fs::create_dir(outside.path().join("later")).unwrap();
    until("the service is served", || host.refusals().is_empty()).await;
    assert_eq!(ok(&host, "/files/list?/data").await, "");
    // Beside the state is not in it.
    host.edit("files", &volumes(&[("/data", &outside.path().join("state/uploads"), true)])).await;
    assert_eq!(ok(&host, "/files/write?/data/x").await, "written");
}

/// Long listings have a bound, and streams that nobody reads hold no threads.
#[tokio::test(flavor = "multi_thread")]
async fn listings_are_bounded() {
    let directory = tempfile::tempdir().unwrap();
    for number in 0..10_000 {
        fs::write(directory.path().join(number.to_string()), "").unwrap();
    }
    let manifest = volumes(&[("/data", directory.path(), false)]);
    let setup = host(&["files", "files3", "hello"]).manifest("files", &manifest).manifest("files3", &manifest);
    let host = start(setup).await;
    for service in ["files", "files3"] {
        assert_eq!(ok(&host, &format!("/{service}/list?/data")).await, "10000");
        // All that one request lists has a bound as well, and the next request has it anew.
        let failed = error(&host, &format!("/{service}/list-often?/data")).await.to_lowercase();
        assert!(failed.contains("memory"), "{failed}");
        assert_eq!(ok(&host, &format!("/{service}/list?/data")).await, "10000");
    }
    fs::write(directory.path().join("more"), "").unwrap();
    for service in ["files", "files3"] {
        let failed = error(&host, &format!("/{service}/list?/data")).await.to_lowercase();
        assert!(failed.contains("memory"), "{failed}");
    }
    // More streams than the runtime has threads that may wait.
    let neighbour = Neighbour::of(&host);
    let address = host.address;
    let unread: Vec<_> = (0..8)
        .map(|_| tokio::spawn(async move { crate::harness::get(address, "/files3/unread").await.text() }))
        .collect();
    let in_flight = || host.current.snapshot().target("files3").is_some_and(|target| target.admission.in_flight() == 8);
    until("they are all open", in_flight).await;
    assert_eq!(ok(&host, "/files/read?/data/7").await, "");
    for request in unread {
        assert_eq!(request.await.unwrap(), "100");
    }
    assert!(neighbour.responses().await > 0);
}
