//! `wasi:blobstore@0.2.0-draft`, whose errors are texts.
//!
//! An object is stored by `finish`, whether `write-data` named its place before its content was written or after. A value that is
//! dropped without it stores nothing.

use std::sync::Arc;

use lodge_state::blobs::{BlobError, BlobPages, BlobReader, BlobWriter, MAX_NAMES};
use wasmtime::component::{Linker, Resource, ResourceType};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream};

use super::super::sandbox::Sandbox;
use super::super::{Ctx, GuestCall};
use super::wasi_streams::{ContentInput, ContentOutput};
use super::{
    BlobCall, BlobFailure, ContainerMetadata, GrantedBlobs, ObjectId, ObjectMetadata, OpenContainer, drop_handle,
    handle, since_epoch,
};

/// The most bytes of a value that is returned as a whole.
const WHOLE: u64 = 4 << 20;

/// The error of `write-data` and `finish` for a value that cannot be stored as it is used.
const NO_PLACE: &str = "nothing was stored: write-data was not called for this value";

impl From<BlobFailure> for String {
    fn from(failure: BlobFailure) -> Self {
        failure.to_string()
    }
}

/// A value that a guest writes.
#[derive(Default)]
struct OutgoingValue {
    content: OutgoingContent,
    /// The container that `write-data` was called for, and the name of the object.
    place: Option<(OpenContainer, String)>,
}

/// The content of a value.
#[derive(Default)]
enum OutgoingContent {
    /// The guest has not asked for the stream: the object is empty.
    #[default]
    Empty,
    /// What was written to the stream.
    Written(Arc<dyn BlobWriter>),
    /// There could be no stream.
    Failed(BlobFailure),
}

pub(super) fn link(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    link_outgoing(linker)?;
    link_incoming(linker)?;
    link_container(linker)?;
    link_objects(linker)?;
    link_names(linker)?;
    link_blobstore(linker)
}

fn link_outgoing(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    let mut types = linker.instance("wasi:blobstore/types@0.2.0-draft")?;
    types.resource("outgoing-value", ResourceType::host::<OutgoingValue>(), |mut caller, rep| {
        drop_handle::<OutgoingValue>(caller.data_mut(), rep)
    })?;
    types.func_wrap("[static]outgoing-value.new-outgoing-value", |mut caller: GuestCall<'_>, (): ()| {
        Ok((caller.data_mut().table.push(OutgoingValue::default())?,))
    })?;
    types.func_wrap_async(
        "[method]outgoing-value.outgoing-value-write-body",
        |mut caller: GuestCall<'_>, (value,): (Resource<OutgoingValue>,)| {
            Box::new(async move {
                let ctx = caller.data();
                let OutgoingValue { content, place } = ctx.table.get(&value)?;
                if !matches!(content, OutgoingContent::Empty) {
                    return Ok((Err(()),));
                }
                let (container, object) =
                    place.as_ref().map_or(("", None), |(of, name)| (&*of.name, Some(name.clone())));
                let begun = match BlobCall::on(ctx, container) {
                    Ok(call) => call.begin_upload(object.as_deref()).await,
                    Err(denied) => Err(denied),
                };
                let ctx = caller.data_mut();
                let stream = begun.and_then(|upload| {
                    let stream: DynOutputStream = Box::new(ContentOutput::new(Arc::clone(&upload)));
                    let stream = ctx.table.push(stream).map_err(|_| BlobFailure::Handles)?;
                    Ok((OutgoingContent::Written(upload), stream))
                });
                // A content that cannot be written is not stored either.
                let (content, stream) = match stream {
                    Ok((content, stream)) => (content, Ok(stream)),
                    Err(failure) => (OutgoingContent::Failed(failure), Err(())),
                };
                ctx.table.get_mut(&value)?.content = content;
                Ok((stream,))
            })
        },
    )?;
    types.func_wrap_async(
        "[static]outgoing-value.finish",
        |mut caller: GuestCall<'_>, (value,): (Resource<OutgoingValue>,)| {
            Box::new(async move {
                // A stream that the guest has not dropped cannot write any more.
                let OutgoingValue { content, place } = caller.data_mut().table.delete(value)?;
                let Some((container, object)) = place else { return Ok((Err(NO_PLACE.to_owned()),)) };
                let call = BlobCall::begin(caller.data(), &container.blobs, container.name);
                let stored = async {
                    let upload = match content {
                        OutgoingContent::Written(upload) => upload,
                        OutgoingContent::Empty => call.begin_upload(Some(&object)).await?,
                        OutgoingContent::Failed(failure) => return Err(failure),
                    };
                    call.publish(&*upload, &object).await
                };
                Ok((stored.await.map_err(String::from),))
            })
        },
    )
}

