//! Objects as they are written: in memory up to a part, and in parts of one size if they are larger.

use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use lodge_remote::Backoff;
use lodge_state::blobs::{BlobError, BlobName, BlobTask, BlobWriter, PIECE, PendingBlob};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedSemaphorePermit};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::account::BlobCharge;
use crate::failure::{S3Failure, unavailable};
use crate::keys::random;
use crate::operations::{PartsOf, WriteCondition};
use crate::places::{PartPlace, ServicePlaces};
use crate::sign::{hex, sha256};
use crate::space::{S3Space, run};
use crate::transport::S3Lane;

/// Bytes of every part but the last. S3 takes no smaller ones.
pub(crate) const PART: usize = 5 << 20;
/// Parts of an object. S3 takes no more: 48 GiB.
const MAX_PARTS: usize = 10_000;
/// While other uploads wait for memory: how long one may have it without a byte more, and until a part is complete.
const SLOW: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(60));
/// How often that is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long a part may take, with all attempts; and how long it may wait for memory.
const PART_TIME: Duration = Duration::from_secs(120);
/// How long the server is asked to remove the parts of an object that was not finished.
const ABORT: Duration = Duration::from_secs(120);

/// The error of a write that is not waited for, and of one after the object was published.
const NOT_NOW: BlobError = BlobError::Invalid {
    what: "the write",
    problem: "came before the end of the last one, or after the object was finished",
};

/// The error of a write after the memory was given to others.
const TOO_SLOW: BlobError = BlobError::Invalid {
    what: "the object",
    problem: "was written too slowly while other large objects waited for memory: try again",
};

/// An object that is being written.
pub(crate) struct S3Upload {
    content: Arc<Mutex<Option<UploadParts>>>,
    pace: Arc<UploadPace>,
}

/// How fast the guest writes.
struct UploadPace(std::sync::Mutex<PaceState>);

struct PaceState {
    /// When it wrote last.
    written: Instant,
    /// Since when the present part has memory.
    since: Option<Instant>,
    /// Whether the memory is being given to others.
    too_slow: bool,
}

/// What was written so far.
struct UploadParts {
    space: Arc<S3Space>,
    /// The container and the name of the object, if they are known.
    name: Option<(String, String)>,
    /// Bytes that were not sent yet.
    buffer: Vec<u8>,
    charge: BlobCharge,
    parts: Option<Parts>,
    /// The right to more than a piece of memory.
    memory: Option<PartPlace>,
    pace: Arc<UploadPace>,
    /// Where this is, until something looks at the pace.
    own: Option<Weak<Mutex<Option<UploadParts>>>>,
    /// Why the object cannot be published any more.
    failure: Option<BlobError>,
    _place: Option<OwnedSemaphorePermit>,
}

/// Parts that the server has. Dropping it removes them, or the object that was made of them.
struct Parts {
    lane: S3Lane,
    of: PartsOf,
    tags: Vec<String>,
    state: PartsState,
    runtime: Handle,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PartsState {
    Apart,
    /// They are an object that does not have its name yet, or may be one.
    Joined,
    /// They are the object.
    Done,
}

impl S3Upload {
    pub(crate) fn new(
        space: &Arc<S3Space>,
        name: Option<(String, String)>,
        place: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let (charge, space, buffer) = (space.account.charge(), Arc::clone(space), Vec::new());
        let (parts, memory, failure) = (None, None, None);
        let state = PaceState { written: Instant::now(), since: None, too_slow: false };
        let pace = Arc::new(UploadPace(std::sync::Mutex::new(state)));
        let kept = Arc::clone(&pace);
        let content = Arc::new_cyclic(|own: &Weak<_>| {
            let own = Some(own.clone());
            Mutex::new(Some(UploadParts {
                space,
                name,
                buffer,
                charge,
                parts,
                memory,
                pace,
                own,
                failure,
                _place: place,
            }))
        });
        Self { content, pace: kept }
    }
}

impl BlobWriter for S3Upload {
    fn write(&self, bytes: &[u8]) -> Result<Option<BlobTask<()>>, BlobError> {
        let Ok(mut slot) = Arc::clone(&self.content).try_lock_owned() else {
            return Err(if self.pace.state().too_slow { TOO_SLOW } else { NOT_NOW });
        };
        self.pace.state().written = Instant::now();
        let content = slot.as_mut().ok_or(NOT_NOW)?;
        content.add(bytes)?;
        let room = if content.memory.is_some() { PART } else { PIECE };
        if content.buffer.len() < room {
            return Ok(None);
        }
        Ok(Some(tokio::spawn(async move {
            match slot.as_mut() {
                Some(content) => content.flush().await,
                None => Ok(()),
            }
        })))
    }

