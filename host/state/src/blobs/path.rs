//! Paths of containers and objects, from names that guests choose.

use std::path::{Path, PathBuf};
use std::{fs, io};

use super::disk::{create, size};
use super::{BlobError, MAX_CONTAINER_NAME, MAX_OBJECT_NAME};
use crate::file_name::file_name;

/// Bytes of a part of the path of an object. File systems allow 255 for a name.
const PART: usize = 200;

/// The end of the name of a directory that has the rest of a long name. No encoded name contains it.
const CONTINUED: char = '+';

/// Returns the path of a container in the directory of its service.
pub(super) fn container(name: &str) -> Result<PathBuf, BlobError> {
    check("the name of the container", name, MAX_CONTAINER_NAME)?;
    Ok(file_name(name).into())
}

/// Returns the path of an object in the directory of its container: a long name has several parts.
pub(super) fn object(name: &str) -> Result<PathBuf, BlobError> {
    check("the name of the object", name, MAX_OBJECT_NAME)?;
    let encoded = file_name(name);
    let (mut path, mut rest) = (PathBuf::new(), encoded.as_str());
    while let Some((part, more)) = rest.split_at_checked(PART).filter(|(_, more)| !more.is_empty()) {
        path.push(format!("{part}{CONTINUED}"));
        rest = more;
    }
    path.push(rest);
    Ok(path)
}

/// Returns the part of a name that a directory with the rest of it stands for.
pub(super) fn continued(file: &str) -> Option<&str> {
    file.strip_suffix(CONTINUED)
}

fn check(what: &'static str, name: &str, limit: usize) -> Result<(), BlobError> {
    match name.len() {
        0 => Err(BlobError::Invalid { what, problem: "is empty" }),
        length if length > limit => Err(BlobError::TooLarge { what, unit: "bytes", limit }),
        _ => Ok(()),
    }
}

/// Where an object is.
pub(super) struct ObjectPath {
    /// The directory of its container.
    pub(super) container: PathBuf,
    pub(super) path: PathBuf,
}

impl ObjectPath {
    /// The place of an object below the directory of its service.
    pub(super) fn new(directory: &Path, container: &str, object: &str) -> Result<Self, BlobError> {
        let container = directory.join(self::container(container)?);
        let path = container.join(self::object(object)?);
        Ok(Self { container, path })
    }

    /// The directories from that of the file up to that of the container.
    pub(super) fn directories(&self) -> impl Iterator<Item = &Path> {
        self.path.ancestors().skip(1).take_while(|path| path.starts_with(&self.container))
    }

    /// What is missing, if the object is. Waits for the disk.
    pub(super) fn missing(&self) -> BlobError {
        if self.container.is_dir() { BlobError::NoObject } else { BlobError::NoContainer }
    }

    /// The error of opening the file. Waits for the disk.
    pub(super) fn unopened(&self, error: &io::Error) -> BlobError {
        self.missing().absent(error)
    }

    /// Prepares that a file gets this name: returns the bytes of the one that has it. Waits for the disk.
    ///
    /// # Errors
    /// [`BlobError::NoContainer`] if there is none.
    pub(super) fn prepare(&self) -> Result<Option<u64>, BlobError> {
        if !self.container.is_dir() {
            return Err(BlobError::NoContainer);
        }
        if let Some(parent) = self.path.parent().filter(|parent| *parent != self.container) {
            create(parent)?;
        }
        size(&self.path)
    }

    /// Removes the directories of a long name that have no files any more. Waits for the disk.
    pub(super) fn prune(&self) {
        let parts = self.directories().filter(|path| *path != self.container);
        // The first one that is not empty fails, and so do all above it.
        for directory in parts {
            if fs::remove_dir(directory).is_err() {
                break;
            }
        }
    }
}
