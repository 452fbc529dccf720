//! A server as a process.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::testing::program;

/// Starts the server, prints its process id, and ends it when the input ends, so it does not outlive the tests. A line of
/// the input keeps the directory.
const SHELL: &str = r#"directory=$1; shift; cd "$directory"; "$@" >>log 2>&1 & server=$!; echo $server; read -r keep
kill -9 $server; wait $server 2>/dev/null; [ "$keep" = keep ] || rm -rf "$directory""#;

/// How long a server may take to accept connections. Machines are loaded.
const START: Duration = Duration::from_secs(60);

/// The command of a server in a directory on a port.
type Make = Arc<dyn Fn(&Path, u16) -> Vec<String> + Send + Sync>;

/// A server that a test has started.
pub struct TestServer {
    directory: PathBuf,
    port: u16,
    make: Make,
    /// The user that it runs as, if it refuses to run as root.
    user: Option<u32>,
    /// What it writes when it is ready.
    ready: &'static str,
    /// Length of its log when it was started last.
    logged: usize,
    running: Option<Running>,
}

struct Running {
    shell: Child,
    input: ChildStdin,
    pid: Pid,
}

impl TestServer {
    /// Starts a server on a free port, and waits until it accepts connections and has written `ready`. `prepare` is run once in
    /// its directory, before.
    /// With a user it runs as that one if the tests run as root.
    pub fn start(
        user: Option<&str>,
        prepare: &[String],
        ready: &'static str,
        make: impl Fn(&Path, u16) -> Vec<String> + Send + Sync + 'static,
    ) -> TestServer {
        let directory = tempfile::Builder::new().prefix("lodge-server-").tempdir().unwrap().keep();
        let user = user.filter(|_| rustix::process::getuid().is_root()).map(program::user);
        if let Some(user) = user {
            std::os::unix::fs::chown(&directory, Some(user), None).unwrap();
        }
        if !prepare.is_empty() {
            program::run(prepare, &directory, user);
        }
        let mut server = TestServer { directory, port: 0, make: Arc::new(make), user, ready, logged: 0, running: None };
        for _ in 0..5 {
            // Another program may take the port in between; then the server ends, and gets another one.
            server.port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
            server.spawn();
            if server.ready() {
                return server;
            }
        }
        panic!("the server does not start: {}", server.log());
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What it has written.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// Ends it without warning, as a crash does. Its data stays.
    pub fn kill(&mut self) {
        let Some(Running { mut shell, mut input, pid }) = self.running.take() else { return };
        let children = children(pid);
        input.write_all(b"keep\n").unwrap();
        drop(input);
        shell.wait().unwrap();
        signal(&children, Signal::KILL);
    }

    /// Starts it again after [`kill`](Self::kill), on the same port with the same data.
    pub fn restart(&mut self) {
        for _ in 0..20 {
            self.spawn();
            if self.ready() {
                return;
            }
            // PostgreSQL waits until the processes of the last one have ended.
            self.kill();
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("the server does not start again: {}", self.log());
    }

    /// Stops it: it stays reachable, and does nothing.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it continue after [`pause`](Self::pause).
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Connections of this process to it.
    pub fn connections(&self) -> usize {
        let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
        let remote = format!("0100007F:{:04X}", self.port);
        // 01 is ESTABLISHED.
        table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|row| row[2] == remote && row[3] == "01")
            .count()
    }

    fn signal(&self, signal: Signal) {
        let running = self.running.as_ref().expect("it runs");
        kill_process(running.pid, signal).unwrap();
        let all: Vec<_> = std::iter::once(running.pid).chain(children(running.pid)).collect();
        self::signal(&all, signal);
        // A thread that runs on another processor stops a moment later.
        while signal == Signal::STOP && all.iter().any(|pid| states(*pid).any(|state| !matches!(state, 'T' | 'Z'))) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn spawn(&mut self) {
        self.logged = self.log().len();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SHELL, "sh"]).arg(&self.directory).args((self.make)(&self.directory, self.port));
        if let Some(user) = self.user {
            command.uid(user);
        }
        let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (shell.stdin.take().unwrap(), shell.stdout.take().unwrap());
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).unwrap();
        let pid = Pid::from_raw(line.trim().parse().unwrap()).unwrap();
        self.running = Some(Running { shell, input, pid });
    }

    /// Waits until it accepts connections; false if it has ended.
    fn ready(&mut self) -> bool {
        let began = Instant::now();
        let pid = self.running.as_ref().unwrap().pid;
        while began.elapsed() < START {
            if states(pid).all(|state| state == 'Z') {
                self.kill();
                return false;
            }
            let says_so = self.log().get(self.logged..).is_some_and(|log| log.contains(self.ready));
            if says_so && TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

/// The states of all threads of a process.
fn states(pid: Pid) -> impl Iterator<Item = char> {
    let threads = std::fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).into_iter().flatten().flatten();
    threads.filter_map(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).ok()?;
        // The state follows the name, which is in parentheses.
        stat.rsplit(") ").next()?.chars().next()
    })
}

/// Sends a signal to processes, which may have ended.
fn signal(processes: &[Pid], signal: Signal) {
    for process in processes {
        let _ = kill_process(*process, signal);
    }
}

/// The processes that a process has started.
fn children(pid: Pid) -> Vec<Pid> {
    let pid = pid.as_raw_nonzero();
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|child| Pid::from_raw(child.parse().ok()?)).collect()
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(Running { mut shell, input, pid }) = self.running.take() {
            let children = children(pid);
            drop(input);
            let _ = shell.wait();
            signal(&children, Signal::KILL);
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl fmt::Debug for TestServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestServer")
            .field("port", &self.port)
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}
