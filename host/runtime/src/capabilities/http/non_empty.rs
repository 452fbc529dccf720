//! Bodies without empty data frames. An empty frame uses nothing of an HTTP/2 window, so while the peer reads nothing,
//! any number of them from a guest, a client or a replica would be queued (GHSA-f8mm-ggr3-89wh). A guest may also take
//! an empty read for the end of the stream.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use lodge_base::cpu::turn::yield_turn;

/// The most empty frames that are skipped in one poll, so that other tasks get to run.
const AT_ONCE: usize = 128;

/// Polls for the next frame that has data or trailers.
pub fn poll_non_empty<B: Body<Data = Bytes>>(
    mut body: Pin<&mut B>,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
    for _ in 0..AT_ONCE {
        let frame = ready!(body.as_mut().poll_frame(cx));
        if !matches!(&frame, Some(Ok(frame)) if frame.data_ref().is_some_and(Bytes::is_empty)) {
            return Poll::Ready(frame);
        }
    }
    yield_turn(cx)
}

/// A body without its empty data frames.
pub struct NonEmptyFrames<B>(pub B);

impl<B: Body<Data = Bytes> + Unpin> Body for NonEmptyFrames<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        poll_non_empty(Pin::new(&mut self.0), cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::pin;

    use http_body_util::BodyExt;

    use super::*;

    struct Listed(std::vec::IntoIter<&'static str>);

    impl Body for Listed {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.next().map(|text| Ok(Frame::data(Bytes::from_static(text.as_bytes())))))
        }
    }

    fn frames(of: impl IntoIterator<Item = &'static str>) -> Listed {
        Listed(of.into_iter().collect::<Vec<_>>().into_iter())
    }

    #[tokio::test]
    async fn empty_frames_are_skipped() {
        let mut body = NonEmptyFrames(frames(["", "a", "", "", "b", ""]));
        for text in ["a", "b"] {
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), text);
        }
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn many_empty_frames_yield_to_other_tasks() {
        let mut body = NonEmptyFrames(frames(std::iter::repeat_n("", AT_ONCE * 3).chain(["end"])));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(pin!(body.frame()).as_mut().poll(&mut cx).is_pending());
        assert_eq!(body.collect().await.unwrap().to_bytes(), "end");
    }
}
