//! Objects as they are read: by one response of the server, which is continued by another request if it breaks off.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Response;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use lodge_remote::Backoff;
use lodge_state::blobs::{BlobError, BlobName, BlobReader, BlobTask, PIECE};
use tokio::sync::{Mutex, OwnedSemaphorePermit};
use tokio::time::{Instant, sleep, timeout};

use crate::failure::{S3Failure, unavailable};
use crate::space::S3Space;

/// How long the server may send nothing of a response.
const SILENCE: Duration = Duration::from_secs(20);
/// How often the server is asked for the rest of an object, without a byte of it.
const ATTEMPTS: usize = 4;
/// The last position of a byte that every server understands.
const LAST: u64 = i64::MAX as u64;

/// A part of an object that is read, as it was when this was opened.
pub(crate) struct S3Object {
    left: u64,
    content: Arc<Mutex<ObjectContent>>,
    _place: Option<OwnedSemaphorePermit>,
}

struct ObjectContent {
    space: Arc<S3Space>,
    key: String,
    tag: String,
    /// The position of the next byte that the server sends, and that after the last.
    position: u64,
    end: u64,
    /// The response; `None` after it has broken off.
    body: Option<Incoming>,
    /// What has been received and not been read.
    received: Bytes,
}

impl S3Object {
    /// Opens the bytes of an object from `start` to `end`, both included, as far as there are any.
    pub(crate) async fn open(
        space: &Arc<S3Space>,
        (container, object): BlobName<'_>,
        (start, end): (u64, u64),
        deadline: Instant,
    ) -> Result<Self, BlobError> {
        if start > end {
            return Err(BlobError::Invalid { what: "the range", problem: "ends before it starts" });
        }
        space.keys.check_object(object)?;
        let place = space.place(deadline).await?;
        let key = space.keys.object(&space.find(container, deadline).await?.id, object)?;
        let range = (start > 0 || end < LAST).then_some((start, end.min(LAST)));
        let opened = if start > LAST {
            // No object has so many bytes, and not every server understands the number.
            space.lane.head(&key, deadline).await?.ok_or(BlobError::NoObject)?;
            None
        } else {
            match space.lane.get(&key, range, None, deadline).await {
                Ok(opened) => Some(opened),
                Err(S3Failure::BeyondEnd) => None,
                Err(other) => return Err(other.or(BlobError::NoObject)),
            }
        };
        let (tag, body, length) = match opened {
            None => (String::new(), None, 0),
            Some((response, tag)) => {
                let length = length(&response)?;
                (tag, Some(response.into_body()), length)
            }
        };
        if range.is_some_and(|(start, end)| length > end.saturating_sub(start).saturating_add(1)) {
            return Err(unavailable("the server has sent more than was asked for"));
        }
        let end = start.saturating_add(length);
        let received = Bytes::new();
        let content = ObjectContent { space: Arc::clone(space), key, tag, position: start, end, body, received };
        Ok(Self { left: length, content: Arc::new(Mutex::new(content)), _place: place })
    }
}

impl BlobReader for S3Object {
    fn left(&self) -> u64 {
        self.left
    }

    fn read(&mut self) -> Option<BlobTask<Bytes>> {
        let length = usize::try_from(self.left).unwrap_or(PIECE).min(PIECE);
        if length == 0 {
            return None;
        }
        self.left = self.left.saturating_sub(length as u64);
        let content = Arc::clone(&self.content);
        Some(tokio::spawn(async move { content.lock().await.take(length).await }))
    }
}

impl ObjectContent {
    /// Returns the next bytes, as many as `length`.
    async fn take(&mut self, length: usize) -> Result<Bytes, BlobError> {
        if self.received.is_empty() {
            self.receive().await?;
        }
        if self.received.len() >= length {
            return Ok(self.received.split_to(length));
        }
        let mut bytes = BytesMut::with_capacity(length);
        while bytes.len() < length {
            if self.received.is_empty() {
                self.receive().await?;
            }
            let missing = length.saturating_sub(bytes.len());
            bytes.extend_from_slice(&self.received.split_to(missing.min(self.received.len())));
        }
        Ok(bytes.freeze())
    }

    /// Waits for more of the object.
    async fn receive(&mut self) -> Result<(), BlobError> {
        let mut backoff = Backoff::new();
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                sleep(backoff.pause()).await;
            }
            if self.body.is_none() {
                match self.again().await {
                    Ok(body) => self.body = Some(body),
                    Err(BlobError::Timeout | BlobError::Unavailable(_)) => continue,
                    Err(other) => return Err(other),
                }
            }
            let Some(body) = &mut self.body else { continue };
            match timeout(SILENCE, body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    let data = frame.into_data().unwrap_or_default();
                    self.position = self.position.saturating_add(data.len() as u64);
                    if self.position > self.end {
                        return Err(unavailable("the server has sent more than it said"));
                    }
                    self.received = data;
                    if !self.received.is_empty() {
                        return Ok(());
                    }
                }
                // It has broken off, or the server is silent.
                _ => self.body = None,
            }
        }
        Err(unavailable("the rest of an object cannot be read"))
    }

    /// Asks for the rest of the same object.
    async fn again(&self) -> Result<Incoming, BlobError> {
        let range = Some((self.position, self.end.saturating_sub(1)));
        let deadline = Instant::now() + SILENCE;
        let changed = BlobError::Invalid {
            what: "the object",
            problem: "was replaced or deleted while it was read, and the server does not have the old one any more: read it again",
        };
        let opened = self.space.lane.get(&self.key, range, Some(&self.tag), deadline).await;
        let (response, tag) = opened.map_err(|failure| match failure {
            S3Failure::Other(error) => error,
            S3Failure::Missing | S3Failure::Changed | S3Failure::BeyondEnd => changed.clone(),
        })?;
        // Not every server respects the condition.
        if tag != self.tag || length(&response)? != self.end.saturating_sub(self.position) {
            return Err(changed);
        }
        Ok(response.into_body())
    }
}

/// The bytes that a response has.
fn length(response: &Response<Incoming>) -> Result<u64, BlobError> {
    let text = response.headers().get("content-length").and_then(|value| value.to_str().ok());
    text.and_then(|text| text.parse().ok()).ok_or_else(|| unavailable("a response has no Content-Length"))
}
