//! The state of a connection, and for how long it may last.
//!
//! hyper times neither the first bytes nor a client that stops reading, and cannot tell an idle connection from a
//! slow head. So the bytes are watched on their way in and out, requests report when they begin and end, and the
//! connection's own task compares that with the bounds. What a client owes per response is in [`super::transfer`].
//!
//! The timer is only touched when a deadline comes nearer: never on a busy HTTP/1.1 connection, and once a second on a
//! busy HTTP/2 connection.

mod stream;

use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;
use tokio::time::Sleep;

pub use self::stream::Watched;
use super::transfer::{Transfer, Transfers};
use lodge_base::budget::Budget;
use lodge_base::config;
use lodge_base::lock::lock;
use lodge_base::telemetry::metrics::Metrics;

/// While the host stops: how long an idle HTTP/1 connection stays open for a request that is on its way already.
/// Closing at once would lose that request; its answer says `connection: close`.
const LINGER: Duration = Duration::from_millis(500);

/// The longest time between two looks at the responses that a client has not taken.
const LOOK: Duration = Duration::from_secs(1);

/// In the place of `listener.idle`, where that is longer, for a client that does not take its response while the host stops
/// or half of `listener.unsent` is used; and of `listener.header_read` for one that does not close while the host stops.
const PRESSED: Duration = Duration::from_secs(5);

/// Why a connection is cut whose client takes too little of its responses.
const STALLED: &str = "the client takes too little";

/// What a connection is doing.
pub struct Activity {
    state: Mutex<State>,
    first_byte: Duration,
    header_read: Duration,
    idle: Duration,
    unsent: Arc<Budget>,
    metrics: Arc<Metrics>,
}

struct State {
    phase: Phase,
    /// It began with the preface of HTTP/2, where frames come without requests.
    h2: bool,
    /// Its last request has a body, which may still be on its way.
    upload: bool,
    /// It was handed over to another protocol, which ends its two directions one by one.
    switched: bool,
    /// The stream that the next task is for.
    begun: Option<Arc<Transfer>>,
    /// Responses that the client has not taken all of.
    transfers: Transfers,
    /// The last stream was reset because its client made no progress since.
    wasted: Option<Instant>,
    /// The socket takes no more since, or only so many bytes.
    stalled: Option<(Instant, usize)>,
    /// The connection ends because its client takes too little.
    cut: bool,
    /// The host is stopping since.
    stopping: Option<Instant>,
    /// hyper was told to finish.
    finishing: Option<Instant>,
}

enum Phase {
    /// Accepted, and not a byte yet.
    Silent(Instant),
    /// In the middle of a request head. The time is taken once it is known not to be all here: most are.
    Head(Option<Instant>),
    /// So many requests are being answered.
    Busy(usize),
    /// Between requests.
    Idle(Instant),
}

/// What is to be done about a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Let running requests finish, and take no more.
    Finish,
    /// Close it as it is.
    Cut(&'static str),
}

/// What is due on a connection.
enum Due {
    Verdict(Verdict),
    /// A look at its transfers.
    Look,
}

/// A request in progress, from its head until the last byte of its response is with hyper.
pub struct Working {
    activity: Arc<Activity>,
    /// Of an HTTP/2 stream always, else of a response whose bytes count.
    transfer: Option<Arc<Transfer>>,
    stream: bool,
}

/// Waits for the next verdict.
pub struct Watch {
    activity: Arc<Activity>,
    timer: Pin<Box<Sleep>>,
}

impl Activity {
    /// A connection that was just accepted.
    pub fn new(bounds: &config::Listener, unsent: &Arc<Budget>, metrics: &Arc<Metrics>) -> Self {
        let phase = Phase::Silent(Instant::now());
        let (h2, upload, switched, cut) = (false, false, false, false);
        let (begun, transfers, wasted) = (None, Transfers::default(), None);
        let (stalled, stopping, finishing) = (None, None, None);
        let state = State { phase, h2, upload, switched, begun, transfers, wasted, stalled, cut, stopping, finishing };
        let (first_byte, header_read, idle) = (bounds.first_byte, bounds.header_read, bounds.idle);
        let (unsent, metrics) = (Arc::clone(unsent), Arc::clone(metrics));
        Self { state: Mutex::new(state), first_byte, header_read, idle, unsent, metrics }
    }

    /// A request begins, with a body or without.
    pub fn begin(self: &Arc<Self>, upload: bool) -> Working {
        let mut state = lock(&self.state);
        state.upload = upload;
        let running = if let Phase::Busy(running) = state.phase { running } else { 0 };
        state.phase = Phase::Busy(running + 1);
        state.wasted = None;
        let (stream, mut transfer) = (state.h2, None);
        if stream {
            let begun = Arc::<Transfer>::default();
            state.transfers.add(&begun);
            state.begun = Some(Arc::clone(&begun));
            transfer = Some(begun);
        }
        drop(state);
        Working { activity: Arc::clone(self), transfer, stream }
    }

    /// The task of the request that began last: hyper calls the service, and spawns the stream's task right after.
    pub fn spawned(&self, task: AbortHandle) {
        if let Some(transfer) = lock(&self.state).begun.take() {
            transfer.runs(task);
        }
    }

