//! The processes of the cluster: its hosts, and the server of their state.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::front::Place;
use crate::load::Target;
use crate::servers::{free, on_path};
use crate::{Bench, progress};

/// The longest time for anything to happen.
const PATIENCE: Duration = Duration::from_secs(300);

/// Times of the cluster. A record lasts for less than the server is stopped, and a host that stops is known to for longer than others
/// take to notice.
const SETTINGS: [&str; 8] =
    ["--cluster-interval", "2s", "--cluster-ttl", "6s", "--cluster-calls", "any", "--stop-delay", "5s"];

/// Services that two hosts have. The host with the same number has all but this one.
const OF_TWO: [&str; 3] = ["two", "three", "one"];

/// A process, which is killed when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn start(mut command: Command, log: &Path) -> Self {
        let log = File::options().create(true).append(true).open(log).expect("a writable scratch directory");
        command.env_remove("RUST_BACKTRACE").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.0.id().cast_signed()).expect("a process");
        kill_process(id, signal).expect("it runs");
    }
}

/// A Redis that keeps nothing when it ends.
pub(super) struct StateServer {
    running: Option<Running>,
    program: PathBuf,
    address: SocketAddr,
    directory: PathBuf,
}

impl StateServer {
    /// Starts one, if it is installed.
    pub(super) fn start(bench: &Bench) -> Option<Self> {
        let program = on_path("redis-server")?;
        let mut server = Self { running: None, program, address: free(), directory: bench.directory("redis", &[]) };
        server.begin();
        Some(server)
    }

    fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    pub(super) fn begin(&mut self) {
        let mut command = Command::new(&self.program);
        let (ip, port) = (self.address.ip().to_string(), self.address.port().to_string());
        command.args(["--bind", &ip, "--port", &port, "--save", "", "--appendonly", "no"]).current_dir(&self.directory);
        self.running = Some(Running::start(command, &self.directory.join("log")));
    }

    pub(super) fn kill(&mut self) {
        self.running = None;
    }

    pub(super) fn suspend(&self, suspend: bool) {
        let running = self.running.as_ref().expect("it runs");
        running.signal(if suspend { Signal::STOP } else { Signal::CONT });
    }
}

/// A host, which can be started again at its address.
pub(super) struct ClusterHost {
    running: Option<Running>,
    name: &'static str,
    pub(super) place: Place,
    directory: PathBuf,
    cache: PathBuf,
    server: String,
    pub(super) log: PathBuf,
}

impl ClusterHost {
    /// Starts the host with this number.
    pub(super) fn start(bench: &Bench, number: usize, server: &StateServer) -> Self {
        let read = |name: &str| std::fs::read(bench.wasm(name)).expect("a built guest");
        let (hello, echo, caller) = (read("hello"), read("echo"), read("caller"));
        let mut files = vec![
            ("hello.wasm".to_owned(), &*hello),
            // No request waits for the server because of it.
            ("hello.toml".to_owned(), &b"rate = { limit = '20000/s', by = 'service', scope = 'cluster' }"[..]),
            ("caller.wasm".to_owned(), &*caller),
            ("caller.toml".to_owned(), b"calls = ['one', 'two', 'three']"),
        ];
        let own = OF_TWO.iter().enumerate().filter(|(at, _)| *at != number);
        files.extend(own.map(|(_, name)| (format!("{name}.wasm"), &*echo)));
        files.push(match number {
            2 => ("four.toml".to_owned(), b"[upstream]\nreplicas = ['cluster://four']"),
            _ => ("four.wasm".to_owned(), &*echo),
        });
        let files: Vec<_> = files.iter().map(|(name, bytes)| (&**name, *bytes)).collect();
        let name = ["a", "b", "c"][number];
        let directory = bench.directory(&format!("cluster-{name}"), &files);
        let log = bench.scratch.path().join(format!("{name}.log"));
        let place = Place { services: free(), admin: free() };
        let (cache, server) = (bench.cache(), server.url());
        let mut host = Self { running: None, name, place, directory, cache, server, log };
        host.begin();
        host
    }

    pub(super) fn begin(&mut self) {
        let Place { services, admin } = self.place;
        let mut command = Command::new(env!("CARGO_BIN_EXE_lodge"));
        command.arg("serve").arg(&self.directory).arg("--cache-directory").arg(&self.cache);
        command.args(["--listen", &services.to_string(), "--admin", &admin.to_string(), "--log-level", "info"]);
        command.args(["--state-url", &self.server, "--cluster-name", "shop", "--cluster-host", self.name]);
        command.args(["--cluster-advertise", &format!("http://{services}")]).args(SETTINGS);
        self.running = Some(Running::start(command, &self.log));
    }

    pub(super) fn kill(&mut self) {
        self.running = None;
    }

    /// Lets the host stop by itself, as an upgrade does.
    pub(super) fn stop(&mut self) {
        let mut running = self.running.take().expect("it runs");
        running.signal(Signal::TERM);
        let status = running.0.wait().expect("it ends");
        assert!(status.success(), "{}: {status}", self.name);
    }

    /// Waits until the host is ready, and no longer.
    pub(super) fn until_ready(&mut self) {
        let ready = Target::new(self.place.admin, "/readyz");
        let (start, name) = (Instant::now(), self.name);
        while !matches!(ready.once(), Ok(200)) {
            let ended = self.running.as_mut().expect("it was started").0.try_wait();
            assert!(matches!(ended, Ok(None)) && start.elapsed() < PATIENCE, "{name} is not ready: {ended:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        progress(format_args!("{name} is ready after {:.2} s", start.elapsed().as_secs_f64()));
    }

    /// Waits until the host is in the cluster, and knows all hosts and a leader.
    pub(super) fn until_joined(&self, hosts: usize) {
        let start = Instant::now();
        loop {
            let status = get(self.place.admin, "/v1/cluster").ok().and_then(|text| {
                let status: serde_json::Value = serde_json::from_str(&text).ok()?;
                let members = status["members"].as_array()?.len();
                Some((status["state"].as_str()? == "member" && status["leader"].is_string(), members))
            });
            if status == Some((true, hosts)) {
                return progress(format_args!("{} has joined after {:.1} s", self.name, start.elapsed().as_secs_f64()));
            }
            assert!(start.elapsed() < PATIENCE, "{} does not join: {status:?}", self.name);
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Returns the body of a response.
fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}
