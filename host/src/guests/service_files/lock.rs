//! The lock of a service's files, and what is left over of commands and requests that were killed.

use std::fs::{self, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io::{self, Error, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;

use super::{FileError, ServiceFiles, failed};
use lodge_base::files;

/// The age at which a partial file is left over from a killed command; writing a file takes less.
const ABANDONED: Duration = Duration::from_secs(600);

/// Follows the component's name in the names of uploads. The writer of an upload holds a lock on it.
const ARRIVING: &str = "upload-";

/// How often a lock is tried whose file is removed meanwhile.
const TRIES: usize = 8;

/// The lock of the files of a service, until it is dropped or the process ends. Its file exists while somebody has the lock.
#[derive(Debug)]
pub struct FilesLock {
    pub(super) file: File,
    pub(super) path: PathBuf,
}

impl FilesLock {
    /// Whether the file is still the one that others find.
    fn is_current(&self) -> bool {
        let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
        let own = self.file.metadata().map(identity).ok();
        own.is_some() && own == fs::symlink_metadata(&self.path).map(identity).ok()
    }
}

impl Drop for FilesLock {
    fn drop(&mut self) {
        // A process that has opened this file meanwhile finds that it is not the current one, and opens another one.
        if self.is_current() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl ServiceFiles<'_> {
    /// Locks the files against other commands. Returns `None` if another command holds the lock.
    ///
    /// # Errors
    /// If the directory cannot be written, or the lock is that of another user.
    pub fn try_lock(&self) -> Result<Option<FilesLock>, FileError> {
        // Hosts ignore names that begin with a dot.
        let path = self.directory.join(format!(".{}.lock", self.name));
        for _ in 0..TRIES {
            let file = self.open_lock(&path).map_err(|error| self.unlockable(&path, &error))?;
            let lock = match file.try_lock() {
                Ok(()) => FilesLock { file, path: path.clone() },
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(failed(&path, &error)),
            };
            if lock.is_current() {
                self.tidy();
                return Ok(Some(lock));
            }
        }
        Ok(None)
    }

    /// Opens the file of the lock. One that is made here is that of the directory's owner and group, so that the host can use
    /// it as well where root deploys.
    fn open_lock(&self, path: &Path) -> io::Result<File> {
        // A FIFO would wait for a reader, for ever.
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW).bits().cast_signed();
        let mut options = OpenOptions::new();
        options.append(true).custom_flags(flags);
        let file = match options.clone().create_new(true).mode(0o660).open(path) {
            Ok(file) => {
                if let Ok(directory) = fs::metadata(self.directory) {
                    // The group may be set by others than root, and the mode is that without the mask of this process.
                    let _ = fchown(&file, Some(directory.uid()), Some(directory.gid()))
                        .or_else(|_| fchown(&file, None, Some(directory.gid())));
                    let _ = file.set_permissions(Permissions::from_mode(0o660));
                }
                file
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => match options.open(path) {
                // A lock needs no right to write.
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    OpenOptions::new().read(true).custom_flags(flags).open(path)?
                }
                opened => opened?,
            },
            Err(error) => return Err(error),
        };
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(Error::new(ErrorKind::InvalidInput, "it is not a regular file")),
        }
    }

    /// Returns the error for a lock that cannot be opened. If it is there, it is that of another user.
    pub(super) fn unlockable(&self, path: &Path, error: &Error) -> FileError {
        let plain = failed(path, error);
        let Ok(there) = fs::symlink_metadata(path) else { return plain };
        if error.kind() != ErrorKind::PermissionDenied {
            return plain;
        }
        let (shown, directory) = (path.display(), self.directory.display());
        let text = format!(
            "{shown} belongs to user {} and this process is user {}, who may not open it: a command of that user works on {}, or was \
             killed; once none does, `chown --reference={directory} {shown}`, or remove it",
            there.uid(),
            rustix::process::geteuid().as_raw(),
            self.name
        );
        FileError { text, ..plain }
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
