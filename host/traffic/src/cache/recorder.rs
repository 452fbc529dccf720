//! Copies a response while it is sent to its client. Only complete responses are stored.

use std::sync::Arc;

use bytes::Bytes;
use http::header;
use http_body::Frame;

use super::ResponseCache;
use super::coalescer::FillGuard;
use super::stored::{StoredHead, accounted};
use lodge_base::budget::Reservation;

/// A copy in progress of one response. Dropping it before the end stores nothing, and one of the waiting requests takes over.
pub struct Recorder(Option<Box<PartialResponse>>);

struct PartialResponse {
    cache: Arc<ResponseCache>,
    guard: FillGuard,
    stored_head: StoredHead,
    /// For the head.
    reservation: Reservation,
    body: Vec<u8>,
    /// For the capacity of `body`.
    body_reservation: Reservation,
    /// The length that the head declares.
    declared_length: Option<usize>,
}

/// Why a response cannot be copied.
enum NoSpace {
    /// It is too large, or has trailers: whoever asks for it.
    Ever,
    /// The budget has too few bytes left.
    Now,
}

impl Recorder {
    /// Begins a copy of a response. If the response is too large, or the budget has too few bytes left, ends the fill
    /// and returns `None`.
    pub(super) fn new(
        cache: &Arc<ResponseCache>,
        guard: FillGuard,
        stored_head: StoredHead,
        declared_length: Option<usize>,
    ) -> Option<Self> {
        let head = stored_head.bytes() + guard.key().len();
        // A guest or a replica declares the length: it can be any number.
        if head.checked_add(declared_length.unwrap_or(0)).is_none_or(|size| size > cache.entry) {
            guard.finish_uncacheable();
            return None;
        }
        let Some((reservation, body_reservation)) = cache.budget.reserve(head).zip(cache.budget.reserve(0)) else {
            guard.finish_unstored();
            return None;
        };
        let (cache, body) = (Arc::clone(cache), Vec::new());
        let mut recording = Box::new(PartialResponse {
            cache,
            guard,
            stored_head,
            reservation,
            body,
            body_reservation,
            declared_length,
        });
        match recording.reserve(declared_length.unwrap_or(0)) {
            Ok(()) => Some(Self(Some(recording))),
            Err(no_space) => {
                recording.give_up(no_space);
                None
            }
        }
    }

    /// Copies a frame. Gives up at trailers, which are never stored.
    pub fn frame(&mut self, frame: &Frame<Bytes>) {
        let Some(recording) = &mut self.0 else { return };
        let copied = frame.data_ref().ok_or(NoSpace::Ever).and_then(|data| {
            recording.reserve(data.len())?;
            recording.body.extend_from_slice(data);
            Ok(())
        });
        if let Err(no_space) = copied
            && let Some(recording) = self.0.take()
        {
            recording.give_up(no_space);
        }
    }

    /// The bytes that are allocated for the body.
    #[cfg(test)]
    pub(super) fn allocated(&self) -> usize {
        self.0.as_ref().map_or(0, |recording| recording.body.capacity())
    }

    /// Stores the response, whose body was complete.
    pub fn end(&mut self) {
        let Some(recording) = self.0.take() else { return };
        let PartialResponse { cache, guard, stored_head, reservation, body, body_reservation, declared_length } =
            *recording;
        if declared_length.is_some_and(|declared_length| declared_length != body.len()) {
            return guard.hand_over();
        }
        let stored = Arc::new(stored_head.complete(accounted(body, body_reservation), reservation));
        guard.store(|key| cache.put(key, stored));
    }

    /// Stores nothing, and one of the waiting requests takes over: what ended the response says nothing of the next one.
    pub fn cancel(&mut self) {
        self.0 = None;
    }
}

impl PartialResponse {
    /// Ends the fill.
    fn give_up(self: Box<Self>, no_space: NoSpace) {
        match no_space {
            NoSpace::Ever => self.guard.finish_uncacheable(),
            NoSpace::Now => self.guard.finish_unstored(),
        }
    }

    /// Reserves and allocates space for `more` bytes.
    fn reserve(&mut self, more: usize) -> Result<(), NoSpace> {
        let (length, allocated) = (self.body.len(), self.body.capacity());
        let most = self.cache.entry.saturating_sub(self.reservation.bytes());
        let needed = length.checked_add(more).filter(|needed| *needed <= most).ok_or(NoSpace::Ever)?;
        if needed <= allocated {
            return Ok(());
        }
        // Doubling avoids a copy of the body for each frame. If it does not fit, exactly what is needed.
        let wanted = [needed.max(allocated.saturating_mul(2)).min(most), needed];
        let size = wanted.into_iter().find(|size| self.body_reservation.grow(size - allocated)).ok_or(NoSpace::Now)?;
        self.body.reserve_exact(size - length);
        // An allocator may give more than requested.
        let more = self.body.capacity().saturating_sub(size);
        if self.body_reservation.grow(more) || more == 0 { Ok(()) } else { Err(NoSpace::Now) }
    }
}

/// The `Content-Length` of a head, if it is valid.
pub fn declared_length(headers: &header::HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
