//! Objects in containers. The interfaces differ in types and in how content is passed; what they do is here.
//!
//! * `wasi` has `wasi:blobstore@0.2.0-draft`, with the streams of WASI 0.2.
//! * `wasmcloud` has `wasmcloud:blobstore@0.1.0`, with async functions and `stream<u8>`.
//!
//! Content passes in pieces, in both directions, and never as a whole. Containers are those of one service, so no name that a
//! guest chooses leads to another service's objects.

mod wasi;
mod wasi_streams;
mod wasmcloud;
mod wasmcloud_streams;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use lodge_base::telemetry::traces::{OperationObject, OutboundTrace};
use lodge_state::blobs::{BlobError, BlobInfo, BlobPages, BlobReader, BlobStore, BlobWriter, MAX_CONTAINER_NAME};
use lodge_traffic::service::Service;
use wasmtime::component::{ComponentType, Lift, Linker, Lower, Resource, ResourceTableError};

use super::Ctx;
use super::denied::deny;
use super::handles::TOO_MANY_HANDLES;
use super::logged_denials::Denial;
use super::outcome::{UNAVAILABLE, log_outage};

/// The longest time that an operation may take which reads or writes a whole object, if the request has as much left.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// The objects that the manifest of a service grants.
pub struct GrantedBlobs {
    /// The containers and objects of the service.
    pub space: Arc<dyn BlobStore>,
    /// The service, whose metrics count the operations.
    pub service: Arc<Service>,
    /// The longest time that an operation may take, unless that depends on the size of an object.
    pub timeout: Duration,
}

/// A container that a guest has opened.
struct OpenContainer {
    name: Arc<str>,
    blobs: Arc<GrantedBlobs>,
}

/// What is known of a container. Each interface has its own unit of time.
#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(record)]
struct ContainerMetadata {
    name: String,
    #[component(name = "created-at")]
    created_at: u64,
}

/// What is known of an object, with time as in [`ContainerMetadata`].
#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(record)]
struct ObjectMetadata {
    name: String,
    container: String,
    #[component(name = "created-at")]
    created_at: u64,
    size: u64,
}

/// The place of an object.
#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(record)]
struct ObjectId {
    container: String,
    object: String,
}

/// Why an operation of a guest failed.
enum BlobFailure {
    /// The manifest does not grant objects.
    Denied,
    /// The guest has too many handles.
    Handles,
    /// The body of the request, which the guest may have passed on, broke off or was too large.
    Body,
    /// The operation was not done.
    Failed(BlobError),
}

impl From<BlobError> for BlobFailure {
    fn from(error: BlobError) -> Self {
        Self::Failed(error)
    }
}

/// The texts of interfaces whose errors are texts.
impl std::fmt::Display for BlobFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Denied => f.write_str("access denied: the manifest of the service has no [blobstore]"),
            Self::Handles => f.write_str(TOO_MANY_HANDLES),
            Self::Body => f.write_str("the object was not stored: the body of the request is not complete"),
            // The reason is for the operator.
            Self::Failed(BlobError::Unavailable(_)) => f.write_str(UNAVAILABLE),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

/// Adds both interfaces to the linker, the one with async functions only into a `concurrent` engine.
pub(super) fn link(linker: &mut Linker<Ctx>, concurrent: bool) -> wasmtime::Result<()> {
    wasi::link(linker)?;
    if concurrent { wasmcloud::link(linker) } else { Ok(()) }
}

/// An operation on a container, before its deadline.
struct BlobCall {
    blobs: Arc<GrantedBlobs>,
    container: Arc<str>,
    deadline: tokio::time::Instant,
    /// When an operation must end that reads or writes a whole object.
    end: tokio::time::Instant,
    /// The trace of the request, if the operation has a span.
    trace: Option<Arc<OutboundTrace>>,
}

impl BlobCall {
    /// Begins an operation on the container `name`, whether it exists or not.
    fn on(ctx: &Ctx, name: &str) -> Result<Self, BlobFailure> {
        match &ctx.blobs {
            Some(blobs) => Ok(Self::begin(ctx, blobs, name.into())),
            None => {
                deny(&ctx.sandbox, Denial::Blobs);
                Err(BlobFailure::Denied)
            }
        }
    }

    /// Begins an operation on an open container.
    ///
    /// # Errors
    /// If the guest has no such handle.
    fn of(ctx: &Ctx, handle: &Resource<OpenContainer>) -> wasmtime::Result<Self> {
        let OpenContainer { name, blobs } = ctx.table.get(handle)?;
        Ok(Self::begin(ctx, blobs, Arc::clone(name)))
    }

    fn begin(ctx: &Ctx, blobs: &Arc<GrantedBlobs>, container: Arc<str>) -> Self {
        let deadline = |timeout| ctx.sandbox.operation_deadline(timeout).into();
        // A longer name is refused, and must not be in a span.
        let trace = ctx.sandbox.operation_trace().filter(|_| container.len() <= MAX_CONTAINER_NAME);
        Self { deadline: deadline(blobs.timeout), end: deadline(LONGEST), blobs: Arc::clone(blobs), container, trace }
    }

    fn opened(&self) -> OpenContainer {
        OpenContainer { name: Arc::clone(&self.container), blobs: Arc::clone(&self.blobs) }
    }

