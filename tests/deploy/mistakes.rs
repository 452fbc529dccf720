//! Promise: whatever goes wrong with a deployment changes nothing, and slow or simultaneous ones keep nobody else from deploying.

use std::fs;

use lodge_manifest::digest::Digest;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::pipeline::{COMPONENT, Place};
use crate::harness::until;
use crate::versions::traffic_split::{asked, version};

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_changes_nothing() {
    let place = Place::new().await;
    let key = place.at("release.key").display().to_string();
    let before = place.files();
    let (two, bad) = (place.write("two.wasm", &version(2)), place.write("bad.wasm", b"no"));
    let large = place.write("large.wasm", &[0; 2 << 20]);
    let trap = place.write("cut.wasm", &version(2)[..50_000]);
    for (args, why) in [
        (&["deploy", "users", &two][..], "the component: it has no signature"),
        (&["deploy", "users", &bad, "--key", &key], "it is not WebAssembly"),
        (&["deploy", "users", &trap, "--key", &key], "users: "),
        (&["deploy", "users", &large, "--key", &key], "the component has more than engine.max_file, which is 1.0 MiB"),
        (&["deploy", "users", &two, "--key", &key, "--canary", "10%", "--label", "a/b"], "not a valid label"),
        (&["deploy", "../users", &two, "--key", &key], "not a valid name"),
        (&["deploy", "users", &two, "--key", &key, "--wait=1s"], "add --canary"),
    ] {
        let (code, stdout, stderr) = place.run("ci", args);
        assert!(code != Some(0) && stdout.is_empty() && stderr.contains(why), "{args:?}: {stdout}{stderr}");
        assert_eq!(place.files(), before, "{args:?}");
    }
    let wrong = "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:";
    for (path, headers, status, why) in [
        (COMPONENT, &[("content-digest", wrong)][..], 400, "and content-digest says sha256:0000"),
        (COMPONENT, &[("content-digest", "md5=:AAAA:")], 400, "has no SHA-256"),
        (COMPONENT, &[("content-digest", wrong), ("content-digest", "sha-256=:BBBB:")], 400, "write it once"),
        (COMPONENT, &[("content-range", "bytes 0-8/9")], 400, "arrives as a whole"),
        (&format!("{COMPONENT}?digest=0"), &[], 400, "this request can have `percent`, `new`"),
        (COMPONENT, &[("lodge-signature", "none")], 400, "between two colons"),
        (COMPONENT, &[("lodge-signature", ":Kioq:")], 400, "has no signature: it is not base64"),
        (&format!("{COMPONENT}?percent=10"), &[], 400, "a share is that of a version"),
        ("/v1/services/users@canary/component", &[], 400, "a version needs its share"),
        ("/v1/services/users@a..b./component?percent=1", &[], 400, "not a valid label"),
        ("/v1/services/users@../component?percent=1", &[], 400, "not a valid label"),
        ("/v1/services/..%2fusers/component", &[], 403, "needs the scope"),
    ] {
        let response = place.put(path, headers, "component").await;
        assert_eq!(response.status, status, "{path} {headers:?}: {}", response.text());
        assert!(response.text().contains(why), "{path} {headers:?}: {}", response.text());
        assert_eq!(place.files(), before, "{path} {headers:?}");
    }
    // A client that goes away leaves nothing but a line of the trail.
    let bearer = fs::read_to_string(place.at("ci")).unwrap();
    let mut stream = TcpStream::connect(place.host.admin).await.unwrap();
    let head = format!(
        "PUT {COMPONENT} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {bearer}\r\ncontent-length: 100000\r\n\r\nsome"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let staged = || place.files().iter().any(|(name, _)| name.starts_with(".users.wasm.new."));
    until("it arrives beside the others", staged).await;
    drop(stream);
    until("nothing is left of it", || place.files() == before).await;
    let ended = |line: &Value| line["path"] == COMPONENT && line["subject"] == "ci" && line.get("digest").is_none();
    until("the trail has it", || place.audit().last().is_some_and(|line| ended(line) && line["status"] != 200)).await;
}

/// A deployment that the host refuses, or that would change an operator's files, leaves all files as they were, also after the next
/// start.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_leaves_nothing() {
    let place = Place::new().await;
    let key = place.at("release.key").display().to_string();
    let directory = place.host.directory().to_owned();
    let manifest = |name: &str, text: &str| fs::write(directory.join(format!("{name}.toml")), text).unwrap();
    let routes = "routes = ['/users', '/aaa']\n";
    manifest("users", routes);
    let routed = || {
        let snapshot = place.host.current.snapshot();
        snapshot.target("users").is_some_and(|users| users.deployment().spec.manifest.routes.len() == 2)
    };
    until("users has both", routed).await;
    let (two, three) = (place.write("two.wasm", &version(2)), place.write("three.wasm", &version(3)));
    let refused = |args: &[&str], why: &str| {
        let before = place.files();
        let (code, stdout, stderr) = place.run("ci", &[args, &["--key", &key]].concat());
        assert!(code == Some(1) && stdout.is_empty() && stderr.contains(why), "{args:?}: {stdout}{stderr}");
        let names = |files: &[(String, Vec<u8>)]| files.iter().map(|file| file.0.clone()).collect::<Vec<_>>();
        let after = place.files();
        assert!(after == before, "{args:?}: {:?} {:?}", names(&before), names(&after));
    };
    refused(&["deploy", "aaa", &two, "--new"], "its route /aaa already belongs to users");
    refused(&["deploy", "Hello", &two, "--new"], "the host name of Hello already belongs to hello: hello.localhost");
    // A version that an operator wrote.
    manifest("users@beta", "enabled = false");
    refused(&["deploy", "users", &two, "--canary", "10%", "--label", "beta"], "was written by an operator");
    let before = place.files();
    let (code, _, stderr) = place.run("ci", &["rollback", "users", "--label", "beta"]);
    assert!(code == Some(1) && stderr.contains("was written by an operator"), "{stderr}");
    assert!(place.files() == before, "{stderr}");
    // A label may be a number of a version; a promotion that names a digest promotes no other component.
    let canary = |file: &str| {
        let label = ["--canary", "10%", "--label", "1.2"];
        place.run("ci", &[&["deploy", "users", file, "--key", &key], &label[..]].concat())
    };
    let waiting = ["deploy", "users", &two, "--key", &key, "--canary", "10%", "--label", "1.2", "--wait=60s"];
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| place.run("ci", &waiting));
        let arrived =
            || directory.join("users@1.2.wasm").exists() && place.host.current.snapshot().target("users@1.2").is_some();
        while !arrived() && !waits.is_finished() {
            std::thread::park_timeout(std::time::Duration::from_millis(50));
        }
        assert_eq!(canary(&three).0, Some(0));
        let (code, _, stderr) = waits.join().unwrap();
        let replaced = stderr.contains("has replaced users@1.2") || stderr.contains("does not serve it yet");
        assert!(code == Some(1) && replaced, "{stderr}");
    });
    let digest = |number| Digest::of(&version(number)).to_string();
    let promote = |digest: &str| place.run("ci", &["promote", "users", "--label", "1.2", "--digest", digest]);
    let before = place.files();
    let (code, _, stderr) = promote(&digest(2));
    assert!(code == Some(1) && stderr.contains("another deployment has replaced it"), "{stderr}");
    // The component that the manifest requires is not replaced by another one, on any way.
    manifest("users", &format!("{routes}digest = 'sha256:{}'", digest(1)));
    let (code, _, stderr) = promote(&digest(3));
    assert!(code == Some(1) && stderr.contains("its manifest requires sha256:"), "{stderr}");
    manifest("users", routes);
    assert!(place.files() == before);
    assert_eq!(promote(&digest(3)).0, Some(0));
    // Names that are guessed leave no locks.
    let locks = || {
        fs::read_dir(&directory)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().ends_with(".Hello.lock"))
            .count()
    };
    assert_eq!(place.put("/v1/services/Hello/component", &[], "").await.status, 409);
    assert_eq!(place.run("ci", &["rollback", "Hello"]).0, Some(1));
    assert_eq!(locks(), 0);
}

