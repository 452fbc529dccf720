//! Programs of servers, and whether they are installed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How a server's program is found and started.
#[derive(Clone, Copy, Debug)]
pub struct ServerProgram {
    /// Its name.
    pub name: &'static str,
    /// Folders in which it may be, beside those of `PATH`; one `*` stands for a folder.
    pub folders: &'static [&'static str],
    /// What to install.
    pub package: &'static str,
}

/// Finds a program. If it is missing, says that `tests` are skipped, and returns `None`.
///
/// # Panics
/// In CI, where nothing may be missing.
pub fn find(program: ServerProgram) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let extra = program.folders.iter().flat_map(|folder| expand(folder));
    let found =
        std::env::split_paths(&path).chain(extra).map(|folder| folder.join(program.name)).find(|file| file.is_file());
    if found.is_none() {
        let text = format!("{} is not installed: install {}", program.name, program.package);
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{text}");
        eprintln!("skipped: {text}");
    }
    found
}

/// The folders that a pattern with at most one `*` stands for.
fn expand(pattern: &str) -> Vec<PathBuf> {
    let Some((before, after)) = pattern.split_once("/*/") else { return vec![pattern.into()] };
    let Ok(entries) = std::fs::read_dir(before) else { return Vec::new() };
    let mut folders: Vec<_> = entries.flatten().map(|entry| entry.path().join(after)).collect();
    folders.sort();
    folders.reverse();
    folders
}

/// Runs a command of a server until it ends, as the owner of `directory`.
pub(super) fn run(command: &[String], directory: &Path, user: Option<u32>) {
    let mut process = Command::new(&command[0]);
    process.args(&command[1..]).current_dir(directory).stdin(Stdio::null()).stdout(Stdio::null());
    if let Some(user) = user {
        std::os::unix::process::CommandExt::uid(&mut process, user);
    }
    let output = process.stderr(Stdio::piped()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The number of a user of the system.
pub(super) fn user(name: &str) -> u32 {
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields[0] == name);
    fields.unwrap_or_else(|| panic!("no user {name}"))[2].parse().unwrap()
}
