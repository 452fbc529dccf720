//! The files of the account and the certificates.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::failure::OrderFailure;
use super::schedule::{OrderAttempts, renewal};
use super::{seconds, shown};
use crate::certificates::MOST_BYTES;
use crate::certificates::certificate::Certificate;
use lodge_base::config::state::StatePath;
use lodge_base::config::{self, Config};
use lodge_base::files::{self, SecretReplacement};

/// The most bytes of a file with attempts.
const MOST_ATTEMPTS: u64 = 4 << 10;

/// The most bytes of the name of a certificate in the names of its files: file systems allow 255 for all of it.
const MOST_STEM: usize = 100;

/// The bytes that are reserved for a certificate before it is ordered: a chain has some thousand.
const ROOM: usize = 32 << 10;

/// How far the clock of the authority may be ahead, in seconds.
const SKEW: i64 = 300;

/// The least time for which a certificate is to be valid, in seconds.
const LEAST: i64 = 30;

/// Returns the file of the certificate with this first name. Of a long name, it has the beginning and a digest.
pub(super) fn file_of(directory: &Path, name: &str) -> PathBuf {
    if name.len() <= MOST_STEM {
        return directory.join(format!("{name}.pem"));
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, name.as_bytes());
    let digest: String = digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    directory.join(format!("{}-{digest}.pem", name.get(..MOST_STEM).unwrap_or_default()))
}

/// Writes the key of a certificate that is to be ordered, with room for the certificate: what cannot be stored is not ordered.
pub(super) fn reserve(file: &Path, key: &str) -> Result<SecretReplacement, OrderFailure> {
    let reserved = SecretReplacement::new(file).and_then(|mut replacement| {
        replacement.reserve(key.as_bytes(), ROOM)?;
        Ok(replacement)
    });
    reserved.map_err(|error| {
        OrderFailure::unusable(format!("{} cannot be written, so nothing is ordered: {error}", file.display()))
    })
}

/// Checks what the authority has issued, and replaces the file. `in_use` is the validity of the certificate before.
pub(super) fn write(
    replacement: SecretReplacement,
    names: &[String],
    text: &str,
    in_use: Option<(i64, i64)>,
    now: u64,
) -> Result<(), OrderFailure> {
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
    worthwhile((found.not_before, found.not_after), in_use, now).map_err(wrong)?;
    let failed = |error| OrderFailure::unusable(format!("the certificate cannot be written: {error}"));
    replacement.finish(text.as_bytes()).map_err(failed)
}

/// Writes a certificate that another host has got, and returns when it expires; `None` if it is for other names, or no better than the
/// one in use.
pub(super) fn take(
    file: &Path,
    names: &[String],
    text: &[u8],
    in_use: Option<(i64, i64)>,
    now: u64,
) -> Result<Option<i64>, OrderFailure> {
    let found = Certificate::new(text, text).ok().filter(|found| is_for(found, names));
    let better = |found: &Certificate| in_use.is_none_or(|(_, until)| found.not_after > until);
    let Some(found) = found.filter(better) else { return Ok(None) };
    if worthwhile((found.not_before, found.not_after), in_use, now).is_err() || text.len() as u64 > MOST_BYTES {
        return Ok(None);
    }
    let failed = |error| OrderFailure::unusable(format!("{} cannot be written: {error}", file.display()));
    files::replace_secret(file, text).map_err(failed)?;
    Ok(Some(found.not_after))
}

/// Checks that a certificate is valid now and for some time, and not worse than the one in use. The validity of both is that of the
/// certificate, and ends with the first certificate of its chain.
fn worthwhile((from, to): (i64, i64), in_use: Option<(i64, i64)>, now: u64) -> Result<(), String> {
    let at = |time: i64| shown(u64::try_from(time).unwrap_or(0));
    let present = i64::try_from(now).unwrap_or(i64::MAX);
    if from > present.saturating_add(SKEW) {
        return Err(format!("it is not valid before {}; is the clock of this machine right?", at(from)));
    }
    if to <= present.saturating_add(LEAST) {
        return Err(format!(
            "it, or a certificate of its chain, expires at {}; is the clock of this machine right?",
            at(to)
        ));
    }
    match in_use {
        // An authority may issue for a shorter time than before, but not the same again.
        Some((_, until)) if to <= until && renewal(from, to, 0) <= now => {
            Err(format!("it expires at {}, and the one in use at {}", at(to), at(until)))
        }
        _ => Ok(()),
    }
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

/// Creates the directory or takes the permissions of others from it, and removes what a crash has left of a replacement, unless another process writes here.
pub(super) fn prepare(directory: &Path) -> std::io::Result<()> {
    files::private_directory(directory)?;
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

/// Returns the attempts of other processes; none if the file is damaged.
pub(super) fn stored(file: &Path) -> OrderAttempts {
    let text = files::read(&attempts_of(file), MOST_ATTEMPTS).unwrap_or_default();
    serde_json::from_slice::<OrderAttempts>(&text).unwrap_or_default().plausible(seconds())
}

/// Writes the attempts for a certificate.
pub(super) fn record(file: &Path, attempts: &OrderAttempts) -> Result<(), OrderFailure> {
    let text = serde_json::to_vec(attempts).map_err(OrderFailure::unusable)?;
    files::replace_secret(&attempts_of(file), &text)
        .map_err(|error| OrderFailure::unusable(format!("the attempts cannot be recorded: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate that is not valid now, or that ends before the one in use without a reason, replaces none.
    #[test]
    fn only_better_certificates_are_taken() {
        const DAY: i64 = 86_400;
        const NOW: i64 = 20_000 * DAY;
        let good = Some((NOW - 60 * DAY, NOW + 30 * DAY));
        for (from, to, in_use, taken) in [
            (NOW, NOW + 90 * DAY, good, true),
            (NOW + SKEW, NOW + 90 * DAY, good, true),
            (NOW + SKEW + 1, NOW + 90 * DAY, good, false),
            (NOW + SKEW + 1, NOW + 90 * DAY, None, false),
            (NOW - 90 * DAY, NOW - 1, good, false),
            (NOW - 90 * DAY, NOW, None, false),
            (NOW - 90 * DAY, NOW + LEAST, None, false),
            (NOW - 90 * DAY, NOW + LEAST + 1, None, true),
            (NOW - 60 * DAY, NOW + 30 * DAY, good, false),
            (NOW - 80 * DAY, NOW + 10 * DAY, good, false),
            (NOW, NOW + 6 * DAY, good, true),
            (i64::MIN, i64::MAX, good, true),
            (i64::MAX, i64::MIN, good, false),
        ] {
            let result = worthwhile((from, to), in_use, NOW.unsigned_abs());
            assert_eq!(result.is_ok(), taken, "{} to {}: {result:?}", from - NOW, to.saturating_sub(NOW));
        }
    }

    /// The files of the longest name can be written, and are not those of another one.
    #[test]
    fn long_names_have_short_files() {
        let directory = tempfile::tempdir().unwrap();
        let name = |end: &str| format!("{}.{end}", ["a"; 125].join("."));
        let [one, other] = ["a", "b"].map(|end| file_of(directory.path(), &name(end)));
        assert_ne!(one, other);
        record(&one, &OrderAttempts::default()).unwrap();
        reserve(&one, "key").unwrap().finish(b"key").unwrap();
        assert_eq!(file_of(Path::new("x"), "a.test"), Path::new("x/a.test.pem"));
    }
}
