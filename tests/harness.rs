//! Guests, hosts and clients for the tests. Tests wait for events, with a bound, and never only for time.

pub(crate) mod authority;
mod browser;
mod client;
pub(crate) mod far;
pub(crate) mod kubernetes;
mod metrics;
mod narrow;
pub(crate) mod pebble;
mod port;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
mod process;
mod replica;
mod worker;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use lodge::guests::snapshot::Current;
use lodge::host::{Ended, Host};
use lodge_base::config::{self, Origin, Program, Tiers};
use tokio::sync::{RwLock, oneshot};
use tokio::task::JoinHandle;

pub(crate) use browser::Browser;
pub(crate) use client::{AnyBody, Connection, Response, fed, get, raw};
pub(crate) use metrics::{metric, scrape, series, sum, until_metric};
pub(crate) use narrow::{Narrow, unread};
pub(crate) use port::free_port;
pub(crate) use process::{Leashed, Process, lodge, output};
pub(crate) use replica::{Habit, Replica};
pub(crate) use worker::Worker;

/// The longest wait of a test, on any machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// The project's root.
pub(crate) fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The directory of built guests. Builds all of them at the first call.
pub(crate) fn guests() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let mut build = Command::new(env!("CARGO"));
        build.current_dir(root()).args(["build", "--target", "wasm32-wasip2", "--profile", "guest"]);
        for name in guest_names() {
            build.args(["-p", &name]);
        }
        eprintln!("building the guests (once; about a minute on a new machine)");
        assert!(build.status().expect("cargo runs").success(), "the guests do not build; see above");
        // .../target/debug/lodge → .../target
        let target = Path::new(env!("CARGO_BIN_EXE_lodge")).ancestors().nth(2).expect("target/profile/lodge");
        target.join("wasm32-wasip2/guest")
    })
}

/// A compile cache that all tests share.
pub(crate) fn cache() -> &'static str {
    concat!(env!("CARGO_TARGET_TMPDIR"), "/cache")
}

/// What guests have in common: libraries, not components.
const KITS: [&str; 2] = ["kit", "kit3"];

/// The names of all guest crates.
pub(crate) fn guest_names() -> Vec<String> {
    let mut names = Vec::new();
    for directory in ["guests", "tests/guests"] {
        for entry in std::fs::read_dir(root().join(directory)).expect("a directory of guests") {
            let path = entry.expect("an entry").path();
            if path.join("Cargo.toml").is_file() {
                names.push(path.file_name().expect("a name").to_string_lossy().into_owned());
            }
        }
    }
    names.retain(|name| !KITS.contains(&name.as_str()));
    names.sort();
    names
}

/// The component of a guest.
pub(crate) fn wasm(name: &str) -> PathBuf {
    guests().join(format!("{name}.wasm"))
}

/// Tests that measure time run alone; the others run concurrently.
static MACHINE: RwLock<()> = RwLock::const_new(());

/// A directory of guests and a configuration for a host.
pub(crate) struct Setup {
    pub(crate) directory: tempfile::TempDir,
    settings: BTreeMap<String, String>,
    program: Program,
    alone: bool,
}

/// A running host, stopped when dropped.
pub(crate) struct TestHost {
    pub(crate) address: std::net::SocketAddr,
    pub(crate) admin: std::net::SocketAddr,
    /// The address for HTTPS, or that of the services if `tls.listen` is not set.
    pub(crate) https: std::net::SocketAddr,
    pub(crate) current: Current,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<Ended>,
    directory: tempfile::TempDir,
    _machine: Machine,
}

