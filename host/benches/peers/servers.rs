//! The servers under measurement. They are started on loopback, and ended when dropped.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::load::{Target, closed};

/// The maximum time until the first response. A thousand services compile for more than a minute.
const PATIENCE: Duration = Duration::from_secs(600);

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    child: Child,
}

/// Returns an address that nothing listens on.
pub(crate) fn free() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("bound")
}

/// Restricts this thread, and the threads and processes that it starts, to one core.
pub(crate) fn bind(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).expect("one of our own cores");
}

/// Returns a core for the server and one for the load, if there are two.
pub(crate) fn cores() -> (Option<usize>, Option<usize>) {
    let ours = sched_getaffinity(None).expect("our own cores");
    let mut ours = (0..CpuSet::MAX_CPU).filter(|core| ours.is_set(*core));
    match (ours.next(), ours.next()) {
        (Some(first), Some(second)) => (Some(first), Some(second)),
        _ => (None, None),
    }
}

impl Server {
    /// Starts a server, on one core if given, and waits until `path` responds with 200.
    pub(crate) fn start(mut command: Command, target: &Target, core: Option<usize>) -> Result<Self, String> {
        // A host that builds an error for each request would capture a backtrace for each.
        command.env_remove("RUST_BACKTRACE").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let spawned = std::thread::scope(|scope| {
            let spawn = || {
                core.into_iter().for_each(bind);
                command.spawn()
            };
            scope.spawn(spawn).join().expect("it only spawns")
        });
        let child = spawned.map_err(|error| format!("{command:?}: {error}"))?;
        let mut server = Self { address: target.address, child };
        let start = Instant::now();
        while !matches!(target.once(), Ok(200)) {
            if let Ok(Some(status)) = server.child.try_wait() {
                return Err(format!("{command:?} ended: {status}"));
            }
            if start.elapsed() > PATIENCE {
                return Err(format!("{command:?} does not answer {target:?}: {:?}", target.once()));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(server)
    }

    /// The same server at another path.
    pub(crate) fn at(&self, path: &str) -> Target {
        Target::new(self.address, path)
    }

    /// Restricts all of its threads to one core.
    pub(crate) fn bind(&self, core: usize) {
        let mut cores = CpuSet::new();
        cores.set(core);
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs");
        for task in tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok()) {
            // The thread may have ended since.
            let _ = sched_setaffinity(rustix::process::Pid::from_raw(task), &cores);
        }
    }

    /// Returns the CPU time of all threads so far, user and system, with a resolution of a clock tick (10 ms).
    pub(crate) fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it runs");
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second()).unwrap()
    }

    /// Sends requests at full rate, and returns the CPU time and the number of responses after a warm-up.
    pub(crate) fn spent(
        &self,
        target: &Target,
        core: Option<usize>,
        time: Duration,
    ) -> Result<(Duration, u64), String> {
        closed(target, core, time / 4)?;
        let before = self.cpu();
        let answered = closed(target, core, time)?;
        Ok((self.cpu() - before, answered))
    }

    /// Returns the bytes of memory in use.
    pub(crate) fn rss(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Finds a program on PATH.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file())
}

/// Finds a program on PATH, or where systems install daemons.
pub(crate) fn daemon(name: &str) -> Option<PathBuf> {
    on_path(name).or_else(|| Some(Path::new("/usr/sbin").join(name)).filter(|file| file.is_file()))
}

/// Returns the command that runs this program as one of its built-in servers.
pub(crate) fn itself(mode: &str, address: SocketAddr, more: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--serve", mode, &address.to_string()]).args(more);
    command
}

/// Returns the command of `lodge serve` for a directory.
pub(crate) fn lodge(directory: &Path, cache: &Path, address: SocketAddr) -> Command {
    let mut command = lodge_without_admin(directory, cache, address);
    command.args(["--admin", "off"]);
    command
}

/// Returns the command of Lodge without its admin address.
pub(crate) fn lodge_without_admin(directory: &Path, cache: &Path, address: SocketAddr) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lodge"));
    command.arg("serve").arg(directory).args(["--log-level", "error", "--cache-size", "16GiB"]);
    command.arg("--cache-directory").arg(cache).args(["--listen", &address.to_string()]);
    command
}

/// Returns the command of `wasmtime serve` for a component.
pub(crate) fn wasmtime(program: &Path, wasm: &Path, address: SocketAddr, options: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(["serve", "--addr", &address.to_string(), "-Scli"]).args(options).arg(wasm);
    command
}