fn link_incoming(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    let mut types = linker.instance("wasi:blobstore/types@0.2.0-draft")?;
    types.resource("incoming-value", ResourceType::host::<Box<dyn BlobReader>>(), |mut caller, rep| {
        drop_handle::<Box<dyn BlobReader>>(caller.data_mut(), rep)
    })?;
    types.func_wrap_async(
        "[static]incoming-value.incoming-value-consume-sync",
        |mut caller: GuestCall<'_>, (value,): (Resource<Box<dyn BlobReader>>,)| {
            Box::new(async move {
                let object = caller.data_mut().table.delete(value)?;
                Ok((whole(object).await.map_err(|error| String::from(BlobFailure::from(error))),))
            })
        },
    )?;
    types.func_wrap(
        "[static]incoming-value.incoming-value-consume-async",
        |mut caller: GuestCall<'_>, (value,): (Resource<Box<dyn BlobReader>>,)| {
            let ctx = caller.data_mut();
            let stream: DynInputStream = Box::new(ContentInput::new(ctx.table.delete(value)?));
            Ok((handle::<_, String>(ctx, Ok(stream))?,))
        },
    )?;
    types.func_wrap(
        "[method]incoming-value.size",
        |caller: GuestCall<'_>, (value,): (Resource<Box<dyn BlobReader>>,)| {
            Ok((caller.data().table.get(&value)?.left(),))
        },
    )
}

/// Reads an object as a whole.
async fn whole(mut object: Box<dyn BlobReader>) -> Result<Vec<u8>, BlobError> {
    if object.left() > WHOLE {
        let what = "a value that is not consumed as a stream";
        return Err(BlobError::TooLarge { what, unit: "bytes", limit: WHOLE as usize });
    }
    let mut bytes = Vec::new();
    while let Some(reading) = object.read() {
        let stopped = |error| Err(BlobError::Unavailable(format!("the operation did not run: {error}")));
        bytes.extend_from_slice(&reading.await.unwrap_or_else(stopped)?);
    }
    Ok(bytes)
}

/// Links what is done with a container as a whole.
fn link_container(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    let mut container = linker.instance("wasi:blobstore/container@0.2.0-draft")?;
    container.resource("container", ResourceType::host::<OpenContainer>(), |mut caller, rep| {
        drop_handle::<OpenContainer>(caller.data_mut(), rep)
    })?;
    container.func_wrap("[method]container.name", |caller: GuestCall<'_>, (of,): (Resource<OpenContainer>,)| {
        Ok((Ok::<_, String>(caller.data().table.get(&of)?.name.to_string()),))
    })?;
    container.func_wrap_async(
        "[method]container.info",
        |caller: GuestCall<'_>, (of,): (Resource<OpenContainer>,)| {
            let call = BlobCall::of(caller.data(), &of);
            Box::new(async move {
                let call = call?;
                let created =
                    call.created().await.and_then(|created| created.ok_or_else(|| BlobError::NoContainer.into()));
                let metadata = |created| ContainerMetadata {
                    name: call.container.to_string(),
                    created_at: since_epoch(created).as_secs(),
                };
                Ok((created.map(metadata).map_err(String::from),))
            })
        },
    )?;
    container.func_wrap_async(
        "[method]container.clear",
        |caller: GuestCall<'_>, (of,): (Resource<OpenContainer>,)| {
            let call = BlobCall::of(caller.data(), &of);
            Box::new(async move { Ok((call?.clear().await.map_err(String::from),)) })
        },
    )?;
    container.func_wrap_async(
        "[method]container.list-objects",
        |mut caller: GuestCall<'_>, (of,): (Resource<OpenContainer>,)| {
            Box::new(async move {
                let call = BlobCall::of(caller.data(), &of)?;
                let names = call.list().await.map(|names| ObjectNames { names, blobs: call.blobs });
                Ok((handle::<_, String>(caller.data_mut(), names)?,))
            })
        },
    )
}

