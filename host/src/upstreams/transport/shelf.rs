//! The connections of one replica: who can take a request now, and who has been idle for too long.
//!
//! HTTP/1.1 connections carry one exchange at a time and lie here between two, the one used last on top. HTTP/2
//! connections stay here and are shared. All is under one lock, taken once for an exchange and once after it, never
//! across an await. Nothing here reads a clock: the reaper counts periods.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::client::conn::{http1, http2};
use tokio::task::AbortHandle;

use super::body::{Sending, Upload};
use super::connect::Pulse;
use super::places::{Full, Place, Places};
use super::total::{CloseIdle, TWO, Total};

/// Periods that a connection may be idle for: a few, so that none lives much shorter or any longer than it may.
pub(super) const PERIODS: u32 = 4;

/// A version of HTTP.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

pub(super) struct Shelf<B> {
    state: Mutex<State<B>>,
    pub(super) places: Arc<Places>,
}

struct State<B> {
    idle: Vec<Idle<B>>,
    shared: Vec<Shared<B>>,
    /// What the replica speaks, as far as is known.
    speaks: Option<Version>,
    /// A connection is being opened that others may share.
    opening: bool,
    period: u64,
    next: u64,
    closed: bool,
}

struct Idle<B> {
    line: Line<B>,
    since: u64,
}

struct Shared<B> {
    id: u64,
    sender: http2::SendRequest<Sending<B>>,
    pulse: Arc<Pulse>,
    streams: usize,
    since: u64,
}

/// An HTTP/1.1 connection. Closed at once when it is dropped in the middle of an exchange.
pub(super) struct Line<B> {
    pub(super) sender: http1::SendRequest<Sending<B>>,
    task: AbortHandle,
    place: Arc<Place>,
    busy: bool,
}

/// What to do to get a connection.
pub(super) enum Step<B> {
    Use(Connection<B>),
    Open(Opening<B>, Place),
}

/// A connection for one exchange.
pub(super) enum Connection<B> {
    One(Exchange<B>),
    Two(Stream<B>),
}

pub(super) struct Exchange<B> {
    pub(super) line: Line<B>,
    shelf: Arc<Shelf<B>>,
    pub(super) upload: Option<Arc<Upload>>,
    reused: bool,
}

/// A stream on an HTTP/2 connection, counted until it is dropped.
pub(super) struct Stream<B> {
    pub(super) sender: http2::SendRequest<Sending<B>>,
    id: u64,
    pulse: Arc<Pulse>,
    shelf: Arc<Shelf<B>>,
    reused: bool,
}

/// A connection is being opened; others that could share it wait until this is dropped.
pub(super) struct Opening<B> {
    shelf: Arc<Shelf<B>>,
    alone: bool,
}

impl<B> Shelf<B> {
    pub(super) fn new(limit: usize, speaks: Option<Version>, total: &Arc<Total>) -> Arc<Self> {
        let (idle, shared) = (Vec::new(), Vec::new());
        let state = State { idle, shared, speaks, opening: false, period: 0, next: 0, closed: false };
        Arc::new(Self { state: Mutex::new(state), places: Places::new(limit, Arc::clone(total)) })
    }

    /// A connection that is there, or the right to open one.
    ///
    /// # Errors
    /// When there is nothing but to wait, and for what.
    pub(super) fn next(self: &Arc<Self>) -> Result<Step<B>, Full> {
        let mut state = self.lock();
        state.shared.retain(|shared| !shared.sender.is_closed());
        if let Some(shared) = state.shared.iter_mut().find(|shared| shared.has_room()) {
            shared.streams += 1;
            let (id, sender, pulse) = (shared.id, shared.sender.clone(), Arc::clone(&shared.pulse));
            let stream = Stream { sender, id, pulse, shelf: Arc::clone(self), reused: true };
            return Ok(Step::Use(Connection::Two(stream)));
        }
        while let Some(Idle { mut line, .. }) = state.idle.pop() {
            if !line.sender.is_closed() {
                line.busy = true;
                return Ok(Step::Use(Connection::One(self.exchange(line, true))));
            }
        }
        let alone = state.speaks != Some(Version::One);
        if alone && state.opening {
            return Err(Full::Here);
        }
        let place = self.places.take(if alone { TWO } else { 1 })?;
        state.opening |= alone;
        Ok(Step::Open(Opening { shelf: Arc::clone(self), alone }, place))
    }

    /// A period is over: closes what was idle for [`PERIODS`] of them.
    pub(super) fn sweep(&self) {
        let mut state = self.lock();
        state.period += 1;
        let Some(oldest) = state.period.checked_sub(u64::from(PERIODS)) else { return };
        // Put on top one after the other, so that the oldest are at the bottom.
        let stale = state.idle.partition_point(|idle| idle.since <= oldest);
        let idle: Vec<_> = state.idle.drain(..stale).collect();
        state.shared.retain(|shared| shared.streams > 0 || shared.since > oldest);
        drop(state);
        drop(idle);
    }

