//! The open connections of one replica.
//!
//! An HTTP/1.1 connection carries one exchange at a time and is here while idle; the most recently used one is taken
//! first. HTTP/2 connections stay here and are shared. Everything is under one lock, taken once before and once after
//! an exchange, and never held across an await. Nothing here reads a clock: the reaper counts periods.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::client::conn::{http1, http2};
use tokio::task::AbortHandle;

use super::h2_stats::H2Stats;
use super::interim::InterimCount;
use super::limit::{CloseIdle, ConnectionLimit, HTTP2_UNITS};
use super::slots::{ConnectionSlot, ConnectionSlots, Full};
use super::upload::{UploadBody, UploadProgress};

/// The periods after which an idle connection is closed. With four, it closes after three quarters to all of the idle
/// time.
pub(super) const PERIODS: u32 = 4;

/// The HTTP version of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum HttpVersion {
    Http1,
    Http2,
}

pub(super) struct IdlePool<B> {
    state: Mutex<PoolState<B>>,
    pub(super) slots: Arc<ConnectionSlots>,
}

struct PoolState<B> {
    idle: Vec<IdleConn<B>>,
    shared: Vec<SharedConn<B>>,
    /// The replica's HTTP version, once known.
    version: Option<HttpVersion>,
    /// Whether a connection is being opened that others may share.
    opening: bool,
    period: u64,
    next: u64,
    closed: bool,
}

struct IdleConn<B> {
    conn: Http1Conn<B>,
    since: u64,
}

struct SharedConn<B> {
    id: u64,
    sender: http2::SendRequest<UploadBody<B>>,
    stats: Arc<H2Stats>,
    streams: usize,
    since: u64,
}

/// An HTTP/1.1 connection. Closes at once if it is dropped during an exchange.
pub(super) struct Http1Conn<B> {
    pub(super) sender: http1::SendRequest<UploadBody<B>>,
    task: AbortHandle,
    slot: Arc<ConnectionSlot>,
    interim: Arc<InterimCount>,
    busy: bool,
}

/// How to get a connection.
pub(super) enum Step<B> {
    Use(Connection<B>),
    Open(Opening<B>, ConnectionSlot),
}

/// A connection, held for one exchange.
pub(super) enum Connection<B> {
    Http1(Http1Exchange<B>),
    Http2(H2Stream<B>),
}

pub(super) struct Http1Exchange<B> {
    pub(super) conn: Http1Conn<B>,
    idle_pool: Arc<IdlePool<B>>,
    pub(super) upload: Option<Arc<UploadProgress>>,
    reused: bool,
}

/// A stream on an HTTP/2 connection; counted until it is dropped.
pub(super) struct H2Stream<B> {
    pub(super) sender: http2::SendRequest<UploadBody<B>>,
    id: u64,
    stats: Arc<H2Stats>,
    idle_pool: Arc<IdlePool<B>>,
    reused: bool,
}

/// The right to open a connection. If others could share it, they wait until this is dropped.
pub(super) struct Opening<B> {
    idle_pool: Arc<IdlePool<B>>,
    alone: bool,
}

impl<B> IdlePool<B> {
    pub(super) fn new(limit: usize, version: Option<HttpVersion>, total: &Arc<ConnectionLimit>) -> Arc<Self> {
        let (idle, shared) = (Vec::new(), Vec::new());
        let state = PoolState { idle, shared, version, opening: false, period: 0, next: 0, closed: false };
        Arc::new(Self { state: Mutex::new(state), slots: ConnectionSlots::new(limit, Arc::clone(total)) })
    }

    /// Returns an open connection, or the right to open one.
    ///
    /// # Errors
    /// The bound that has been reached; the caller has to wait.
    pub(super) fn next(self: &Arc<Self>) -> Result<Step<B>, Full> {
        let mut state = self.lock();
        state.shared.retain(|shared| !shared.sender.is_closed());
        if let Some(shared) = state.shared.iter_mut().find(|shared| shared.has_room()) {
            shared.streams += 1;
            let (id, sender, stats) = (shared.id, shared.sender.clone(), Arc::clone(&shared.stats));
            let stream = H2Stream { sender, id, stats, idle_pool: Arc::clone(self), reused: true };
            return Ok(Step::Use(Connection::Http2(stream)));
        }
        while let Some(IdleConn { mut conn, .. }) = state.idle.pop() {
            if !conn.sender.is_closed() {
                conn.busy = true;
                return Ok(Step::Use(Connection::Http1(self.exchange(conn, true))));
            }
        }
        let alone = state.version != Some(HttpVersion::Http1);
        if alone && state.opening {
            return Err(Full::Replica);
        }
        let slot = self.slots.take(if alone { HTTP2_UNITS } else { 1 })?;
        state.opening |= alone;
        Ok(Step::Open(Opening { idle_pool: Arc::clone(self), alone }, slot))
    }

    /// Ends a period: closes connections that were idle for [`PERIODS`] of them.
    pub(super) fn sweep(&self) {
        let mut state = self.lock();
        state.period += 1;
        let Some(oldest) = state.period.checked_sub(u64::from(PERIODS)) else { return };
        // Sorted by age, since connections are pushed at the end.
        let stale = state.idle.partition_point(|idle| idle.since <= oldest);
        let idle: Vec<_> = state.idle.drain(..stale).collect();
        state.shared.retain(|shared| shared.streams > 0 || shared.since > oldest);
        drop(state);
        drop(idle);
    }

