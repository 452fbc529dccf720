//! Spin's key-value interfaces: `fermyon:spin/key-value@2.0.0`, which its SDKs for other languages than Rust import, and
//! `spin:key-value@3.0.0` with async functions. A label is the name of a bucket.

use std::pin::Pin;
use std::task::{Context, Poll};

use lodge_state::{Cursor, Error as StateError, Set};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use wasmtime::StoreContextMut;
use wasmtime::component::{
    Accessor, ComponentType, Destination, FutureReader, Lift, Linker, Lower, Resource, ResourceType, StreamProducer,
    StreamReader, StreamResult, VecBuffer,
};

use super::super::outcome::guest_text;
use super::super::{Ctx, GuestCall};
use super::operation::{HeldPage, Operation};
use super::{Closed, OpenBucket, StoreBucket, begin, drop_handle, link_async_basics, link_basics, open};

#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(variant)]
enum Error {
    #[component(name = "store-table-full")]
    StoreTableFull,
    /// Part of the interface. Buckets exist as soon as they have keys, so this does not happen.
    #[component(name = "no-such-store")]
    NoSuchStore,
    #[component(name = "access-denied")]
    AccessDenied,
    #[component(name = "other")]
    Other(String),
}

impl From<StateError> for Error {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Denied { .. } => Self::AccessDenied,
            error => Self::Other(guest_text(&error)),
        }
    }
}

impl From<Closed> for Error {
    fn from(closed: Closed) -> Self {
        match closed {
            Closed::Denied => Self::AccessDenied,
            Closed::Full(_) => Self::StoreTableFull,
            Closed::Invalid(error) => error.into(),
        }
    }
}

pub(super) fn link(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    let mut store = linker.instance("fermyon:spin/key-value@2.0.0")?;
    store.resource("store", ResourceType::host::<OpenBucket>(), |mut caller, rep| {
        drop_handle::<OpenBucket>(caller.data_mut(), rep)
    })?;
    store.func_wrap("[static]store.open", |mut caller: GuestCall<'_>, (label,): (String,)| {
        Ok((open(caller.data_mut(), &label)?.map_err(Error::from),))
    })?;
    link_basics::<Error>(&mut store, "store")?;
    store.func_wrap_async("[method]store.get-keys", |caller: GuestCall<'_>, (store,): (_,)| {
        let operation = Operation::begin(caller.data(), &store, 0);
        Box::new(async move { Ok((operation?.list_all().await.map_err(Error::from),)) })
    })
}

pub(super) fn link_async(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    let mut store = linker.instance("spin:key-value/key-value@3.0.0")?;
    store.resource("store", ResourceType::host::<OpenBucket>(), |mut caller, rep| {
        drop_handle::<OpenBucket>(caller.data_mut(), rep)
    })?;
    store.func_wrap_concurrent("[static]store.open", |accessor: &Accessor<Ctx>, (label,): (String,)| {
        let opened = accessor.with(|mut access| open(access.get(), &label));
        Box::pin(async move { Ok((opened?.map_err(Error::from),)) })
    })?;
    link_async_basics::<Error>(&mut store, "store")?;
    store.func_wrap_concurrent("[method]store.set", |accessor, (store, key, value): (_, String, Vec<u8>)| {
        let operation = begin(accessor, &store, key.len() + value.len());
        Box::pin(async move { Ok((operation?.set(&key, value, Set::default()).await.map_err(Error::from),)) })
    })?;
    store.func_wrap_concurrent(
        "[method]store.get-keys",
        |accessor: &Accessor<Ctx>, (store,): (Resource<OpenBucket>,)| {
            let streams = accessor.with(|mut access| {
                let operation = Operation::begin(access.get(), &store, 0)?;
                let (ended, end) = oneshot::channel();
                let keys = Keys::new(operation, ended);
                let result = async { Ok::<_, wasmtime::Error>(end.await.unwrap_or(Ok(()))) };
                Ok((StreamReader::new(&mut access, keys)?, FutureReader::new(&mut access, result)?))
            });
            Box::pin(async move { streams.map(|streams| (streams,)) })
        },
    )
}

/// The keys of a bucket, read page by page as the guest takes them.
struct Keys {
    bucket: StoreBucket,
    /// The room of the keys that the guest has not taken yet.
    room: Option<OwnedSemaphorePermit>,
    /// The page that is being read; `None` after the last one.
    page: Option<PageFuture>,
    /// Receives the result of the whole listing.
    ended: Option<oneshot::Sender<Result<(), Error>>>,
}

type PageFuture = Pin<Box<dyn Future<Output = Result<HeldPage, StateError>> + Send>>;

impl Keys {
    /// Begins with the page that `first` reads, and sends the result of the listing to `ended`.
    fn new(first: Operation, ended: oneshot::Sender<Result<(), Error>>) -> Self {
        let bucket = first.bucket.clone();
        Self { bucket, room: None, page: Some(read_page(first, None)), ended: Some(ended) }
    }
}

/// Reads the page at `cursor`.
fn read_page(operation: Operation, cursor: Option<Cursor>) -> PageFuture {
    Box::pin(async move { operation.held_list("", cursor.as_ref()).await })
}

impl StreamProducer<Ctx> for Keys {
    type Item = String;
    type Buffer = VecBuffer<String>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        store: StoreContextMut<'a, Ctx>,
        mut destination: Destination<'a, Self::Item, Self::Buffer>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        // The guest takes all keys of a page before it asks for more.
        self.room = None;
        let Some(page) = self.page.as_mut() else { return Poll::Ready(Ok(StreamResult::Dropped)) };
        let read = match page.as_mut().poll(cx) {
            Poll::Ready(read) => read,
            Poll::Pending if finish => return Poll::Ready(Ok(StreamResult::Cancelled)),
            Poll::Pending => return Poll::Pending,
        };
        let end = match read {
            Ok((keys, next, room)) => {
                self.room = Some(room);
                destination.set_buffer(keys.into());
                if let Some(next) = next {
                    let operation = Operation::on(store.data(), self.bucket.clone(), 0);
                    self.page = Some(read_page(operation, Some(next)));
                    return Poll::Ready(Ok(StreamResult::Completed));
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        };
        self.page = None;
        if let Some(ended) = self.ended.take() {
            // The guest may have dropped the future.
            let _ = ended.send(end);
        }
        Poll::Ready(Ok(StreamResult::Dropped))
    }
}
