//! A snapshot in words: what became of every file, for `lodge check` and for who asks the admin listener.

use serde::Serialize;

use super::guest::Guest;
use super::load::{self, Refusal};
use super::snapshot::Snapshot;

/// A file, and what became of it: it serves, or it is refused. A file whose last good version goes on serving has
/// one of each.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The file, as it is named in the directory.
    pub file: String,
    /// What it serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,
    /// Why it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
}

/// A service.
#[derive(Debug, Serialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// SHA-256 of its component: its version.
    pub digest: String,
    /// Size of its component.
    pub bytes: u64,
    /// Where it answers.
    pub routes: Vec<String>,
    /// The host whose every path is its own.
    pub host: String,
    /// Whether its machine code is in memory, or waits on disk for the next request.
    pub loaded: bool,
    /// What its component asks of the host.
    pub imports: Vec<String>,
    /// What its component offers.
    pub exports: Vec<String>,
}

/// Why a file is not served.
#[derive(Debug, Serialize)]
pub struct Refused {
    /// What is wrong with it.
    pub reason: String,
    /// What to do.
    pub remedy: String,
}

/// Everything that is served or refused, in the order of file names.
pub fn of(snapshot: &Snapshot) -> Vec<Report> {
    let mut reports: Vec<_> = snapshot.targets.iter().map(|target| serves(&target.guest)).collect();
    reports.extend(snapshot.refusals.iter().map(refuses));
    reports.sort_by(|a, b| a.file.cmp(&b.file));
    reports
}

fn serves(guest: &Guest) -> Report {
    let service = Service {
        name: guest.name.to_string(),
        digest: guest.digest().to_string(),
        bytes: guest.spec.size,
        routes: guest.routes().iter().map(ToString::to_string).collect(),
        host: guest.spec.host(),
        loaded: guest.is_loaded(),
        imports: guest.interfaces.imports.clone(),
        exports: guest.interfaces.exports.clone(),
    };
    Report { file: load::file_name(&guest.spec.path), service: Some(service), refused: None }
}

fn refuses(refusal: &Refusal) -> Report {
    let refused = Refused { reason: refusal.reason.clone(), remedy: refusal.remedy.clone() };
    Report { file: refusal.file.clone(), service: None, refused: Some(refused) }
}
