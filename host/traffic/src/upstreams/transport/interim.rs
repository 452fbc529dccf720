//! A bound on the responses that a replica, or a server that a guest calls, sends before the final one (1xx). Each costs time to read, and none has a use here: without a
//! bound, a replica could keep a core busy until the time of a request is over.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use http::Request;
use tokio::sync::Notify;

/// The most interim responses to one request.
pub const MOST: usize = 100;

/// The most streams of a connection whose heads are counted: more than can be open.
const STREAMS: usize = 1_024;

/// The interim responses to the request on an HTTP/1.1 connection.
#[derive(Debug, Default)]
pub struct InterimCount {
    count: AtomicUsize,
    over: Notify,
}

impl InterimCount {
    /// Counts those to `request`, which is about to be sent.
    pub fn watch<B>(self: &Arc<Self>, request: &mut Request<B>) {
        self.count.store(0, Relaxed);
        let counted = Arc::clone(self);
        hyper::ext::on_informational(request, move |_| {
            if counted.count.fetch_add(1, Relaxed) == MOST {
                counted.over.notify_one();
            }
        });
    }

    /// Waits until there are too many, for a client that cannot check its connection.
    pub async fn over(&self) -> io::Error {
        self.over.notified().await;
        too_many()
    }

    /// Checks the bound. hyper reads all that it has before it reads from the connection again.
    ///
    /// # Errors
    /// If there were too many.
    pub(super) fn check(&self) -> io::Result<()> {
        if self.count.load(Relaxed) > MOST { Err(too_many()) } else { Ok(()) }
    }
}

fn too_many() -> io::Error {
    io::Error::other(format!("more than {MOST} interim responses (1xx) came before the final one"))
}

/// The heads on the streams of an HTTP/2 connection, by the frames that the replica sends (RFC 9113, 4.1). hyper's client does not show
/// interim responses there. A stream has two heads besides these: the final one, and trailers.
#[derive(Debug, Default)]
pub struct HeadFrames {
    /// The header of the next frame, as far as it was received.
    header: [u8; HEADER],
    received: usize,
    /// The bytes of this frame that follow.
    left: usize,
    /// The heads on each stream that has not ended.
    heads: BTreeMap<u32, usize>,
}

/// The bytes of the header of a frame.
const HEADER: usize = 9;

/// Types of frames.
const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;

const END_STREAM: u8 = 0x1;

impl HeadFrames {
    /// Takes in bytes of the replica.
    ///
    /// # Errors
    /// If there are too many heads on one stream.
    pub fn read(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let room = self.header.get_mut(self.received..).unwrap_or_default();
            let taken = room.len().min(bytes.len());
            for (place, byte) in room.iter_mut().zip(bytes) {
                *place = *byte;
            }
            self.received += taken;
            bytes = bytes.get(taken..).unwrap_or_default();
            if self.received == HEADER {
                self.received = 0;
                self.frame()?;
            }
        }
        Ok(())
    }

    /// Takes in the header of a frame.
    fn frame(&mut self) -> io::Result<()> {
        let [a, b, c, kind, flags, stream @ ..] = self.header;
        self.left = u32::from_be_bytes([0, a, b, c]) as usize;
        let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
        let ends = kind == RST_STREAM || (matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0);
        if ends {
            self.heads.remove(&stream);
        } else if kind == HEADERS {
            let heads = self.heads.entry(stream).or_default();
            *heads += 1;
            if *heads > MOST + 1 {
                return Err(too_many());
            }
            // Those that this host has reset stay. The lowest are the oldest.
            if self.heads.len() > STREAMS {
                self.heads.pop_first();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags];
        bytes.extend(stream.to_be_bytes());
        // What looks like a head in the payload is none.
        bytes.extend([0, 0, 0, HEADERS, 0, 0, 0, 0, 1].iter().cycle().take(payload));
        bytes
    }

    /// The number of bytes after which the frames are too many, in pieces of any size.
    fn read(bytes: &[u8], piece: usize) -> Option<usize> {
        let mut frames = HeadFrames::default();
        let mut pieces = bytes.chunks(piece);
        pieces.position(|piece| frames.read(piece).is_err()).map(|at| at * piece)
    }

    #[test]
    fn heads_are_counted_by_stream() {
        let interim = |stream, count| frame(HEADERS, 4, stream, 23).repeat(count);
        let end = |stream| frame(DATA, END_STREAM, stream, 300);
        let most =
            [interim(1, MOST), interim(3, MOST), frame(HEADERS, 4, 1, 9), frame(DATA, 0, 1, 40_000), end(1), end(3)];
        let most = [&*most.concat(), &frame(6, 0, 0, 8).repeat(1_000), &interim(5, MOST + 1)].concat();
        for piece in [1, 2, 9, 10, 4_096, most.len()] {
            assert_eq!(read(&most, piece), None, "{piece}");
        }
        let more = [most, interim(5, 1)].concat();
        for piece in [1, 7, 4_096] {
            let at = read(&more, piece).unwrap();
            assert!(at + 40 + piece > more.len(), "{piece} {at}");
        }
    }

    /// Streams that this host has reset do not add up.
    #[test]
    fn counted_streams_are_bounded() {
        let mut frames = HeadFrames::default();
        for stream in (1..100_000).step_by(2) {
            frames.read(&frame(HEADERS, 4, stream, 0)).unwrap();
        }
        assert_eq!(frames.heads.len(), STREAMS);
    }
}
