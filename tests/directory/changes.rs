//! Promise: guests that are added, replaced or removed under load are served or stopped without a lost request.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use rand_like::Dice;
use tokio::task::JoinHandle;

use crate::harness::{Connection, Process, eventually, get, host, until, wasm, within};

/// A small and repeatable source of randomness, so that a failing test fails again.
mod rand_like {
    pub(super) struct Dice(pub(super) u64);

    impl Dice {
        pub(super) fn below(&mut self, bound: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % bound
        }
    }
}

/// The component that responds with this version.
pub(super) fn version(number: usize) -> Vec<u8> {
    let mut bytes = fs::read(wasm("version")).unwrap();
    let marker = b"version-00000000";
    let at = bytes.windows(marker.len()).position(|window| window == marker).expect("the marker is in the file");
    bytes[at..at + marker.len()].copy_from_slice(text(number).as_bytes());
    bytes
}

fn text(number: usize) -> String {
    format!("version-{number:08}")
}

/// Renames a file into place, as a deployment should.
pub(super) fn put(directory: &Path, name: &str, bytes: &[u8]) {
    let partial = directory.join(format!(".{name}.new"));
    fs::write(&partial, bytes).unwrap();
    fs::rename(partial, directory.join(name)).unwrap();
}

/// Clients that request the version continuously, over keep-alive connections with HTTP/1.1 and HTTP/2. Every request
/// must get a response, from one version in all its bytes.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    completed: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<BTreeSet<String>>>,
}

