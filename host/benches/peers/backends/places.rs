//! The servers that state is kept in, if this build can use them and the machine has them.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::super::Bench;
use super::super::servers::free;

/// Where state is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeptAt {
    File,
    Redis,
    Nats,
    Postgres,
}

impl KeptAt {
    pub(super) const ALL: [Self; 4] = [Self::File, Self::Redis, Self::Nats, Self::Postgres];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::File => "the file of the host",
            Self::Redis => "Redis",
            Self::Nats => "NATS",
            Self::Postgres => "PostgreSQL",
        }
    }

    /// Whether this build has the backend, and the name of its feature.
    fn built(self) -> (bool, &'static str) {
        match self {
            Self::File => (true, ""),
            Self::Redis => (cfg!(feature = "redis"), "redis"),
            Self::Nats => (cfg!(feature = "nats"), "nats"),
            Self::Postgres => (cfg!(feature = "postgres"), "postgres"),
        }
    }
}

/// A running server; none for a file.
pub(super) struct StateServer {
    child: Option<Child>,
    url: Option<String>,
}

impl StateServer {
    /// # Errors
    /// Why there is none.
    pub(super) fn start(bench: &Bench, kept: KeptAt) -> Result<Self, String> {
        let (built, feature) = kept.built();
        if !built {
            return Err(format!("this build has no such backend; add `--features {feature}` before `--bench`"));
        }
        let (at, directory) = (free(), bench.directory(&format!("server-{feature}"), &[]));
        let (command, url) = match kept {
            KeptAt::File => return Ok(Self { child: None, url: None }),
            KeptAt::Redis => (redis(at, &directory), format!("redis://{at}")),
            KeptAt::Nats => (nats(at, &directory), format!("nats://{at}")),
            KeptAt::Postgres => {
                (postgres(at, &directory)?, format!("postgres://lodge:bench@{at}/postgres?sslmode=disable"))
            }
        };
        let mut command = command;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
        let mut server = Self { child: Some(child), url: Some(url) };
        let begin = Instant::now();
        while TcpStream::connect(at).is_err() {
            let ended = server.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if ended.is_some() || begin.elapsed() > Duration::from_secs(60) {
                return Err(format!("{command:?} does not listen: {ended:?}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // Listening is not yet serving.
        std::thread::sleep(Duration::from_secs(1));
        Ok(server)
    }

    pub(super) fn url(&self) -> Option<&str> {
        self.url.as_deref()
    }
}

impl Drop for StateServer {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Redis that writes each second, as it is usually configured.
fn redis(at: SocketAddr, directory: &Path) -> Command {
    let mut command = Command::new("redis-server");
    let (ip, port) = (at.ip().to_string(), at.port().to_string());
    command.args(["--bind", &ip, "--port", &port, "--save", "", "--appendonly", "yes"]).current_dir(directory);
    command
}

fn nats(at: SocketAddr, directory: &Path) -> Command {
    let newer = Path::new("/opt/lodge-nats/bin/nats-server");
    let mut command = Command::new(if newer.exists() { newer } else { Path::new("nats-server") });
    command.args(["-a", &at.ip().to_string(), "-p", &at.port().to_string(), "-js", "-sd"]).arg(directory);
    command
}

/// PostgreSQL with the settings that it comes with. It refuses to run as root.
fn postgres(at: SocketAddr, directory: &Path) -> Result<Command, String> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").map_err(|error| format!("PostgreSQL: {error}"))?;
    let programs = versions.filter_map(|entry| Some(entry.ok()?.path().join("bin")));
    let programs = programs.filter(|path| path.join("postgres").is_file()).max();
    let programs: PathBuf = programs.ok_or("PostgreSQL is not installed")?;
    let user = rustix::process::getuid();
    let user = if user.is_root() { id("postgres")? } else { user.as_raw() };
    let password = directory.join("password");
    std::fs::write(&password, "bench").map_err(|error| error.to_string())?;
    for path in [directory, &password] {
        std::os::unix::fs::chown(path, Some(user), Some(user)).map_err(|error| error.to_string())?;
    }
    // The scratch directory belongs to another user.
    let above = directory.ancestors().nth(1).unwrap_or(directory);
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(above, open).map_err(|error| error.to_string())?;
    let run = |program: &str| {
        let mut command = Command::new(programs.join(program));
        command.uid(user).current_dir(directory).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let data = directory.join("data");
    let mut initialise = run("initdb");
    initialise.args(["-U", "lodge", "--auth", "scram-sha-256", "--pwfile", "password", "-D"]).arg(&data);
    match initialise.status() {
        Ok(status) if status.success() => {}
        other => return Err(format!("{initialise:?}: {other:?}")),
    }
    let mut command = run("postgres");
    command.arg("-D").arg(&data).args(["-h", &at.ip().to_string(), "-p", &at.port().to_string(), "-k"]).arg(directory);
    Ok(command)
}

fn id(user: &str) -> Result<u32, String> {
    let output = Command::new("id").args(["-u", user]).output().map_err(|error| error.to_string())?;
    String::from_utf8_lossy(&output.stdout).trim().parse().map_err(|_| format!("there is no user {user}"))
}
