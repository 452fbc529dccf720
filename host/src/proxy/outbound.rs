//! What a listener must be able to ask of a response body.

use std::any::Any;
use std::error::Error;

use bytes::Bytes;
use http_body::Body;

use crate::base::budget::Room;

/// Bytes handed to an HTTP/2 stream at once: the size of a frame. h2 takes a whole chunk when the window has room for one
/// byte, and the stream of a task that has ended cannot be reset any more.
pub const MAX_CHUNK: usize = 16 << 10;

/// The body of a response, as a connection sends it.
pub trait Outbound: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static {
    /// The room that the rest of the body has in `listener.unsent`, once. The caller holds it until the last byte is written.
    fn room(&mut self) -> Option<Room> {
        None
    }

    /// The body is cut off before its end because its client took too little of it.
    fn stalled(&mut self) {}

    /// Ends the body, of which `bytes` have room nowhere and are not written yet. What they hold instead is kept until they are.
    fn hold(&mut self, _bytes: usize) -> Option<Hold> {
        None
    }
}

/// Something to be dropped when the last byte of a response is written.
pub type Hold = Box<dyn Any + Send>;
