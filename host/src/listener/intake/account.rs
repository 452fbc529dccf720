//! The memory that one connection has taken, and the memory that it needs.

mod state;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;

use http::HeaderMap;

use self::state::State;
use super::{BASE, Buffers, CHUNK, FRAME, GRANULE, HEAD, ONE, REQUEST, size};
use lodge_base::lock::lock;

/// The bytes of the shortest HEADERS frame that begins a request: four indexed fields.
const SMALLEST: usize = 13;

/// The part of the host's [`Buffers`] that one connection has.
pub struct Account {
    pub(super) buffers: Arc<Buffers>,
    state: Mutex<State>,
    /// The connection was polled since the last read, so hyper has processed what was read before.
    turned: AtomicBool,
    /// The connection holds bytes that cannot be returned before its last request body ends.
    worn: AtomicBool,
    /// The most concurrent requests.
    streams: usize,
}

/// How to read next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Read at most this many bytes.
    Read(usize),
    /// Wait until hyper has processed what was read.
    Turn,
    /// Take this many bytes for the connection itself first.
    Base(usize),
    /// Take this many bytes in addition first, or wait until the connection needs less.
    Wait(usize),
    /// Wait until the connection needs less: it has the most that one may have.
    Full,
}

/// The memory charged for a request, until its response is finished.
pub struct Charge {
    account: Arc<Account>,
    head: usize,
}

impl Account {
    /// Returns the account of a new connection with at most `streams` concurrent requests.
    pub fn new(buffers: &Arc<Buffers>, streams: usize) -> Arc<Self> {
        Arc::new(Self {
            buffers: Arc::clone(buffers),
            state: Mutex::default(),
            turned: AtomicBool::new(false),
            worn: AtomicBool::new(false),
            streams,
        })
    }

    /// Records that the connection is polled. To be called before every poll.
    pub fn turn(&self) {
        self.turned.store(true, Relaxed);
    }

    /// Returns once whether the connection should accept no more requests, because bytes of bodies that were dropped early cannot
    /// be distinguished from unread ones.
    pub fn wears_out(&self) -> bool {
        self.worn.load(Relaxed) && self.worn.swap(false, Relaxed)
    }

    /// Stops charging: the connection has switched to another protocol, or only discards what it receives.
    pub fn leave(&self) {
        let mut state = lock(&self.state);
        state.over = true;
        self.settle(state);
    }

    /// Charges a request. To be called when hyper passes it on.
    pub fn begin(self: &Arc<Self>, headers: &HeaderMap, upload: bool) -> Charge {
        let mut state = lock(&self.state);
        state.requests += 1;
        state.arriving = state.arriving.saturating_sub(1);
        state.uploads += usize::from(upload);
        if state.uploads > 1 {
            state.bodies.mix();
        }
        state.worked = true;
        let long = state.long || (!state.frames.is_h2() && state.wire > HEAD);
        let head = if long { size(headers).saturating_sub(HEAD) } else { 0 };
        state.heads += head;
        drop(state);
        Charge { account: Arc::clone(self), head }
    }

    /// Records that bytes of a body were read by its consumer.
    pub(super) fn took(&self, bytes: usize) {
        let mut state = lock(&self.state);
        if state.frames.is_h2() {
            let free = state.bodies.take(bytes);
            if state.bodies.is_taken() && state.arriving == 0 {
                state.forget();
            } else if free > 0 {
                state.free(free);
            }
            self.settle(state);
        }
    }

    /// Records that everything received of a body was read by its consumer.
    pub(super) fn took_all(&self) {
        let mut state = lock(&self.state);
        if !state.frames.is_h2() {
            state.wire = 0;
            self.settle(state);
        }
    }

    /// Records that a body was dropped, after its end if `ended`.
    pub(super) fn uploaded(&self, ended: bool) {
        let mut state = lock(&self.state);
        state.uploads = state.uploads.saturating_sub(1);
        state.dirty |= !ended;
        if state.frames.is_h2() && state.uploads == 0 && state.arriving == 0 {
            state.forget();
        }
        self.settle(state);
    }

    /// Whether the connection uses HTTP/2.
    pub(super) fn is_h2(&self) -> bool {
        lock(&self.state).frames.is_h2()
    }

    /// Returns how to read at most `length` bytes. `reader` is woken when a plan to wait changes.
    pub(super) fn plan(&self, length: usize, reader: &Waker) -> Plan {
        let mut state = lock(&self.state);
        if state.over {
            return Plan::Read(length);
        }
        if !state.frames.is_h2() {
            if state.requests == 0 && std::mem::take(&mut state.worked) {
                // hyper has processed everything but perhaps a part of a head in the last read.
                state.wire = state.last;
                let surplus = self.surplus(&mut state);
                self.buffers.extra.put(surplus);
            }
        } else if self.turned.swap(false, Relaxed) {
            state.turn();
        }
        let plan = self.allow(&mut state, length);
        state.reader = (!matches!(plan, Plan::Read(_))).then(|| reader.clone());
        state.full = plan == Plan::Full;
        if matches!(plan, Plan::Wait(_) | Plan::Full) && state.dirty {
            self.worn.store(true, Relaxed);
        }
        plan
    }

