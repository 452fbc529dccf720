//! How much a service has, and may have.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::BlobError;
use crate::mutex::lock;

/// How much a service may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobQuota {
    /// The most objects.
    pub objects: u64,
    /// The most bytes of all objects, and of those that are being written.
    pub bytes: u64,
}

/// How much a service has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlobUsage {
    /// Containers.
    pub containers: u64,
    /// Objects in all containers.
    pub objects: u64,
    /// Bytes of all objects, and of those that are being written.
    pub bytes: u64,
}

/// The account of a service. Its lock is never held while something waits for the disk.
pub(super) struct BlobAccount(Mutex<(BlobUsage, BlobQuota)>);

impl BlobAccount {
    pub(super) fn new(usage: BlobUsage, quota: BlobQuota) -> Self {
        Self(Mutex::new((usage, quota)))
    }

    pub(super) fn usage(&self) -> BlobUsage {
        lock(&self.0).0
    }

    /// Sets the quota. One that is lower than what there is removes nothing.
    pub(super) fn set_quota(&self, quota: BlobQuota) {
        lock(&self.0).1 = quota;
    }

    /// Takes bytes for what is being written.
    ///
    /// # Errors
    /// [`BlobError::Full`] if the quota does not have them.
    pub(super) fn take_bytes(&self, bytes: u64) -> Result<(), BlobError> {
        let (usage, quota) = &mut *lock(&self.0);
        let sum = usage.bytes.saturating_add(bytes);
        if bytes > 0 && sum > quota.bytes {
            return Err(BlobError::Full { resource: "bytes", limit: quota.bytes });
        }
        usage.bytes = sum;
        Ok(())
    }

    /// Takes the place of one more object.
    ///
    /// # Errors
    /// [`BlobError::Full`] if the quota does not have it.
    pub(super) fn take_object(&self) -> Result<(), BlobError> {
        let (usage, quota) = &mut *lock(&self.0);
        if usage.objects >= quota.objects {
            return Err(BlobError::Full { resource: "objects", limit: quota.objects });
        }
        usage.objects = usage.objects.saturating_add(1);
        Ok(())
    }

    /// Takes the place of one more container.
    ///
    /// # Errors
    /// [`BlobError::Full`] if there are as many as there may be.
    pub(super) fn take_container(&self) -> Result<(), BlobError> {
        let (usage, _) = &mut *lock(&self.0);
        if usage.containers >= super::MAX_CONTAINERS {
            return Err(BlobError::Full { resource: "containers", limit: super::MAX_CONTAINERS });
        }
        usage.containers = usage.containers.saturating_add(1);
        Ok(())
    }

    /// Gives back what is not there any more.
    pub(super) fn give_back(&self, less: BlobUsage) {
        let (usage, _) = &mut *lock(&self.0);
        usage.containers = usage.containers.saturating_sub(less.containers);
        usage.objects = usage.objects.saturating_sub(less.objects);
        usage.bytes = usage.bytes.saturating_sub(less.bytes);
    }
}

impl BlobUsage {
    /// One object of this many bytes.
    pub(super) fn object(bytes: u64) -> Self {
        Self { objects: 1, bytes, containers: 0 }
    }

    /// Only bytes.
    pub(super) fn only_bytes(bytes: u64) -> Self {
        Self { bytes, ..Self::default() }
    }

    /// One container without objects.
    pub(super) fn container() -> Self {
        Self { containers: 1, ..Self::default() }
    }

    /// Counts what is in a directory, as files. Waits for the disk.
    pub(super) fn count(directory: &Path) -> io::Result<Self> {
        let mut usage = Self::default();
        let mut waiting: Vec<PathBuf> = vec![directory.to_owned()];
        while let Some(directory) = waiting.pop() {
            for entry in fs::read_dir(directory)? {
                let entry = entry?;
                // Not those of what a link leads to.
                let metadata = entry.metadata()?;
                if metadata.is_dir() {
                    waiting.push(entry.path());
                } else {
                    usage.objects = usage.objects.saturating_add(1);
                    usage.bytes = usage.bytes.saturating_add(metadata.len());
                }
            }
        }
        Ok(usage)
    }
}
