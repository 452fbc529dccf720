use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::Waker;

use http::HeaderMap;

use super::super::encoder::{TURN, room};
use super::super::fuzz::decode;
use super::super::memory::encoder_memory;
use super::*;
use crate::admission::client_memory::{ClientMemory, ClientRoom};
use lodge_manifest::compress::Coding;

/// A body that returns these, or is pending where there is nothing.
struct Script(VecDeque<Option<Frame<Bytes>>>);

impl Body for Script {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.0.pop_front() {
            None => Poll::Ready(None),
            Some(None) => Poll::Pending,
            Some(Some(frame)) => Poll::Ready(Some(Ok(frame))),
        }
    }
}

fn data(bytes: impl Into<Bytes>) -> Option<Frame<Bytes>> {
    Some(Frame::data(bytes.into()))
}

fn reserved(coding: Coding, memory: &Arc<ClientMemory>) -> ClientRoom {
    memory.reserve([127, 0, 0, 1].into(), room(coding)).unwrap()
}

fn compressed(coding: Coding, script: Vec<Option<Frame<Bytes>>>, memory: &Arc<ClientMemory>) -> CompressedBody<Script> {
    CompressedBody::new(Script(script.into()), Encoder::new(coding).unwrap(), reserved(coding, memory))
}

fn poll(body: &mut CompressedBody<Script>) -> Poll<Option<Frame<Bytes>>> {
    Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop())).map(|frame| frame.map(|frame| frame.unwrap()))
}

/// A pause of the body does not hold back what came before it.
#[test]
fn pauses_flush() {
    for coding in Coding::ALL {
        let memory = encoder_memory(4 << 20);
        let script = vec![data("one "), data("two "), None, None, data("three"), None];
        let mut body = compressed(coding, script, &memory);
        let Poll::Ready(Some(first)) = poll(&mut body) else { panic!("{coding:?}: nothing arrives") };
        let mut sent = first.into_data().unwrap().to_vec();
        assert_eq!(decode(coding, &sent), (b"one two ".to_vec(), false), "{coding:?}");
        // A second pause has nothing to flush.
        assert!(poll(&mut body).is_pending(), "{coding:?}");
        let Poll::Ready(Some(second)) = poll(&mut body) else { panic!("{coding:?}: the last event is held back") };
        sent.extend_from_slice(second.data_ref().unwrap());
        let shown = sent.len();
        while let Poll::Ready(Some(frame)) = poll(&mut body) {
            sent.extend_from_slice(frame.data_ref().unwrap());
        }
        assert!(sent.len() - shown < 32 && body.is_end_stream(), "{coding:?}");
        assert_eq!(decode(coding, &sent), (b"one two three".to_vec(), true), "{coding:?}");
        assert_eq!(body.bytes(), (13, sent.len() as u64));
    }
}

/// Frames that are there at once are compressed together, and other tasks have their turn in between.
#[test]
fn long_bodies_yield() {
    for coding in Coding::ALL {
        let memory = encoder_memory(4 << 20);
        let content: Vec<u8> =
            (0..1_000_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 26) as u8).collect();
        let script = content.chunks(100_000).map(|piece| data(piece.to_vec())).collect();
        let mut body = compressed(coding, script, &memory);
        let (mut sent, mut turns, mut before) = (Vec::new(), 0, 0);
        loop {
            let polled = poll(&mut body);
            let encoded = body.read - body.input.len() as u64;
            match polled {
                Poll::Ready(Some(frame)) => sent.extend_from_slice(frame.data_ref().unwrap()),
                Poll::Ready(None) => break,
                Poll::Pending => (turns, before) = (turns + 1, encoded),
            }
            assert!(encoded - before <= TURN as u64, "{coding:?} does not yield");
        }
        assert!(turns >= content.len() as u64 / TURN as u64, "{coding:?}: {turns} turns");
        assert!(decode(coding, &sent) == (content, true), "{coding:?}");
    }
}

/// A frame keeps no more memory than it has bytes, however small it is.
#[test]
fn frames_are_exact() {
    for coding in Coding::ALL {
        let memory = encoder_memory(4 << 20);
        let script = (0..1_000).flat_map(|_| [data("x"), None]).collect();
        let (mut body, mut pieces) = (compressed(coding, script, &memory), 0);
        while !body.is_end_stream() {
            let Poll::Ready(Some(frame)) = poll(&mut body) else { continue };
            let piece = frame.into_data().unwrap();
            let length = piece.len();
            // The bytes of a frame that nothing else shares are all of its memory.
            assert_eq!(piece.try_into_mut().unwrap().capacity(), length, "{coding:?}");
            pieces += 1;
        }
        assert!(pieces > 500, "{coding:?}: {pieces} frames");
    }
}

/// The trailers about the bytes are those of other bytes now.
#[test]
fn digests_are_no_trailers() {
    let memory = encoder_memory(4 << 20);
    let names = ["x-sum", "content-digest", "repr-digest", "digest", "content-md5"];
    let trailers = names.map(|name| (name.parse().unwrap(), http::HeaderValue::from_static("1")));
    let script = vec![data("content"), Some(Frame::trailers(trailers.into_iter().collect()))];
    let mut body = compressed(Coding::Gzip, script, &memory);
    while let Poll::Ready(Some(frame)) = poll(&mut body) {
        if let Ok(trailers) = frame.into_trailers() {
            assert_eq!(trailers.keys().collect::<Vec<_>>(), ["x-sum"]);
            return;
        }
    }
    panic!("no trailers");
}

/// The memory of an encoder is free when the body ends; what its frames may take, when they are written.
#[test]
fn memory_is_given_back() {
    for coding in Coding::ALL {
        let memory = encoder_memory(4 << 20);
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", http::HeaderValue::from_static("42"));
        let script = vec![data("content"), Some(Frame::trailers(trailers.clone()))];
        let mut body = compressed(coding, script, &memory);
        assert_eq!(memory.used(), room(coding));
        let Poll::Ready(Some(frame)) = poll(&mut body) else { panic!("{coding:?}: no frame") };
        assert_eq!(decode(coding, frame.data_ref().unwrap()), (b"content".to_vec(), true));
        assert!(memory.used() <= 64 << 10, "{coding:?}: {} bytes", memory.used());
        assert!(!body.is_end_stream());
        let Poll::Ready(Some(last)) = poll(&mut body) else { panic!("{coding:?}: no trailers") };
        assert_eq!((last.into_trailers().unwrap(), body.is_end_stream()), (trailers, true));
        assert!(matches!(poll(&mut body), Poll::Ready(None)));
        // As much as is not written.
        let held = body.take_room(100);
        drop(body);
        assert_eq!(memory.used(), 100);
        drop(held);
        assert_eq!(memory.used(), 0);
    }
}

/// A body that breaks off is not completed.
#[test]
fn errors_pass() {
    struct Broken(bool);
    impl Body for Broken {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            let first = !std::mem::replace(&mut self.0, true);
            Poll::Ready(Some(if first { Ok(Frame::data(Bytes::from_static(b"half"))) } else { Err("gone") }))
        }
    }
    let memory = encoder_memory(4 << 20);
    let coding = Coding::Gzip;
    let mut body = CompressedBody::new(Broken(false), Encoder::new(coding).unwrap(), reserved(coding, &memory));
    let polled = Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(polled, Poll::Ready(Some(Err(Interruption::Body("gone"))))) && !body.is_end_stream());
}
