//! A response body that holds a permit: one that is incomplete, or a stored one for which `listener.unsent` has no
//! room.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use http::Version;
use http_body::Frame;
use tokio::task::AbortHandle;

use super::Reserve;
use crate::request::error::RequestError;
use crate::request::forward::Relay;
use lodge_base::budget::{Budget, Reservation};
use lodge_base::lock::lock;
use lodge_runtime::error::RunError;
use lodge_runtime::response::GuestBody;
use lodge_traffic::admission::Permit;
use lodge_traffic::proxy::frames::copied;
use lodge_traffic::proxy::outbound::Hold;
use lodge_traffic::proxy::outbound::MAX_CHUNK;
use lodge_traffic::static_files::FileBody;

/// The source of a response body.
pub(super) enum Live {
    Guest(GuestBody),
    Replica(Box<Relay>),
    File(Box<FileBody>),
    /// The rest of a stored body, whose bytes other responses share.
    Stored(Bytes),
}

/// A body with a watchdog. hyper does not poll a body while the client does not read, so a deadline that is checked
/// only in a poll would never take effect for a stalled client. The watchdog shares the body, and drops it at the
/// deadline.
pub(super) struct Streamed {
    shared: Arc<Mutex<Watched>>,
    watchdog: Option<AbortHandle>,
    /// Bytes of `Content-Length` that are not sent yet.
    promised: Option<u64>,
    version: Version,
    unsent: Arc<Budget>,
}

/// A body, until the watchdog drops it.
struct Watched {
    live: Option<(Live, Permit)>,
    /// The reason why the watchdog dropped it.
    late: Option<RequestError>,
    /// Wakes the connection that waits for a frame: dropping a replica's body does not always do so.
    waiting: Option<Waker>,
}

/// An error after the head of the response was sent.
#[derive(Debug, thiserror::Error)]
#[error("transfer aborted: {0}")]
pub struct Aborted(pub(super) RequestError);

impl Aborted {
    /// Returns the short name of the reason, as in the log line.
    pub fn reason(&self) -> &'static str {
        self.0.reason()
    }
}

impl Streamed {
    /// Creates a body that is dropped at `deadline`, if it has one. `promised` is its `Content-Length`, if the head has one.
    pub(super) fn new(
        body: Live,
        permit: Permit,
        promised: Option<u64>,
        deadline: Option<Instant>,
        reserve: Reserve<'_>,
    ) -> Self {
        let (version, unsent) = (reserve.version, Arc::clone(reserve.unsent));
        let shared = Arc::new(Mutex::new(Watched { live: Some((body, permit)), late: None, waiting: None }));
        let watch = |deadline: Instant| tokio::spawn(drop_at(deadline, Arc::clone(&shared))).abort_handle();
        Self { watchdog: deadline.map(watch), shared, promised, version, unsent }
    }

    /// Returns the rest of a body that has become complete, if there is room for it. The deadline no longer applies.
    pub(super) fn rest(&self) -> Option<(VecDeque<Frame<Bytes>>, Option<Reservation>)> {
        let mut shared = lock(&self.shared);
        let size = shared.live.as_ref()?.0.size()?;
        // A body that is shorter than its `Content-Length` must end with an error.
        if self.promised.is_some_and(|promised| promised != size as u64) {
            return None;
        }
        let counts = if matches!(shared.live, Some((Live::Stored(_), _))) { 0 } else { size };
        let room = Reserve { version: self.version, unsent: &self.unsent }.room(counts)?;
        let (body, permit) = shared.live.take()?;
        drop(shared);
        Some((body.finish(permit, self.version), room))
    }

    /// Returns what is held until the last `bytes` are written: room, or else the permit until the deadline.
    pub(super) fn hold(self, bytes: usize) -> Hold {
        match (Reserve { version: self.version, unsent: &self.unsent }).room(bytes) {
            Some(room) => Box::new(room),
            None => Box::new(self),
        }
    }

    /// Whether every byte of `Content-Length` was given to hyper.
    pub(super) fn is_end(&self) -> bool {
        self.promised == Some(0)
    }

    /// Returns the reason why the watchdog dropped the body. Returns it once; `None` if it did not.
    pub(super) fn take_late(&self) -> Option<RequestError> {
        lock(&self.shared).late.take()
    }

