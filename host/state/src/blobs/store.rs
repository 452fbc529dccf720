//! What a backend for objects offers, and the directory as one.

use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::BlobError;
use super::directory::BlobDirectory;
use super::listing::BlobNames;
use super::object::BlobObject;
use super::space::{BlobInfo, BlobSpace};
use super::upload::BlobUpload;
use super::usage::{BlobQuota, BlobUsage};
use crate::key::Namespace;

/// An operation on objects that has begun.
pub type PendingBlob<'a, T> = Pin<Box<dyn Future<Output = Result<T, BlobError>> + Send + 'a>>;

/// A piece of content that is read or written by a task.
pub type BlobTask<T> = JoinHandle<Result<T, BlobError>>;

/// The name of an object: its container, and its own.
pub type BlobName<'a> = (&'a str, &'a str);

/// Keeps the objects of all services.
pub trait BlobBackend: Send + Sync {
    /// Opens the objects of a service, and counts them the first time. `quota` holds from now on for all who have them.
    ///
    /// # Errors
    /// [`BlobError::Unavailable`] if the backend cannot be used.
    fn open<'a>(&'a self, service: &'a Namespace, quota: BlobQuota) -> PendingBlob<'a, Arc<dyn BlobStore>>;
}

/// The containers and objects of one service. No name leads to those of another. Every operation may fail with
/// [`BlobError::Timeout`] and [`BlobError::Unavailable`], and for names that are not valid.
pub trait BlobStore: Send + Sync {
    /// How much the service has.
    fn usage(&self) -> BlobUsage;

    /// Checks the names of a container and of an object in it.
    ///
    /// # Errors
    /// If one is empty or too long.
    fn check_name(&self, name: BlobName<'_>) -> Result<(), BlobError>;

    /// Creates a container; [`BlobError::ContainerExists`] if there is one.
    fn create_container<'a>(&'a self, name: &'a str, deadline: Instant) -> PendingBlob<'a, ()>;

    /// Returns when a container was created; `None` if there is none.
    fn container<'a>(&'a self, name: &'a str, deadline: Instant) -> PendingBlob<'a, Option<SystemTime>>;

    /// Deletes a container with all its objects; [`BlobError::NoContainer`] if there is none.
    fn delete_container<'a>(&'a self, name: &'a str, deadline: Instant) -> PendingBlob<'a, ()>;

    /// Deletes all objects of a container; [`BlobError::NoContainer`] if there is none.
    fn clear<'a>(&'a self, name: &'a str, deadline: Instant) -> PendingBlob<'a, ()>;

    /// Returns what is known of an object; [`BlobError::NoContainer`], [`BlobError::NoObject`].
    fn info<'a>(&'a self, of: BlobName<'a>, deadline: Instant) -> PendingBlob<'a, BlobInfo>;

    /// Deletes objects of a container, at most [`MAX_NAMES`](super::MAX_NAMES). It is no error if one does not exist.
    fn delete<'a>(&'a self, container: &'a str, objects: &'a [String], deadline: Instant) -> PendingBlob<'a, ()>;

    /// Copies an object, which replaces one at the other place; [`BlobError::NoContainer`], [`BlobError::NoObject`].
    fn copy<'a>(&'a self, from: BlobName<'a>, to: BlobName<'a>, deadline: Instant) -> PendingBlob<'a, ()>;

    /// Moves an object, which replaces one at the other place; [`BlobError::NoContainer`], [`BlobError::NoObject`].
    fn rename<'a>(&'a self, from: BlobName<'a>, to: BlobName<'a>, deadline: Instant) -> PendingBlob<'a, ()>;

    /// Opens the bytes of an object from the first to the second of `range`, both included, as far as there are any.
    fn read<'a>(
        &'a self,
        of: BlobName<'a>,
        range: (u64, u64),
        deadline: Instant,
    ) -> PendingBlob<'a, Box<dyn BlobReader>>;

    /// Begins an object, which must be published with `name` if that is known already.
    fn write<'a>(&'a self, name: Option<BlobName<'a>>, deadline: Instant) -> PendingBlob<'a, Arc<dyn BlobWriter>>;

    /// Removes what hosts have left that ended in the middle of something, if there may be other hosts. Opening does so as well.
    fn sweep(&self) -> PendingBlob<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Begins a listing of a container.
    fn list<'a>(&'a self, container: &'a str, deadline: Instant) -> PendingBlob<'a, Box<dyn BlobPages>>;
}

/// A part of an object that is read.
pub trait BlobReader: Send {
    /// The bytes that are left to read.
    fn left(&self) -> u64;

    /// Starts to read the next bytes, at most [`PIECE`](super::PIECE); `None` at the end. The previous ones must have been read: after an
    /// error, bytes are missing.
    fn read(&mut self) -> Option<BlobTask<Bytes>>;
}

/// An object that is being written. It is no object before it is published: if it is dropped, nothing has happened.
pub trait BlobWriter: Send + Sync {
    /// Adds bytes. Returns a task that must end before the next write begins, unless they fit into memory.
    ///
    /// # Errors
    /// [`BlobError::Full`] if the quota does not have them. After an error, the object cannot be published.
    fn write(&self, bytes: &[u8]) -> Result<Option<BlobTask<()>>, BlobError>;

