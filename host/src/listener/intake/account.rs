//! What one connection has taken, and what it needs.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;

use http::HeaderMap;

use super::frames::Frames;
use super::unread::Bodies;
use super::{BASE, Buffers, CHUNK, FRAME, GRANULE, HEAD, ONE, REQUEST};
use lodge_base::lock::lock;

/// Bytes of the shortest HEADERS frame that begins a request: four fields that are an index each.
const SMALLEST: usize = 13;
/// Bytes of a field in a map of headers, besides its name and value.
const FIELD: usize = 64;

/// What one connection holds of the host's [`Buffers`].
pub struct Account {
    pub(super) buffers: Arc<Buffers>,
    state: Mutex<State>,
    /// The connection was polled anew: what it read before was handed out.
    turned: AtomicBool,
    /// It holds bytes that nobody can give back before its last upload ends.
    worn: AtomicBool,
    /// The most requests at once.
    streams: usize,
}

#[derive(Default)]
struct State {
    frames: Frames,
    /// Bytes taken for the connection itself.
    base: usize,
    /// Bytes taken besides.
    held: usize,
    /// Requests that are not over.
    requests: usize,
    /// Requests that were read in this turn and not handed out yet.
    arriving: usize,
    /// Bytes of their heads that [`REQUEST`] does not pay for.
    heads: usize,
    /// A head that was read in this turn is such a one.
    long: bool,
    /// Request bodies that are still held by someone.
    uploads: usize,
    /// Bytes of them, HTTP/2.
    bodies: Bodies,
    /// A body was dropped before its end: what still comes of it is thrown away unseen.
    dirty: bool,
    /// Bytes that were read since none of them was kept.
    wire: usize,
    /// The last of them.
    last: usize,
    /// A request was at work since hyper read last, HTTP/1.1.
    worked: bool,
    /// Another protocol has it, or it ends.
    over: bool,
    /// Its reader waits.
    reader: Option<Waker>,
    /// It waits because the connection has all that one may have.
    full: bool,
}

/// What to do to read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// At most so many bytes may be read.
    Read(usize),
    /// None before hyper has handed out what was read.
    Turn,
    /// None before so many bytes were taken for the connection itself.
    Base(usize),
    /// None before so many bytes were taken besides, or the connection needs less.
    Wait(usize),
    /// None before the connection needs less: it has all that one may have.
    Full,
}

/// One request, until its response is done.
pub struct Charge {
    account: Arc<Account>,
    head: usize,
}

impl State {
    /// Bytes that the connection needs besides its base.
    fn need(&self) -> usize {
        let requests = (self.requests + self.arriving).saturating_sub(1);
        requests.saturating_mul(REQUEST).saturating_add(self.heads).saturating_add(self.kept())
    }

    /// Bytes that may be kept of those that were read.
    fn kept(&self) -> usize {
        let twice = self.wire.saturating_mul(2);
        match self.frames.is_h2() {
            true if self.frames.in_block() => twice,
            true => self.wire,
            false => twice.min(ONE),
        }
    }

    /// Bytes that it has for that.
    fn has(&self) -> usize {
        self.held + self.base.saturating_sub(REQUEST)
    }

    /// Bytes that may be read with what it has.
    fn room(&self) -> usize {
        let left = self.has().saturating_sub(self.need());
        match self.frames.is_h2() {
            true if self.frames.in_block() => left / 2,
            true => left,
            false if self.has() >= self.heads + ONE => usize::MAX,
            false => left / 2,
        }
    }

    /// The first bytes of those that were read are kept no more.
    fn free(&mut self, bytes: usize) {
        self.wire = self.wire.saturating_sub(bytes);
        self.bodies.free(bytes);
    }

    /// Everything that was read before was handed out.
    fn turn(&mut self) {
        (self.arriving, self.long) = (0, false);
        self.forget();
    }

    /// Whether nothing is kept of what was read, once it was handed out.
    fn is_spent(&self) -> bool {
        (self.uploads == 0 || self.bodies.is_taken()) && !self.frames.in_block()
    }

    /// Forgets what was read if nothing of it is kept. Only between turns is it known what is a body's.
    fn forget(&mut self) {
        self.dirty &= self.uploads > 0;
        if self.is_spent() {
            (self.bodies, self.wire) = (Bodies::of(self.uploads), 0);
        }
    }
}