    fn allow(&self, state: &mut State, length: usize) -> Plan {
        let base = if state.frames.is_h2() { BASE + FRAME } else { BASE };
        let missing = base.saturating_sub(state.base);
        if missing > 0 {
            if !self.buffers.bases.take(missing) {
                return Plan::Base(missing);
            }
            state.base = base;
        }
        // hyper reads 64 KiB at a time if it may; guests take that eight times as fast as 8 KiB.
        let more = (state.heads + ONE).saturating_sub(state.has());
        if self.reads_ahead(state) && more > 0 && self.buffers.extra.take(more) {
            state.held += more;
        }
        let share = self.buffers.share();
        let lacks =
            |state: &State| (state.need().saturating_sub(state.has()) + GRANULE).min(share.saturating_sub(state.held));
        let mut room = state.room();
        if room < CHUNK {
            let more = lacks(state);
            if more > 0 && self.buffers.extra.take(more) {
                state.held += more;
                room = state.room();
            }
        }
        if room == 0 && state.frames.is_h2() && state.wire > 0 && state.is_spent() {
            return Plan::Turn;
        }
        if room == 0 {
            let more = lacks(state);
            return if more == 0 { Plan::Full } else { Plan::Wait(more) };
        }
        if !state.frames.is_h2() {
            return Plan::Read(length.min(room));
        }
        let inside = state.frames.inside();
        let most = length.min(room).min(inside + CHUNK);
        // The worst case: all of these bytes are heads of requests.
        let free = self.streams.saturating_sub(state.requests + state.arriving);
        let requests = (most.saturating_sub(inside) / SMALLEST + 1).min(free);
        let spare = state.has().saturating_sub(state.need().saturating_add(most));
        let more = (requests * REQUEST).saturating_sub(spare);
        if more == 0 {
            return Plan::Read(most);
        }
        if state.held.saturating_add(more) <= share && self.buffers.extra.take(more) {
            state.held += more;
            return Plan::Read(most);
        }
        // The rest of the frame, or the head of the next frame: at most one request.
        Plan::Read(most.min(if inside > 0 { inside } else { state.frames.head_left() }))
    }

    /// Charges bytes that were read.
    pub(super) fn read(&self, bytes: &[u8]) {
        let mut state = lock(&self.state);
        if state.over {
            return;
        }
        let seen = state.frames.feed(bytes);
        state.wire = state.wire.saturating_add(bytes.len());
        state.last = bytes.len();
        state.arriving += seen.requests;
        let before = state.wire.saturating_sub(bytes.len());
        state.bodies.arrive(seen.data, before);
        state.long |= seen.block > HEAD;
        let half = self.buffers.share() / 2;
        if state.dirty && state.wire > half {
            self.worn.store(true, Relaxed);
        }
        self.settle(state);
    }

    /// Adds bytes that were taken from the buffers.
    pub(super) fn add(&self, bytes: usize, base: bool) {
        let mut state = lock(&self.state);
        let taken = if base { &mut state.base } else { &mut state.held };
        *taken += bytes;
    }

    /// Returns surplus memory, and wakes the reader if it may continue.
    fn settle(&self, mut state: MutexGuard<'_, State>) {
        let surplus = self.surplus(&mut state);
        let goes_on =
            |state: &State| state.over || state.room() > 0 || (state.full && state.held < self.buffers.share());
        let reader = if state.reader.is_some() && goes_on(&state) { state.reader.take() } else { None };
        drop(state);
        self.buffers.extra.put(surplus);
        reader.into_iter().for_each(Waker::wake);
    }

    /// Whether memory is plentiful enough for a body over HTTP/1.1 to have all that it can use.
    fn reads_ahead(&self, state: &State) -> bool {
        !state.frames.is_h2() && state.uploads > 0 && self.buffers.extra.waiting.load(Relaxed) == 0
    }

    /// Removes the memory that the connection does not need, and returns its size.
    fn surplus(&self, state: &mut State) -> usize {
        if state.held == 0 {
            return 0;
        }
        let needs = state.need().saturating_sub(state.base.saturating_sub(REQUEST));
        // Some is kept for the next bytes of a body.
        let ahead = if self.buffers.extra.waiting.load(Relaxed) == 0 { 4 * GRANULE } else { GRANULE };
        let keeps = match state.over {
            true => 0,
            false if self.reads_ahead(state) => (state.heads + ONE).saturating_sub(state.base.saturating_sub(REQUEST)),
            false if state.uploads > 0 => needs.saturating_add(ahead),
            false => needs,
        };
        let surplus = state.held.saturating_sub(keeps);
        state.held -= surplus;
        surplus
    }

    /// Returns the bytes that the connection has taken.
    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        let state = lock(&self.state);
        state.base + state.held
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let state = lock(&self.state);
        self.buffers.bases.put(state.base);
        self.buffers.extra.put(state.held);
    }
}

impl Charge {
    /// Stops charging the connection: see [`Account::leave`].
    pub fn leave(&self) {
        self.account.leave();
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut state = lock(&self.account.state);
        state.requests = state.requests.saturating_sub(1);
        state.heads = state.heads.saturating_sub(self.head);
        self.account.settle(state);
    }
}
