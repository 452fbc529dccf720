//! How one guest is built: a Rust crate by cargo, anything else by the command in its manifest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::Deserialize;
use tokio::process::Command;

use crate::cli::complain;

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

/// Builds the crate in `source` and puts its components into `guests`. Returns the files that they were made of, as
/// far as they are elsewhere.
///
/// # Errors
/// One line: what failed, and what to do. cargo has said the rest already.
pub(super) async fn with_cargo(source: &Path, guests: &Path) -> Result<Vec<PathBuf>, String> {
    have_target().await?;
    let manifest = source.join("Cargo.toml");
    let (package, workspace) = describe(&manifest).await?;
    complain(&format!("building {package}"));
    let mut elsewhere = Vec::new();
    for component in compile(&manifest, &package, &workspace).await? {
        install(&component, guests)?;
        elsewhere.extend(made_of(&component).into_iter().filter(|file| !file.starts_with(source)));
    }
    Ok(elsewhere)
}

/// Runs a command, as a shell would, in `source`; it has to leave the component at `component`.
///
/// # Errors
/// One line: what failed. The command has said the rest already.
pub(super) async fn with_command(command: &str, source: &Path, component: &Path) -> Result<(), String> {
    complain(&format!("building {} with `{command}`", component.display()));
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).current_dir(source).stdin(Stdio::null()).kill_on_drop(true);
    let status = shell.status().await.map_err(|error| format!("`{command}` does not run: {error}"))?;
    if !status.success() {
        return Err(format!("`{command}` failed ({status}); what it said is above"));
    }
    if component.is_file() { Ok(()) } else { Err(format!("`{command}` did not make {}", component.display())) }
}

/// Adds the WebAssembly target if rustup says that it is not there. Without rustup, cargo will say so itself.
async fn have_target() -> Result<(), String> {
    let listed = Command::new("rustup").args(["target", "list", "--installed"]).output().await;
    let Ok(listed) = listed else { return Ok(()) };
    if String::from_utf8_lossy(&listed.stdout).lines().any(|line| line.trim() == TARGET) {
        return Ok(());
    }
    complain(&format!("adding the target {TARGET} with rustup"));
    let added = Command::new("rustup").args(["target", "add", TARGET]).status().await;
    if added.is_ok_and(|status| status.success()) {
        Ok(())
    } else {
        Err(format!("the target {TARGET} is missing; add it with `rustup target add {TARGET}`"))
    }
}

async fn describe(manifest: &Path) -> Result<(String, PathBuf), String> {
    let failed = |why: String| format!("{}: {why}", manifest.display());
    let output = cargo()
        .args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"])
        .arg(manifest)
        .stderr(Stdio::inherit())
        .output()
        .await
        .map_err(|error| failed(format!("cargo does not run: {error}")))?;
    let metadata: Metadata =
        serde_json::from_slice(&output.stdout).map_err(|_| failed("cargo cannot read it".into()))?;
    let own = manifest.canonicalize().map_err(|error| failed(error.to_string()))?;
    let package = metadata.packages.into_iter().find(|package| package.manifest_path == own);
    let package = package.ok_or_else(|| failed("it describes no package".into()))?;
    Ok((package.name, metadata.workspace_root))
}

/// Builds one package and returns the WebAssembly files it made.
async fn compile(manifest: &Path, package: &str, workspace: &Path) -> Result<Vec<PathBuf>, String> {
    let output = cargo()
        .args(["build", "--message-format", "json-render-diagnostics", "--target", TARGET])
        .args(["--profile", profile(workspace), "--manifest-path"])
        .arg(manifest)
        .stderr(Stdio::inherit())
        .output()
        .await
        .map_err(|error| format!("cargo does not run: {error}"))?;
    if !output.status.success() {
        return Err(format!("{package} does not build; its errors are above"));
    }
    let own = manifest.canonicalize().unwrap_or_else(|_| manifest.to_owned());
    let made: Vec<_> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Artifact>(line).ok())
        .filter(|artifact| artifact.manifest_path.as_ref() == Some(&own))
        .flat_map(|artifact| artifact.filenames)
        .filter(|file| file.extension().is_some_and(|extension| extension == "wasm"))
        .collect();
    if made.is_empty() {
        return Err(format!("{package} makes no component; give it `[lib] crate-type = [\"cdylib\"]`"));
    }
    Ok(made)
}

/// The sources that cargo lists beside a component: `PATH: FILE FILE …`, with spaces escaped.
fn made_of(component: &Path) -> Vec<PathBuf> {
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

/// Puts a component into the directory in one step: whoever watches never sees half of it.
fn install(component: &Path, directory: &Path) -> Result<(), String> {
    let name = component.file_name().unwrap_or_default();
    let (target, partial) = (directory.join(name), directory.join(format!(".{}.part", name.to_string_lossy())));
    if fs::read(&target).is_ok_and(|there| fs::read(component).is_ok_and(|made| made == there)) {
        return Ok(());
    }
    let copied = fs::copy(component, &partial).and_then(|_| fs::rename(&partial, &target));
    copied.map_err(|error| format!("{} cannot be written: {error}", target.display()))
}

/// cargo itself when it runs us, else the one on PATH. A build that nobody waits for any more ends.
fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.kill_on_drop(true);
    cargo
}
