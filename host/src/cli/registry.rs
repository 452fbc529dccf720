//! `lodge pull`, `push` and `copy`: move components between files and registries.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use clap::ArgMatches;
use tokio::task::spawn_blocking;

use super::inspect;
use super::out::{self, CliError};
use super::text;
use crate::guests::scan::is_component;
use crate::guests::trust::signature;
use crate::registry::client::{RegistryClient, Session};
use crate::registry::pull::FoundComponent;
use crate::registry::{Access, PartialFile, RegistryError};
use lodge_base::config::Config;
use lodge_base::files;
use lodge_base::time::rfc3339;
use lodge_manifest::reference::{Reference, SCHEME};
use lodge_manifest::refusal::file_name;

/// The most bytes of a signature.
const MOST_SIGNATURE: u64 = 64 << 10;

/// Runs the command `name`.
pub(super) fn run(name: &str, matches: &ArgMatches, config: &Config) -> Result<(), CliError> {
    let path = |name: &str| matches.try_get_one::<PathBuf>(name).ok().flatten();
    let reference = |name: &str| text(matches, name).map_or_else(|| read(""), |text| read(text));
    let work = async {
        let client = RegistryClient::new(&config.pull).map_err(CliError::new)?;
        match (name, path("file")) {
            ("push", Some(file)) => push(&client, config, file, &reference("reference")?).await,
            ("copy", _) => copy(&client, config, &reference("from")?, &reference("to")?).await,
            _ => pull(&client, config, &reference("reference")?, path("output").map(PathBuf::as_path)).await,
        }
    };
    let time = config.pull.timeout;
    let late =
        |_| CliError::new(format!("it took longer than pull.timeout, which is {}", humantime::format_duration(time)));
    let done = super::block_on(async { tokio::time::timeout(time, work).await }).map_err(CliError::Problem)?;
    done.map_err(late)?
}

/// Reads a reference, with or without `oci://`.
fn read(text: &str) -> Result<Reference, CliError> {
    let whole = if text.starts_with(SCHEME) { text.to_owned() } else { format!("{SCHEME}{text}") };
    Reference::read(&whole).map_err(CliError::Usage)
}

/// The errors are those of another host.
impl From<RegistryError> for CliError {
    fn from(error: RegistryError) -> Self {
        Self::new(error.to_string())
    }
}

async fn pull(
    client: &RegistryClient,
    config: &Config,
    from: &Reference,
    output: Option<&Path>,
) -> Result<(), CliError> {
    let to = &target(from, output)?;
    let mut session = client.session(from, Access::Pull);
    let found = session.resolve(from, config.engine.max_file as u64).await?;
    fetch(&mut session, &found, to).await?;
    let path = signature::path(to);
    let written = match &found.signature {
        Some(signature) => files::replace(&path, format!("{signature}\n").as_bytes()),
        // What is there is the signature of another component.
        None => std::fs::remove_file(&path).or_else(|error| if is_absent(&error) { Ok(()) } else { Err(error) }),
    };
    written.map_err(|error| CliError::new(format!("{}: {error}", path.display())))?;
    let size = bytesize::ByteSize(found.size).display().iec();
    out::line(&format!("{}: {size} of {}", to.display(), pinned(from, &found)))
}

/// Returns the file to pull into. Without `output`, no file is replaced, also not that of a signature.
fn target(from: &Reference, output: Option<&Path>) -> Result<PathBuf, CliError> {
    let problem = |path: &Path, why: &str| CliError::new(format!("{} {why}", path.display()));
    let Some(named) = output else {
        let usual = PathBuf::from(format!("{}.wasm", from.name()));
        let known = [signature::path(&usual), usual.clone()].into_iter().find(|path| path.symlink_metadata().is_ok());
        let exists = |path: PathBuf| problem(&path, "exists; name the file with -o to replace it");
        return known.map_or(Ok(usual), |path| Err(exists(path)));
    };
    // A link stays one: its target is replaced.
    let is_link = named.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink());
    let to = if is_link { named.canonicalize() } else { Ok(named.to_owned()) };
    let to = to.map_err(|error| problem(named, &format!("leads nowhere: {error}")))?;
    for path in [&to, &signature::path(&to)] {
        if path.symlink_metadata().is_ok_and(|metadata| !metadata.is_file()) {
            return Err(problem(path, "is not a regular file"));
        }
    }
    Ok(to)
}

fn is_absent(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound
}

