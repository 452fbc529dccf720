//! The lock of a service's files, and what is left over of commands and requests that were killed.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Error, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;

use super::{FileError, ServiceFiles, failed};
use lodge_base::files;

/// The age at which a partial file is left over from a killed command; writing a file takes less.
const ABANDONED: Duration = Duration::from_secs(600);

/// What the names of files have in which a component arrives, after that of the component. Whoever writes one holds its lock.
const ARRIVING: &str = "upload-";

impl ServiceFiles<'_> {
    /// Locks the files against other commands. The lock is held until the returned file is dropped or the process ends.
    /// Returns `None` if another command holds it.
    ///
    /// # Errors
    /// If the directory cannot be written.
    pub fn try_lock(&self) -> Result<Option<File>, FileError> {
        // Hosts ignore names that begin with a dot.
        let path = self.directory.join(format!(".{}.lock", self.name));
        // A FIFO would wait for a reader, for ever.
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
        let opened = OpenOptions::new().create(true).append(true).custom_flags(flags).open(&path);
        let file = opened.and_then(|file| match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(Error::new(ErrorKind::InvalidInput, "it is not a regular file")),
        });
        let file = file.map_err(|error| failed(&path, &error))?;
        match file.try_lock() {
            Ok(()) => {
                self.tidy();
                Ok(Some(file))
            }
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(failed(&path, &error)),
        }
    }

    /// Removes partial files of killed commands on this service. Errors are ignored, since the files do no harm.
    fn tidy(&self) {
        let own = [format!(".{}.", self.name), format!(".{}@", self.name)];
        for entry in fs::read_dir(self.directory).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let partial = own.iter().any(|own| name.starts_with(own)) && name.contains(files::PARTIAL);
            let age = entry.metadata().and_then(|metadata| metadata.modified()).map(|time| time.elapsed());
            if partial && age.is_ok_and(|age| age.is_ok_and(|age| age >= ABANDONED)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Returns a path at which a component can arrive. Hosts ignore it, and [`remove_abandoned`] removes what is left there, unless
    /// the file is locked.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn staging(&self) -> Result<PathBuf, FileError> {
        let unique = getrandom::u64().map_err(|error| FileError::new(error.to_string()))?;
        Ok(self.directory.join(format!(".{}.wasm{}{ARRIVING}{unique:016x}", self.name, files::PARTIAL)))
    }
}

/// Removes the components that were arriving when a host was killed. Errors are ignored, since the files do no harm.
pub fn remove_abandoned(directory: &Path) {
    let ending = format!(".wasm{}{ARRIVING}", files::PARTIAL);
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') || !name.contains(&ending) {
            continue;
        }
        // Another host may have the same directory, and hold the lock of what it receives.
        if files::open(&entry.path()).is_ok_and(|(file, _)| file.try_lock().is_ok()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
