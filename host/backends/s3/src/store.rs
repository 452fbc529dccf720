//! The operations of guests, as tasks where they change something.

use std::sync::Arc;
use std::time::SystemTime;

use lodge_state::blobs::{
    BlobError, BlobInfo, BlobName, BlobPages, BlobReader, BlobStore, BlobUsage, BlobWriter, MAX_NAMES, PendingBlob,
};
use tokio::time::Instant;

use crate::object::S3Object;
use crate::operations::ObjectHead;
use crate::pages::S3Pages;
use crate::space::{OwnedName, S3Space, run};
use crate::upload::S3Upload;

/// The containers and objects of one service.
pub(crate) struct S3Store(pub(crate) Arc<S3Space>);

fn owned((container, object): BlobName<'_>) -> OwnedName {
    (container.to_owned(), object.to_owned())
}

impl BlobStore for S3Store {
    fn usage(&self) -> BlobUsage {
        self.0.account.usage()
    }

    fn check_name(&self, (container, object): BlobName<'_>) -> Result<(), BlobError> {
        self.0.keys.container(container)?;
        self.0.keys.check_object(object)
    }

    fn create_container<'a>(&'a self, name: &'a str, deadline: Instant) -> PendingBlob<'a, ()> {
        Box::pin(run(S3Space::create_container(Arc::clone(&self.0), name.to_owned(), deadline)))
    }

    fn container<'a>(&'a self, name: &'a str, deadline: Instant) -> PendingBlob<'a, Option<SystemTime>> {
        Box::pin(async move {
            match self.0.find(name, deadline).await {
                Ok(container) => Ok(Some(container.created)),
                Err(BlobError::NoContainer) => Ok(None),
                Err(other) => Err(other),
            }
        })
    }

    fn delete_container<'a>(&'a self, name: &'a str, deadline: Instant) -> PendingBlob<'a, ()> {
        Box::pin(run(S3Space::delete_container(Arc::clone(&self.0), name.to_owned(), deadline)))
    }

    fn clear<'a>(&'a self, name: &'a str, deadline: Instant) -> PendingBlob<'a, ()> {
        Box::pin(run(S3Space::clear(Arc::clone(&self.0), name.to_owned(), deadline)))
    }

    fn info<'a>(&'a self, (container, object): BlobName<'a>, deadline: Instant) -> PendingBlob<'a, BlobInfo> {
        Box::pin(async move {
            self.0.keys.check_object(object)?;
            let id = self.0.find(container, deadline).await?.id;
            let head = self.0.lane.head(&self.0.keys.object(&id, object)?, deadline).await?;
            let ObjectHead { bytes, modified, .. } = head.ok_or(BlobError::NoObject)?;
            Ok(BlobInfo { bytes, created: modified })
        })
    }

    fn sweep(&self) -> PendingBlob<'_, ()> {
        let space = Arc::clone(&self.0);
        Box::pin(run(async move { space.sweep().await }))
    }

    fn delete<'a>(&'a self, container: &'a str, objects: &'a [String], deadline: Instant) -> PendingBlob<'a, ()> {
        if objects.len() > MAX_NAMES {
            let error = BlobError::TooLarge { what: "the list", unit: "names", limit: MAX_NAMES };
            return Box::pin(std::future::ready(Err(error)));
        }
        Box::pin(run(S3Space::delete(Arc::clone(&self.0), container.to_owned(), objects.to_vec(), deadline)))
    }

    fn copy<'a>(&'a self, from: BlobName<'a>, to: BlobName<'a>, deadline: Instant) -> PendingBlob<'a, ()> {
        Box::pin(run(S3Space::copy(Arc::clone(&self.0), owned(from), owned(to), deadline)))
    }

    fn rename<'a>(&'a self, from: BlobName<'a>, to: BlobName<'a>, deadline: Instant) -> PendingBlob<'a, ()> {
        Box::pin(run(S3Space::rename(Arc::clone(&self.0), owned(from), owned(to), deadline)))
    }

    fn read<'a>(
        &'a self,
        of: BlobName<'a>,
        range: (u64, u64),
        deadline: Instant,
    ) -> PendingBlob<'a, Box<dyn BlobReader>> {
        Box::pin(
            async move { Ok(Box::new(S3Object::open(&self.0, of, range, deadline).await?) as Box<dyn BlobReader>) },
        )
    }

    fn write<'a>(&'a self, name: Option<BlobName<'a>>, deadline: Instant) -> PendingBlob<'a, Arc<dyn BlobWriter>> {
        Box::pin(async move {
            let place = self.0.place(deadline).await?;
            Ok(Arc::new(S3Upload::new(&self.0, name.map(owned), place)) as Arc<dyn BlobWriter>)
        })
    }

    fn list<'a>(&'a self, container: &'a str, deadline: Instant) -> PendingBlob<'a, Box<dyn BlobPages>> {
        Box::pin(async move {
            let place = self.0.place(deadline).await?;
            let id = self.0.find(container, deadline).await?.id;
            Ok(Box::new(S3Pages::new(&self.0, &id, place)) as Box<dyn BlobPages>)
        })
    }
}