impl Load {
    pub(super) fn on(address: SocketAddr) -> Self {
        let (stop, completed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let clients = (0..6).map(|n| {
            let (stop, completed) = (Arc::clone(&stop), Arc::clone(&completed));
            tokio::spawn(async move {
                let mut client = match n % 2 {
                    0 => Connection::http1(address).await,
                    _ => Connection::http2(address).await,
                };
                let mut seen = BTreeSet::new();
                while !stop.load(Relaxed) {
                    let response = within(client.get("/version")).await;
                    let body = response.text();
                    assert!(response.status == 200 && !response.broken, "lost: {response:?}");
                    let (first, second) = body.split_at(body.len() / 2);
                    assert_eq!(first, second, "two versions in one response");
                    seen.insert(first.to_owned());
                    completed.fetch_add(1, Relaxed);
                }
                seen
            })
        });
        let clients = clients.collect();
        Self { stop, completed, clients }
    }

    /// The number of responses, and all versions in them.
    pub(super) async fn end(self) -> (usize, BTreeSet<String>) {
        self.stop.store(true, Relaxed);
        let mut seen = BTreeSet::new();
        for client in self.clients {
            seen.extend(within(client).await.expect("no request is lost"));
        }
        (self.completed.load(Relaxed), seen)
    }
}

pub(super) async fn serves(address: SocketAddr, number: usize) {
    let start = std::time::Instant::now();
    loop {
        let response = get(address, "/version").await;
        if response.status == 200 && response.text() == text(number).repeat(2) {
            return;
        }
        assert!(start.elapsed() < crate::harness::PATIENCE, "version {number} is never served: {response:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Fifty versions at random moments, and every kind of bad file, under load.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_lost() {
    let host = host(&[]).set("watch.poll", "500ms").named("version", "version").start().await;
    let directory = host.directory();
    let load = Load::on(host.address);
    let mut dice = Dice(7);
    for number in 1..=50 {
        put(directory, "version.wasm", &version(number));
        match dice.below(3) {
            // Some versions are replaced before they are served, some just when they are.
            0 => tokio::time::sleep(Duration::from_millis(dice.below(60))).await,
            _ => serves(host.address, number).await,
        }
    }
    serves(host.address, 50).await;
    // Removed and created again, as some tools replace a file.
    fs::remove_file(directory.join("version.wasm")).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    fs::write(directory.join("version.wasm"), version(51)).unwrap();
    serves(host.address, 51).await;
    // A slow copy over the file that is served.
    let bytes = version(52);
    let mut file = fs::File::create(directory.join("version.wasm")).unwrap();
    for piece in bytes.chunks(1 << 10) {
        file.write_all(piece).unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    drop(file);
    serves(host.address, 52).await;
    assert_eq!(host.refusals(), Vec::<String>::new(), "a copy in progress is not reported");
    // An invalid file is reported, and not served.
    put(directory, "version.wasm", b"rubbish");
    until("it is refused", || host.refusals().iter().any(|line| line.contains("it is not WebAssembly"))).await;
    put(directory, "version.wasm", &version(53));
    serves(host.address, 53).await;
    assert_eq!(host.refusals(), Vec::<String>::new());
    // A manifest that is added, removed, and invalid.
    for n in 0..10 {
        let manifest = match n % 3 {
            0 => "routes = ['/version', '/other']\n[limits]\nin_flight = 50".to_owned(),
            1 => format!("limits.wall = '{}s'", 10 + n),
            _ => "routs = []".to_owned(),
        };
        put(directory, "version.toml", manifest.as_bytes());
        tokio::time::sleep(Duration::from_millis(20 + dice.below(40))).await;
    }
    put(directory, "version.toml", b"routes = ['/version', '/other']");
    until("the manifest is in force", || host.refusals().is_empty()).await;
    eventually("the route is served", async || host.get("/other").await.status == 200).await;
    until("there was enough load", || load.completed.load(Relaxed) > 10_000).await;
    let (completed, seen) = load.end().await;
    eprintln!("{completed} responses from {} versions", seen.len());
    assert!(seen.len() > 30, "the swaps were not seen: {seen:?}");
}

/// Many files at once; a directory that is removed and restored, or replaced by another one.
#[tokio::test(flavor = "multi_thread")]
async fn the_directory_can_be_removed_and_replaced() {
    let host = host(&["hello"]).set("watch.poll", "200ms").start().await;
    let directory = host.directory().to_owned();
    let bytes = version(1);
    for n in 0..200 {
        fs::write(directory.join(format!("many{n}.wasm")), &bytes).unwrap();
    }
    until("all are served", || host.current.snapshot().targets.len() == 201).await;
    assert_eq!(host.get("/many137").await.text(), text(1).repeat(2));
    // Removed: the services stay.
    let aside = directory.with_extension("aside");
    fs::rename(&directory, &aside).unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(host.get("/hello").await.status, 200);
    // Restored with fewer files.
    for n in 0..200 {
        fs::remove_file(aside.join(format!("many{n}.wasm"))).unwrap();
    }
    fs::rename(&aside, &directory).unwrap();
    until("the others are removed", || host.current.snapshot().targets.len() == 1).await;
    assert_eq!(host.get("/many137").await.status, 404);
    // Replaced by another directory, to which a file is added later.
    fs::rename(&directory, &aside).unwrap();
    fs::create_dir(&directory).unwrap();
    put(&directory, "version.wasm", &version(2));
    serves(host.address, 2).await;
    put(&directory, "version.wasm", &version(3));
    serves(host.address, 3).await;
    fs::remove_dir_all(&aside).unwrap();
}

/// As Kubernetes mounts a ConfigMap: links to files behind a link that is swapped.
#[tokio::test(flavor = "multi_thread")]
async fn a_swapped_symlink_is_a_new_version() {
    // With or without events: the poll alone must suffice.
    let host = host(&[]).set("watch.poll", "100ms").start().await;
    let directory = host.directory();
    for (n, name) in [(1, "..1"), (2, "..2")] {
        fs::create_dir(directory.join(name)).unwrap();
        fs::write(directory.join(name).join("version.wasm"), version(n)).unwrap();
    }
    std::os::unix::fs::symlink("..1", directory.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/version.wasm", directory.join("version.wasm")).unwrap();
    serves(host.address, 1).await;
    std::os::unix::fs::symlink("..2", directory.join("..data_tmp")).unwrap();
    fs::rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
    serves(host.address, 2).await;
}

/// A route belongs to its service until it is free; a new service cannot take it.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_service_cannot_take_a_route() {
    let host = host(&["hello"]).set("watch.poll", "200ms").start().await;
    let directory = host.directory();
    put(directory, "aaa.toml", b"routes = ['/hello']");
    put(directory, "aaa.wasm", &version(1));
    until("it is refused", || host.refusals().iter().any(|line| line.contains("already belongs to hello"))).await;
    assert_eq!(host.get("/hello").await.text(), "Hello, World!");
    fs::remove_file(directory.join("hello.wasm")).unwrap();
    until("the route is free, and taken", || host.refusals().is_empty()).await;
    assert_eq!(host.get("/hello").await.text(), text(1).repeat(2));
}

/// A service keeps a route while its manifest claims it: with other settings, without its component, and while it is disabled.
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_keeps_its_routes() {
    let deny = "deny = ['192.0.2.1']";
    let host = host(&["hello"]).manifest("hello", deny).set("watch.poll", "100ms").start().await;
    let directory = host.directory();
    put(directory, "aaa.toml", b"routes = ['/hello']");
    put(directory, "aaa.wasm", &version(1));
    until("it is refused", || host.refusals().iter().any(|line| line.contains("already belongs to hello"))).await;
    let is_served = |name: &str| host.current.snapshot().target(name).is_some();
    let serves = async || eventually("hello serves", async || host.get("/hello").await.text() == "Hello, World!").await;
    for edit in ["compress = true", "cache = true", "headers.security = true"] {
        put(directory, "hello.toml", format!("{deny}\n{edit}").as_bytes());
        let has = || host.current.snapshot().target("hello").map(|target| target.deployment().spec.manifest.clone());
        let read = |manifest: lodge_manifest::Manifest| {
            let route = &manifest.routes[0];
            [
                ("compress", route.compress.is_some()),
                ("cache", route.cache.is_some()),
                ("headers", route.headers.is_some()),
            ]
            .into_iter()
            .any(|(key, is_there)| is_there && edit.starts_with(key))
        };
        until("the manifest is in force", || has().is_some_and(read)).await;
        assert!(!is_served("aaa"), "{edit}");
        serves().await;
    }
    fs::remove_file(directory.join("hello.wasm")).unwrap();
    until("it is gone", || !is_served("hello")).await;
    assert_eq!((host.get("/hello").await.status, is_served("aaa")), (503, false));
    fs::copy(wasm("hello"), directory.join("hello.wasm")).unwrap();
    serves().await;
    put(directory, "hello.toml", format!("{deny}\nenabled = false").as_bytes());
    until("it is disabled", || !is_served("hello")).await;
    assert_eq!((host.get("/hello").await.status, is_served("aaa")), (503, false));
    put(directory, "hello.toml", deny.as_bytes());
    serves().await;
    assert!(!is_served("aaa"));
}

/// Requests in flight count for the limit of a service in all versions.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_has_no_additional_slots() {
    let host = host(&["sleeper"])
        .manifest("sleeper", "limits = { in_flight = 1, queue = 0, wall = '1h' }")
        .set("watch.poll", "200ms")
        .start()
        .await;
    let address = host.address;
    let sleeping = tokio::spawn(async move { get(address, "/sleeper").await });
    let in_flight = || host.current.snapshot().target("sleeper").unwrap().admission.in_flight();
    until("the slot is taken", || in_flight() == 1).await;
    host.replace("sleeper", &version(1)).await;
    assert_eq!(host.get("/sleeper").await.status, 503);
    sleeping.abort();
    let _ = sleeping.await;
    eventually("the slot is free", async || host.get("/sleeper").await.status == 200).await;
}

/// Every change is one log line.
#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_logged_once() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &["--watch-poll", "200ms"]).await;
    let path = directory.path();
    let said = |words: &str| {
        let words = words.to_owned();
        let log = process.log();
        log.lines().filter(|line| line.contains(&words)).count()
    };
    let step = async |what: &str| until(what, || said(what) == 1).await;
    put(path, "version.wasm", &version(1));
    step("version at /version and version.localhost").await;
    put(path, "version.wasm", &version(2));
    step("version replaced, ").await;
    put(path, "version.toml", b"routes = ['/elsewhere']");
    step("version has a new manifest, at /elsewhere").await;
    fs::rename(path.join("version.wasm"), path.join("people.wasm")).unwrap();
    fs::remove_file(path.join("version.toml")).unwrap();
    step("version renamed to people, at /people").await;
    put(path, "people.wasm", b"rubbish");
    step("refused people.wasm: it is not WebAssembly").await;
    assert!(process.log().contains("still serving version"), "{}", process.log());
    let told = get(process.admin, "/v1/services").await.text();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told[0]["service"]["digest"], lodge_manifest::digest::Digest::of(&version(2)).to_string());
    assert_eq!(told[1]["refused"]["reason"], "it is not WebAssembly", "{told}");
    put(path, "people.wasm", &version(2));
    step("people restored: its files are again those that are served").await;
    fs::remove_file(path.join("people.wasm")).unwrap();
    step("people removed").await;
    put(path, "people.toml", b"routes = ['/x']");
    step("refused people.toml: it has no component").await;
    assert_eq!(said("renamed") + said("removed") + said("replaced"), 3, "{}", process.log());
}

/// A host that is killed during a compilation leaves a valid cache.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_leaves_the_cache_valid() {
    let (directory, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for n in 0..12 {
        fs::write(directory.path().join(format!("v{n}.wasm")), version(n)).unwrap();
    }
    let (guests, at) = (directory.path().display().to_string(), cache.path().join("c").display().to_string());
    let args = ["serve", &guests, "--listen", "127.0.0.1:0", "--admin", "off", "--cache-directory", &at];
    for n in 0..4 {
        let mut child = crate::harness::lodge(&args).stderr(std::process::Stdio::null()).spawn().unwrap();
        tokio::time::sleep(Duration::from_millis(150 + 130 * n)).await;
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let process = Process::serve_with_cache(directory.path(), &at).await;
    for n in 0..12 {
        assert_eq!(get(process.address, &format!("/v{n}")).await.text(), text(n).repeat(2));
    }
    assert!(!process.log().contains("damaged"), "{}", process.log());
    // The next start compiles nothing.
    let entries = || fs::read_dir(cache.path().join("c")).unwrap().count();
    let before = entries();
    drop(process);
    let process = Process::serve_with_cache(directory.path(), &at).await;
    assert_eq!(get(process.address, "/v3").await.status, 200);
    assert_eq!(entries(), before);
}

/// Old versions leave no memory behind.
#[tokio::test(flavor = "multi_thread")]
async fn old_versions_leave_no_memory_behind() {
    let directory = tempfile::tempdir().unwrap();
    let versions = [version(1), version(2)];
    put(directory.path(), "version.wasm", &versions[0]);
    let process = Process::serve(directory.path(), &["--watch-poll", "1s"]).await;
    let mut after = Vec::new();
    for n in 1..=500 {
        put(directory.path(), "version.wasm", &versions[n % 2]);
        serves(process.address, n % 2 + 1).await;
        if n % 100 == 0 {
            after.push(process.memory("VmRSS"));
        }
    }
    // The code of one version is 200 KiB, so 300 leaked ones would be 60 MiB. What the pool and the allocator keep for
    // reuse varies in steps, and is bounded.
    assert!(after[4] < after[1] + (16 << 10), "KiB after every hundred swaps: {after:?}");
}
