//! Promise: a request that a manifest denies before and after an edit is denied at every moment of the edit, however
//! the file is saved; a name in the directory that is not a regular file delays nothing.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use lodge::guests::scan::SETTLE;
use tokio::task::JoinHandle;

use crate::harness::{Connection, Process, TestHost, get, host, metric, until, wasm, within};

/// Clients of a service that denies all of them.
struct Denied {
    stop: Arc<AtomicBool>,
    /// Responses other than a denial.
    others: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<usize>>,
}

impl Denied {
    fn on(host: &TestHost, path: &'static str, status: u16) -> Self {
        let (stop, others) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let clients = (0..2).map(|_| {
            let (stop, others, address) = (Arc::clone(&stop), Arc::clone(&others), host.address);
            tokio::spawn(async move {
                let mut client = Connection::http1(address).await;
                let mut requests = 0;
                while !stop.load(Relaxed) {
                    let response = within(client.get(path)).await;
                    others.fetch_add(usize::from(response.status != status), Relaxed);
                    requests += 1;
                }
                requests
            })
        });
        let clients = clients.collect();
        Self { stop, others, clients }
    }

    /// The number of admitted requests since the last call.
    fn others(&self) -> usize {
        self.others.swap(0, Relaxed)
    }

    async fn end(self) {
        self.stop.store(true, Relaxed);
        for client in self.clients {
            assert!(within(client).await.expect("a client") > 10);
        }
    }
}

/// One step of an edit of the manifest at this path.
type Step<'a> = &'a dyn Fn(&Path);