    /// The replica goes: what is idle is closed now, what is in use after its exchange.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let (idle, shared) = (std::mem::take(&mut state.idle), std::mem::take(&mut state.shared));
        drop(state);
        drop((idle, shared));
    }

    /// Somebody opens a connection that others wait for.
    pub(super) fn is_opening(&self) -> bool {
        self.lock().opening
    }

    /// Connections without an exchange.
    pub(super) fn idle(&self) -> usize {
        let state = self.lock();
        let one = state.idle.iter().filter(|idle| !idle.line.sender.is_closed()).count();
        one + state.shared.iter().filter(|shared| shared.streams == 0 && !shared.sender.is_closed()).count()
    }

    fn exchange(self: &Arc<Self>, line: Line<B>, reused: bool) -> Exchange<B> {
        Exchange { line, shelf: Arc::clone(self), upload: None, reused }
    }

    fn lock(&self) -> MutexGuard<'_, State<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> CloseIdle for Shelf<B>
where
    B: Send + 'static,
    http1::SendRequest<Sending<B>>: Send,
    http2::SendRequest<Sending<B>>: Send,
{
    fn close_idle(&self) -> bool {
        let mut state = self.lock();
        // Those that the replica has closed are on their way, and free nothing more. The oldest is at the bottom.
        let one = state.idle.iter().position(|idle| !idle.line.sender.is_closed()).map(|at| state.idle.remove(at));
        let idle = |shared: &Shared<B>| shared.streams == 0 && !shared.sender.is_closed();
        let two = if one.is_none() { state.shared.iter().position(idle) } else { None };
        let two = two.map(|at| state.shared.swap_remove(at));
        drop(state);
        one.is_some() || two.is_some()
    }
}

impl<B> Shared<B> {
    fn has_room(&self) -> bool {
        self.streams < self.pulse.limit()
    }
}

impl<B> Opening<B> {
    /// It speaks HTTP/1.1.
    pub(super) fn one(self, line: Line<B>) -> Exchange<B> {
        self.shelf.lock().speaks = Some(Version::One);
        self.shelf.exchange(line, false)
    }

    /// It speaks HTTP/2.
    pub(super) fn two(self, sender: http2::SendRequest<Sending<B>>, pulse: Arc<Pulse>) -> Stream<B> {
        let mut state = self.shelf.lock();
        state.speaks = Some(Version::Two);
        let (id, since) = (state.next, state.period);
        state.next += 1;
        if !state.closed {
            state.shared.push(Shared { id, sender: sender.clone(), pulse: Arc::clone(&pulse), streams: 1, since });
        }
        drop(state);
        Stream { sender, id, pulse, shelf: Arc::clone(&self.shelf), reused: false }
    }
}

impl<B> Drop for Opening<B> {
    fn drop(&mut self) {
        if self.alone {
            self.shelf.lock().opening = false;
            self.shelf.places.freed.notify_waiters();
        }
    }
}

impl<B> Line<B> {
    /// With the request that it was opened for.
    pub(super) fn new(sender: http1::SendRequest<Sending<B>>, task: AbortHandle, place: Arc<Place>) -> Self {
        Self { sender, task, place, busy: true }
    }

    /// It becomes something else, and takes no place among the connections.
    pub(super) fn switches(&self) {
        self.place.leave();
    }
}

impl<B> Drop for Line<B> {
    fn drop(&mut self) {
        if self.busy {
            self.task.abort();
        }
    }
}

impl<B> Connection<B> {
    /// Whether it had served before.
    pub(super) fn reused(&self) -> bool {
        match self {
            Self::One(exchange) => exchange.reused,
            Self::Two(stream) => stream.reused,
        }
    }

    /// Changes whenever something comes on a connection that is shared.
    pub(super) fn reads(&self) -> usize {
        match self {
            Self::One(_) => 0,
            Self::Two(stream) => stream.pulse.reads(),
        }
    }

    /// The answer was read to its end.
    pub(super) fn over(self) {
        if let Self::One(exchange) = self {
            exchange.over();
        }
    }

    /// It takes no more requests.
    pub(super) fn retire(self) {
        if let Self::Two(stream) = self {
            stream.shelf.lock().shared.retain(|shared| shared.id != stream.id);
        }
    }
}

impl<B> Exchange<B> {
    /// Keeps the connection, unless the replica answered before it had all of the request: nobody would watch the rest.
    fn over(mut self) {
        if self.upload.is_some_and(|upload| !upload.is_done()) {
            return;
        }
        self.line.busy = false;
        let mut state = self.shelf.lock();
        if state.closed || self.line.sender.is_closed() {
            return;
        }
        let since = state.period;
        state.idle.push(Idle { line: self.line, since });
        drop(state);
        self.shelf.places.free();
    }
}

impl<B> Drop for Stream<B> {
    fn drop(&mut self) {
        let mut state = self.shelf.lock();
        let period = state.period;
        if let Some(shared) = state.shared.iter_mut().find(|shared| shared.id == self.id) {
            shared.streams -= 1;
            shared.since = period;
        }
        drop(state);
        self.shelf.places.free();
    }
}
