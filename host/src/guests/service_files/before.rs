//! What was in the places of a deployment, to restore it.

use std::path::Path;

use super::{FileError, ServiceFiles};
use crate::guests::trust::signature;

/// A component and its signature, as far as they exist.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ComponentPair {
    /// The component.
    pub component: Option<Vec<u8>>,
    /// The file of its signature.
    pub signature: Option<Vec<u8>>,
}

/// What was in the places that a deployment fills.
#[derive(Debug, PartialEq, Eq)]
pub struct FilesBefore {
    /// What was in the place of the component.
    pub placed: ComponentPair,
    /// The manifest of the version, if it is one.
    pub manifest: Option<Vec<u8>>,
    /// What a rollback of the service would have returned to.
    previous: ComponentPair,
}

impl ServiceFiles<'_> {
    /// Reads what is in the places that a deployment of the service, or of a version, fills.
    ///
    /// # Errors
    /// If a file is too large or cannot be read.
    pub fn before(&self, label: Option<&str>) -> Result<FilesBefore, FileError> {
        let manifest = label.map(|label| self.content_of(&self.manifest_of(label))).transpose()?.flatten();
        let previous = if label.is_none() { self.pair(&self.previous())? } else { ComponentPair::default() };
        Ok(FilesBefore { placed: self.pair(&self.component(label))?, manifest, previous })
    }

    /// Restores what was there before a deployment. The manifest of a version last: without its component, it is not a service.
    ///
    /// # Errors
    /// If a file cannot be written or removed.
    pub fn restore(&self, label: Option<&str>, before: FilesBefore) -> Result<(), FileError> {
        self.put_back(&self.component(label), &before.placed)?;
        match (label, before.manifest) {
            (None, _) => self.put_back(&self.previous(), &before.previous),
            (Some(label), Some(manifest)) => self.write(&manifest, &self.manifest_of(label)),
            (Some(label), None) => self.remove(&self.manifest_of(label)),
        }
    }

    fn pair(&self, at: &Path) -> Result<ComponentPair, FileError> {
        Ok(ComponentPair { component: self.content_of(at)?, signature: self.content_of(&signature::path(at))? })
    }

    fn put_back(&self, at: &Path, pair: &ComponentPair) -> Result<(), FileError> {
        // On a disk that is full, what did not change cannot be written again.
        if self.pair(at)? == *pair {
            return Ok(());
        }
        match &pair.component {
            Some(component) => self.place(component, pair.signature.as_deref(), at),
            None => {
                self.remove(at)?;
                self.remove(&signature::path(at))
            }
        }
    }
}
