//! The files of the account and the certificates.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::failure::OrderFailure;
use super::schedule::OrderAttempts;
use super::seconds;
use crate::certificates::MOST_BYTES;
use crate::certificates::certificate::Certificate;
use lodge_base::config::state::StatePath;
use lodge_base::config::{self, Config};
use lodge_base::files;

/// The most bytes of a file with attempts.
const MOST_ATTEMPTS: u64 = 4 << 10;

/// Checks what the authority has issued, and replaces the file.
pub(super) fn write(file: &Path, names: &[String], text: &str) -> Result<(), OrderFailure> {
    let wrong = |why: String| {
        OrderFailure::unusable(format!("the certificate that the authority issued cannot be used: {why}"))
    };
    let found = Certificate::new(text.as_bytes(), text.as_bytes()).map_err(wrong)?;
    if !is_for(&found, names) {
        return Err(wrong(format!("it is for {}", found.names.join(", "))));
    }
    if text.len() as u64 > MOST_BYTES {
        return Err(wrong("it is too large".into()));
    }
    files::replace_secret(file, text.as_bytes())
        .map_err(|error| OrderFailure::unusable(format!("{} cannot be written: {error}", file.display())))
}

/// Whether a certificate has exactly these names.
pub(super) fn is_for(certificate: &Certificate, names: &[String]) -> bool {
    let has = |all: &[String], name: &String| all.contains(name);
    names.iter().all(|name| has(&certificate.names, name)) && certificate.names.iter().all(|name| has(names, name))
}

/// Returns the directory of all authorities.
pub(super) fn place(config: &Config) -> PathBuf {
    let path = config.tls.acme.path.clone().unwrap_or_else(|| match &config.state.path {
        StatePath::At(state) => state.parent().unwrap_or(Path::new(".")).join("acme"),
        StatePath::Beside | StatePath::Memory => config.guests.join(".lodge").join("acme"),
    });
    std::path::absolute(&path).unwrap_or(path)
}

/// Returns the name of an authority's directory: host, port and path of its URL. Certificates of a test authority are not those of
/// the real one.
pub(super) fn of_authority(settings: &config::acme::Acme) -> String {
    let url = settings.directory.to_string();
    let url = url.strip_prefix("https://").unwrap_or(&url).trim_end_matches('/');
    url.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).take(200).collect()
}

/// Creates the directory, and removes what a crash has left of a replacement, unless another process writes here.
pub(super) fn prepare(directory: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let lock = open_lock(directory)?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(());
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') && name.contains(files::PARTIAL) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn open_lock(directory: &Path) -> std::io::Result<File> {
    File::options().create(true).truncate(false).write(true).open(directory.join("lock"))
}

/// Locks the directory for this process, until the file is dropped; `None` while another process has it locked.
pub(super) fn lock_directory(directory: &Path) -> Result<Option<File>, String> {
    let file = open_lock(directory).map_err(|error| format!("{} cannot be locked: {error}", directory.display()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(format!("{} cannot be locked: {error}", directory.display())),
    }
}

pub(super) fn attempts_of(file: &Path) -> PathBuf {
    file.with_extension("attempts.json")
}

/// Returns the attempts of earlier processes; none if the file is damaged.
pub(super) fn stored(file: &Path) -> OrderAttempts {
    let text = files::read(&attempts_of(file), MOST_ATTEMPTS).unwrap_or_default();
    serde_json::from_slice::<OrderAttempts>(&text).unwrap_or_default().bounded(seconds())
}
