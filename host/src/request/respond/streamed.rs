//! A response body that holds a permit: one that is still being made, or a stored one that `listener.unsent` has no room for.

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
use lodge_runtime::response::GuestBody;
use lodge_traffic::admission::Permit;
use lodge_traffic::proxy::outbound::Hold;
use lodge_traffic::proxy::outbound::MAX_CHUNK;

/// The body of a response, with whoever makes it.
pub(super) enum Live {
    Guest(GuestBody),
    Replica(Box<Relay>),
    /// The rest of a stored body, whose bytes other responses share.
    Stored(Bytes),
}

/// hyper polls for no frame while the client does not take the last one, so a deadline that is only checked when it polls
/// would never come for a client that stalls. A watchdog shares the body and takes it away in time.
pub(super) struct Streamed {
    shared: Arc<Mutex<Watched>>,
    watchdog: AbortHandle,
    /// Bytes that the head promised and that are still to come.
    promised: Option<u64>,
    version: Version,
    unsent: Arc<Budget>,
}

/// An answer that is being made, until it is taken away.
struct Watched {
    live: Option<(Live, Permit)>,
    /// Why it was taken away.
    late: Option<RequestError>,
    /// The connection, while it waits for more: a replica that is dropped does not always wake it.
    waiting: Option<Waker>,
}

/// A problem that ended a transfer after its head was sent.
#[derive(Debug, thiserror::Error)]
#[error("transfer aborted: {0}")]
pub struct Aborted(pub(super) RequestError);

impl Streamed {
    /// A body that is taken away at `deadline`. `promised` is its length in bytes, if its head says that.
    pub(super) fn new(
        body: Live,
        permit: Permit,
        promised: Option<u64>,
        deadline: Instant,
        reserve: Reserve<'_>,
    ) -> Self {
        let (version, unsent) = (reserve.version, Arc::clone(reserve.unsent));
        let shared = Arc::new(Mutex::new(Watched { live: Some((body, permit)), late: None, waiting: None }));
        let watched = Arc::clone(&shared);
        let watchdog = tokio::spawn(async move {
            tokio::time::sleep_until(deadline.into()).await;
            let mut watched = lock(&watched);
            let (live, waiting) = (watched.live.take(), watched.waiting.take());
            watched.late = live.as_ref().map(|(live, _)| live.late());
            drop(watched);
            drop(live);
            waiting.into_iter().for_each(Waker::wake);
        });
        Self { shared, watchdog: watchdog.abort_handle(), promised, version, unsent }
    }

    /// What is left of a body that has become complete, if there is room for it: no deadline is for that any more.
    pub(super) fn rest(&self) -> Option<(VecDeque<Frame<Bytes>>, Option<Reservation>)> {
        let mut shared = lock(&self.shared);
        let size = shared.live.as_ref()?.0.size()?;
        // A body that is shorter than its head says has to end as an error.
        if self.promised.is_some_and(|promised| promised != size as u64) {
            return None;
        }
        let counts = if matches!(shared.live, Some((Live::Stored(_), _))) { 0 } else { size };
        let room = Reserve { version: self.version, unsent: &self.unsent }.room(counts)?;
        let (body, permit) = shared.live.take()?;
        drop(shared);
        Some((body.finish(permit), room))
    }

    /// What the last `bytes` hold while they are not written yet: room, or else the permit until the deadline.
    pub(super) fn hold(self, bytes: usize) -> Hold {
        match (Reserve { version: self.version, unsent: &self.unsent }).room(bytes) {
            Some(room) => Box::new(room),
            None => Box::new(self),
        }
    }

    /// Whether every byte that the head promised is with hyper.
    pub(super) fn is_end(&self) -> bool {
        self.promised == Some(0)
    }

    /// Why the watchdog has taken it away, once: `None` when it has not, or that was reported.
    pub(super) fn take_late(&self) -> Option<RequestError> {
        lock(&self.shared).late.take()
    }

    /// The next frame; an error once it was taken away.
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
                permit.record_failure(error.verdict(), Instant::now);
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
    /// With every byte delivered the guest may finish what it is doing; otherwise the client is gone, and so is it.
    fn drop(&mut self) {
        self.watchdog.abort();
        let Some((body, permit)) = lock(&self.shared).live.take() else { return };
        let Live::Guest(mut body) = body else { return };
        if let (Some(0), Some(afterwork)) = (self.promised, body.afterwork()) {
            tokio::spawn(holding_until(afterwork, permit));
        }
    }
}

impl Live {
    /// What it means that the body is not complete at its deadline.
    fn late(&self) -> RequestError {
        match self {
            Self::Guest(body) => body.late().into(),
            Self::Replica(body) => body.late(),
            Self::Stored(_) => RequestError::WallTime,
        }
    }

    /// Bytes of a body whose frames are all here.
    pub(super) fn size(&self) -> Option<usize> {
        match self {
            Self::Guest(body) => body.size(),
            Self::Replica(body) => body.size(),
            Self::Stored(rest) => Some(rest.len()),
        }
    }

    /// The frames of a body that are all here; lets its maker and the permit go, this one when a guest has done what it
    /// still does.
    pub(super) fn finish(self, permit: Permit) -> VecDeque<Frame<Bytes>> {
        match self {
            Self::Guest(mut body) => {
                if let Some(afterwork) = body.afterwork() {
                    tokio::spawn(holding_until(afterwork, permit));
                }
                body.into_frames()
            }
            Self::Replica(body) => body.into_frames(),
            Self::Stored(rest) if rest.is_empty() => VecDeque::new(),
            Self::Stored(rest) => VecDeque::from([Frame::data(rest)]),
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestError>>> {
        match self {
            Self::Guest(body) => body.poll_frame(cx).map_err(Into::into),
            Self::Replica(body) => body.poll_frame(cx).map_err(Into::into),
            // In pieces: what hyper has taken is sent whatever the watchdog does.
            Self::Stored(rest) if rest.is_empty() => Poll::Ready(None),
            Self::Stored(rest) => Poll::Ready(Some(Ok(Frame::data(rest.split_to(rest.len().min(MAX_CHUNK)))))),
        }
    }

    /// Bytes still to come, when that is known.
    pub(super) fn exact_size(&self) -> Option<u64> {
        match self {
            Self::Guest(body) => body.exact_size(),
            Self::Replica(body) => body.exact_size(),
            Self::Stored(rest) => Some(rest.len() as u64),
        }
    }
}

async fn holding_until(afterwork: impl Future<Output = ()>, permit: Permit) {
    afterwork.await;
    drop(permit);
}
