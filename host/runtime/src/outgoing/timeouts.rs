//! Timeouts of response bodies on their way to a guest.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;
use tokio::time::Sleep;
use wasmtime_wasi::runtime::AbortOnDropJoinHandle;
use wasmtime_wasi_http::Error;

use crate::capabilities::http::non_empty::poll_non_empty;
use lodge_traffic::proxy::frames::detached;

/// A body that a task produces. Dropping it ends the task.
pub struct PipedBody {
    frames: mpsc::Receiver<Result<Frame<Bytes>, Error>>,
    _making: AbortOnDropJoinHandle<()>,
}

/// A body with a timeout between frames and a deadline. Holds `H` until it is dropped.
pub struct TimedBody<B, H> {
    body: B,
    silence: Option<Duration>,
    deadline: Instant,
    /// Runs while a frame is pending.
    timer: Option<Pin<Box<Sleep>>>,
    _held: H,
}

/// Awaits `future`, at most for `limit`.
///
/// # Errors
/// `late`, on timeout.
pub async fn within<T>(limit: Option<Duration>, late: Error, future: impl Future<Output = T>) -> Result<T, Error> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, future).await.map_err(|_| late),
        None => Ok(future.await),
    }
}

impl PipedBody {
    /// Creates a body of the frames that the task `making` sends.
    pub fn new(frames: mpsc::Receiver<Result<Frame<Bytes>, Error>>, making: AbortOnDropJoinHandle<()>) -> Self {
        Self { frames, _making: making }
    }
}

impl<B, H> TimedBody<B, H> {
    /// Wraps `body`. It fails when no frame comes within `silence`, and at `deadline`.
    pub fn new(body: B, silence: Option<Duration>, deadline: Instant, held: H) -> Self {
        Self { body, silence, deadline, timer: None, _held: held }
    }
}

impl Body for PipedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.frames.poll_recv(cx)
    }
}

impl<B, H> Body for TimedBody<B, H>
where
    B: Body<Data = Bytes, Error: Into<Error>> + Unpin,
    H: Unpin,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = poll_non_empty(Pin::new(&mut this.body), cx) {
            if this.silence.is_some() {
                this.timer = None;
            }
            let is_last = this.body.is_end_stream();
            return Poll::Ready(frame.map(|frame| frame.map(|frame| detached(frame, is_last)).map_err(Into::into)));
        }
        let until = || {
            // The guest may have set a timeout that is too long for the clock.
            let silent = |silence| tokio::time::Instant::now().into_std().checked_add(silence);
            this.silence.and_then(silent).map_or(this.deadline, |silent| this.deadline.min(silent))
        };
        let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until().into())));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http_body_util::BodyExt;

    use super::*;

    const SILENCE: Duration = Duration::from_millis(20);
    const MINUTE: Duration = Duration::from_secs(60);

    fn frame() -> Result<Frame<Bytes>, Error> {
        Ok(Frame::data(Bytes::from_static(b"x")))
    }

    /// A task that never ends.
    fn making() -> AbortOnDropJoinHandle<()> {
        wasmtime_wasi::runtime::spawn(std::future::pending())
    }

    #[tokio::test]
    async fn a_pause_between_frames_is_bounded() {
        let (_frames, taken) = mpsc::channel(1);
        let (start, far) = (Instant::now(), Instant::now() + MINUTE);
        let mut body = TimedBody::new(PipedBody::new(taken, making()), Some(SILENCE), far, ());
        assert!(matches!(body.frame().await, Some(Err(Error::ConnectionReadTimeout))));
        assert!((SILENCE..MINUTE).contains(&start.elapsed()));
    }

    /// The time of silence begins anew after each frame.
    #[tokio::test]
    async fn frames_restart_the_pause() {
        let (frames, taken) = mpsc::channel(1);
        let mut body = TimedBody::new(PipedBody::new(taken, making()), Some(MINUTE), Instant::now() + MINUTE * 60, ());
        let mut silent_until = Instant::now();
        for _ in 0..3 {
            let waits = poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx).is_pending())).await;
            assert!(waits);
            let until = body.timer.as_ref().unwrap().deadline().into_std();
            assert!(until > silent_until);
            silent_until = until;
            frames.send(frame()).await.unwrap();
            assert!(body.frame().await.unwrap().is_ok());
            assert!(body.timer.is_none());
        }
    }

    /// Frames do not move the deadline of the whole body.
    #[tokio::test]
    async fn the_whole_body_has_a_deadline() {
        let (frames, taken) = mpsc::channel(1);
        let making = wasmtime_wasi::runtime::spawn(async move {
            while frames.send(frame()).await.is_ok() {
                tokio::time::sleep(SILENCE / 10).await;
            }
        });
        let (start, end) = (Instant::now(), Instant::now() + SILENCE);
        let mut body = TimedBody::new(PipedBody::new(taken, making), None, end, ());
        while body.frame().await.unwrap().is_ok() {}
        assert!((SILENCE..MINUTE).contains(&start.elapsed()));
    }

    /// A piece of a few bytes leaves the buffer that it is a part of.
    #[tokio::test]
    async fn small_pieces_are_copied() {
        let (frames, taken) = mpsc::channel(1);
        let mut body = TimedBody::new(PipedBody::new(taken, making()), None, Instant::now() + MINUTE, ());
        frames.send(Ok(Frame::data(Bytes::from(vec![1; 9_000]).slice(5..7)))).await.unwrap();
        let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(piece.try_into_mut().unwrap().capacity(), 2);
    }

    #[tokio::test]
    async fn dropping_the_body_ends_its_task() {
        let (frames, taken) = mpsc::channel(1);
        let watched = frames.clone();
        let making = wasmtime_wasi::runtime::spawn(async move {
            let _kept = frames;
            std::future::pending::<()>().await;
        });
        drop(PipedBody::new(taken, making));
        watched.closed().await;
    }
}
