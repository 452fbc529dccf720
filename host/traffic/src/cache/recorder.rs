//! An answer is written down while it goes to the client who asked for it. Only one that came to its proper end is kept.

use std::sync::Arc;

use bytes::Bytes;
use http::header;
use http_body::Frame;

use super::Responses;
use super::flights::Lead;
use super::kept::{Draft, housed};
use lodge_base::budget::Room;

/// Writes one answer down. Dropped before the end, it has kept nothing, and who waited for it asks.
pub struct Recorder(Option<Box<Recording>>);

struct Recording {
    responses: Arc<Responses>,
    lead: Lead,
    draft: Draft,
    /// Of the head.
    room: Room,
    body: Vec<u8>,
    /// Of all that is allocated for the body.
    body_room: Room,
    /// What the head says of the body's size.
    promised: Option<usize>,
}

impl Recorder {
    /// Writes an answer down for this lead; gives the lead back where it is too large for that.
    pub(super) fn new(
        responses: &Arc<Responses>,
        lead: Lead,
        draft: Draft,
        promised: Option<usize>,
    ) -> Result<Self, Lead> {
        let head = draft.bytes() + lead.key().len();
        // The length is the word of a guest or a replica, and may be any number.
        let fits = head.checked_add(promised.unwrap_or(0)).is_some_and(|size| size <= responses.entry);
        let rooms = || Some((responses.budget.room(head)?, responses.budget.room(0)?));
        let Some((room, body_room)) = fits.then(rooms).flatten() else { return Err(lead) };
        let (responses, body) = (Arc::clone(responses), Vec::new());
        let mut recording = Box::new(Recording { responses, lead, draft, room, body, body_room, promised });
        if recording.reserve(promised.unwrap_or(0)) { Ok(Self(Some(recording))) } else { Err(recording.lead) }
    }

    /// The next frame is on its way. Trailers are never kept, so neither is what has them.
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

    /// Bytes that are allocated for the body.
    #[cfg(test)]
    pub(super) fn allocated(&self) -> usize {
        self.0.as_ref().map_or(0, |recording| recording.body.capacity())
    }

    /// Every frame was there.
    pub fn end(&mut self) {
        let Some(recording) = self.0.take() else { return };
        let Recording { responses, lead, draft, room, body, body_room, promised } = *recording;
        if promised.is_some_and(|promised| promised != body.len()) {
            return lead.barren();
        }
        let kept = Arc::new(draft.with(housed(body, body_room), room));
        lead.land(|key| responses.put(key, kept));
    }

    /// The answer broke off, or cannot be kept: nobody is to wait for it.
    pub fn give_up(&mut self) {
        if let Some(recording) = self.0.take() {
            recording.lead.barren();
        }
    }
}

impl Recording {
    /// Makes room for so many bytes more, in the cache's bound and in memory. False where the response becomes too large, or
    /// there is no room.
    fn reserve(&mut self, more: usize) -> bool {
        let (length, allocated) = (self.body.len(), self.body.capacity());
        let most = self.responses.entry.saturating_sub(self.room.bytes());
        let Some(needed) = length.checked_add(more).filter(|needed| *needed <= most) else { return false };
        if needed <= allocated {
            return true;
        }
        // Twice as much, so that a long body is not copied for each of its frames, or else what is needed.
        let wanted = [needed.max(allocated.saturating_mul(2)).min(most), needed];
        let Some(size) = wanted.into_iter().find(|size| self.body_room.grow(size - allocated)) else { return false };
        self.body.reserve_exact(size - length);
        // An allocator may give more than it was asked for.
        self.body_room.grow(self.body.capacity().saturating_sub(size)) || self.body.capacity() == size
    }
}

/// What a head says of its body's size.
pub fn promised(headers: &header::HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
