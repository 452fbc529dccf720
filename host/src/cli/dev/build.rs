//! Builds one guest: a Rust crate with cargo, anything else with the command of its manifest.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tokio::process::Command;

use super::tee::{self, BuildOutput, summary};
use crate::cli::notice;
use lodge_base::files;

/// The rustc target for components.
const TARGET: &str = "wasm32-wasip2";

/// The output of `cargo metadata`.
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

/// A message of `cargo build` about a target that it built.
#[derive(Deserialize)]
struct Artifact {
    manifest_path: Option<PathBuf>,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

/// A build that made no component.
#[derive(Debug)]
pub(super) struct BuildFailure {
    /// A message for the terminal, shown after the build's own output.
    pub(super) message: String,
    /// The cause in one line, for the status of the service.
    pub(super) summary: String,
    /// The end of the build's output.
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

/// Builds the crate in `source` and copies its components to the directory `into`. Returns their source files outside of `source`.
///
/// # Errors
/// Why the build failed. The output of cargo was already shown.
pub(super) async fn with_cargo(source: &Path, into: &Path) -> Result<Vec<PathBuf>, BuildFailure> {
    ensure_target().await?;
    let manifest = source.join("Cargo.toml");
    let (package, workspace) = describe(&manifest).await?;
    let mut outside = Vec::new();
    for component in compile(&manifest, &package, &workspace).await? {
        install(&component, into)?;
        outside.extend(source_files(&component).into_iter().filter(|file| !file.starts_with(source)));
    }
    Ok(outside)
}

/// Runs a shell command in `source`, which must write the component to `component`.
///
/// # Errors
/// Why the build failed. The output of the command was already shown.
pub(super) async fn with_command(command: &str, source: &Path, component: &Path) -> Result<(), BuildFailure> {
    if !source.is_dir() {
        return Err(format!("[build] directory: there is no directory {}", source.display()).into());
    }
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).current_dir(source);
    let built = tee::run(&mut shell, false).await.map_err(|error| format!("cannot run `{command}`: {error}"))?;
    if !built.status.success() {
        let message = format!("`{command}` failed ({}); its output is above", built.status);
        return Err(BuildFailure::new(message, built));
    }
    if component.is_file() { Ok(()) } else { Err(format!("`{command}` did not make {}", component.display()).into()) }
}

/// Installs the WebAssembly target if rustup reports that it is missing. Without rustup, cargo reports it.
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
    let built = tee::run(&mut cargo, true).await.map_err(|error| failed(no_cargo(&error)))?;
    let Ok(metadata) = serde_json::from_slice::<Metadata>(&built.messages) else {
        return Err(BuildFailure::new(failed("cargo cannot read it; its output is above".into()), built));
    };
    let own = manifest.canonicalize().map_err(|error| failed(error.to_string()))?;
    let package = metadata.packages.into_iter().find(|package| package.manifest_path == own);
    let package = package.ok_or_else(|| failed("it has no package".into()))?;
    Ok((package.name, metadata.workspace_root))
}

/// Builds one package. Returns the WebAssembly files that it made.
async fn compile(manifest: &Path, package: &str, workspace: &Path) -> Result<Vec<PathBuf>, BuildFailure> {
    let mut cargo = cargo();
    cargo.args(["build", "--message-format", "json-render-diagnostics", "--target", TARGET]);
    cargo.args(["--profile", profile(workspace), "--manifest-path"]).arg(manifest);
    let built = tee::run(&mut cargo, true).await.map_err(|error| no_cargo(&error))?;
    if !built.status.success() {
        return Err(BuildFailure::new(
            format!("{package} does not build (errors above); the last good build, if any, keeps serving"),
            built,
        ));
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
        return Err(format!("{package} builds no component; add `[lib] crate-type = [\"cdylib\"]`").into());
    }
    Ok(made)
}

/// Returns the source files in cargo's dep-info beside a component: `PATH: FILE FILE …`, with spaces escaped.
fn source_files(component: &Path) -> Vec<PathBuf> {
    let listed = fs::read_to_string(component.with_extension("d")).unwrap_or_default();
    let sources = listed.split_once(": ").map_or("", |(_, sources)| sources.trim()).replace("\\ ", "\0");
    sources.split_whitespace().map(|file| PathBuf::from(file.replace('\0', " "))).collect()
}

/// Returns the profile for guests: `guest` if the workspace has it, or `release`.
fn profile(workspace: &Path) -> &'static str {
    let manifest = fs::read_to_string(workspace.join("Cargo.toml")).unwrap_or_default();
    let table: toml::Table = manifest.parse().unwrap_or_default();
    let has_guest = table.get("profile").and_then(|profiles| profiles.get("guest")).is_some();
    if has_guest { "guest" } else { "release" }
}

/// Copies a component into the directory atomically, so that a host never reads half of it.
fn install(component: &Path, directory: &Path) -> Result<(), String> {
    let target = directory.join(component.file_name().unwrap_or_default());
    let content = fs::read(component).map_err(|error| format!("cannot read {}: {error}", component.display()))?;
    if files::read(&target, content.len() as u64).is_ok_and(|there| there == content) {
        return Ok(());
    }
    files::replace(&target, &content).map_err(|error| format!("cannot write {}: {error}", target.display()))
}

/// Why cargo cannot be run, and the way out.
fn no_cargo(error: &std::io::Error) -> String {
    if error.kind() == std::io::ErrorKind::NotFound {
        "there is no `cargo` on PATH; install Rust by rustup, and start `lodge dev` again from a shell that finds it"
            .into()
    } else {
        format!("cannot run cargo: {error}")
    }
}

/// Returns the cargo that runs this process, or the one on PATH.
fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}