/// Links what is done with objects of a container.
fn link_objects(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    let mut container = linker.instance("wasi:blobstore/container@0.2.0-draft")?;
    container.func_wrap_async(
        "[method]container.get-data",
        |mut caller: GuestCall<'_>, (of, name, start, end): (Resource<OpenContainer>, String, u64, u64)| {
            Box::new(async move {
                let object = BlobCall::of(caller.data(), &of)?.read(&name, (start, end)).await;
                Ok((handle::<_, String>(caller.data_mut(), object)?,))
            })
        },
    )?;
    container.func_wrap(
        "[method]container.write-data",
        |mut caller: GuestCall<'_>, (of, name, value): (Resource<OpenContainer>, String, Resource<OutgoingValue>)| {
            if let Err(failure) = BlobCall::of(caller.data(), &of)?.check_name(&name) {
                return Ok((Err(String::from(failure)),));
            }
            let table = &mut caller.data_mut().table;
            let OpenContainer { name: container, blobs } = table.get(&of)?;
            let container = OpenContainer { name: Arc::clone(container), blobs: Arc::clone(blobs) };
            let place = &mut table.get_mut(&value)?.place;
            if place.is_some() {
                return Ok((Err("write-data was already called for this value".to_owned()),));
            }
            *place = Some((container, name));
            Ok((Ok(()),))
        },
    )?;
    container.func_wrap_async(
        "[method]container.delete-object",
        |caller: GuestCall<'_>, (of, name): (Resource<OpenContainer>, String)| {
            let call = BlobCall::of(caller.data(), &of);
            Box::new(async move { Ok((call?.delete(&[name]).await.map_err(String::from),)) })
        },
    )?;
    container.func_wrap_async(
        "[method]container.delete-objects",
        |caller: GuestCall<'_>, (of, names): (Resource<OpenContainer>, Vec<String>)| {
            let call = BlobCall::of(caller.data(), &of);
            Box::new(async move { Ok((call?.delete(&names).await.map_err(String::from),)) })
        },
    )?;
    container.func_wrap_async(
        "[method]container.has-object",
        |caller: GuestCall<'_>, (of, name): (Resource<OpenContainer>, String)| {
            let call = BlobCall::of(caller.data(), &of);
            Box::new(async move { Ok((call?.has(&name).await.map_err(String::from),)) })
        },
    )?;
    container.func_wrap_async(
        "[method]container.object-info",
        |caller: GuestCall<'_>, (of, name): (Resource<OpenContainer>, String)| {
            let call = BlobCall::of(caller.data(), &of);
            Box::new(async move {
                let call = call?;
                let info = call.info(&name).await.map_err(String::from);
                let container = call.container.to_string();
                let metadata = info.map(|info| ObjectMetadata {
                    name,
                    container,
                    created_at: since_epoch(info.created).as_secs(),
                    size: info.bytes,
                });
                Ok((metadata,))
            })
        },
    )
}

/// A listing whose pages a guest reads.
struct ObjectNames {
    names: Box<dyn BlobPages>,
    blobs: Arc<GrantedBlobs>,
}

impl ObjectNames {
    /// Returns the next names, at most `most` and a page, and whether there are no more.
    async fn next(&mut self, sandbox: &Sandbox, most: u64) -> Result<(Vec<String>, bool), String> {
        let deadline = sandbox.operation_deadline(self.blobs.timeout).into();
        let most = usize::try_from(most).unwrap_or(MAX_NAMES);
        self.names.next(most, deadline).await.map_err(|error| BlobFailure::from(error).into())
    }
}

