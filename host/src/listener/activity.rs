//! The state of a connection and its timeouts.
//!
//! hyper has no timeout for the first byte or for a client that stops reading, and does not distinguish an idle connection from
//! a slow request head. So this module observes the bytes that are read and written and the begin and end of requests, and the
//! task of the connection compares them with the bounds. Progress of each response is in [`super::transfer`].
//!
//! The timer is reset only when a deadline comes nearer: never on a busy HTTP/1.1 connection, and once a second on a busy
//! HTTP/2 connection.

mod stream;

use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime};

use tokio::task::AbortHandle;
use tokio::time::Sleep;

pub use self::stream::Watched;
use super::transfer::{Transfer, Transfers};
use lodge_base::budget::Budget;
use lodge_base::config;
use lodge_base::lock::lock;
use lodge_base::telemetry::metrics::Metrics;

/// How long a connection stays open after the host begins to stop, or after it was opened if that is later, for requests that the
/// client is about to send: one of HTTP/1 that is idle, and one of HTTP/2 that had no request before. Closing at once would lose
/// these requests, and a client that opens another connection would lose them there again.
const LINGER: Duration = Duration::from_millis(500);

/// The longest interval between two checks of the responses that a client has not read completely.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Shortens `listener.idle` for a client that does not read its response while the host stops or half of `listener.unsent` is
/// used, and `listener.header_read` for a client that does not close its connection while the host stops.
const SHORTENED: Duration = Duration::from_secs(5);

/// How long a client may take for the head of a request before its connection counts as idle where others need its place.
const SLOW_HEAD: Duration = Duration::from_secs(1);

/// The reason for closing a connection whose client does not read its responses.
const STALLED: &str = "the client reads its responses too slowly";

/// The state of a connection, shared by its task, its stream and its requests.
pub struct Activity {
    state: Mutex<State>,
    first_byte: Duration,
    header_read: Duration,
    idle: Duration,
    /// When the certificate of the client expires.
    expires: Option<Instant>,
    unsent: Arc<Budget>,
    metrics: Arc<Metrics>,
}

struct State {
    phase: Phase,
    /// The client sent the preface of HTTP/2; then bytes may come without a request.
    h2: bool,
    /// The last request has a body, which may not have arrived completely.
    upload: bool,
    /// The connection has switched to another protocol, which may close its two directions separately.
    switched: bool,
    /// The transfer of the HTTP/2 stream whose task is spawned next.
    begun: Option<Arc<Transfer>>,
    /// The responses that the client has not read completely.
    transfers: Transfers,
    /// When the client last made progress, if the last stream was reset for want of it.
    wasted: Option<Instant>,
    /// Since when the socket's buffer is full, and the bytes written since.
    stalled: Option<(Instant, usize)>,
    /// The connection is closed because its client reads too slowly.
    cut: bool,
    /// The connection is closed for another one.
    ended: bool,
    /// When the host began to stop, or when the connection was opened if that was later.
    stopping: Option<Instant>,
    /// Whether a request began before that.
    used_before: bool,
    /// When hyper's graceful shutdown began.
    finishing: Option<Instant>,
}

enum Phase {
    /// No byte was received yet.
    Silent(Instant),
    /// A part of a request head was received. The time is set only if the head is not complete at once, as most are.
    Head(Option<Instant>),
    /// This many requests are in progress.
    Busy(usize),
    /// No request is in progress.
    Idle(Instant),
}

/// What to do with a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Accept no more requests, and close it when those in progress are finished.
    Finish,
    /// Close it at once, for this reason.
    Cut(&'static str),
}

/// The next action on a connection.
enum Due {
    Verdict(Verdict),
    /// A check of its transfers.
    Check,
}

/// A request in progress, from its head until hyper has the last byte of its response.
pub struct ActiveRequest {
    activity: Arc<Activity>,
    /// Always present on HTTP/2; on HTTP/1.1, only for a response with room in `listener.unsent`.
    transfer: Option<Arc<Transfer>>,
    stream: bool,
    /// The connection had been given up when it began.
    is_late: bool,
}

/// The future of the next verdict.
pub struct Watch {
    activity: Arc<Activity>,
    timer: Pin<Box<Sleep>>,
}

impl Activity {
    /// Returns the state of a connection that was just accepted.
    pub fn new(bounds: &config::Listener, unsent: &Arc<Budget>, metrics: &Arc<Metrics>) -> Self {
        let phase = Phase::Silent(Instant::now());
        let (h2, upload, switched, cut, ended) = (false, false, false, false, false);
        let (begun, transfers, wasted) = (None, Transfers::default(), None);
        let (stalled, stopping, used_before, finishing) = (None, None, false, None);
        let state = State {
            phase,
            h2,
            upload,
            switched,
            begun,
            transfers,
            wasted,
            stalled,
            cut,
            ended,
            stopping,
            used_before,
            finishing,
        };
        let (first_byte, header_read, idle) = (bounds.first_byte, bounds.header_read, bounds.idle);
        let (unsent, metrics) = (Arc::clone(unsent), Arc::clone(metrics));
        Self { state: Mutex::new(state), first_byte, header_read, idle, expires: None, unsent, metrics }
    }

