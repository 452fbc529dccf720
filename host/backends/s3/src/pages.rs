//! Names of the objects of a container.

use std::sync::Arc;

use lodge_state::blobs::{BlobError, BlobPages, MAX_NAMES, PendingBlob};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::keys::decode;
use crate::space::S3Space;

/// A listing between two pages, in the order of keys.
pub(crate) struct S3Pages {
    space: Arc<S3Space>,
    prefix: String,
    after: Option<String>,
    /// Whether a page has failed, or was the last.
    ended: Option<bool>,
    _place: Option<OwnedSemaphorePermit>,
}

impl S3Pages {
    /// Begins a listing of the container with this id.
    pub(crate) fn new(space: &Arc<S3Space>, id: &str, place: Option<OwnedSemaphorePermit>) -> Self {
        let prefix = space.keys.objects(id);
        Self { space: Arc::clone(space), prefix, after: None, ended: Some(false), _place: place }
    }

    async fn page(&mut self, most: usize, deadline: Instant) -> Result<(Vec<String>, bool), BlobError> {
        match self.ended {
            None => return Err(BlobError::Invalid { what: "the listing", problem: "has failed: begin another" }),
            Some(ended) if ended || most == 0 => return Ok((Vec::new(), ended)),
            Some(_) => self.ended = None,
        }
        let page = self.space.lane.page(&self.prefix, self.after.as_deref(), most.min(MAX_NAMES), deadline).await?;
        let names = page.objects.iter().filter_map(|object| decode(object.key.strip_prefix(&self.prefix)?)).collect();
        self.after = page.next;
        self.ended = Some(self.after.is_none());
        Ok((names, self.after.is_none()))
    }
}

impl BlobPages for S3Pages {
    fn next(&mut self, most: usize, deadline: Instant) -> PendingBlob<'_, (Vec<String>, bool)> {
        Box::pin(self.page(most, deadline))
    }
}
