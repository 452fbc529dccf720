//! A service that is a directory of static files.
//!
//! * `path` turns the path of a request into that of a file.
//! * `root` opens files beneath the directory, and reads them.
//! * `response` decides what a request for a file gets: conditions, ranges, compressed files beside it.
//! * `body` streams a file.
//!
//! Nothing is kept of a file, so that a change is seen by the next request; a directory that is replaced, within 10 ms. What the kernel has in memory of a local file system is
//! opened and read by the task of the request, without a thread: it takes microseconds.

mod body;
mod content_type;
mod path;
mod range;
mod response;
mod root;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Instant, SystemTime};

use http::{Method, request};
use tokio::sync::Semaphore;

pub use self::body::FileBody;
use self::body::{Disk, on_disk};
use self::path::FilePath;
use self::root::ReadFrom;
pub use self::root::{OpenDirectory, Root};
use crate::cache::conditions::is_conditional;
use crate::service::deployment::Deployment;
use lodge_manifest::files::FilesSpec;

/// The methods that files have.
pub const METHODS: &str = "GET, HEAD";

/// How many operations of one directory wait for the disk at a time. A file system that hangs takes no more threads.
const WAITING: usize = 32;

/// How many operations of all directories of a host wait for the disk at a time. The runtime has 512 threads that may wait.
pub const HOST_WAITING: usize = 256;

/// How often a file is looked up again that was changed between its status and its first bytes.
const ATTEMPTS: usize = 3;

/// An extension of requests whose path is the prefix that was removed from it, without `/` after it: of `/site` for the route
/// `/site`, and not of `/site/`.
#[derive(Clone, Copy, Debug)]
pub struct BarePrefix;

/// A backend that is a directory of files.
pub struct StaticFiles {
    deployment: Arc<Deployment>,
    spec: Arc<FilesSpec>,
    root: Root,
    disk: Disk,
    /// Whether a file that the host may not read was logged.
    warned: AtomicBool,
    clock: fn() -> SystemTime,
}

/// The reason why a request gets no file.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// There is no file with this path.
    #[error("there is no such file")]
    NotFound,
    /// The method is none of [`METHODS`].
    #[error("the method is not allowed for files")]
    Method,
    /// `If-Match` or `If-Unmodified-Since` does not hold.
    #[error("the file is not the one that the request expects")]
    Precondition,
    /// The range begins after the end of the file, which has this many bytes.
    #[error("the file has no such range")]
    Range(u64),
    /// The directory is not there. Contains the reason, which clients must not see.
    #[error("the files are not available")]
    NoRoot(String),
    /// The file cannot be read. Contains the reason, which clients must not see.
    #[error("the file cannot be read")]
    Unreadable(String),
    /// The file was changed while it was read or sent.
    #[error("the file was changed")]
    Changed,
    /// The disk took until the deadline of the request.
    #[error("the service took too long")]
    Late,
}

impl StaticFiles {
    /// Creates the backend of a directory. `host` has [`HOST_WAITING`] permits, for all directories of the host.
    pub fn new(deployment: Arc<Deployment>, spec: Arc<FilesSpec>, root: Root, host: Arc<Semaphore>) -> Self {
        let disk = Disk { own: Arc::new(Semaphore::new(WAITING)), host, patience: deployment.limits().wall };
        Self { deployment, spec, root, disk, warned: AtomicBool::new(false), clock: SystemTime::now }
    }

    /// Returns the version that the files are of.
    pub fn deployment(&self) -> &Arc<Deployment> {
        &self.deployment
    }

    /// Whether both are files of the same directory.
    pub fn shares_root(&self, other: &Self) -> bool {
        self.spec.root == other.spec.root
    }

    /// Returns the response to a request with this head.
    ///
    /// # Errors
    /// If there is no file for it, or the file cannot be read before `deadline`.
    pub async fn respond(
        self: &Arc<Self>,
        head: &request::Parts,
        deadline: Instant,
    ) -> Result<(http::response::Parts, FileBody), FilesError> {
        if !matches!(head.method, Method::GET | Method::HEAD) {
            return Err(FilesError::Method);
        }
        let mut path = FilePath::read(head.uri.path());
        if let Some(path) = &mut path {
            path.directory &= head.extensions.get::<BarePrefix>().is_none();
        }
        let reads = head.method == Method::GET && !is_conditional(&head.headers);
        if self.root.is_fast(reads) {
            match self.look_up(head, path.as_ref(), ReadFrom::Memory) {
                Ok(None) | Err(FilesError::Changed) => {}
                Ok(Some(response)) => return Ok(response),
                Err(error) => return Err(error),
            }
        }
        let (own, mut shown) = (Arc::clone(self), request::Request::new(()).into_parts().0);
        (shown.method, shown.uri, shown.headers) = (head.method.clone(), head.uri.clone(), head.headers.clone());
        let waits = on_disk(self.disk.clone(), move || {
            let mut attempts = (0..ATTEMPTS).map(|_| own.look_up(&shown, path.as_ref(), ReadFrom::Disk));
            attempts.find(|found| !matches!(found, Err(FilesError::Changed))).unwrap_or(Err(FilesError::Changed))
        });
        let found = tokio::time::timeout_at(deadline.into(), waits).await.map_err(|_| FilesError::Late)??;
        found.ok_or_else(|| FilesError::Unreadable("it was not read".into()))
    }

    /// Logs, once, that the host may not read a file: to its clients there is none.
    fn warn(&self, why: &str) {
        if !self.warned.swap(true, Relaxed) {
            let name = &self.deployment.name;
            tracing::warn!(
                service = %name,
                "{name}: the host may not read a file in files.root, so clients get 404: {why}; change its mode or owner (further \
                 ones are not logged)"
            );
        }
    }
}
