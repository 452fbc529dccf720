//! `wasmcloud:blobstore@0.1.0`: async functions, and content as `stream<u8>`.

use lodge_state::blobs::BlobError;
use tokio::sync::oneshot;
use wasmtime::component::{
    Accessor, ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceType, StreamReader,
};

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::super::Ctx;
use super::super::handles::made;
use super::wasmcloud_streams::{ContentConsumer, ContentProducer, NameProducer};
use super::{
    BlobCall, BlobFailure, ContainerMetadata, ObjectId, ObjectMetadata, OpenContainer, drop_handle, handle, since_epoch,
};

#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(variant)]
enum Error {
    #[component(name = "no-such-container")]
    NoSuchContainer,
    #[component(name = "container-already-exists")]
    ContainerAlreadyExists,
    #[component(name = "no-such-object")]
    NoSuchObject,
    #[component(name = "access-denied")]
    AccessDenied,
    #[component(name = "timeout")]
    Timeout,
    #[component(name = "store-unavailable")]
    StoreUnavailable,
    #[component(name = "quota-exceeded")]
    QuotaExceeded,
    #[component(name = "other")]
    Other(String),
}

impl From<BlobFailure> for Error {
    fn from(failure: BlobFailure) -> Self {
        match failure {
            BlobFailure::Denied => Self::AccessDenied,
            BlobFailure::Failed(BlobError::NoContainer) => Self::NoSuchContainer,
            BlobFailure::Failed(BlobError::ContainerExists) => Self::ContainerAlreadyExists,
            BlobFailure::Failed(BlobError::NoObject) => Self::NoSuchObject,
            BlobFailure::Failed(BlobError::Timeout) => Self::Timeout,
            BlobFailure::Failed(BlobError::Unavailable(_)) => Self::StoreUnavailable,
            BlobFailure::Failed(BlobError::Full { .. }) => Self::QuotaExceeded,
            // These have no case, and their text says what to do.
            BlobFailure::Failed(BlobError::Invalid { .. } | BlobError::TooLarge { .. })
            | BlobFailure::Handles
            | BlobFailure::Body => Self::Other(failure.to_string()),
        }
    }
}

/// Nanoseconds since 1970, until the year 2554.
fn nanoseconds(time: std::time::SystemTime) -> u64 {
    u64::try_from(since_epoch(time).as_nanos()).unwrap_or(u64::MAX)
}

/// Begins an operation on the container `name`.
fn on(accessor: &Accessor<Ctx>, name: &str) -> Result<BlobCall, BlobFailure> {
    accessor.with(|mut access| BlobCall::on(access.get(), name))
}

/// Begins an operation on an open container.
fn of(accessor: &Accessor<Ctx>, handle: &Resource<OpenContainer>) -> wasmtime::Result<BlobCall> {
    accessor.with(|mut access| BlobCall::of(access.get(), handle))
}

/// Makes a handle of a container that was opened.
fn opened(
    accessor: &Accessor<Ctx>,
    container: Result<OpenContainer, BlobFailure>,
) -> wasmtime::Result<(Result<Resource<OpenContainer>, Error>,)> {
    accessor.with(|mut access| Ok((handle(access.get(), container)?,)))
}

pub(super) fn link(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    let mut container = linker.instance("wasmcloud:blobstore/container@0.1.0")?;
    link_container(&mut container)?;
    link_content(&mut container)?;
    link_objects(&mut container)?;
    link_blobstore(&mut linker.instance("wasmcloud:blobstore/blobstore@0.1.0")?)
}

/// Links what is done with a container as a whole.
fn link_container(container: &mut LinkerInstance<'_, Ctx>) -> wasmtime::Result<()> {
    container.resource("container", ResourceType::host::<OpenContainer>(), |mut caller, rep| {
        drop_handle::<OpenContainer>(caller.data_mut(), rep)
    })?;
    container.func_wrap_concurrent("[method]container.name", |accessor, (handle,): (Resource<OpenContainer>,)| {
        let call = of(accessor, &handle);
        Box::pin(async move { Ok((Ok::<_, Error>(call?.container.to_string()),)) })
    })?;
    container.func_wrap_concurrent("[method]container.info", |accessor, (handle,): (Resource<OpenContainer>,)| {
        let call = of(accessor, &handle);
        Box::pin(async move {
            let call = call?;
            let created = call.created().await.and_then(|created| created.ok_or_else(|| BlobError::NoContainer.into()));
            let name = call.container.to_string();
            let metadata = created.map(|created| ContainerMetadata { name, created_at: nanoseconds(created) });
            Ok((metadata.map_err(Error::from),))
        })
    })?;
    container.func_wrap_concurrent("[method]container.clear", |accessor, (handle,): (Resource<OpenContainer>,)| {
        let call = of(accessor, &handle);
        Box::pin(async move { Ok((call?.clear().await.map_err(Error::from),)) })
    })?;
    container.func_wrap_concurrent(
        "[method]container.list-objects",
        |accessor: &Accessor<Ctx>, (handle,): (Resource<OpenContainer>,)| {
            let call = of(accessor, &handle);
            Box::pin(async move {
                let call = call?;
                let names = match call.list().await {
                    Ok(names) => NameProducer::new(call.blobs, names),
                    Err(failure) => return Ok((Err(Error::from(failure)),)),
                };
                let names = made(accessor.with(|access| StreamReader::new(access, names)))?;
                Ok((names.ok_or_else(|| BlobFailure::Handles.into()),))
            })
        },
    )
}