    /// Closes the idle connections now, and the others after their exchange.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let (idle, shared) = (std::mem::take(&mut state.idle), std::mem::take(&mut state.shared));
        drop(state);
        drop((idle, shared));
    }

    /// Returns whether a connection is being opened that others wait for.
    pub(super) fn is_opening(&self) -> bool {
        self.lock().opening
    }

    /// Returns the number of connections without an exchange.
    pub(super) fn idle(&self) -> usize {
        let state = self.lock();
        let one = state.idle.iter().filter(|idle| !idle.conn.sender.is_closed()).count();
        one + state.shared.iter().filter(|shared| shared.streams == 0 && !shared.sender.is_closed()).count()
    }

    fn exchange(self: &Arc<Self>, conn: Http1Conn<B>, reused: bool) -> Http1Exchange<B> {
        Http1Exchange { conn, idle_pool: Arc::clone(self), upload: None, reused }
    }

    fn lock(&self) -> MutexGuard<'_, PoolState<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> CloseIdle for IdlePool<B>
where
    B: Send + 'static,
    http1::SendRequest<UploadBody<B>>: Send,
    http2::SendRequest<UploadBody<B>>: Send,
{
    fn close_idle(&self) -> bool {
        let mut state = self.lock();
        // Connections that the replica has closed are about to free their units anyway. The oldest one is first.
        let one = state.idle.iter().position(|idle| !idle.conn.sender.is_closed()).map(|at| state.idle.remove(at));
        let idle = |shared: &SharedConn<B>| shared.streams == 0 && !shared.sender.is_closed();
        let two = if one.is_none() { state.shared.iter().position(idle) } else { None };
        let two = two.map(|at| state.shared.swap_remove(at));
        drop(state);
        one.is_some() || two.is_some()
    }
}

impl<B> SharedConn<B> {
    fn has_room(&self) -> bool {
        self.streams < self.stats.limit()
    }
}

impl<B> Opening<B> {
    /// Records that the new connection speaks HTTP/1.1.
    pub(super) fn opened_http1(self, conn: Http1Conn<B>) -> Http1Exchange<B> {
        self.idle_pool.lock().version = Some(HttpVersion::Http1);
        self.idle_pool.exchange(conn, false)
    }

    /// Records that the new connection speaks HTTP/2, and shares it.
    pub(super) fn opened_http2(self, sender: http2::SendRequest<UploadBody<B>>, stats: Arc<H2Stats>) -> H2Stream<B> {
        let mut state = self.idle_pool.lock();
        state.version = Some(HttpVersion::Http2);
        let (id, since) = (state.next, state.period);
        state.next += 1;
        if !state.closed {
            state.shared.push(SharedConn { id, sender: sender.clone(), stats: Arc::clone(&stats), streams: 1, since });
        }
        drop(state);
        H2Stream { sender, id, stats, idle_pool: Arc::clone(&self.idle_pool), reused: false }
    }
}

impl<B> Drop for Opening<B> {
    fn drop(&mut self) {
        if self.alone {
            self.idle_pool.lock().opening = false;
            self.idle_pool.slots.freed.notify_waiters();
        }
    }
}

impl<B> Http1Conn<B> {
    /// Creates a connection that is in use by the request it was opened for.
    pub(super) fn new(
        sender: http1::SendRequest<UploadBody<B>>,
        task: AbortHandle,
        slot: Arc<ConnectionSlot>,
        interim: Arc<InterimCount>,
    ) -> Self {
        Self { sender, task, slot, interim, busy: true }
    }

    /// Returns the count of interim responses to its request.
    pub(super) fn interim(&self) -> &Arc<InterimCount> {
        &self.interim
    }

    /// Gives the slot back, since the connection has switched protocols.
    pub(super) fn release_slot(&self) {
        self.slot.release();
    }
}

impl<B> Drop for Http1Conn<B> {
    fn drop(&mut self) {
        if self.busy {
            self.task.abort();
        }
    }
}

impl<B> Connection<B> {
    /// Returns whether the connection had served before.
    pub(super) fn reused(&self) -> bool {
        match self {
            Self::Http1(exchange) => exchange.reused,
            Self::Http2(stream) => stream.reused,
        }
    }

    /// Returns a number that changes with every read; always 0 for HTTP/1.1.
    pub(super) fn reads(&self) -> usize {
        match self {
            Self::Http1(_) => 0,
            Self::Http2(stream) => stream.stats.reads(),
        }
    }

    /// Gives the connection back after the response was read to its end.
    pub(super) fn finish(self) {
        if let Self::Http1(exchange) = self {
            exchange.finish();
        }
    }

    /// Takes an HTTP/2 connection out of the pool, so that it gets no further requests.
    pub(super) fn retire(self) {
        if let Self::Http2(stream) = self {
            stream.idle_pool.lock().shared.retain(|shared| shared.id != stream.id);
        }
    }
}

impl<B> Http1Exchange<B> {
    /// Puts the connection back, unless the replica responded before it had the whole request: nothing would watch the
    /// rest of the upload.
    fn finish(mut self) {
        if self.upload.is_some_and(|upload| !upload.is_done()) {
            return;
        }
        self.conn.busy = false;
        let mut state = self.idle_pool.lock();
        if state.closed || self.conn.sender.is_closed() {
            return;
        }
        let since = state.period;
        state.idle.push(IdleConn { conn: self.conn, since });
        drop(state);
        self.idle_pool.slots.notify_freed();
    }
}

impl<B> Drop for H2Stream<B> {
    fn drop(&mut self) {
        let mut state = self.idle_pool.lock();
        let period = state.period;
        if let Some(shared) = state.shared.iter_mut().find(|shared| shared.id == self.id) {
            shared.streams -= 1;
            shared.since = period;
        }
        drop(state);
        self.idle_pool.slots.notify_freed();
    }
}
