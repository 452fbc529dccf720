//! What a listener must be able to ask of a response body.

use std::any::Any;
use std::error::Error;

use bytes::Bytes;
use http_body::Body;

use crate::base::budget::Room;

/// The body of a response, as a connection sends it.
pub trait Outbound: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static {
    /// The room that the rest of the body has in `listener.unsent`, once. The caller holds it until the last byte is written.
    fn room(&mut self) -> Option<Room> {
        None
    }

    /// Ends the body, of which `bytes` have room nowhere and are not written yet. What they hold instead is kept until they are.
    fn hold(&mut self, _bytes: usize) -> Option<Hold> {
        None
    }
}

/// Something to be dropped when the last byte of a response is written.
pub type Hold = Box<dyn Any + Send>;