    /// Another protocol takes the connection over.
    pub fn switch(&self) {
        lock(&self.state).switched = true;
    }

    /// The host is stopping.
    pub fn stop(&self) {
        lock(&self.state).stopping.get_or_insert_with(Instant::now);
    }

    /// To be polled by the connection's task, after the connection.
    pub fn watch(self: &Arc<Self>) -> Watch {
        let timer = Box::pin(tokio::time::sleep(self.first_byte));
        Watch { activity: Arc::clone(self), timer }
    }

    /// Between two looks at the transfers.
    fn look_every(&self) -> Duration {
        (self.idle / 8).clamp(Duration::from_millis(1), LOOK)
    }

    /// Resets the streams whose clients take too little. Anything else that is stuck ends with the connection.
    fn look(&self, state: &mut State, now: Instant) -> Option<Verdict> {
        let limit = state.patience(self);
        let found = state.transfers.look(now, limit);
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
    /// How long a client may make no progress with a response.
    fn patience(&self, bounds: &Activity) -> Duration {
        if self.stopping.is_some() || bounds.unsent.is_pressed() { bounds.idle.min(PRESSED) } else { bounds.idle }
    }

    /// What is due next, and when; `None` while there is nothing to wait for.
    fn due(&mut self, bounds: &Activity) -> Option<(Instant, Due)> {
        let look = self.transfers.next_look(bounds.look_every(), Instant::now);
        let verdict = self.verdict(bounds).map(|(at, verdict)| (at, Due::Verdict(verdict)));
        [verdict, look.map(|at| (at, Due::Look))].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// The next verdict and when it is due, as far as the transfers do not decide it.
    fn verdict(&self, bounds: &Activity) -> Option<(Instant, Verdict)> {
        let finish = |at| if self.finishing.is_some() { None } else { Some((at, Verdict::Finish)) };
        let phase = match self.phase {
            Phase::Silent(since) => Some((since + bounds.first_byte, Verdict::Cut("no first byte"))),
            Phase::Head(since) => since.map(|since| (since + bounds.header_read, Verdict::Cut("slow request head"))),
            Phase::Busy(_) => None,
            // Not idle: it still sends.
            Phase::Idle(_) if !self.transfers.is_empty() => None,
            Phase::Idle(since) => finish(since + bounds.idle),
        };
        let stopping = self.stopping.and_then(|since| match self.phase {
            Phase::Busy(_) => finish(since),
            _ if self.h2 => finish(since),
            _ => finish(since + LINGER),
        });
        let stalled = self.stalled.map(|(since, _)| (since + self.patience(bounds), Verdict::Cut(STALLED)));
        let sends = matches!(self.phase, Phase::Busy(_)) || !self.transfers.is_empty();
        let finished = self.finishing.filter(|_| !sends);
        let farewell = if self.stopping.is_some() { bounds.header_read.min(PRESSED) } else { bounds.header_read };
        let finished = finished.map(|since| (since + farewell, Verdict::Cut("did not finish")));
        [phase, stopping, stalled, finished].into_iter().flatten().min_by_key(|(at, _)| *at)
    }
}

impl Watch {
    /// Ready when something is to be done.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Verdict> {
        loop {
            let mut state = lock(&self.activity.state);
            if let Phase::Head(since @ None) = &mut state.phase {
                *since = Some(Instant::now());
            }
            let Some((at, due)) = state.due(&self.activity) else { return Poll::Pending };
            // A timer that comes early enough tells that it is not yet time, without a look at the clock.
            if self.timer.is_elapsed() || self.timer.deadline() > at.into() {
                let now = Instant::now();
                if at <= now {
                    let verdict = match due {
                        Due::Verdict(verdict) => Some(verdict),
                        Due::Look => self.activity.look(&mut state, now),
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

impl Working {
    /// Whether it came over HTTP/2.
    pub(super) fn is_stream(&self) -> bool {
        self.stream
    }

    /// Whether its response, or its connection, was given up because the client took too little.
    pub(super) fn is_stalled(&self) -> bool {
        self.transfer.as_ref().is_some_and(|transfer| transfer.is_stalled()) || lock(&self.activity.state).cut
    }

    /// Where the bytes of its response report to, if anywhere.
    pub(super) fn watched(&self) -> Option<&Arc<Transfer>> {
        self.transfer.as_ref()
    }

    /// The same, made if it is not there.
    pub(super) fn transfer(&mut self) -> &Arc<Transfer> {
        let activity = &self.activity;
        self.transfer.get_or_insert_with(|| {
            let transfer = Arc::default();
            lock(&activity.state).transfers.add(&transfer);
            transfer
        })
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.transfer.iter().for_each(|transfer| transfer.ends());
        let mut state = lock(&self.activity.state);
        state.phase = match state.phase {
            Phase::Busy(running) if running > 1 => Phase::Busy(running - 1),
            _ => Phase::Idle(state.wasted.unwrap_or_else(Instant::now)),
        };
    }
}

#[cfg(test)]
mod tests;
