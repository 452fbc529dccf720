//! Files that belong together: a certificate with its chain, and the private key.
//!
//! The names are those of common tools. Of a certificate `NAME.crt`, `NAME.pem` or `NAME.cer`, the key is in `NAME.key`, in
//! `NAME-key.pem` (mkcert), or in the same file; of `fullchain.pem`, in `privkey.pem` (certbot). A Secret of Kubernetes has
//! `tls.crt` and `tls.key`.

use std::fs;
use std::path::{Path, PathBuf};

use super::Certificate;
use lodge_base::files::{FileStamp, stamp};
use lodge_base::tls::pem::read;

/// The most certificates of a directory.
const MOST_FILES: usize = 1_000;

/// The endings of files with certificates.
const ENDINGS: [&str; 3] = ["crt", "pem", "cer"];

/// A certificate and its key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) certificate: PathBuf,
    key: PathBuf,
}

/// What changes when a pair of files changes.
pub(super) type PairStamp = [FileStamp; 2];

impl Pair {
    /// Returns the pair in a file that has the key as well.
    pub(super) fn in_one(file: &Path) -> Self {
        Self { certificate: file.to_owned(), key: file.to_owned() }
    }

    /// Returns the stamp of the files; `None` if one of them is missing.
    pub(super) fn stamp(&self) -> Option<PairStamp> {
        Some([stamp(&self.certificate)?, stamp(&self.key)?])
    }

    /// Reads and checks the pair.
    pub(super) fn read(&self) -> Result<Certificate, String> {
        Certificate::new(&read(&self.certificate)?, &read(&self.key)?)
    }
}

/// Returns the pairs in these files and directories, in order, and what is wrong with them.
pub(super) fn find(sources: &[PathBuf]) -> (Vec<Pair>, Vec<String>) {
    let (mut pairs, mut problems) = (Vec::new(), Vec::new());
    for source in sources {
        let found = if source.is_dir() { inside(source) } else { of_file(source).map(|pair| vec![pair]) };
        match found {
            Ok(found) => pairs.extend(found),
            Err(problem) => problems.push(problem),
        }
    }
    (pairs, problems)
}

/// Returns the pairs in a directory, by name. Hidden files are left out, which is how Kubernetes keeps its own there, and so are
/// certificates without a key, such as those of authorities.
fn inside(directory: &Path) -> Result<Vec<Pair>, String> {
    let problem = |error: std::io::Error| format!("{} cannot be read: {error}", directory.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(problem)? {
        let path = entry.map_err(problem)?.path();
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && path.extension().is_some_and(|ending| ENDINGS.iter().any(|known| *known == ending)) {
            files.push(path);
        }
        if files.len() > MOST_FILES {
            return Err(format!("{} has more than {MOST_FILES} certificates", directory.display()));
        }
    }
    files.sort();
    let pairs: Vec<_> = files.iter().filter_map(|file| of_file(file).ok()).collect();
    if pairs.is_empty() {
        let wanted = "such as tls.crt and tls.key, or fullchain.pem and privkey.pem";
        return Err(format!("{} has no certificate with a key beside it, {wanted}", directory.display()));
    }
    Ok(pairs)
}

/// Returns the pair with this certificate.
fn of_file(certificate: &Path) -> Result<Pair, String> {
    let stem = certificate.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut beside = vec![format!("{stem}.key"), format!("{stem}-key.pem")];
    if stem == "fullchain" {
        beside.insert(0, "privkey.pem".into());
    }
    let beside = beside.iter().map(|name| certificate.with_file_name(name)).find(|path| path.is_file());
    let pair = |key| Pair { certificate: certificate.to_owned(), key };
    if let Some(key) = beside {
        return Ok(pair(key));
    }
    let text = String::from_utf8_lossy(&read(certificate)?).into_owned();
    if text.contains("PRIVATE KEY-----") && text.contains("BEGIN CERTIFICATE-----") {
        return Ok(pair(certificate.to_owned()));
    }
    let shown = certificate.display();
    Err(format!("{shown} has no key; put {stem}.key beside it, or the key into the same file"))
}
