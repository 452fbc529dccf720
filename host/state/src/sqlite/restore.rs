//! Puts a backup in the place of a database that no process uses.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::Connection;

use crate::sqlite::possession::{Possession, beside};
use crate::sqlite::{OpenError, backup, schema};

/// Copies the backup `from` to `to`, and checks the copy before it takes the place of what was there. Blocks.
///
/// Versions and tokens of the restored database are greater than all of the replaced one, and than the microseconds since
/// 1970: neither a client with an old version of an entry nor a holder with an old token can be mistaken for a current one.
///
/// If this process may, it gives the restored file to the owner of the replaced one, or of its directory: an administrator
/// restores what a host under another user has to open.
///
/// # Errors
/// Why nothing was restored: `from` is no backup, `to` is in use, or `to` exists and `replace` is false.
pub fn restore(from: &Path, to: &Path, replace: bool) -> Result<(), OpenError> {
    let unusable =
        |path: &Path, error: &io::Error| OpenError::Unusable { path: path.to_owned(), detail: error.to_string() };
    let replaced = fs::metadata(to).ok();
    let existed = replaced.as_ref().is_some_and(|metadata| metadata.len() > 0);
    let was_locked = beside(&to.canonicalize().unwrap_or_else(|_| to.to_owned()), "-lock").exists();
    // Nobody opens it meanwhile.
    let (possession, real) = Possession::take(to)?;
    let owner = replaced.or_else(|| fs::metadata(real.parent()?).ok()).map(|metadata| (metadata.uid(), metadata.gid()));
    if existed && !replace {
        return Err(OpenError::Exists { path: to.to_owned() });
    }
    // The copy has the mode of a database and is on its file system.
    let partial = beside(&real, ".restore");
    // Left behind by a restore that was killed.
    let _ = fs::remove_file(&partial);
    let restored = copy(from, &partial, owner).and_then(|()| {
        schema::verify(&partial).map_err(|error| error.at(from))?;
        raise(&partial, last(&real)).map_err(|error| schema::failure(&partial, error))?;
        // The log of the replaced database would be applied to the restored one.
        for suffix in ["-wal", "-shm", "-journal"] {
            match fs::remove_file(beside(&real, suffix)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unusable(to, &error)),
                _ => {}
            }
        }
        fs::rename(&partial, &real).map_err(|error| unusable(to, &error))?;
        backup::sync_directory(&real).map_err(|error| unusable(to, &error))
    });
    if restored.is_err() {
        let _ = fs::remove_file(&partial);
        if !existed {
            let _ = fs::remove_file(&real);
        }
    }
    // The owner of the database could not open a lock that this process has made.
    if !was_locked {
        let _ = fs::remove_file(beside(&real, "-lock"));
    }
    drop(possession);
    restored
}

/// Copies a file to a new one that only its owner, a user and a group, can read, and writes it to the disk.
fn copy(from: &Path, to: &Path, owner: Option<(u32, u32)>) -> Result<(), OpenError> {
    let failed = |path: &Path| {
        let path: PathBuf = path.to_owned();
        move |error: io::Error| OpenError::Unusable { path, detail: error.to_string() }
    };
    let mut source = File::open(from).map_err(failed(from))?;
    let mut target = backup::create(to).map_err(failed(to))?;
    if let Some((user, group)) = owner {
        // Only an administrator may. By the handle, since the owner of the directory could put a link in the place of the file.
        let _ = fchown(&target, Some(user), Some(group));
    }
    io::copy(&mut source, &mut target).map_err(failed(to))?;
    target.sync_all().map_err(failed(to))
}

/// The last number of a database that may be damaged or absent.
fn last(path: &Path) -> i64 {
    let Ok(connection) = schema::open_reader(path) else { return 0 };
    connection.query_row("SELECT last FROM meta", [], |row| row.get(0)).unwrap_or(0)
}

/// Raises the last number of the restored database.
fn raise(path: &Path, replaced: i64) -> rusqlite::Result<()> {
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    let least = replaced.max(micros.try_into().unwrap_or(0));
    let connection = Connection::open(path)?;
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA fullfsync = ON;")?;
    connection.execute("UPDATE meta SET last = max(last, ?1)", [least])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::chown;
    use std::sync::Arc;

    use super::*;
    use crate::{Durability, Options, Sqlite, SystemClock};

    /// A host under another user opens what an administrator has restored; without that right, the file stays with its maker.
    #[tokio::test]
    async fn the_owner_of_the_directory_has_the_files() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let clock = Arc::new(SystemClock::new());
        let options =
            Options { path: at("old.db"), durability: Durability::Process, readers: 1, recent: 1 << 20, clock };
        Sqlite::open(options).unwrap().backup(at("backup.db")).await.unwrap();
        fs::create_dir(at("new")).unwrap();
        let is_root = chown(at("new"), Some(4_321), Some(4_322)).is_ok();
        restore(&at("backup.db"), &at("new/state.db"), false).unwrap();
        let restored = fs::metadata(at("new/state.db")).unwrap();
        assert_eq!((restored.uid(), restored.gid()) == (4_321, 4_322), is_root);
        assert!(!at("new/state.db-lock").exists(), "its owner could not open it");
        // A replaced file says more than its directory.
        let _ = chown(at("new/state.db"), Some(4_323), Some(4_324));
        restore(&at("backup.db"), &at("new/state.db"), true).unwrap();
        let restored = fs::metadata(at("new/state.db")).unwrap();
        assert_eq!((restored.uid(), restored.gid()) == (4_323, 4_324), is_root);
    }
}
