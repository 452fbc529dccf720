//! A body that is compressed while it is sent.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};

use super::encoder::{Encoder, EncoderError, EncoderStep, TURN};
use super::without_digests;
use crate::admission::client_memory::ClientRoom;
use lodge_base::cpu::turn::yield_turn;

/// Fewer bytes wait for more, unless the body pauses or ends: gzip writes its head before there is any content.
const FRAME: usize = 4 << 10;

/// Bytes of frames that a connection may hold after the end of a body: what h2 buffers of a stream, a frame on its way there, and one
/// that is being written.
const UNSENT: usize = 48 << 10;

/// A body on its way through an encoder. Its trailers follow, without those about the bytes.
///
/// When the body has nothing more at present, what there is of it is sent: an event of a stream must not wait for the next one.
pub struct CompressedBody<B> {
    inner: B,
    /// Until the end of the body.
    encoder: Option<Encoder>,
    /// The memory of the encoder, and at last that of its output; `None` once it was [taken](Self::take_room).
    room: Option<ClientRoom>,
    /// Bytes that are not compressed yet.
    input: Bytes,
    /// No frame follows `input`.
    ended: bool,
    /// Compressed bytes that are not sent yet. Frames are copies of exactly their size: a flush of a few bytes must not keep the
    /// capacity of this while it waits for its client.
    output: Vec<u8>,
    /// The encoder keeps bytes that the client could have.
    keeps: bool,
    trailers: Option<HeaderMap>,
    /// Bytes that were compressed since other tasks had their turn.
    worked: usize,
    read: u64,
    written: u64,
}

/// Why a body breaks off.
#[derive(Debug)]
pub enum Interruption<E> {
    /// The body itself does.
    Body(E),
    /// The encoder fails.
    Encoder(EncoderError),
}

impl<B: Body<Data = Bytes> + Unpin> CompressedBody<B> {
    /// Compresses `inner` with an encoder whose memory `room` is for.
    pub fn new(inner: B, encoder: Encoder, room: ClientRoom) -> Self {
        Self {
            inner,
            encoder: Some(encoder),
            room: Some(room),
            input: Bytes::new(),
            ended: false,
            output: Vec::new(),
            keeps: false,
            trailers: None,
            worked: 0,
            read: 0,
            written: 0,
        }
    }

    /// The body that is compressed.
    pub fn inner(&mut self) -> &mut B {
        &mut self.inner
    }

    /// The bytes before and after the compression, so far.
    pub fn bytes(&self) -> (u64, u64) {
        (self.read, self.written)
    }

    /// Returns, once, the memory of the encoder, of which `bytes` stay reserved.
    pub fn take_room(&mut self, bytes: usize) -> Option<ClientRoom> {
        let mut room = self.room.take()?;
        room.shrink(bytes);
        Some(room)
    }

    fn encode(&mut self, piece: &[u8], step: EncoderStep) -> Result<(), EncoderError> {
        let Some(encoder) = &mut self.encoder else { return Ok(()) };
        let before = self.output.len();
        encoder.encode(piece, step, &mut self.output)?;
        self.written = self.written.saturating_add((self.output.len() - before) as u64);
        self.keeps = step == EncoderStep::Process;
        if step == EncoderStep::Finish {
            self.encoder = None;
            self.output.shrink_to_fit();
            let left = self.output.len().saturating_add(UNSENT);
            self.room.iter_mut().for_each(|room| room.shrink(left));
        }
        Ok(())
    }

    fn take_output(&mut self) -> Bytes {
        if self.encoder.is_none() {
            // The last frame, which has its size.
            return std::mem::take(&mut self.output).into();
        }
        let frame = Bytes::copy_from_slice(&self.output);
        self.output.clear();
        frame
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for CompressedBody<B> {
    type Data = Bytes;
    type Error = Interruption<B::Error>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        loop {
            if this.output.len() >= if this.keeps { FRAME } else { 1 } {
                return Poll::Ready(Some(Ok(Frame::data(this.take_output()))));
            }
            if this.encoder.is_none() {
                return Poll::Ready(this.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
            }
            if this.worked >= TURN {
                this.worked = 0;
                return yield_turn(cx);
            }
            let (piece, step) = if !this.input.is_empty() || this.ended {
                let piece = this.input.split_to(this.input.len().min(TURN - this.worked));
                let is_last = this.ended && this.input.is_empty();
                (piece, if is_last { EncoderStep::Finish } else { EncoderStep::Process })
            } else {
                match Pin::new(&mut this.inner).poll_frame(cx) {
                    Poll::Ready(None) => this.ended = true,
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(Interruption::Body(error)))),
                    Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                        Ok(data) => {
                            this.read = this.read.saturating_add(data.len() as u64);
                            (this.input, this.ended) = (data, this.inner.is_end_stream());
                        }
                        Err(frame) => this.trailers = frame.into_trailers().ok().map(without_digests),
                    },
                    Poll::Pending => {
                        this.worked = 0;
                        if !this.keeps {
                            return Poll::Pending;
                        }
                        let flushed = this.encode(&[], EncoderStep::Flush);
                        flushed.map_err(Interruption::Encoder)?;
                    }
                }
                continue;
            };
            this.worked += piece.len();
            this.encode(&piece, step).map_err(Interruption::Encoder)?;
        }
    }

    fn is_end_stream(&self) -> bool {
        self.encoder.is_none() && self.output.is_empty() && self.trailers.is_none()
    }
}

#[cfg(test)]
mod tests;
