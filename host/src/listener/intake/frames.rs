//! Counts requests and body bytes in the HTTP/2 frames that a client sends.
//!
//! Only the nine bytes before each frame (RFC 9113, 4.1) and the length of padding are decoded.

/// The first bytes of an HTTP/2 connection (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The bytes before the payload of a frame.
const HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// The position in the frames of a connection.
#[derive(Debug, Default)]
pub(super) struct Frames {
    state: State,
    /// Whether a header block has begun and not ended.
    in_block: bool,
    /// The bytes of the last header block, as far as it was read.
    block: usize,
}

#[derive(Debug)]
enum State {
    /// This many bytes of the preface were read.
    Preface(usize),
    /// The connection does not begin with the preface, and has no frames.
    Http1,
    Head([u8; HEAD], usize),
    /// The next byte is the first of a padded DATA frame with a payload of this many bytes.
    PadLength(usize),
    /// This many bytes of a payload are left.
    Payload {
        left: usize,
        in_head: bool,
    },
}

/// The contents of some bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FrameCounts {
    /// The number of HEADERS frames whose head ends in them.
    pub(super) requests: usize,
    /// The bytes of bodies in all DATA frames whose head ends in them, without padding.
    pub(super) data: usize,
    /// The bytes of the longest header block in them, as far as it was read.
    pub(super) block: usize,
}

impl Default for State {
    fn default() -> Self {
        Self::Preface(0)
    }
}

impl Frames {
    /// Whether the connection began with the whole preface.
    pub(super) fn is_h2(&self) -> bool {
        !matches!(self.state, State::Preface(_) | State::Http1)
    }

    /// Whether a header block has begun and not ended.
    pub(super) fn in_block(&self) -> bool {
        self.in_block
    }

    /// Returns the number of bytes until the next frame can begin.
    pub(super) fn inside(&self) -> usize {
        match self.state {
            State::PadLength(left) | State::Payload { left, .. } => left,
            _ => 0,
        }
    }

    /// Returns the bytes that are left of the head of a frame.
    pub(super) fn head_left(&self) -> usize {
        if let State::Head(_, at) = self.state { HEAD - at } else { HEAD }
    }

    /// Counts the next bytes.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> FrameCounts {
        let mut seen = FrameCounts::default();
        while let Some((&first, rest)) = bytes.split_first() {
            match &mut self.state {
                State::Http1 => return seen,
                State::Preface(at) => {
                    let same = PREFACE.get(*at) == Some(&first);
                    *at += 1;
                    if !same {
                        self.state = State::Http1;
                    } else if *at == PREFACE.len() {
                        self.state = State::Head([0; HEAD], 0);
                    }
                    bytes = rest;
                }
                State::Head(head, at) => {
                    if let Some(byte) = head.get_mut(*at) {
                        *byte = first;
                    }
                    *at += 1;
                    if *at == HEAD {
                        let head = *head;
                        self.begin(head, &mut seen);
                    }
                    bytes = rest;
                }
                State::PadLength(length) => {
                    // h2 ends the connection if the padding is longer than the frame.
                    seen.data += length.saturating_sub(1 + usize::from(first));
                    self.state = Self::payload(*length - 1, false);
                    bytes = rest;
                }
                State::Payload { left, in_head } => {
                    let taken = bytes.len().min(*left);
                    if *in_head {
                        self.block += taken;
                        seen.block = seen.block.max(self.block);
                    }
                    self.state = Self::payload(*left - taken, *in_head);
                    bytes = bytes.get(taken..).unwrap_or_default();
                }
            }
        }
        seen
    }

    fn begin(&mut self, [a, b, c, kind, flags, ..]: [u8; HEAD], seen: &mut FrameCounts) {
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.state = Self::payload(length, matches!(kind, HEADERS | CONTINUATION));
        match kind {
            DATA if flags & PADDED != 0 && length > 0 => self.state = State::PadLength(length),
            DATA => seen.data += length,
            HEADERS => {
                seen.requests += 1;
                self.block = 0;
                self.in_block = flags & END_HEADERS == 0;
            }
            CONTINUATION => self.in_block = flags & END_HEADERS == 0,
            _ => {}
        }
    }

    fn payload(left: usize, in_head: bool) -> State {
        if left == 0 { State::Head([0; HEAD], 0) } else { State::Payload { left, in_head } }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags, 0, 0, 0, 1]);
        bytes.extend(payload);
        bytes
    }

    /// The counts do not depend on how the bytes are split.
    #[test]
    fn split_anywhere() {
        let mut wire = PREFACE.to_vec();
        wire.extend(frame(4, 0, &[0; 12]));
        wire.extend(frame(HEADERS, 0, &[0; 100]));
        wire.extend(frame(CONTINUATION, END_HEADERS, &[0; 50]));
        wire.extend(frame(DATA, 0, &[1; 300]));
        let mut padded = vec![9];
        padded.extend([2; 40]);
        wire.extend(frame(DATA, PADDED, &padded));
        wire.extend(frame(DATA, 1, &[]));
        wire.extend(frame(HEADERS, END_HEADERS, &[0; 20]));
        wire.extend(frame(99, 0, &[0; 5]));
        for size in 1..wire.len() {
            let (mut frames, mut all) = (Frames::default(), FrameCounts::default());
            for bytes in wire.chunks(size) {
                let seen = frames.feed(bytes);
                all.requests += seen.requests;
                all.data += seen.data;
                all.block = all.block.max(seen.block);
            }
            assert_eq!(all, FrameCounts { requests: 2, data: 300 + 31, block: 150 }, "in pieces of {size}");
            assert!(frames.is_h2() && !frames.in_block() && frames.inside() == 0);
        }
    }

    #[test]
    fn states() {
        let mut frames = Frames::default();
        frames.feed(b"PRI");
        assert!(!frames.is_h2());
        frames.feed(b" / HTTP/1.1\r\n");
        assert!(!frames.is_h2());
        let mut frames = Frames::default();
        frames.feed(PREFACE);
        frames.feed(&frame(HEADERS, 0, &[0; 10]));
        assert!(frames.is_h2() && frames.in_block());
        frames.feed(&frame(DATA, 0, &[0; 10])[..12]);
        assert_eq!(frames.inside(), 7);
    }

    proptest! {
        /// No input panics, and the counts never exceed the input.
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut frames = Frames::default();
            frames.feed(PREFACE);
            let seen = frames.feed(&bytes);
            prop_assert!(seen.requests <= bytes.len() / HEAD && seen.block <= bytes.len());
        }
    }
}