    /// Counts an operation and its time, and records its span. `name` is that of the span.
    async fn counted<T>(
        &self,
        name: &'static str,
        operation: impl Future<Output = Result<T, BlobError>>,
    ) -> Result<T, BlobFailure> {
        let start = Instant::now();
        let service = &self.blobs.service;
        let container = || OperationObject::Bucket(Arc::clone(&self.container));
        let span = self.trace.as_ref().map(|trace| trace.begin_operation(name, &service.name, container()));
        let result = operation.await;
        if let Err(BlobError::Unavailable(reason)) = &result {
            log_outage(service, "its state", reason);
        }
        let failure = result.as_ref().err().map(BlobError::outcome);
        if let Some(span) = span {
            span.finish(failure);
        }
        service.metrics.blob_duration.record(start.elapsed());
        service.metrics.blobs.count(failure.unwrap_or("ok"));
        Ok(result?)
    }

    async fn create(&self) -> Result<OpenContainer, BlobFailure> {
        let create = self.blobs.space.create_container(&self.container, self.deadline);
        self.counted("blob.create_container", create).await.map(|()| self.opened())
    }

    /// When the container was created; `None` if there is none.
    async fn created(&self) -> Result<Option<SystemTime>, BlobFailure> {
        self.counted("blob.container", self.blobs.space.container(&self.container, self.deadline)).await
    }

    async fn open(&self) -> Result<OpenContainer, BlobFailure> {
        self.created().await?.map(|_| self.opened()).ok_or_else(|| BlobError::NoContainer.into())
    }

    async fn delete_container(&self) -> Result<(), BlobFailure> {
        let delete = self.blobs.space.delete_container(&self.container, self.deadline);
        self.counted("blob.delete_container", delete).await
    }

    async fn clear(&self) -> Result<(), BlobFailure> {
        self.counted("blob.clear", self.blobs.space.clear(&self.container, self.deadline)).await
    }

    async fn copy(&self, object: &str, to: (&str, &str)) -> Result<(), BlobFailure> {
        self.counted("blob.copy", self.blobs.space.copy((&self.container, object), to, self.end)).await
    }

    async fn rename(&self, object: &str, to: (&str, &str)) -> Result<(), BlobFailure> {
        self.counted("blob.move", self.blobs.space.rename((&self.container, object), to, self.end)).await
    }

    async fn read(&self, object: &str, range: (u64, u64)) -> Result<Box<dyn BlobReader>, BlobFailure> {
        let open = self.blobs.space.read((&self.container, object), range, self.deadline);
        self.counted("blob.read", open).await
    }

    /// Checks the name of an object that is yet to be stored: until then a name as long as the guest's memory would be kept.
    fn check_name(&self, object: &str) -> Result<(), BlobFailure> {
        Ok(self.blobs.space.check_name((&self.container, object))?)
    }

    /// Begins an object, which must be published as `object` if that is known already.
    async fn begin_upload(&self, object: Option<&str>) -> Result<Arc<dyn BlobWriter>, BlobFailure> {
        let name = object.map(|object| (&*self.container, object));
        Ok(self.blobs.space.write(name, self.deadline).await?)
    }

    /// Stores what was uploaded as `object`.
    async fn publish(&self, upload: &dyn BlobWriter, object: &str) -> Result<(), BlobFailure> {
        self.counted("blob.write", upload.publish((&self.container, object), self.end)).await.map(drop)
    }

    async fn list(&self) -> Result<Box<dyn BlobPages>, BlobFailure> {
        self.counted("blob.list", self.blobs.space.list(&self.container, self.deadline)).await
    }

    async fn delete(&self, objects: &[String]) -> Result<(), BlobFailure> {
        self.counted("blob.delete", self.blobs.space.delete(&self.container, objects, self.deadline)).await
    }

    async fn info(&self, object: &str) -> Result<BlobInfo, BlobFailure> {
        self.counted("blob.info", self.blobs.space.info((&self.container, object), self.deadline)).await
    }

    async fn has(&self, object: &str) -> Result<bool, BlobFailure> {
        match self.info(object).await {
            Ok(_) => Ok(true),
            Err(BlobFailure::Failed(BlobError::NoObject)) => Ok(false),
            Err(other) => Err(other),
        }
    }
}

/// Makes a handle of what an operation has opened.
fn handle<T: Send + 'static, E: From<BlobFailure>>(
    ctx: &mut Ctx,
    opened: Result<T, BlobFailure>,
) -> wasmtime::Result<Result<Resource<T>, E>> {
    match opened.map(|opened| ctx.table.push(opened)) {
        Ok(Ok(handle)) => Ok(Ok(handle)),
        Ok(Err(ResourceTableError::Full)) => Ok(Err(BlobFailure::Handles.into())),
        Ok(Err(other)) => Err(other.into()),
        Err(failure) => Ok(Err(failure.into())),
    }
}

/// Drops the handle `rep`.
fn drop_handle<T: Send + 'static>(ctx: &mut Ctx, rep: u32) -> wasmtime::Result<()> {
    ctx.table.delete(Resource::<T>::new_own(rep))?;
    Ok(())
}

/// The time since 1970.
fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
