//! Copies a response while it is sent to its client. Only complete responses are stored.

use std::sync::Arc;

use bytes::Bytes;
use http::header;
use http_body::Frame;

use super::ResponseCache;
use super::coalescer::FillGuard;
use super::stored::{StoredHead, accounted};
use lodge_base::budget::Reservation;

/// A copy in progress of one response. Dropping it before the end stores nothing, and the waiting requests look again.
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

impl Recorder {
    /// Begins a copy of a response.
    ///
    /// # Errors
    /// Returns the guard if the response is too large, or the budget has too few bytes left.
    pub(super) fn new(
        cache: &Arc<ResponseCache>,
        guard: FillGuard,
        stored_head: StoredHead,
        declared_length: Option<usize>,
    ) -> Result<Self, FillGuard> {
        let head = stored_head.bytes() + guard.key().len();
        // A guest or a replica declares the length: it can be any number.
        let fits = head.checked_add(declared_length.unwrap_or(0)).is_some_and(|size| size <= cache.entry);
        let reserve = || Some((cache.budget.reserve(head)?, cache.budget.reserve(0)?));
        let Some((reservation, body_reservation)) = fits.then(reserve).flatten() else { return Err(guard) };
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
        if recording.reserve(declared_length.unwrap_or(0)) { Ok(Self(Some(recording))) } else { Err(recording.guard) }
    }

    /// Copies a frame. Gives up at trailers, which are never stored.
    pub fn frame(&mut self, frame: &Frame<Bytes>) {
        let Some(recording) = &mut self.0 else { return };
        let fits = frame.data_ref().is_some_and(|data| {
            let fits = recording.reserve(data.len());
            if fits {
                recording.body.extend_from_slice(data);
            }
            fits
        });
        if !fits {
            self.give_up();
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
            return guard.finish_uncacheable();
        }
        let stored = Arc::new(stored_head.complete(accounted(body, body_reservation), reservation));
        guard.store(|key| cache.put(key, stored));
    }

    /// Stores nothing: the response was incomplete or is too large. Later requests do not wait for one another.
    pub fn give_up(&mut self) {
        if let Some(recording) = self.0.take() {
            recording.guard.finish_uncacheable();
        }
    }
}

impl PartialResponse {
    /// Reserves and allocates space for `more` bytes. Returns false if the response becomes too large, or the budget
    /// has too few bytes left.
    fn reserve(&mut self, more: usize) -> bool {
        let (length, allocated) = (self.body.len(), self.body.capacity());
        let most = self.cache.entry.saturating_sub(self.reservation.bytes());
        let Some(needed) = length.checked_add(more).filter(|needed| *needed <= most) else { return false };
        if needed <= allocated {
            return true;
        }
        // Doubling avoids a copy of the body for each frame. If it does not fit, exactly what is needed.
        let wanted = [needed.max(allocated.saturating_mul(2)).min(most), needed];
        let Some(size) = wanted.into_iter().find(|size| self.body_reservation.grow(size - allocated)) else {
            return false;
        };
        self.body.reserve_exact(size - length);
        // An allocator may give more than requested.
        self.body_reservation.grow(self.body.capacity().saturating_sub(size)) || self.body.capacity() == size
    }
}

/// The `Content-Length` of a head, if it is valid.
pub fn declared_length(headers: &header::HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
