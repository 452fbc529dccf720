//! `lodge sign` and `lodge verify`: signatures of components.

use std::path::{Path, PathBuf};

use clap::ArgMatches;

use super::new_file::NewFile;
use super::out::{self, CliError, clean};
use crate::guests::trust::key::{PublicKey, SigningKey};
use crate::guests::trust::signature::{self, Signature};
use crate::guests::trust::{MAX_FILE, misconfigured};
use lodge_base::config::Config;
use lodge_base::files;

/// The most bytes of a file that is signed: no component is larger (`engine.max_file`).
const MOST_BYTES: u64 = 1 << 30;

/// Runs `lodge sign` or `lodge verify`.
pub(super) fn run(command: &str, matches: &ArgMatches) -> Result<(), CliError> {
    let path = |name: &str| matches.try_get_one::<PathBuf>(name).ok().flatten().map(PathBuf::as_path);
    match (command, path("new-key"), path("file"), path("key")) {
        (_, Some(new), ..) => create(new),
        ("sign", _, Some(file), Some(key)) => sign(file, key),
        (_, _, Some(file), Some(key)) => verify(file, key, path("signature")),
        _ => Err(CliError::Usage("name a file and its key: `lodge sign FILE --key KEY`".into())),
    }
}

/// Makes a key in `path`, and the public one beside it.
fn create(path: &Path) -> Result<(), CliError> {
    let public = path.with_extension("pub");
    if public == path {
        let why = "this is the name of the public key, which is written beside the private one; name that, such as `release.key`";
        return Err(problem(path, why));
    }
    let (key, pem) = SigningKey::new().map_err(CliError::new)?;
    let mut files = [NewFile::create(path)?, NewFile::public(&public)?];
    for (file, text) in files.iter_mut().zip([pem, key.public().pem()]) {
        file.write(text.as_bytes())?;
    }
    files.into_iter().try_for_each(NewFile::finish)?;
    let (path, public) = (path.display(), public.display());
    out::line(&clean(&format!("wrote the key {path}, which signs, and {public}, which `trust.keys` names")))
}

fn sign(file: &Path, key: &Path) -> Result<(), CliError> {
    let text = signed(&read(file, MOST_BYTES)?, key)?;
    let target = signature::path(file);
    files::replace_like(&target, text.as_bytes(), file).map_err(|error| problem(&target, error))?;
    out::line(&clean(&format!("wrote {}", target.display())))
}

/// Signs a file's content with the key in the file `key`. Returns what the file of the signature has.
pub(super) fn signed(content: &[u8], key: &Path) -> Result<String, CliError> {
    let key = SigningKey::read(&read(key, MAX_FILE)?).map_err(|why| problem(key, why))?;
    key.sign(content).map_err(CliError::new)
}

fn verify(file: &Path, key: &Path, named: Option<&Path>) -> Result<(), CliError> {
    let keys = PublicKey::read(&read(key, MAX_FILE)?).map_err(|why| problem(key, why))?;
    let content = read(file, MOST_BYTES)?;
    let beside = signature::path(file);
    let place = named.unwrap_or(&beside);
    let signatures = match named
        .map_or_else(|| Ok(Signature::of(file)), |named| read(named, MAX_FILE).map(|text| Signature::read(&text)))?
    {
        Signature::Bytes(signatures) => signatures,
        Signature::Absent => return Err(problem(place, "there is no such file; `lodge sign` writes it")),
        Signature::Invalid(why) | Signature::Unreadable(why) => return Err(problem(place, why)),
    };
    if !keys.iter().any(|key| signatures.iter().any(|signature| key.verifies(&content, signature))) {
        let why = format!("it is no signature of {} by a key of {}", file.display(), key.display());
        return Err(problem(place, why));
    }
    out::line(&clean(&format!("{} is signed by a key of {}", file.display(), key.display())))
}

/// Returns why a host cannot start with these keys. `lodge dev` serves what it builds, which nobody has signed, so it asks for no
/// signatures, and says so.
pub(super) fn prepare(config: &mut Config, dev: bool) -> Option<String> {
    if dev && !config.trust.keys.is_empty() {
        out::notice("trust.keys is set, and `lodge dev` serves components without a signature all the same");
        config.trust.keys.clear();
    }
    misconfigured(config)
}

fn read(path: &Path, most: u64) -> Result<Vec<u8>, CliError> {
    files::read(path, most).map_err(|error| problem(path, error))
}

fn problem(path: &Path, why: impl std::fmt::Display) -> CliError {
    CliError::new(format!("{}: {why}", path.display()))
}