fn link_names(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    let mut container = linker.instance("wasi:blobstore/container@0.2.0-draft")?;
    container.resource("stream-object-names", ResourceType::host::<ObjectNames>(), |mut caller, rep| {
        drop_handle::<ObjectNames>(caller.data_mut(), rep)
    })?;
    container.func_wrap_async(
        "[method]stream-object-names.read-stream-object-names",
        |mut caller: GuestCall<'_>, (of, most): (Resource<ObjectNames>, u64)| {
            Box::new(async move {
                let sandbox = Arc::clone(&caller.data().sandbox);
                let names = caller.data_mut().table.get_mut(&of)?;
                Ok((names.next(&sandbox, most).await,))
            })
        },
    )?;
    container.func_wrap_async(
        "[method]stream-object-names.skip-stream-object-names",
        |mut caller: GuestCall<'_>, (of, most): (Resource<ObjectNames>, u64)| {
            Box::new(async move {
                let sandbox = Arc::clone(&caller.data().sandbox);
                let names = caller.data_mut().table.get_mut(&of)?;
                let mut skipped = 0;
                // A page at a time, so that each has a deadline; the guest has one for all of them.
                Ok((loop {
                    match names.next(&sandbox, most.saturating_sub(skipped)).await {
                        Ok((page, ended)) => {
                            skipped = skipped.saturating_add(page.len() as u64);
                            if ended || skipped >= most {
                                break Ok((skipped, ended));
                            }
                        }
                        Err(error) => break Err(error),
                    }
                },))
            })
        },
    )
}

fn link_blobstore(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    let mut blobstore = linker.instance("wasi:blobstore/blobstore@0.2.0-draft")?;
    blobstore.func_wrap_async("create-container", |mut caller: GuestCall<'_>, (name,): (String,)| {
        Box::new(async move {
            let created = match BlobCall::on(caller.data(), &name) {
                Ok(call) => call.create().await,
                Err(denied) => Err(denied),
            };
            Ok((handle::<_, String>(caller.data_mut(), created)?,))
        })
    })?;
    blobstore.func_wrap_async("get-container", |mut caller: GuestCall<'_>, (name,): (String,)| {
        Box::new(async move {
            let opened = match BlobCall::on(caller.data(), &name) {
                Ok(call) => call.open().await,
                Err(denied) => Err(denied),
            };
            Ok((handle::<_, String>(caller.data_mut(), opened)?,))
        })
    })?;
    blobstore.func_wrap_async("delete-container", |caller: GuestCall<'_>, (name,): (String,)| {
        let call = BlobCall::on(caller.data(), &name);
        Box::new(async move { Ok((async { call?.delete_container().await }.await.map_err(String::from),)) })
    })?;
    blobstore.func_wrap_async("container-exists", |caller: GuestCall<'_>, (name,): (String,)| {
        let call = BlobCall::on(caller.data(), &name);
        Box::new(async move {
            let created = async { call?.created().await };
            Ok((created.await.map(|created| created.is_some()).map_err(String::from),))
        })
    })?;
    blobstore.func_wrap_async("copy-object", |caller: GuestCall<'_>, (from, to): (ObjectId, ObjectId)| {
        let call = BlobCall::on(caller.data(), &from.container);
        Box::new(async move {
            let copied = async { call?.copy(&from.object, (&to.container, &to.object)).await };
            Ok((copied.await.map_err(String::from),))
        })
    })?;
    blobstore.func_wrap_async("move-object", |caller: GuestCall<'_>, (from, to): (ObjectId, ObjectId)| {
        let call = BlobCall::on(caller.data(), &from.container);
        Box::new(async move {
            let moved = async { call?.rename(&from.object, (&to.container, &to.object)).await };
            Ok((moved.await.map_err(String::from),))
        })
    })
}