/// Links what has content.
fn link_content(container: &mut LinkerInstance<'_, Ctx>) -> wasmtime::Result<()> {
    container.func_wrap_concurrent(
        "[method]container.get-data",
        |accessor: &Accessor<Ctx>, (handle, name, start, end): (Resource<OpenContainer>, String, u64, u64)| {
            let call = of(accessor, &handle);
            Box::pin(async move {
                let content = match call?.read(&name, (start, end)).await {
                    Ok(object) => ContentProducer::new(object),
                    Err(failure) => return Ok((Err(Error::from(failure)),)),
                };
                let content = made(accessor.with(|access| StreamReader::new(access, content)))?;
                Ok((content.ok_or_else(|| BlobFailure::Handles.into()),))
            })
        },
    )?;
    container.func_wrap_concurrent(
        "[method]container.write-data",
        |accessor: &Accessor<Ctx>, (handle, name, data): (Resource<OpenContainer>, String, StreamReader<u8>)| {
            let call = of(accessor, &handle);
            Box::pin(async move { Ok((write(accessor, &call?, &name, data).await?.map_err(Error::from),)) })
        },
    )
}

/// Stores what a stream has, when that has ended.
async fn write(
    accessor: &Accessor<Ctx>,
    call: &BlobCall,
    name: &str,
    mut data: StreamReader<u8>,
) -> wasmtime::Result<Result<(), BlobFailure>> {
    let begun = match call.check_name(name) {
        Ok(()) => call.begin_upload(Some(name)).await,
        Err(failure) => Err(failure),
    };
    let upload = match begun {
        Ok(upload) => upload,
        Err(failure) => {
            data.close_with(accessor)?;
            return Ok(Err(failure));
        }
    };
    let (ended, end) = oneshot::channel();
    accessor.with(|access| data.pipe(access, ContentConsumer::new(Arc::clone(&upload), ended)))?;
    if let Err(error) = end.await.unwrap_or(Ok(())) {
        return Ok(Err(error.into()));
    }
    // A stream ends in the same way whether it is complete or not, and the body of the request may have been passed on as it is.
    let incomplete = accessor.with(|mut access| {
        let ctx: &mut Ctx = access.get();
        ctx.sandbox.body_broken.load(Relaxed) || ctx.sandbox.body_too_large.load(Relaxed)
    });
    if incomplete {
        return Ok(Err(BlobFailure::Body));
    }
    Ok(call.publish(&*upload, name).await)
}

/// Links what is done with objects of a container.
fn link_objects(container: &mut LinkerInstance<'_, Ctx>) -> wasmtime::Result<()> {
    container.func_wrap_concurrent("[method]container.delete-object", |accessor, (handle, name): (_, String)| {
        let call = of(accessor, &handle);
        Box::pin(async move { Ok((call?.delete(&[name]).await.map_err(Error::from),)) })
    })?;
    container.func_wrap_concurrent(
        "[method]container.delete-objects",
        |accessor, (handle, names): (_, Vec<String>)| {
            let call = of(accessor, &handle);
            Box::pin(async move { Ok((call?.delete(&names).await.map_err(Error::from),)) })
        },
    )?;
    container.func_wrap_concurrent("[method]container.has-object", |accessor, (handle, name): (_, String)| {
        let call = of(accessor, &handle);
        Box::pin(async move { Ok((call?.has(&name).await.map_err(Error::from),)) })
    })?;
    container.func_wrap_concurrent("[method]container.object-info", |accessor, (handle, name): (_, String)| {
        let call = of(accessor, &handle);
        Box::pin(async move {
            let call = call?;
            let info = call.info(&name).await.map_err(Error::from);
            let container = call.container.to_string();
            let metadata = info.map(|info| ObjectMetadata {
                name,
                container,
                created_at: nanoseconds(info.created),
                size: info.bytes,
            });
            Ok((metadata,))
        })
    })
}

fn link_blobstore(blobstore: &mut LinkerInstance<'_, Ctx>) -> wasmtime::Result<()> {
    blobstore.func_wrap_concurrent("create-container", |accessor: &Accessor<Ctx>, (name,): (String,)| {
        let call = on(accessor, &name);
        Box::pin(async move { opened(accessor, async { call?.create().await }.await) })
    })?;
    blobstore.func_wrap_concurrent("get-container", |accessor: &Accessor<Ctx>, (name,): (String,)| {
        let call = on(accessor, &name);
        Box::pin(async move { opened(accessor, async { call?.open().await }.await) })
    })?;
    blobstore.func_wrap_concurrent("delete-container", |accessor, (name,): (String,)| {
        let call = on(accessor, &name);
        Box::pin(async move { Ok((async { call?.delete_container().await }.await.map_err(Error::from),)) })
    })?;
    blobstore.func_wrap_concurrent("container-exists", |accessor, (name,): (String,)| {
        let call = on(accessor, &name);
        Box::pin(async move {
            let created = async { call?.created().await };
            Ok((created.await.map(|created| created.is_some()).map_err(Error::from),))
        })
    })?;
    blobstore.func_wrap_concurrent("copy-object", |accessor, (from, to): (ObjectId, ObjectId)| {
        let call = on(accessor, &from.container);
        Box::pin(async move {
            let copied = async { call?.copy(&from.object, (&to.container, &to.object)).await };
            Ok((copied.await.map_err(Error::from),))
        })
    })?;
    blobstore.func_wrap_concurrent("move-object", |accessor, (from, to): (ObjectId, ObjectId)| {
        let call = on(accessor, &from.container);
        Box::pin(async move {
            let moved = async { call?.rename(&from.object, (&to.container, &to.object)).await };
            Ok((moved.await.map_err(Error::from),))
        })
    })
}
