//! Copies of the database while it is in use.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use tokio::sync::oneshot;

use crate::sqlite::possession::beside;
use crate::sqlite::{OpenError, Sqlite, schema};

/// Pages that are copied between two checks of whether the caller still waits for the backup.
const STEP: i32 = 256;

impl Sqlite {
    /// Copies the database as it is at one moment to the file `to`, which must not exist, checks the copy, and writes it to the
    /// disk. Reads and writes go on meanwhile; the log of the database grows until the copy is complete.
    ///
    /// # Errors
    /// Why there is no backup; then there is no file either. Dropping the future cancels the backup.
    pub async fn backup(&self, to: impl Into<PathBuf>) -> Result<(), OpenError> {
        let (from, to) = (self.shared.path.clone(), to.into());
        let unusable = |detail: String| OpenError::Unusable { path: to.clone(), detail };
        let (send, receive) = oneshot::channel();
        let target = to.clone();
        let run = move || {
            let result = copy(&from, &target, || send.is_closed());
            let _ = send.send(result);
        };
        thread::Builder::new().name("state-backup".into()).spawn(run).map_err(|error| unusable(error.to_string()))?;
        receive.await.unwrap_or_else(|_| Err(unusable("the backup was interrupted".into())))
    }
}

fn copy(from: &Path, to: &Path, cancelled: impl Fn() -> bool) -> Result<(), OpenError> {
    let unusable = |error: io::Error| OpenError::Unusable { path: to.to_owned(), detail: error.to_string() };
    // Claims the name: nothing is overwritten, and two backups to one file do not mix.
    create(to).map_err(unusable)?;
    let partial = beside(to, ".partial");
    let copied = create(&partial)
        .map_err(unusable)
        .and_then(|_| fill(from, &partial, cancelled))
        .and_then(|()| fs::rename(&partial, to).map_err(unusable));
    if copied.is_err() {
        // The reason of the failure is that of the copy.
        let _ = fs::remove_file(&partial);
        let _ = fs::remove_file(to);
        return copied;
    }
    sync_directory(to).map_err(unusable)
}

/// Writes the directory of a file to the disk, so that its name survives a power cut.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

/// Creates a file that only its owner can read.
pub(super) fn create(path: &Path) -> io::Result<File> {
    File::options().write(true).create_new(true).mode(0o600).open(path)
}

/// Copies the database to the empty file `to`.
fn fill(from: &Path, to: &Path, cancelled: impl Fn() -> bool) -> Result<(), OpenError> {
    let source = schema::open_reader(from).map_err(|error| schema::failure(from, error))?;
    let failed = |error| schema::failure(to, error);
    // A backup begins anew whenever its source has changed between two steps; in a transaction it does not see changes.
    source.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema;").map_err(|error| schema::failure(from, error))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut target = Connection::open_with_flags(to, flags).map_err(failed)?;
    target.execute_batch("PRAGMA synchronous = FULL; PRAGMA fullfsync = ON;").map_err(failed)?;
    let backup = Backup::new(&source, &mut target).map_err(failed)?;
    while backup.step(STEP).map_err(failed)? == StepResult::More {
        if cancelled() {
            return Err(OpenError::Unusable { path: to.to_owned(), detail: "the backup was cancelled".into() });
        }
    }
    drop(backup);
    // One file, without a log beside it.
    target.execute_batch("PRAGMA journal_mode = DELETE;").map_err(failed)?;
    schema::sound(&target, to)
}