    /// Polls for the next frame. Returns an error after the watchdog has dropped the body.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        let mut shared = lock(&self.shared);
        let Watched { live, late, waiting } = &mut *shared;
        let Some((body, permit)) = live else {
            return Poll::Ready(Some(Err(Aborted(late.take().unwrap_or(RequestError::WallTime)))));
        };
        let Poll::Ready(frame) = body.poll_frame(cx) else {
            waiting.get_or_insert_with(|| cx.waker().clone()).clone_from(cx.waker());
            return Poll::Pending;
        };
        match frame {
            Some(Ok(frame)) => {
                let size = frame.data_ref().map_or(0, |data| data.len() as u64);
                self.promised = self.promised.map(|promised| promised.saturating_sub(size));
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                let error = match error {
                    // As at the watchdog: the client may be the one that was slow.
                    RequestError::WallTime | RequestError::Guest(RunError::WallTime) => error.excused(permit),
                    error => error.recorded(permit),
                };
                *live = None;
                Poll::Ready(Some(Err(Aborted(error))))
            }
            None => {
                self.promised = Some(0);
                Poll::Ready(None)
            }
        }
    }
}

impl Drop for Streamed {
    /// If every byte was delivered, the guest may finish its work. Otherwise the client has disconnected, and the guest
    /// is cancelled.
    fn drop(&mut self) {
        self.watchdog.iter().for_each(AbortHandle::abort);
        let Some((body, permit)) = lock(&self.shared).live.take() else { return };
        let Live::Guest(mut body) = body else { return };
        if let (Some(0), Some(afterwork)) = (self.promised, body.afterwork()) {
            tokio::spawn(holding_until(afterwork, permit));
        }
    }
}

impl Live {
    /// Returns the error for a body that is incomplete at its deadline.
    fn late(&self) -> RequestError {
        match self {
            Self::Guest(body) => body.late().into(),
            Self::Replica(body) => body.late(),
            Self::File(_) | Self::Stored(_) => RequestError::WallTime,
        }
    }

    /// Returns the bytes of a complete body; `None` if frames may follow.
    pub(super) fn size(&self) -> Option<usize> {
        match self {
            Self::Guest(body) => body.size(),
            Self::Replica(body) => body.size(),
            Self::File(body) => body.size(),
            Self::Stored(rest) => Some(rest.len()),
        }
    }

    /// Returns the frames of a complete body, and releases its source. The permit is held until a guest has finished
    /// its work after the response. Over HTTP/2 the frames may wait for a window, so they must not keep the buffer of a replica's
    /// connection.
    pub(super) fn finish(self, permit: Permit, version: Version) -> VecDeque<Frame<Bytes>> {
        match self {
            Self::Guest(mut body) => {
                if let Some(afterwork) = body.afterwork() {
                    tokio::spawn(holding_until(afterwork, permit));
                }
                body.into_frames()
            }
            Self::Replica(body) => {
                let mut frames = body.into_frames();
                if version == Version::HTTP_2 {
                    frames.iter_mut().filter_map(Frame::data_mut).for_each(|data| *data = copied(std::mem::take(data)));
                }
                frames
            }
            Self::File(body) => body.into_frames(),
            Self::Stored(rest) if rest.is_empty() => VecDeque::new(),
            Self::Stored(rest) => VecDeque::from([Frame::data(rest)]),
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestError>>> {
        match self {
            Self::Guest(body) => body.poll_frame(cx).map_err(Into::into),
            Self::Replica(body) => body.poll_frame(cx).map_err(Into::into),
            Self::File(body) => body.poll_frame(cx).map_err(Into::into),
            // Returned in pieces: hyper sends a piece that it holds even if the watchdog drops the rest.
            Self::Stored(rest) if rest.is_empty() => Poll::Ready(None),
            Self::Stored(rest) => Poll::Ready(Some(Ok(Frame::data(rest.split_to(rest.len().min(MAX_CHUNK)))))),
        }
    }

    /// Returns the bytes that are left, if known.
    pub(super) fn exact_size(&self) -> Option<u64> {
        match self {
            Self::Guest(body) => body.exact_size(),
            Self::Replica(body) => body.exact_size(),
            Self::File(body) => Some(body.exact_size()),
            Self::Stored(rest) => Some(rest.len() as u64),
        }
    }
}

/// Drops a body at its deadline, whether or not its client reads.
async fn drop_at(deadline: Instant, watched: Arc<Mutex<Watched>>) {
    tokio::time::sleep_until(deadline.into()).await;
    let mut watched = lock(&watched);
    let (live, waiting) = (watched.live.take(), watched.waiting.take());
    watched.late = live.as_ref().map(|(live, permit)| live.late().excused(permit));
    drop(watched);
    drop(live);
    waiting.into_iter().for_each(Waker::wake);
}

async fn holding_until(afterwork: impl Future<Output = ()>, permit: Permit) {
    afterwork.await;
    drop(permit);
}