enum Machine {
    Shared(#[expect(dead_code, reason = "held")] tokio::sync::RwLockReadGuard<'static, ()>),
    Alone(#[expect(dead_code, reason = "held")] tokio::sync::RwLockWriteGuard<'static, ()>),
}

/// A host with these guests.
pub(crate) fn host(names: &[&str]) -> Setup {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for name in names {
        let file = format!("{name}.wasm");
        std::fs::copy(wasm(name), directory.path().join(&file)).expect("the guest is built");
    }
    let settings = [
        ("listen", "127.0.0.1:0"),
        ("admin", "127.0.0.1:0"),
        // Each slot reserves address space, and tests start many hosts.
        ("engine.instances", "100"),
        ("engine.warm", "10"),
        // Tests send many credentials that are not valid.
        ("auth_failures", "0"),
        // Cranelift is slow without optimisation.
        ("cache.directory", cache()),
    ];
    let settings = settings.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect();
    let program = Program { compiler: Some(env!("CARGO_BIN_EXE_lodge").into()), ..Program::default() };
    Setup { directory, settings, program, alone: false }
}

impl Setup {
    /// Sets one key of the configuration.
    pub(crate) fn set(mut self, name: &str, text: &str) -> Self {
        self.settings.insert(name.into(), text.into());
        self
    }

    /// Compiles with this program.
    pub(crate) fn tiers(mut self, tiers: Tiers) -> Self {
        self.program.tiers = tiers;
        self
    }

    /// Compiles in a child process of this program, or in the host's own process.
    pub(crate) fn compiler(mut self, program: Option<&Path>) -> Self {
        self.program.compiler = program.map(Path::to_owned);
        self
    }

    /// Shows clients why a file is refused, as `lodge dev` does.
    pub(crate) fn explaining(mut self) -> Self {
        self.program.explains = true;
        self
    }

    /// Writes a manifest.
    pub(crate) fn manifest(self, name: &str, text: &str) -> Self {
        self.file(&format!("{name}.toml"), text.as_bytes())
    }

    /// Writes any file into the directory. It is as old as one that was renamed into place, so a host that starts does not wait until it
    /// is complete.
    pub(crate) fn file(self, name: &str, bytes: &[u8]) -> Self {
        let path = self.directory.path().join(name);
        std::fs::write(&path, bytes).expect("the directory is writable");
        let written = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(written).unwrap();
        self
    }

    /// Adds a guest under another name.
    pub(crate) fn named(self, guest: &str, name: &str) -> Self {
        let bytes = std::fs::read(wasm(guest)).expect("the guest is built");
        self.file(&format!("{name}.wasm"), &bytes)
    }

    /// Runs alone, for a test that measures time.
    pub(crate) fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// Starts the host and waits until every file was loaded or refused.
    pub(crate) async fn start(self) -> TestHost {
        let host = self.begin().await;
        until("every guest is loaded or refused", || host.current.snapshot().complete).await;
        host
    }

    /// Starts the host without waiting for its files.
    pub(crate) async fn begin(mut self) -> TestHost {
        let machine =
            if self.alone { Machine::Alone(MACHINE.write().await) } else { Machine::Shared(MACHINE.read().await) };
        self.settings.insert("guests".into(), self.directory.path().display().to_string());
        let mut config = config::resolve(&[(Origin::Flag, self.settings)]).expect("a sound configuration").config;
        config.program = self.program;
        let host =
            Host::bind(config.clone(), lodge_base::telemetry::logs::Logs::detached(&config)).await.expect("a host");
        let (address, admin) = (host.address().expect("bound"), host.admin_address().expect("bound"));
        let https = host.https_address().unwrap_or(address);
        let current = host.current();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(host.run(async move {
            let _ = stopped.await;
        }));
        TestHost {
            address,
            admin,
            https,
            current,
            stop: Some(stop),
            running,
            directory: self.directory,
            _machine: machine,
        }
    }
}

impl TestHost {
    /// Sends a GET for a path.
    pub(crate) async fn get(&self, path: &str) -> Response {
        get(self.address, path).await
    }

    /// Opens a connection.
    pub(crate) async fn connect(&self) -> Connection {
        Connection::http1(self.address).await
    }

    /// The directory of the host.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The refusals, one line each.
    pub(crate) fn refusals(&self) -> Vec<String> {
        self.current.snapshot().refusals.iter().map(ToString::to_string).collect()
    }

    /// Replaces a manifest, and waits until it is in force.
    pub(crate) async fn edit(&self, name: &str, manifest: &str) {
        let read = || self.spec(name).map(|spec| spec.manifest);
        let before = read();
        self.place(&format!("{name}.toml"), manifest.as_bytes());
        until("the manifest is served", || read() != before).await;
        assert_eq!(self.refusals(), Vec::<String>::new());
    }

    /// Replaces or adds a component, and waits until it is served.
    pub(crate) async fn replace(&self, name: &str, component: &[u8]) {
        let digest = lodge_manifest::digest::Digest::of(component);
        self.place(&format!("{name}.wasm"), component);
        until("the component is served", || self.spec(name).is_some_and(|spec| spec.digest == digest)).await;
    }

    /// What is served under this name. A new generation of the snapshot says nothing of it: optimised code is one, too.
    fn spec(&self, name: &str) -> Option<lodge_manifest::spec::GuestSpec> {
        self.current.snapshot().target(name).map(|target| target.deployment().spec.clone())
    }

    /// Renames a file into place: while one is written, the host may publish a snapshot with that of before.
    fn place(&self, file: &str, content: &[u8]) {
        let partial = self.directory().join(".new");
        std::fs::write(&partial, content).unwrap();
        std::fs::rename(partial, self.directory().join(file)).unwrap();
    }

    /// Tells the host to stop.
    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
    }

    /// How it ended after a stop.
    pub(crate) async fn ended(mut self) -> Ended {
        self.stop();
        self.end().await
    }

    /// How it ended, although the test did not stop it.
    pub(crate) async fn end(mut self) -> Ended {
        let running = std::mem::replace(&mut self.running, tokio::spawn(async { Ended::Drained }));
        within(running).await.expect("the host does not panic")
    }
}

impl Drop for TestHost {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// Waits until `condition` is true, at most for [`PATIENCE`].
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    eventually(what, async || condition()).await;
}

/// Waits until `condition`, which may send requests, is true, at most for [`PATIENCE`].
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < PATIENCE, "timed out waiting until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Awaits `future`, at most for [`PATIENCE`].
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("an end within the patience of the tests")
}

/// A client that sends requests to a service all the time; every response must be right.
pub(crate) struct Neighbour {
    stop: Arc<std::sync::atomic::AtomicBool>,
    asking: JoinHandle<usize>,
}

impl Neighbour {
    /// Sends requests for hello to `address`.
    pub(crate) fn of(host: &TestHost) -> Self {
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (address, stopped) = (host.address, Arc::clone(&stop));
        let asking = tokio::spawn(async move {
            let mut responses = 0;
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                let response = get(address, "/hello").await;
                assert_eq!(
                    (response.status, response.text()),
                    (200, "Hello, World!".into()),
                    "another service was affected"
                );
                responses += 1;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            responses
        });
        Self { stop, asking }
    }

    /// The number of responses.
    pub(crate) async fn responses(self) -> usize {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        within(self.asking).await.expect("every response was right")
    }
}