/// Pulls a component into a file. What an attempt leaves is beside it, hidden, and the next attempt continues there.
async fn fetch(session: &mut Session<'_>, found: &FoundComponent, to: &Path) -> Result<(), CliError> {
    let partial = to.with_file_name(format!(".{}.{}.part", file_name(to), found.component.short()));
    let opened = spawn_blocking(move || PartialFile::open(&partial)).await;
    let opened = opened.map_err(|error| CliError::new(error.to_string()))?;
    Ok(session.fetch(found, opened?, to).await?)
}

fn pinned(reference: &Reference, found: &FoundComponent) -> String {
    Reference { digest: Some(found.named), ..reference.clone() }.to_string()
}

/// Returns the tag under which a component is pushed.
fn tag(to: &Reference) -> Result<&str, CliError> {
    let tag = to.tag.as_deref().filter(|_| to.digest.is_none());
    tag.ok_or_else(|| {
        CliError::Usage(format!("`{to}` must have a tag and no digest, which follows from the component"))
    })
}

async fn push(client: &RegistryClient, config: &Config, file: &Path, to: &Reference) -> Result<(), CliError> {
    let (tag, shown) = (tag(to)?, file.display());
    let content = files::read(file, config.engine.max_file as u64);
    let content = content.map_err(|error| CliError::new(format!("{shown}: {error}")))?;
    is_component(&content).map_err(|(reason, remedy)| CliError::new(format!("{shown}: {reason}; {remedy}")))?;
    let interfaces =
        inspect::component::interfaces(&content).map_err(|why| CliError::new(format!("{shown}: {why}")))?;
    let interfaces = (interfaces.imports.as_slice(), interfaces.exports.as_slice());
    let mut session = client.session(to, Access::Push);
    let signature = match files::read_text(&signature::path(file), MOST_SIGNATURE) {
        Ok(text) => Some(text.trim_end().to_owned()),
        Err(error) if is_absent(&error) => None,
        Err(error) => return Err(CliError::new(format!("the signature of {shown}: {error}"))),
    };
    let component = (Bytes::from(content), signature.as_deref());
    let digest = session.push(component, interfaces, &created(), tag).await?;
    out::line(&Reference { digest: Some(digest), ..to.clone() }.to_string())
}

/// The time in the config of a component. Without `SOURCE_DATE_EPOCH` the beginning of 1970, so that the same component has
/// the same digest whenever it is pushed.
fn created() -> String {
    let seconds = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse::<u32>().ok()).unwrap_or(0);
    let time = SystemTime::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(seconds.into()));
    rfc3339(time.unwrap_or(SystemTime::UNIX_EPOCH))
}

async fn copy(client: &RegistryClient, config: &Config, from: &Reference, to: &Reference) -> Result<(), CliError> {
    let tag = tag(to)?;
    let failed = |error: std::io::Error| CliError::new(format!("a temporary directory: {error}"));
    let mut source = client.session(from, Access::Pull);
    let found = source.resolve(from, config.engine.max_file as u64).await?;
    if found.is_of_index() {
        let manifest = Reference { tag: None, digest: Some(found.manifest), ..from.clone() };
        let what = "is an index of several platforms, and only components are copied";
        return Err(CliError::new(format!("{from} {what}; name the one for WebAssembly: {manifest}")));
    }
    let directory = Temporary::new().map_err(failed)?;
    let file = directory.0.join("component.wasm");
    fetch(&mut source, &found, &file).await?;
    let component = files::read(&file, found.size).map_err(failed)?;
    let digest = client.session(to, Access::Push).copy(&mut source, &found, Bytes::from(component), tag).await?;
    out::line(&Reference { digest: Some(digest), ..to.clone() }.to_string())
}

/// A directory that is removed in the end.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> std::io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let unique = getrandom::u64().map_err(std::io::Error::other)?;
        let path = std::env::temp_dir().join(format!("lodge-copy-{unique:016x}"));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_to_pull_into() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let from = Reference::read("oci://r.example/users:1").unwrap();
        let of = |name: &str| target(&from, Some(&at(name))).map_err(|error| format!("{error:?}"));
        fs::write(at("a.wasm"), "a").unwrap();
        assert_eq!(of("a.wasm"), Ok(at("a.wasm")));
        std::os::unix::fs::symlink(at("a.wasm"), at("link")).unwrap();
        assert_eq!(of("link"), Ok(at("a.wasm").canonicalize().unwrap()));
        std::os::unix::fs::symlink(at("none"), at("dangling")).unwrap();
        fs::create_dir(at("folder")).unwrap();
        fs::create_dir(at("b.wasm.sig")).unwrap();
        for (name, why) in [("dangling", "leads nowhere"), ("folder", "not a regular file"), ("b.wasm", "b.wasm.sig")] {
            assert!(of(name).is_err_and(|error| error.contains(why)), "{name}");
        }
    }
}
