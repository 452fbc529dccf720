use std::convert::Infallible;
use std::sync::atomic::AtomicBool;
use std::task::Wake;

use super::*;

/// A piece shares its buffer unless it is small, and more of the body follows.
#[test]
fn small_pieces_leave_their_buffer() {
    let buffer = Bytes::from(vec![7; 64 << 10]);
    let shares = |length: usize, is_last: bool| {
        let piece = detached(Frame::data(buffer.slice(100..100 + length)), is_last).into_data().unwrap();
        assert_eq!(piece, buffer.slice(..length));
        buffer.as_ptr_range().contains(&piece.as_ptr())
    };
    assert!(!shares(1, false) && !shares(SMALL - 1, false));
    assert!(shares(SMALL, false) && shares(1, true));
}

/// A body of one byte after another.
struct Tiny;

impl Body for Tiny {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
    }
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

/// However small they are, few frames wait; the next one is polled for when one is written.
#[test]
fn few_frames_wait() {
    let woken = Arc::<Woken>::default();
    let waker = Waker::from(Arc::clone(&woken));
    let mut cx = Context::from_waker(&waker);
    let (mut body, mut held) = (WindowedBody::new(Tiny), Vec::new());
    for _ in 0..3 {
        while let Poll::Ready(Some(frame)) = Pin::new(&mut body).poll_frame(&mut cx) {
            held.push(frame.unwrap().into_data().unwrap());
            assert!(held.len() <= WAITING, "any number of frames");
        }
        assert_eq!((held.len(), woken.0.swap(false, Relaxed)), (WAITING, false));
        drop(held.pop());
        assert!(woken.0.swap(false, Relaxed), "the body is not polled again");
    }
    held.clear();
    assert!(Pin::new(&mut body).poll_frame(&mut cx).is_ready());
}
