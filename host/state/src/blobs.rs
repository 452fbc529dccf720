//! Objects of services: files of any size in containers, in a directory for each service or on a server.
//!
//! [`BlobBackend`] opens the [`BlobStore`] of a service. The directory is one, and the crate `lodge-s3` has another; the crate
//! `lodge-conformance` tests both. Of the directory:
//!
//! * A [`BlobUpload`] writes into a temporary file. Publishing it waits for the disk and renames the file, so that an object is
//!   there as a whole or not at all, whatever ends the request, the process or the power. Temporary files are removed at the
//!   next start.
//! * A [`BlobObject`] reads the object that was there when it was opened, piece by piece, also when that is replaced or deleted
//!   meanwhile. No object is in memory as a whole.
//! * Names are encoded, so that none leads out of the directory of the service, and two names are never one file.
//! * Operations run on threads that may wait for the disk, of which each service has few.

mod directory;
mod disk;
mod error;
mod listing;
mod object;
mod path;
mod space;
mod store;
mod temporary;
#[cfg(test)]
mod tests;
mod upload;
mod usage;

pub use directory::{BlobDirectory, BlobOptions};
pub use error::BlobError;
pub use listing::BlobNames;
pub use object::BlobObject;
pub use space::{BlobInfo, BlobSpace};
pub use store::{BlobBackend, BlobName, BlobPages, BlobReader, BlobStore, BlobTask, BlobWriter, PendingBlob};
pub use upload::BlobUpload;
pub use usage::{BlobQuota, BlobUsage};

/// Bytes of the name of an object.
pub const MAX_OBJECT_NAME: usize = 1024;

/// Bytes of the name of a container.
pub const MAX_CONTAINER_NAME: usize = 64;

/// Containers of a service.
pub const MAX_CONTAINERS: u64 = 1000;

/// Bytes that are read or written at a time.
pub const PIECE: usize = 64 << 10;

/// Names in a page of a listing, and objects that are deleted at a time.
pub const MAX_NAMES: usize = 1000;

/// Objects and listings of a service that are open at a time.
pub const MAX_OPEN: usize = 256;