    /// Waits until the object is kept, and gives it its name, by which it replaces another. Returns its bytes;
    /// [`BlobError::NoContainer`], or the error of a write that failed. Except after [`BlobError::Timeout`] and
    /// [`BlobError::Unavailable`], nothing has changed.
    fn publish<'a>(&'a self, name: BlobName<'a>, deadline: Instant) -> PendingBlob<'a, u64>;
}

/// Names of the objects of a container, page by page. An object that exists from the first page to the last is among them; one
/// that is written or deleted meanwhile may be.
pub trait BlobPages: Send {
    /// Returns the next names, at most `most` and [`MAX_NAMES`](super::MAX_NAMES), and whether these were the last. After an
    /// error another listing must be begun.
    fn next(&mut self, most: usize, deadline: Instant) -> PendingBlob<'_, (Vec<String>, bool)>;
}

impl BlobBackend for BlobDirectory {
    fn open<'a>(&'a self, service: &'a Namespace, quota: BlobQuota) -> PendingBlob<'a, Arc<dyn BlobStore>> {
        Box::pin(async move { Ok(Arc::new(self.open(service, quota).await?) as Arc<dyn BlobStore>) })
    }
}

impl BlobStore for Arc<BlobSpace> {
    fn usage(&self) -> BlobUsage {
        BlobSpace::usage(self)
    }

    fn check_name(&self, name: BlobName<'_>) -> Result<(), BlobError> {
        self.object(name).map(drop)
    }

    fn create_container<'a>(&'a self, name: &'a str, deadline: Instant) -> PendingBlob<'a, ()> {
        Box::pin(BlobSpace::create_container(self, name, deadline))
    }

    fn container<'a>(&'a self, name: &'a str, deadline: Instant) -> PendingBlob<'a, Option<SystemTime>> {
        Box::pin(BlobSpace::container(self, name, deadline))
    }

    fn delete_container<'a>(&'a self, name: &'a str, deadline: Instant) -> PendingBlob<'a, ()> {
        Box::pin(BlobSpace::delete_container(self, name, deadline))
    }

    fn clear<'a>(&'a self, name: &'a str, deadline: Instant) -> PendingBlob<'a, ()> {
        Box::pin(BlobSpace::clear(self, name, deadline))
    }

    fn info<'a>(&'a self, of: BlobName<'a>, deadline: Instant) -> PendingBlob<'a, BlobInfo> {
        Box::pin(BlobSpace::info(self, of, deadline))
    }

    fn delete<'a>(&'a self, container: &'a str, objects: &'a [String], deadline: Instant) -> PendingBlob<'a, ()> {
        Box::pin(BlobSpace::delete(self, container, objects, deadline))
    }

    fn copy<'a>(&'a self, from: BlobName<'a>, to: BlobName<'a>, deadline: Instant) -> PendingBlob<'a, ()> {
        Box::pin(BlobSpace::copy(self, from, to, deadline))
    }

    fn rename<'a>(&'a self, from: BlobName<'a>, to: BlobName<'a>, deadline: Instant) -> PendingBlob<'a, ()> {
        Box::pin(BlobSpace::rename(self, from, to, deadline))
    }

    fn read<'a>(
        &'a self,
        of: BlobName<'a>,
        range: (u64, u64),
        deadline: Instant,
    ) -> PendingBlob<'a, Box<dyn BlobReader>> {
        let open = BlobObject::open(self, of, range, deadline);
        Box::pin(async move { Ok(Box::new(open.await?) as Box<dyn BlobReader>) })
    }

    fn write<'a>(&'a self, _: Option<BlobName<'a>>, deadline: Instant) -> PendingBlob<'a, Arc<dyn BlobWriter>> {
        let begin = BlobUpload::begin(self, deadline);
        Box::pin(async move { Ok(Arc::new(begin.await?) as Arc<dyn BlobWriter>) })
    }

    fn list<'a>(&'a self, container: &'a str, deadline: Instant) -> PendingBlob<'a, Box<dyn BlobPages>> {
        let open = BlobNames::open(self, container, deadline);
        Box::pin(async move { Ok(Box::new(open.await?) as Box<dyn BlobPages>) })
    }
}

impl BlobReader for BlobObject {
    fn left(&self) -> u64 {
        BlobObject::left(self)
    }

    fn read(&mut self) -> Option<BlobTask<Bytes>> {
        BlobObject::read(self)
    }
}

impl BlobWriter for BlobUpload {
    fn write(&self, bytes: &[u8]) -> Result<Option<BlobTask<()>>, BlobError> {
        BlobUpload::write(self, bytes)
    }

    fn publish<'a>(&'a self, name: BlobName<'a>, deadline: Instant) -> PendingBlob<'a, u64> {
        Box::pin(BlobUpload::publish(self, name, deadline))
    }
}

impl BlobPages for BlobNames {
    fn next(&mut self, most: usize, deadline: Instant) -> PendingBlob<'_, (Vec<String>, bool)> {
        Box::pin(BlobNames::next(self, most, deadline))
    }
}
