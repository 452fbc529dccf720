//! What a listener needs of a response body.

use std::any::Any;
use std::error::Error;

use bytes::Bytes;
use http_body::Body;

use lodge_base::budget::Reservation;

/// The most bytes that are handed to an HTTP/2 stream at once: one frame. h2 accepts a whole chunk when the window has
/// room for one byte, and a stream cannot be reset after its task has ended.
pub const MAX_CHUNK: usize = 16 << 10;

/// The body of a response, as a connection sends it.
pub trait Outbound: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static {
    /// Returns, once, the rest of the body's share of `listener.unsent`. The caller holds it until the last byte is
    /// written.
    fn room(&mut self) -> Option<Reservation> {
        None
    }

    /// Records that the body is cut off because its client read too slowly.
    fn stalled(&mut self) {}

    /// Ends the body while `bytes` of it are not written; `counted` is whether they have [room](Self::room) in `listener.unsent`. The
    /// caller holds the returned value until they are written.
    fn hold(&mut self, _bytes: usize, _counted: bool) -> Option<Hold> {
        None
    }
}

/// A value to be dropped when the last byte of a response is written.
pub type Hold = Box<dyn Any + Send>;
