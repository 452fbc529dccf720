//! The real binary, for promises about a process.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::PATIENCE;

/// Any two ports.
const FREE: [&str; 2] = ["127.0.0.1:0"; 2];

/// `lodge` with these arguments and no variables of the test's environment.
pub(crate) fn lodge(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lodge"));
    command.args(args).stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("LODGE_")) {
        command.env_remove(name);
    }
    // A lodge.toml in the working directory must not be read.
    command.current_dir(std::env::temp_dir());
    command
}

/// Runs a command to its end.
pub(crate) fn output(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("lodge runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.code(), text(stdout), text(stderr))
}

/// A serving process, killed when dropped; a failing test prints its log.
pub(crate) struct Process {
    child: Leashed,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    log: Arc<Mutex<String>>,
    /// Reads the log to its end.
    reader: JoinHandle<()>,
}

/// A child that never outlives its test, since it would hold the pipes of the test runner.
pub(crate) struct Leashed(pub(crate) Child);

impl Drop for Leashed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    /// Serves `directory` on free ports and waits until it is ready.
    pub(crate) async fn serve(directory: &Path, args: &[&str]) -> Self {
        Self::start(directory, super::cache(), FREE, args, &[]).await
    }

    /// The same with this file in place of the system's certificate authorities.
    pub(crate) async fn serve_trusting(directory: &Path, roots: &Path) -> Self {
        let trusted = [("SSL_CERT_FILE", roots), ("SSL_CERT_DIR", Path::new("/nowhere"))];
        Self::start(directory, super::cache(), FREE, &[], &trusted).await
    }

    /// The same under systemd, which listens at this socket and wants a sign of life every 400 ms.
    pub(crate) async fn serve_supervised(directory: &Path, socket: &Path) -> Self {
        let variables = [("NOTIFY_SOCKET", socket), ("WATCHDOG_USEC", Path::new("400000"))];
        Self::start(directory, super::cache(), FREE, &[], &variables).await
    }

    /// The same at the addresses of a process that has ended.
    pub(crate) async fn serve_at(directory: &Path, addresses: [SocketAddr; 2]) -> Self {
        let [address, admin] = addresses.map(|address| address.to_string());
        Self::start(directory, super::cache(), [&address, &admin], &[], &[]).await
    }

    /// The same with a compile cache of its own.
    pub(crate) async fn serve_with_cache(directory: &Path, cache: &str) -> Self {
        Self::start(directory, cache, FREE, &[], &[]).await
    }

    /// The same, and looks at tags in registries every second.
    pub(crate) async fn serve_pulling(directory: &Path, cache: &str) -> Self {
        Self::start(directory, cache, FREE, &["--pull-interval", "1s"], &[]).await
    }

    /// The same without a cache of its own, and with the machine code in this directory.
    pub(crate) async fn serve_sealed(directory: &Path, sealed: &str) -> Self {
        Self::start(directory, "off", FREE, &["--cache-sealed", sealed], &[]).await
    }

    async fn start(
        directory: &Path,
        cache: &str,
        [listen, admin]: [&str; 2],
        args: &[&str],
        variables: &[(&str, &Path)],
    ) -> Self {
        let directory = directory.display().to_string();
        let mut all = vec!["serve", &directory, "--listen", listen, "--admin", admin];
        all.extend(["--engine-instances", "300", "--cache-directory", cache]);
        all.extend(args);
        let mut command = lodge(&all);
        command.envs(variables.iter().copied());
        Self::of(command).await
    }

    /// The same of a command that serves a directory.
    pub(crate) async fn of(mut command: Command) -> Self {
        let mut child = Leashed(command.stderr(Stdio::piped()).spawn().expect("lodge starts"));
        let mut stderr = BufReader::new(child.0.stderr.take().expect("piped"));
        // With TLS, there are lines about certificates and its own address between these two.
        let (mut begin, mut addresses) = (String::new(), Vec::new());
        while addresses.len() < 2 {
            let mut line = String::new();
            assert!(stderr.read_line(&mut line).expect("a line") > 0, "it ended: {begin}");
            addresses.extend(line.contains("http://").then(|| address_in(&line)));
            begin.push_str(&line);
        }
        let (address, admin) = (addresses[0], addresses[1]);
        let log = Arc::new(Mutex::new(begin));
        let reader = std::thread::spawn({
            let log = Arc::clone(&log);
            move || {
                let mut line = Vec::new();
                // Whole lines, so that what a test finds of a line is not half of it.
                while let Ok(1..) = stderr.read_until(b'\n', &mut line) {
                    log.lock().expect("the log").push_str(&String::from_utf8_lossy(&line));
                    line.clear();
                }
            }
        });
        let process = Self { child, address, admin, log, reader };
        let start = Instant::now();
        while super::get(process.admin, "/readyz").await.status != 200 {
            assert!(start.elapsed() < PATIENCE, "not ready: {}", process.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        process
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.0.id()
    }

    /// The log so far. What a host says of a change may come after the change is seen elsewhere, so tests wait for it; the log of a
    /// process that has [`ended`](Self::ended) is complete.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("the log").clone()
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child.0);
        rustix::process::kill_process(pid, signal).expect("the process is there");
    }

    /// Waits until it ends, and its log with it.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.0.try_wait().expect("a child")
                && self.reader.is_finished()
            {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "it does not end: {}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A line of /proc/PID/status in KiB, such as `VmHWM`.
    pub(crate) fn memory(&self, line: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.0.id())).expect("a process");
        let found = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
        found.and_then(|text| text.split_whitespace().next()?.parse().ok()).expect("the line")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of lodge:\n{}", self.log());
        }
    }
}

fn address_in(line: &str) -> SocketAddr {
    let address = line.split("http://").nth(1).and_then(|rest| rest.split(|c: char| "/\"\n".contains(c)).next());
    address.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("no address in {line:?}"))
}