/// Saves a manifest in steps, each within this time of the one before. Returns false if the machine took longer between
/// two of them, which makes it two edits.
async fn save(path: &Path, steps: &[Step<'_>], gap: Duration) -> bool {
    let mut last = Instant::now();
    let mut longest = Duration::ZERO;
    for step in steps {
        step(path);
        longest = longest.max(last.elapsed());
        last = Instant::now();
        tokio::time::sleep(gap).await;
    }
    longest < SETTLE * 4 / 5
}

fn append(path: &Path, text: &str) {
    File::options().append(true).create(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_holds_during_every_edit() {
    let gaps: [&[u64]; 2] = [&[5, 120], &[40]];
    for (deny, status, gaps) in
        [("deny = ['127.0.0.0/8']", 403, gaps[0]), ("enabled = false", 503, gaps[1]), ("routes = []", 404, gaps[1])]
    {
        let host = host(&["hello"]).manifest("hello", deny).start().await;
        let path = host.directory().join("hello.toml");
        let denied = Denied::on(&host, "/hello", status);
        let (unlink, component) = (|path: &Path| fs::remove_file(path).unwrap(), wasm("hello"));
        let first = |path: &Path| append(path, "priority = 'low'\n");
        let second = |path: &Path| append(path, &format!("{deny}\n"));
        let empty = |path: &Path| drop(File::create(path).unwrap());
        let backup = |path: &Path| fs::rename(path, path.with_extension("toml~")).unwrap();
        let without = |path: &Path| fs::remove_file(path.with_extension("wasm")).unwrap();
        let with = |path: &Path| assert!(fs::copy(&component, path.with_extension("wasm")).is_ok());
        let edits: [&[Step<'_>]; 5] = [
            &[&unlink, &first, &second],
            &[&empty, &first, &second],
            &[&backup, &first, &second],
            &[&without, &unlink, &with, &first, &second],
            &[&unlink, &empty, &unlink, &first, &second],
        ];
        for (n, edit) in edits.into_iter().enumerate() {
            // Of a service that is not served nothing is known while all of its files are gone.
            if deny.starts_with("enabled") && n == 3 {
                continue;
            }
            let mut tries = 0;
            for gap in gaps {
                while !save(&path, edit, Duration::from_millis(*gap)).await {
                    denied.others();
                    tries += 1;
                    assert!(tries < 20, "the machine is too busy for this test");
                }
                // The edit takes effect as a whole. A disabled service shows nothing of it.
                append(&path, &format!("\n[env]\nN = '{n}-{gap}'\n"));
                let off = deny.starts_with("enabled");
                let served = || {
                    host.current.snapshot().targets.iter().any(|target| {
                        target
                            .backend
                            .deployment
                            .spec
                            .manifest
                            .env
                            .values()
                            .any(|value| value.text() == Some(&format!("{n}-{gap}")))
                    })
                };
                until("the edit is in force", || off || served()).await;
                assert_eq!(denied.others(), 0, "{deny}, edit {n}, {gap} ms between its steps");
            }
        }
        denied.end().await;
        assert_eq!(host.refusals(), Vec::<String>::new());
    }
}

/// A manifest that was renamed into place was complete before, so it takes effect much sooner than a written one.
#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_manifest_takes_effect_soon() {
    let host = host(&["hello"]).manifest("hello", "env.N = '0'").set("watch.poll", "1h").start().await;
    let mut times = Vec::new();
    for n in 1..=9 {
        let beside = host.directory().join(".hello.toml.new");
        fs::write(&beside, format!("env.N = '{n}'")).unwrap();
        let start = Instant::now();
        fs::rename(&beside, host.directory().join("hello.toml")).unwrap();
        until("it is in force", || {
            let snapshot = host.current.snapshot();
            let value = n.to_string();
            let is_new = |spec: &lodge_manifest::spec::GuestSpec| spec.manifest.env["N"].text() == Some(&value);
            snapshot.targets.iter().any(|target| is_new(&target.deployment().spec))
        })
        .await;
        times.push(start.elapsed());
    }
    times.sort();
    eprintln!("in force after {times:?}");
    // A written one takes at least this long. A busy machine makes each slower, so the fastest counts.
    assert!(times[0] < SETTLE, "{times:?}");
}

/// A FIFO, a link to a device, a socket: each is refused, and neither reloads nor the end are delayed.
#[tokio::test(flavor = "multi_thread")]
async fn special_files_delay_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::copy(wasm("hello"), at("hello.wasm")).unwrap();
    let mut process = Process::serve(directory.path(), &["--watch-poll", "200ms"]).await;
    for name in ["a.toml", "b.wasm", "hello@2.toml"] {
        assert!(std::process::Command::new("mkfifo").arg(at(name)).status().unwrap().success());
    }
    std::os::unix::fs::symlink("/dev/zero", at("c.toml")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", at("d.wasm")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("e.toml")).unwrap();
    for name in ["a.toml", "b.wasm", "hello@2.toml", "c.toml", "d.wasm", "e.toml"] {
        let line = format!("refused {name}: it is not a regular file");
        until(&line, || process.log().contains(&line)).await;
    }
    fs::copy(wasm("users"), at("users.wasm")).unwrap();
    until("a new service is served", || process.log().contains("users at /users")).await;
    assert_eq!(get(process.address, "/users/1").await.status, 200);
    process.signal(rustix::process::Signal::TERM);
    assert!(process.ended().await.success());
}

/// Files with an almost valid name are logged once; other files are ignored.
#[tokio::test(flavor = "multi_thread")]
async fn ignored_names() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::copy(wasm("hello"), at("hello.wasm")).unwrap();
    fs::copy(wasm("hello"), at("Orders.WASM")).unwrap();
    fs::write(at("._hello.wasm"), "x").unwrap();
    std::os::unix::fs::symlink("me@host:1", at(".#hello.toml")).unwrap();
    let path = directory.path().display().to_string();
    let (code, _, stderr) = crate::harness::output(&mut crate::harness::lodge(&["check", &path]));
    assert!(code == Some(0) && stderr.contains("ignored Orders.WASM"), "{stderr}");
    let process = Process::serve(directory.path(), &["--watch-poll", "50ms"]).await;
    let log = || process.log();
    until("it is logged", || log().contains("ignored Orders.WASM: its extension must be in lower case")).await;
    // A later scan does not log it again.
    fs::copy(wasm("users"), at("users.wasm")).unwrap();
    until("users is served", || log().contains("users at /users")).await;
    assert_eq!(log().matches("Orders.WASM").count(), 1, "{}", log());
    assert!(!log().contains("ERROR"), "{}", log());
    assert_eq!(metric(process.admin, "lodge_refused_files").await, 0.0);
}

/// A change that is refused when it is published was not logged as done before.
#[tokio::test(flavor = "multi_thread")]
async fn refused_changes_are_not_logged() {
    let directory = tempfile::tempdir().unwrap();
    fs::copy(wasm("hello"), directory.path().join("hello.wasm")).unwrap();
    let process = Process::serve(directory.path(), &[]).await;
    let beside = directory.path().join(".new");
    fs::write(&beside, "routes = ['/hello']").unwrap();
    fs::rename(&beside, directory.path().join("zzz.toml")).unwrap();
    fs::copy(wasm("users"), directory.path().join("zzz.wasm")).unwrap();
    until("it is refused", || process.log().contains("refused zzz.wasm: its route /hello already belongs")).await;
    assert!(!process.log().contains("zzz at"), "{}", process.log());
}