/// Slow bodies of one key take no place of others, nor of what undoes a deployment.
#[tokio::test(flavor = "multi_thread")]
async fn slow_bodies_keep_nobody_out() {
    let place = Place::new().await;
    let mut slow = Vec::new();
    for (key, method, path, times) in [("ci", "PUT", COMPONENT, 5), ("viewer", "POST", "/v1/services/users/compare", 5)]
    {
        let bearer = fs::read_to_string(place.at(key)).unwrap();
        for _ in 0..times {
            let mut stream = TcpStream::connect(place.host.admin).await.unwrap();
            let head = format!(
                "{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {bearer}\r\ncontent-length: 9\r\n\r\nx"
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            slow.push(stream);
        }
    }
    let arriving = || place.files().iter().filter(|(name, _)| name.contains(".new.")).count();
    until("as many arrive as may", || arriving() == 4).await;
    let busy = place.put(COMPONENT, &[], "x").await;
    assert_eq!(busy.status, 503, "{}", busy.text());
    let (code, _, stderr) = place.run("ci", &["rollback", "users"]);
    assert!(code == Some(1) && stderr.contains("nothing to roll back to"), "{stderr}");
    let other = place.write("other.wasm", &version(2));
    let key = place.at("release.key").display().to_string();
    let (code, _, stderr) = place.run("other", &["deploy", "team-a", &other, "--new", "--key", &key]);
    assert_eq!(code, Some(0), "{stderr}");
}

/// Two pipelines at once have one order, in which each is whole.
#[tokio::test(flavor = "multi_thread")]
async fn two_uploads_at_once() {
    let place = Place::new().await;
    let key = place.at("release.key").display().to_string();
    let files = [2, 3].map(|number| place.write(&format!("{number}.wasm"), &version(number)));
    let deploy = |file: &str| place.run("ci", &["deploy", "users", file, "--key", &key]);
    let results = std::thread::scope(|scope| {
        let running = files.each_ref().map(|file| scope.spawn(|| deploy(file)));
        running.map(|thread| thread.join().unwrap())
    });
    for (code, stdout, stderr) in results {
        // The first may find that the second is in its place already.
        let replaced = stderr.contains("does not serve it yet");
        assert!((code == Some(0) && stdout.starts_with("users serves ")) || replaced, "{stdout}{stderr}");
    }
    let number = asked(&mut place.host.connect().await, "/users", &[]).await;
    let before = fs::read(place.host.directory().join("users.wasm.previous")).unwrap();
    assert!([2, 3].contains(&number) && before == version(5 - number), "{number}");
    assert!(!place.files().iter().any(|(name, _)| name.contains(".new.")), "{:?}", place.files().len());
}
