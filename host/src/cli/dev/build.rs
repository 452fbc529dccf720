//! How one guest is built: a Rust crate by cargo, anything else by the command in its manifest.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tokio::process::Command;

use super::tee::{self, BuildOutput, summary};
use crate::base::files;
use crate::cli::notice;

/// What rustc calls the target that makes components.
const TARGET: &str = "wasm32-wasip2";

/// What `cargo metadata` says of a crate.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_root: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
}

/// What `cargo build` says of each thing it made.
#[derive(Deserialize)]
struct Artifact {
    manifest_path: Option<PathBuf>,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

/// A build that made no component.
#[derive(Debug)]
pub(super) struct BuildFailure {
    /// For the terminal, below what the build itself has said there.
    pub(super) message: String,
    /// For those who see only this: what is wrong, in a line.
    pub(super) summary: String,
    /// The end of what the build has said.
    pub(super) output: String,
}

impl From<String> for BuildFailure {
    fn from(problem: String) -> Self {
        Self { summary: format!("it does not build: {problem}"), message: problem, output: String::new() }
    }
}

impl BuildFailure {
    fn new(message: String, BuildOutput { output, .. }: BuildOutput) -> Self {
        Self { message, summary: format!("it does not build: {}", summary(&output)), output }
    }
}

/// Builds the crate in `source` and puts its components into `guests`. Returns the files that they were made of, as
/// far as they are elsewhere.
///
/// # Errors
/// What failed. cargo has said the rest already.
pub(super) async fn with_cargo(source: &Path, guests: &Path) -> Result<Vec<PathBuf>, BuildFailure> {
    ensure_target().await?;
    let manifest = source.join("Cargo.toml");
    let (package, workspace) = describe(&manifest).await?;
    notice(&format!("building {package}"));
    let mut outside = Vec::new();
    for component in compile(&manifest, &package, &workspace).await? {
        install(&component, guests)?;
        outside.extend(source_files(&component).into_iter().filter(|file| !file.starts_with(source)));
    }
    Ok(outside)
}

/// Runs a command, as a shell would, in `source`; it has to leave the component at `component`.
///
/// # Errors
/// What failed. The command has said the rest already.
pub(super) async fn with_command(command: &str, source: &Path, component: &Path) -> Result<(), BuildFailure> {
    notice(&format!("building {} with `{command}`", component.display()));
    if !source.is_dir() {
        return Err(format!("[build] directory: there is no directory {}", source.display()).into());
    }
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).current_dir(source);
    let built = tee::run(&mut shell, false).await.map_err(|error| format!("`{command}` does not run: {error}"))?;
    if !built.status.success() {
        let message = format!("`{command}` failed ({}); what it output is above", built.status);
        return Err(BuildFailure::new(message, built));
    }
    if component.is_file() { Ok(()) } else { Err(format!("`{command}` did not make {}", component.display()).into()) }
}

/// Adds the WebAssembly target if rustup says that it is not there. Without rustup, cargo will say so itself.
async fn ensure_target() -> Result<(), String> {
    let listed = Command::new("rustup").args(["target", "list", "--installed"]).output().await;
    let Ok(listed) = listed else { return Ok(()) };
    if String::from_utf8_lossy(&listed.stdout).lines().any(|line| line.trim() == TARGET) {
        return Ok(());
    }
    notice(&format!("adding the target {TARGET} with rustup"));
    let added = tee::run(Command::new("rustup").args(["target", "add", TARGET]), false).await;
    if added.is_ok_and(|added| added.status.success()) {
        Ok(())
    } else {
        Err(format!("the target {TARGET} is missing; add it with `rustup target add {TARGET}`"))
    }
}

async fn describe(manifest: &Path) -> Result<(String, PathBuf), BuildFailure> {
    let failed = |why: String| format!("{}: {why}", manifest.display());
    let mut cargo = cargo();
    cargo.args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"]).arg(manifest);
    let built = tee::run(&mut cargo, true).await.map_err(|error| failed(format!("cargo does not run: {error}")))?;
    let Ok(metadata) = serde_json::from_slice::<Metadata>(&built.messages) else {
        return Err(BuildFailure::new(failed("cargo cannot read it; what it output is above".into()), built));
    };
    let own = manifest.canonicalize().map_err(|error| failed(error.to_string()))?;
    let package = metadata.packages.into_iter().find(|package| package.manifest_path == own);
    let package = package.ok_or_else(|| failed("it describes no package".into()))?;
    Ok((package.name, metadata.workspace_root))
}

/// Builds one package and returns the WebAssembly files it made.
async fn compile(manifest: &Path, package: &str, workspace: &Path) -> Result<Vec<PathBuf>, BuildFailure> {
    let mut cargo = cargo();
    cargo.args(["build", "--message-format", "json-render-diagnostics", "--target", TARGET]);
    cargo.args(["--profile", profile(workspace), "--manifest-path"]).arg(manifest);
    let built = tee::run(&mut cargo, true).await.map_err(|error| format!("cargo does not run: {error}"))?;
    if !built.status.success() {
        return Err(BuildFailure::new(format!("{package} does not build; its errors are above"), built));
    }
    let own = manifest.canonicalize().unwrap_or_else(|_| manifest.to_owned());
    let made: Vec<_> = String::from_utf8_lossy(&built.messages)
        .lines()
        .filter_map(|line| serde_json::from_str::<Artifact>(line).ok())
        .filter(|artifact| artifact.manifest_path.as_ref() == Some(&own))
        .flat_map(|artifact| artifact.filenames)
        .filter(|file| file.extension().is_some_and(|extension| extension == "wasm"))
        .collect();
    if made.is_empty() {
        return Err(format!("{package} makes no component; give it `[lib] crate-type = [\"cdylib\"]`").into());
    }
    Ok(made)
}

/// The sources that cargo lists beside a component: `PATH: FILE FILE …`, with spaces escaped.
fn source_files(component: &Path) -> Vec<PathBuf> {
    let listed = fs::read_to_string(component.with_extension("d")).unwrap_or_default();
    let sources = listed.split_once(": ").map_or("", |(_, sources)| sources.trim()).replace("\\ ", "\0");
    sources.split_whitespace().map(|file| PathBuf::from(file.replace('\0', " "))).collect()
}

/// A workspace may have a profile for guests; the others have `release`.
fn profile(workspace: &Path) -> &'static str {
    let manifest = fs::read_to_string(workspace.join("Cargo.toml")).unwrap_or_default();
    let table: toml::Table = manifest.parse().unwrap_or_default();
    let has_guest = table.get("profile").and_then(|profiles| profiles.get("guest")).is_some();
    if has_guest { "guest" } else { "release" }
}

/// Puts a component into the directory in one step: a host that watches it never sees half of it.
fn install(component: &Path, directory: &Path) -> Result<(), String> {
    let target = directory.join(component.file_name().unwrap_or_default());
    let content = fs::read(component).map_err(|error| format!("{} cannot be read: {error}", component.display()))?;
    if files::read(&target, content.len() as u64).is_ok_and(|there| there == content) {
        return Ok(());
    }
    files::replace(&target, &content).map_err(|error| format!("{} cannot be written: {error}", target.display()))
}

/// cargo itself when it runs us, else the one on PATH.
fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}