/// Returns the command of nginx with a static response and one process.
pub(crate) fn nginx(program: &Path, scratch: &Path, address: SocketAddr) -> Command {
    let text = format!(
        "daemon off; master_process off; worker_processes 1; pid {0}/nginx.pid; error_log {0}/nginx.log;\n\
         events {{}}\n\
         http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {0}; proxy_temp_path {0};\n\
         fastcgi_temp_path {0}; uwsgi_temp_path {0}; scgi_temp_path {0};\n\
         server {{ listen {address}; location / {{ return 200 'Hello, World!'; }} }} }}\n",
        scratch.display()
    );
    let file = scratch.join("nginx.conf");
    std::fs::write(&file, text).expect("a writable scratch directory");
    let mut command = Command::new(program);
    command.arg("-c").arg(file).arg("-e").arg(scratch.join("nginx.log"));
    command
}

/// Returns the command of nginx with the files of the front part, by HTTP and by HTTPS, with one process.
pub(crate) fn nginx_front(program: &Path, scratch: &Path, address: SocketAddr, tls: SocketAddr) -> Command {
    let text = format!(
        "daemon off; master_process off; worker_processes 1; pid {0}/front.pid; error_log {0}/front.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {0}; proxy_temp_path {0};\n\
         fastcgi_temp_path {0}; uwsgi_temp_path {0}; scgi_temp_path {0}; sendfile on; tcp_nopush on;\n\
         types {{ application/json json; }} gzip on; gzip_types application/json; gzip_comp_level 5;\n\
         ssl_certificate {0}/front/certificates/tls.crt; ssl_certificate_key {0}/front/certificates/tls.key;\n\
         ssl_protocols TLSv1.3; ssl_session_cache shared:tls:4m; ssl_session_tickets on;\n\
         server {{ listen {address}; listen {tls} ssl; root {0}/front; }} }}\n",
        scratch.display()
    );
    let file = scratch.join("front.conf");
    std::fs::write(&file, text).expect("a writable scratch directory");
    let mut command = Command::new(program);
    command.arg("-c").arg(file).arg("-e").arg(scratch.join("front.log"));
    command
}

/// Returns the command of nginx as a proxy of these replicas, with one process and connections that stay open.
pub(crate) fn nginx_before(program: &Path, scratch: &Path, address: SocketAddr, replicas: &[SocketAddr]) -> Command {
    let servers: String = replicas.iter().map(|replica| format!("server {replica}; ")).collect();
    let text = format!(
        "daemon off; master_process off; worker_processes 1; pid {0}/proxy.pid; error_log {0}/proxy.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {0}; proxy_temp_path {0};\n\
         fastcgi_temp_path {0}; uwsgi_temp_path {0}; scgi_temp_path {0};\n\
         upstream replicas {{ {servers} keepalive 256; keepalive_requests 1000000000; }}\n\
         server {{ listen {address}; location / {{ proxy_pass http://replicas; proxy_http_version 1.1;\n\
         proxy_set_header Connection ''; proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;\n\
         proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Request-Id $request_id; }} }} }}\n",
        scratch.display()
    );
    let file = scratch.join("proxy.conf");
    std::fs::write(&file, text).expect("a writable scratch directory");
    let mut command = Command::new(program);
    command.arg("-c").arg(file).arg("-e").arg(scratch.join("proxy.log"));
    command
}

/// Returns the command of HAProxy as a proxy of these replicas, with one thread and connections that stay open.
pub(crate) fn haproxy_before(program: &Path, scratch: &Path, address: SocketAddr, replicas: &[SocketAddr]) -> Command {
    let servers = replicas.iter().enumerate().map(|(n, replica)| format!("  server r{n} {replica}\n"));
    let text = format!(
        "global\n  nbthread 1\n  maxconn 4096\n\
         defaults\n  mode http\n  timeout connect 1s\n  timeout client 60s\n  timeout server 30s\n  option forwardfor\n  \
         http-reuse always\nfrontend all\n  bind {address}\n  unique-id-format %[uuid]\n  unique-id-header x-request-id\n  \
         default_backend replicas\nbackend replicas\n  balance leastconn\n{}",
        servers.collect::<String>()
    );
    let file = scratch.join("haproxy.cfg");
    std::fs::write(&file, text).expect("a writable scratch directory");
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(file);
    command
}

/// Builds a Go `net/http` handler, and returns its command.
pub(crate) fn go(program: &Path, scratch: &Path, address: SocketAddr) -> Result<Command, String> {
    let built = scratch.join("handler");
    let mut build = Command::new(program);
    build.args(["build", "-o"]).arg(&built).arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/handler.go"));
    build.env("GOCACHE", scratch.join("go")).env("GO111MODULE", "off");
    match build.status() {
        Ok(status) if status.success() => {}
        failed => return Err(format!("go build: {failed:?}")),
    }
    let mut command = Command::new(built);
    command.arg(address.to_string());
    Ok(command)
}