    fn publish<'a>(&'a self, (container, object): BlobName<'a>, deadline: Instant) -> PendingBlob<'a, u64> {
        let name = (container.to_owned(), object.to_owned());
        Box::pin(async move {
            let slot = timeout_at(deadline, self.content.lock()).await;
            let content = slot.map_err(|_| BlobError::Timeout)?.take().ok_or(NOT_NOW)?;
            run(content.publish(name, deadline)).await
        })
    }
}

impl UploadParts {
    fn add(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let charged = self.charge.take(bytes.len() as u64);
        self.space.count_if_due(charged.is_err());
        self.failure = charged.as_ref().err().cloned();
        charged?;
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// Gets memory for a part, or sends it.
    async fn flush(&mut self) -> Result<(), BlobError> {
        let flushed = self.send_parts().await;
        self.failure = self.failure.take().or_else(|| flushed.as_ref().err().cloned());
        flushed
    }

    async fn send_parts(&mut self) -> Result<(), BlobError> {
        if self.memory.is_none() {
            let place = timeout(PART_TIME, self.space.parts.acquire()).await;
            self.memory = Some(place.map_err(|_| unavailable("too many large objects are being written"))?);
            self.pace.state().since = Some(Instant::now());
            if let Some(own) = self.own.take() {
                tokio::spawn(watch(own, Arc::clone(&self.pace), Arc::clone(&self.space.parts)));
            }
            self.buffer.reserve_exact((PART + PIECE).saturating_sub(self.buffer.len()));
        }
        while self.buffer.len() >= PART {
            let rest = self.buffer.split_off(PART);
            let part = std::mem::replace(&mut self.buffer, rest);
            self.send_part(part.into(), Instant::now() + PART_TIME).await?;
            if self.buffer.len() < PIECE {
                self.memory = None;
            }
            self.pace.state().since = self.memory.as_ref().map(|_| Instant::now());
        }
        Ok(())
    }

    /// Gives the memory to others.
    fn stop(&mut self) {
        self.failure = Some(TOO_SLOW);
        (self.memory, self.parts, self.buffer) = (None, None, Vec::new());
        self.charge = self.space.account.charge();
    }

    async fn send_part(&mut self, part: Bytes, deadline: Instant) -> Result<(), BlobError> {
        if self.parts.is_none() {
            let of = self.space.lane.begin_parts(&self.key(deadline).await?, deadline).await;
            let (lane, of) = (self.space.lane.clone(), of.map_err(|failure| failure.or(gone()))?);
            self.parts =
                Some(Parts { lane, of, tags: Vec::new(), state: PartsState::Apart, runtime: Handle::current() });
        }
        let Some(parts) = &mut self.parts else { return Ok(()) };
        if parts.tags.len() >= MAX_PARTS {
            return Err(BlobError::TooLarge { what: "the object", unit: "bytes", limit: PART * MAX_PARTS });
        }
        let number = parts.tags.len().saturating_add(1);
        let hash = hash(&part).await?;
        let sent = self.space.lane.put_part(&parts.of, number, (part, hash), deadline).await;
        parts.tags.push(sent.map_err(|failure| failure.or(gone()))?);
        Ok(())
    }

    /// The key for parts: that of the object, if its name and its container are known, else another.
    async fn key(&self, deadline: Instant) -> Result<String, BlobError> {
        if let Some((container, object)) = &self.name {
            match self.space.find(container, deadline).await {
                Ok(container) => return self.space.keys.object(&container.id, object),
                // It is created until the end, or that will say so.
                Err(BlobError::NoContainer) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(format!("{}{}", self.space.keys.unnamed(), random()?))
    }

    async fn publish(mut self, (container, object): (String, String), deadline: Instant) -> Result<u64, BlobError> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        if self.name.as_ref().is_some_and(|begun| *begun != (container.clone(), object.clone())) {
            // Its parts belong to the other one, which must not be replaced.
            return Err(BlobError::Invalid { what: "the object", problem: "was begun with another name" });
        }
        let space = Arc::clone(&self.space);
        space.keys.check_object(&object)?;
        let key = space.keys.object(&space.find(&container, deadline).await?.id, &object)?;
        let last = std::mem::take(&mut self.buffer);
        let stored = if self.parts.is_none() {
            let last = Bytes::from(last);
            let hash = hash(&last).await?;
            let before = space.replaced(&key, deadline).await?;
            let put = space.lane.put(&key, (last, Some(hash)), WriteCondition::Always, deadline);
            space.settle(before, put.await)
        } else {
            if !last.is_empty() {
                self.send_part(last.into(), deadline).await?;
            }
            let Some(parts) = &mut self.parts else { return Err(gone()) };
            parts.publish(&space, &key, deadline).await
        };
        stored.map_err(|failure| failure.or(gone()))?;
        let bytes = self.charge.bytes();
        self.charge.keep();
        Ok(bytes)
    }
}

impl UploadPace {
    fn state(&self) -> MutexGuard<'_, PaceState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the guest is slow with the present part.
    fn is_slow(&self) -> bool {
        let state = self.state();
        state.since.is_some_and(|since| state.written.max(since).elapsed() >= SLOW.0 || since.elapsed() >= SLOW.1)
    }
}

/// Gives the memory of an upload to others if it is slow and they wait for it.
async fn watch(upload: Weak<Mutex<Option<UploadParts>>>, pace: Arc<UploadPace>, places: Arc<ServicePlaces>) {
    loop {
        sleep(LOOK).await;
        let Some(content) = upload.upgrade() else { return };
        if !pace.is_slow() || !places.are_short() {
            continue;
        }
        // What the guest writes from now on is refused, whoever is first.
        pace.state().too_slow = true;
        match content.try_lock() {
            Ok(mut slot) => {
                if let Some(parts) = slot.as_mut() {
                    parts.stop();
                }
                return;
            }
            // It is writing.
            Err(_) => pace.state().too_slow = false,
        }
    }
}

/// The SHA-256 of a part, computed where it delays no request.
async fn hash(part: &Bytes) -> Result<String, BlobError> {
    let part = part.clone();
    tokio::task::spawn_blocking(move || hex(&sha256(&part))).await.map_err(unavailable)
}

/// The server has removed the parts, or joined them by an attempt whose response was lost.
fn gone() -> BlobError {
    unavailable("the parts of the object are not there: it may have been stored; read it to find out")
}

impl Parts {
    /// Joins the parts. If they are not there, they may have been joined by an attempt whose response was lost, so that is an error
    /// after which nobody knows what is stored.
    async fn join(&self, deadline: Instant) -> Result<(), S3Failure> {
        self.lane.join_parts(&self.of, &self.tags, deadline).await.map_err(|failure| match failure {
            S3Failure::Missing => gone().into(),
            other => other,
        })
    }

    /// Makes an object of the parts, with its key.
    async fn publish(&mut self, space: &Arc<S3Space>, key: &str, deadline: Instant) -> Result<(), S3Failure> {
        if self.of.key == key {
            let before = space.replaced(key, deadline).await?;
            space.settle(before, self.join(deadline).await)?;
            self.state = PartsState::Done;
            return Ok(());
        }
        self.state = PartsState::Joined;
        self.join(deadline).await?;
        let head = self.lane.head(&self.of.key, deadline).await?.ok_or_else(gone)?;
        // Dropping this removes the other object.
        space.place_copy((&self.of.key, &head), key, false, deadline).await
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        let (lane, of, state) = (self.lane.clone(), self.of.clone(), self.state);
        if state == PartsState::Done {
            return;
        }
        self.runtime.spawn(async move {
            let (end, mut backoff) = (Instant::now() + ABORT, Backoff::new());
            loop {
                let mut removed = lane.abort_parts(&of, end).await;
                if removed.is_ok() && state == PartsState::Joined {
                    removed = lane.remove(&of.key, end).await;
                }
                if removed.is_ok() || Instant::now() >= end {
                    return;
                }
                sleep(backoff.pause()).await;
            }
        });
    }
}