    /// Returns the state of a connection that takes no more requests from this time on.
    pub fn valid_until(self, end: Option<SystemTime>) -> Self {
        let left = end.map(|end| end.duration_since(SystemTime::now()).unwrap_or_default());
        Self { expires: left.and_then(|left| Instant::now().checked_add(left)), ..self }
    }

    /// Records the begin of a request, which has a body if `upload`.
    pub fn begin(self: &Arc<Self>, upload: bool) -> ActiveRequest {
        let mut state = lock(&self.state);
        state.upload = upload;
        state.used_before |= state.stopping.is_none();
        let running = if let Phase::Busy(running) = state.phase { running } else { 0 };
        state.phase = Phase::Busy(running + 1);
        state.wasted = None;
        let (stream, is_late, mut transfer) = (state.h2, state.ended, None);
        if stream {
            let begun = Arc::<Transfer>::default();
            state.transfers.add(&begun);
            state.begun = Some(Arc::clone(&begun));
            transfer = Some(begun);
        }
        drop(state);
        ActiveRequest { activity: Arc::clone(self), transfer, stream, is_late }
    }

    /// Returns since when the connection is idle, if it is.
    pub fn idle_since(&self) -> Option<Instant> {
        lock(&self.state).idle_since()
    }

    /// Takes no more requests, if the connection is idle for `rest` at least. Returns whether it is.
    pub fn end_if_idle(&self, rest: Duration) -> bool {
        let mut state = lock(&self.state);
        let is_idle = state.idle_since().is_some_and(|since| since.elapsed() >= rest);
        state.ended |= is_idle;
        is_idle
    }

    /// Records the task of the request that began last. hyper calls the service, and spawns the task of the stream right after.
    pub fn spawned(&self, task: AbortHandle) {
        if let Some(transfer) = lock(&self.state).begun.take() {
            transfer.set_task(task);
        }
    }

    /// Records that the host is stopping.
    pub fn stop(&self) {
        lock(&self.state).stopping.get_or_insert_with(Instant::now);
    }

    /// Returns the future of verdicts. The task of the connection polls it after the connection.
    pub fn watch(self: &Arc<Self>) -> Watch {
        let timer = Box::pin(tokio::time::sleep(self.first_byte));
        Watch { activity: Arc::clone(self), timer }
    }

    /// Returns the interval between two checks of the transfers.
    fn check_interval(&self) -> Duration {
        (self.idle / 8).clamp(Duration::from_millis(1), CHECK_INTERVAL)
    }

    /// Resets the streams whose client reads too slowly. What cannot be reset alone ends with the connection.
    fn check(&self, state: &mut State, now: Instant) -> Option<Verdict> {
        let limit = state.stall_timeout(self);
        let found = state.transfers.check(now, limit);
        self.metrics.stalled.fetch_add(found.reset + u64::from(found.stuck), Relaxed);
        if found.reset > 0 {
            state.wasted = now.checked_sub(limit);
        }
        if let (true, Phase::Idle(since)) = (found.over, &mut state.phase) {
            *since = now;
        }
        match state.phase {
            _ if !found.stuck => None,
            _ if state.h2 && state.finishing.is_none() => Some(Verdict::Finish),
            Phase::Busy(_) if state.h2 => None,
            _ => Some(Verdict::Cut(STALLED)),
        }
    }
}

impl State {
    /// Returns since when no request is in progress, and no response on its way.
    fn idle_since(&self) -> Option<Instant> {
        let rests = !self.switched && self.stalled.is_none() && self.transfers.is_empty();
        match self.phase {
            Phase::Silent(since) | Phase::Idle(since) if rests => Some(since),
            Phase::Head(since) if rests => since.filter(|since| since.elapsed() >= SLOW_HEAD),
            _ => None,
        }
    }

    /// Returns how long a client may make no progress with a response.
    fn stall_timeout(&self, bounds: &Activity) -> Duration {
        if self.stopping.is_some() || bounds.unsent.is_pressed() { bounds.idle.min(SHORTENED) } else { bounds.idle }
    }

    /// Returns the next action and when it is due; `None` if there is none.
    fn due(&mut self, bounds: &Activity) -> Option<(Instant, Due)> {
        let check = self.transfers.next_check(bounds.check_interval(), Instant::now);
        let verdict = self.verdict(bounds).map(|(at, verdict)| (at, Due::Verdict(verdict)));
        let Some(check) = check else { return verdict };
        verdict.filter(|(at, _)| *at <= check).or(Some((check, Due::Check)))
    }

