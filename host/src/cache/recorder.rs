//! An answer is written down while it goes to the client who asked for it. Only one that came to its proper end is kept.

use std::sync::Arc;

use bytes::Bytes;
use http::header;
use http_body::Frame;

use super::Responses;
use super::flights::Lead;
use super::kept::{Draft, housed};
use crate::base::budget::Room;

/// Writes one answer down. Dropped before the end, it has kept nothing, and who waited for it asks.
pub struct Recorder(Option<Box<Recording>>);

struct Recording {
    responses: Arc<Responses>,
    lead: Lead,
    draft: Draft,
    /// Of the head.
    room: Room,
    body: Vec<u8>,
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
        let (responses, body) = (Arc::clone(responses), Vec::with_capacity(promised.unwrap_or(0)));
        Ok(Self(Some(Box::new(Recording { responses, lead, draft, room, body, body_room, promised }))))
    }

    /// The next frame is on its way. Trailers are never kept, so neither is what has them.
    pub fn frame(&mut self, frame: &Frame<Bytes>) {
        let Some(recording) = &mut self.0 else { return };
        let fits = frame.data_ref().is_some_and(|data| {
            let size = recording.room.bytes() + recording.body.len() + data.len();
            let fits = size <= recording.responses.entry && recording.body_room.grow(data.len());
            if fits {
                recording.body.extend_from_slice(data);
            }
            fits
        });
        if !fits {
            self.give_up();
        }
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

/// What a head says of its body's size.
pub(crate) fn promised(headers: &header::HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