impl Account {
    /// Of a new connection, on which at most `streams` requests can be at once.
    pub fn new(buffers: &Arc<Buffers>, streams: usize) -> Arc<Self> {
        Arc::new(Self {
            buffers: Arc::clone(buffers),
            state: Mutex::default(),
            turned: AtomicBool::new(false),
            worn: AtomicBool::new(false),
            streams,
        })
    }

    /// To be called whenever the connection is about to be polled.
    pub fn turn(&self) {
        self.turned.store(true, Relaxed);
    }

    /// Whether it should take no more requests, as long as nobody has been told: bytes of bodies that were dropped early cannot be
    /// told from unread ones.
    pub fn wears_out(&self) -> bool {
        self.worn.load(Relaxed) && self.worn.swap(false, Relaxed)
    }

    /// It is not metered any more: another protocol has it, or it only throws away what comes.
    pub fn leave(&self) {
        let mut state = lock(&self.state);
        state.over = true;
        self.settle(state);
    }

    /// A request begins. To be called when hyper hands it out.
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

    /// Bytes of a body were taken.
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

    /// All of a body that was read was taken.
    pub(super) fn took_all(&self) {
        let mut state = lock(&self.state);
        if !state.frames.is_h2() {
            state.wire = 0;
            self.settle(state);
        }
    }

    /// A body is gone; whether to its end.
    pub(super) fn uploaded(&self, ended: bool) {
        let mut state = lock(&self.state);
        state.uploads = state.uploads.saturating_sub(1);
        state.dirty |= !ended;
        if state.frames.is_h2() && state.uploads == 0 && state.arriving == 0 {
            state.forget();
        }
        self.settle(state);
    }

    /// Whether bodies come as frames of HTTP/2.
    pub(super) fn is_h2(&self) -> bool {
        lock(&self.state).frames.is_h2()
    }

    /// What may be read of `length` bytes that there is room for. A plan to wait wakes `reader` when it changes.
    pub(super) fn plan(&self, length: usize, reader: &Waker) -> Plan {
        let mut state = lock(&self.state);
        if state.over {
            return Plan::Read(length);
        }
        if !state.frames.is_h2() {
            if state.requests == 0 && std::mem::take(&mut state.worked) {
                // hyper has read all it had, but the part of a head that came last.
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
        // hyper reads 64 KiB at once where it may, which guests take eight times as fast as 8.
        let more = (state.heads + ONE).saturating_sub(state.has());
        if self.reads_ahead(state) && more > 0 && self.buffers.extra.take(more) {
            state.held += more;
        }
        let share = self.buffers.share();
        let lacks =
            |state: &State| (state.need().saturating_sub(state.has()) + GRANULE).min(share.saturating_sub(state.held));
        let more = lacks(state);
        if state.room() < CHUNK && more > 0 && self.buffers.extra.take(more) {
            state.held += more;
        }
        let room = state.room();
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
        // What if all of it were heads of requests?
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
        // The rest of the frame, or what says what comes next: one request at most.
        Plan::Read(most.min(if inside > 0 { inside } else { state.frames.head_left() }))
    }

    /// These bytes were read.
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

    /// Bytes were taken for it.
    pub(super) fn add(&self, bytes: usize, base: bool) {
        let mut state = lock(&self.state);
        let taken = if base { &mut state.base } else { &mut state.held };
        *taken += bytes;
    }

    /// Gives back what it does not need, and wakes the reader if it may go on.
    fn settle(&self, mut state: MutexGuard<'_, State>) {
        let surplus = self.surplus(&mut state);
        let goes_on = state.over || state.room() > 0 || (state.full && state.held < self.buffers.share());
        let reader = if goes_on { state.reader.take() } else { None };
        drop(state);
        self.buffers.extra.put(surplus);
        reader.into_iter().for_each(Waker::wake);
    }

    /// Whether there is so much that a body over HTTP/1.1 may have all that it can use.
    fn reads_ahead(&self, state: &State) -> bool {
        !state.frames.is_h2() && state.uploads > 0 && self.buffers.extra.waiting.load(Relaxed) == 0
    }

    /// Takes off what it does not need.
    fn surplus(&self, state: &mut State) -> usize {
        let needs = state.need().saturating_sub(state.base.saturating_sub(REQUEST));
        // Some is kept for what comes next of a body.
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

    /// Bytes that it has taken.
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

impl Drop for Charge {
    fn drop(&mut self) {
        let mut state = lock(&self.account.state);
        state.requests = state.requests.saturating_sub(1);
        state.heads = state.heads.saturating_sub(self.head);
        self.account.settle(state);
    }
}

/// Bytes of heap that headers take.
fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD).sum()
}