    /// Returns the next verdict that does not depend on the transfers, and when it is due.
    fn verdict(&self, bounds: &Activity) -> Option<(Instant, Verdict)> {
        let finish = |at| if self.finishing.is_some() { None } else { Some((at, Verdict::Finish)) };
        let phase = match self.phase {
            Phase::Silent(since) => {
                Some((since + bounds.first_byte, Verdict::Cut("the client sent nothing within listener.first_byte")))
            }
            Phase::Head(since) => since.map(|since| {
                (
                    since + bounds.header_read,
                    Verdict::Cut("the request head was not complete within listener.header_read"),
                )
            }),
            Phase::Busy(_) => None,
            // A response is still being sent, so the connection is not idle.
            Phase::Idle(_) if !self.transfers.is_empty() => None,
            Phase::Idle(since) => finish(since + bounds.idle),
        };
        // As for nearly all requests.
        if self.stopping.is_none() && self.stalled.is_none() && self.finishing.is_none() && bounds.expires.is_none() {
            return phase;
        }
        let stopping = self.stopping.and_then(|since| match self.phase {
            _ if self.h2 && self.used_before => finish(since),
            Phase::Busy(_) if !self.h2 => finish(since),
            _ => finish(since + LINGER),
        });
        let stalled = self.stalled.map(|(since, _)| (since + self.stall_timeout(bounds), Verdict::Cut(STALLED)));
        let sends = matches!(self.phase, Phase::Busy(_)) || !self.transfers.is_empty();
        let finished = self.finishing.filter(|_| !sends);
        let farewell = if self.stopping.is_some() { bounds.header_read.min(SHORTENED) } else { bounds.header_read };
        let finished =
            finished.map(|since| (since + farewell, Verdict::Cut("the client did not close the connection")));
        let expired = bounds.expires.and_then(finish);
        [phase, stopping, stalled, finished, expired].into_iter().flatten().min_by_key(|(at, _)| *at)
    }
}

impl Watch {
    /// Returns the next verdict when it is due.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Verdict> {
        loop {
            let mut state = lock(&self.activity.state);
            if let Phase::Head(since @ None) = &mut state.phase {
                *since = Some(Instant::now());
            }
            let Some((at, due)) = state.due(&self.activity) else { return Poll::Pending };
            // If the timer is early enough and has not fired, it is not yet time, and the clock need not be read.
            if self.timer.is_elapsed() || self.timer.deadline() > at.into() {
                let now = Instant::now();
                if at <= now {
                    let verdict = match due {
                        Due::Verdict(verdict) => Some(verdict),
                        Due::Check => self.activity.check(&mut state, now),
                    };
                    let Some(verdict) = verdict else { continue };
                    match verdict {
                        Verdict::Finish => state.finishing = Some(now),
                        Verdict::Cut(why) => state.cut = why == STALLED,
                    }
                    return Poll::Ready(verdict);
                }
                self.timer.as_mut().reset(at.into());
            }
            drop(state);
            ready!(self.timer.as_mut().poll(cx));
        }
    }
}

impl ActiveRequest {
    /// Records that the connection has switched to another protocol.
    pub fn switch(&self) {
        lock(&self.activity.state).switched = true;
    }

    /// Whether it may not begin, since its connection is closed for another one. Its client learns that it was not handled.
    pub fn is_late(&self) -> bool {
        self.is_late
    }

    /// Whether the request came over HTTP/2.
    pub(super) fn is_stream(&self) -> bool {
        self.stream
    }

    /// Whether the stream or the connection was closed because the client reads too slowly.
    pub(super) fn is_stalled(&self) -> bool {
        self.transfer.as_ref().is_some_and(|transfer| transfer.is_stalled()) || lock(&self.activity.state).cut
    }

    /// Returns the transfer of the response, if there is one.
    pub(super) fn existing_transfer(&self) -> Option<&Arc<Transfer>> {
        self.transfer.as_ref()
    }

    /// Returns the transfer of the response, after creating it if there is none.
    pub(super) fn transfer(&mut self) -> &Arc<Transfer> {
        let activity = &self.activity;
        self.transfer.get_or_insert_with(|| {
            let transfer = Arc::default();
            lock(&activity.state).transfers.add(&transfer);
            transfer
        })
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.transfer.iter().for_each(|transfer| transfer.clear_task());
        let mut state = lock(&self.activity.state);
        state.phase = match state.phase {
            Phase::Busy(running) if running > 1 => Phase::Busy(running - 1),
            _ => Phase::Idle(state.wasted.unwrap_or_else(Instant::now)),
        };
    }
}

#[cfg(test)]
mod tests;
