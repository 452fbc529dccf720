//! Files that commands write: complete, or not there at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::out::CliError;
use lodge_base::files;

/// A file that gets its name when it is complete.
pub(super) struct NewFile {
    file: File,
    partial: PathBuf,
    path: PathBuf,
    finished: bool,
}

impl NewFile {
    /// Creates a file that will be at `path`, where nothing may be yet. Only its owner can read it.
    pub(super) fn create(path: &Path) -> Result<Self, CliError> {
        Self::with_mode(path, 0o600)
    }

    /// Like [`NewFile::create`], for a file that others may read.
    pub(super) fn public(path: &Path) -> Result<Self, CliError> {
        Self::with_mode(path, 0o644)
    }

    fn with_mode(path: &Path, mode: u32) -> Result<Self, CliError> {
        is_free(path)?;
        let mut partial = path.as_os_str().to_owned();
        partial.push(format!(".{}.partial", std::process::id()));
        let partial = PathBuf::from(partial);
        let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(&partial);
        let file = opened.map_err(|error| failed(path, &error))?;
        Ok(Self { file, partial, path: path.to_owned(), finished: false })
    }

    /// Where the file is until it is complete.
    pub(super) fn partial(&self) -> &Path {
        &self.partial
    }

    /// Appends bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.file.write_all(bytes).map_err(|error| failed(&self.path, &error))
    }

    /// Appends all of `from`, and returns the number of bytes.
    pub(super) fn fill(&mut self, from: &mut impl Read) -> Result<u64, CliError> {
        io::copy(from, &mut self.file).map_err(|error| failed(&self.path, &error))
    }

    /// Gives the complete file its name. It survives a power cut then.
    pub(super) fn finish(mut self) -> Result<(), CliError> {
        is_free(&self.path)?;
        let named = self.file.sync_all().and_then(|()| files::rename(&self.partial, &self.path));
        named.map_err(|error| failed(&self.path, &error))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.finished {
            let _ = fs::remove_file(&self.partial);
        }
    }
}

fn is_free(path: &Path) -> Result<(), CliError> {
    if path.symlink_metadata().is_ok() {
        return Err(CliError::new(format!("{} exists; choose another name, or remove it", path.display())));
    }
    Ok(())
}

fn failed(path: &Path, error: &io::Error) -> CliError {
    CliError::new(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_complete_or_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("export");
        let mut file = NewFile::create(&path).unwrap();
        file.write(b"half").unwrap();
        assert!(!path.exists());
        drop(file);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        let mut file = NewFile::create(&path).unwrap();
        file.write(b"whole").unwrap();
        file.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert!(NewFile::create(&path).is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
