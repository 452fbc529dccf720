//! PostgreSQL as a process, with the user `me`, whose password is `hunter2`.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::free_port;

/// A server of a test.
pub(crate) struct Postgres {
    child: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Postgres {
    /// Starts one, or returns `None` where it is not installed, which CI does not accept.
    pub(crate) fn start() -> Option<Self> {
        let (port, directory) = (free_port(), tempfile::tempdir().unwrap());
        let Some(mut server) = initialized(port, directory.path()) else {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "postgresql is not installed");
            eprintln!("skipped: postgresql is not installed");
            return None;
        };
        Some(Self { child: server.spawn().unwrap(), port, _directory: directory })
    }

    pub(crate) fn url(&self, database: &str) -> String {
        url(self.port, database)
    }
}

/// The URL of a database of the server at a port.
pub(crate) fn url(port: u16, database: &str) -> String {
    format!("postgres://me:hunter2@127.0.0.1:{port}/{database}?sslmode=disable")
}

/// Creates the files of a server in a directory, and returns what starts it, again and again; `None` where it is not installed.
pub(crate) fn initialized(port: u16, directory: &Path) -> Option<Command> {
    let programs = programs()?;
    let data = directory.join("data").display().to_string();
    std::fs::write(directory.join("password"), "hunter2").unwrap();
    // It refuses to run as root.
    let user = if rustix::process::getuid().is_root() { id("postgres") } else { rustix::process::getuid().as_raw() };
    for path in [directory.to_owned(), directory.join("password")] {
        std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
    }
    let run = |program: &str, args: &[&str]| {
        let mut command = Command::new(programs.join(program));
        command.args(args).uid(user).current_dir(directory).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let initialize = ["-D", &data, "-U", "me", "--pwfile", "password", "--auth", "scram-sha-256", "--no-sync"];
    assert!(run("initdb", &initialize).status().unwrap().success());
    let (port, sockets) = (port.to_string(), directory.display().to_string());
    Some(run("postgres", &["-D", &data, "-p", &port, "-h", "127.0.0.1", "-k", &sockets, "-F"]))
}

fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let programs = versions.filter_map(|entry| Some(entry.ok()?.path().join("bin")));
    programs.filter(|path| path.join("postgres").is_file()).max()
}

fn id(user: &str) -> u32 {
    let output = Command::new("id").args(["-u", user]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}
