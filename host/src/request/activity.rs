//! What a connection is doing, and when it has been doing it for too long.
//!
//! hyper times neither the first bytes nor a client that stops reading, and cannot tell an idle connection from a
//! slow head. So the bytes are watched on their way in and out, requests report when they begin and end, and the
//! connection's own task compares that with the bounds. A timer is only touched when a deadline comes nearer, which
//! a busy connection's never does.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::capabilities::sandbox::lock;
use crate::config;

/// While the host stops: how long an idle HTTP/1 connection stays open for a request that is on its way already.
/// Closing at once would lose that request; its answer says `connection: close`.
const LINGER: Duration = Duration::from_millis(500);

/// How long a client that has closed its sending side in the middle of a request may still be there for the answer.
/// On the wire it looks the same as one that has left, whose guest must not go on for nobody.
const HALF_CLOSED: Duration = Duration::from_secs(1);

/// How long what a client still sends is thrown away after the connection's end. Closing with some of it unread would
/// reset the connection, and take the answer from a client that has not read it yet: the 413 to an upload, say.
const DISCARD: Duration = Duration::from_secs(1);

/// What a connection is doing.
pub struct Activity {
    state: Mutex<State>,
    first_byte: Duration,
    header_read: Duration,
    idle: Duration,
}

struct State {
    phase: Phase,
    /// It began with the preface of HTTP/2, where frames come without requests.
    h2: bool,
    /// Its last request has a body, which may still be on its way.
    upload: bool,
    /// It was handed over to another protocol, which ends its two directions one by one.
    switched: bool,
    /// The client has not taken a byte since.
    stalled: Option<Instant>,
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

/// A request being answered, from its head to the last byte of its answer.
pub struct Working(Arc<Activity>);

/// A body that keeps its connection busy.
pub struct Held<B> {
    body: B,
    _working: Working,
}

/// A stream whose bytes are watched.
pub struct Watched<S> {
    stream: S,
    activity: Arc<Activity>,
    sniffed: bool,
    /// The end of the client's bytes, which hyper is told of later.
    half_closed: Option<Pin<Box<Sleep>>>,
    /// Since the end, while the client may send on.
    discarding: Option<Pin<Box<Sleep>>>,
}

/// Waits for the next verdict.
pub struct Watch {
    activity: Arc<Activity>,
    timer: Pin<Box<Sleep>>,
}

impl Activity {
    /// A connection that was just accepted.
    pub fn new(bounds: &config::Listener) -> Self {
        let phase = Phase::Silent(Instant::now());
        let (h2, upload, switched) = (false, false, false);
        let state = State { phase, h2, upload, switched, stalled: None, stopping: None, finishing: None };
        let (first_byte, header_read, idle) = (bounds.first_byte, bounds.header_read, bounds.idle);
        Self { state: Mutex::new(state), first_byte, header_read, idle }
    }

    /// A request begins, with a body or without.
    pub fn begin(self: &Arc<Self>, upload: bool) -> Working {
        let mut state = lock(&self.state);
        state.upload = upload;
        let running = if let Phase::Busy(running) = state.phase { running } else { 0 };
        state.phase = Phase::Busy(running + 1);
        drop(state);
        Working(Arc::clone(self))
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
}

impl State {
    /// The next verdict and when it is due; `None` while there is nothing to wait for.
    fn due(&self, bounds: &Activity) -> Option<(Instant, Verdict)> {
        let finish = |at| if self.finishing.is_some() { None } else { Some((at, Verdict::Finish)) };
        let phase = match self.phase {
            Phase::Silent(since) => Some((since + bounds.first_byte, Verdict::Cut("no first byte"))),
            Phase::Head(since) => since.map(|since| (since + bounds.header_read, Verdict::Cut("slow request head"))),
            Phase::Busy(_) => None,
            Phase::Idle(since) => finish(since + bounds.idle),
        };
        let stopping = self.stopping.and_then(|since| match self.phase {
            Phase::Busy(_) => finish(since),
            _ if self.h2 => finish(since),
            _ => finish(since + LINGER),
        });
        let stalled = self.stalled.map(|since| (since + bounds.idle, Verdict::Cut("the client takes no data")));
        let finished = self.finishing.filter(|_| !matches!(self.phase, Phase::Busy(_)));
        let finished = finished.map(|since| (since + bounds.header_read, Verdict::Cut("did not finish")));
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
            let Some((at, verdict)) = state.due(&self.activity) else { return Poll::Pending };
            // A timer that comes early enough tells that it is not yet time, without a look at the clock.
            if self.timer.is_elapsed() || self.timer.deadline() > at.into() {
                let now = Instant::now();
                if at <= now {
                    if verdict == Verdict::Finish {
                        state.finishing = Some(now);
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
    /// Keeps the connection busy until the body of `response` is done with.
    pub fn until<B>(self, response: http::Response<B>) -> http::Response<Held<B>> {
        response.map(|body| Held { body, _working: self })
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.phase = match state.phase {
            Phase::Busy(running) if running > 1 => Phase::Busy(running - 1),
            _ => Phase::Idle(Instant::now()),
        };
    }
}

impl<B: Body + Unpin> Body for Held<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<S> Watched<S> {
    /// Watches `stream` for `activity`.
    pub fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self { stream, activity, sniffed: false, half_closed: None, discarding: None }
    }

    /// The client sends no more.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = lock(&self.activity.state);
        let answering = matches!(state.phase, Phase::Busy(_)) && !state.h2;
        drop(state);
        if answering {
            let timer = self.half_closed.get_or_insert_with(|| Box::pin(tokio::time::sleep(HALF_CLOSED)));
            ready!(timer.as_mut().poll(cx));
        }
        Poll::Ready(Ok(()))
    }

    fn wrote(&self, polled: &Poll<io::Result<usize>>) {
        let mut state = lock(&self.activity.state);
        if polled.is_pending() {
            state.stalled.get_or_insert_with(Instant::now);
        } else {
            state.stalled = None;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let Some(bytes) = buf.filled().get(before..).filter(|bytes| !bytes.is_empty()) else {
            return self.poll_end(cx);
        };
        let mut state = lock(&self.activity.state);
        if !self.sniffed {
            state.h2 = bytes.starts_with(b"PRI");
        }
        match state.phase {
            Phase::Silent(_) => state.phase = Phase::Head(None),
            Phase::Idle(_) if !state.h2 => state.phase = Phase::Head(None),
            _ => {}
        }
        drop(state);
        self.sniffed = true;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> Watched<S> {
    /// Throws away what the client sends, until it has heard of the end.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scrap = [const { MaybeUninit::uninit() }; 8 << 10];
        let timer = self.discarding.get_or_insert_with(|| Box::pin(tokio::time::sleep(DISCARD)));
        while timer.as_mut().poll(cx).is_pending() {
            let mut scrap = ReadBuf::uninit(&mut scrap);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut scrap)) {
                Ok(()) if !scrap.filled().is_empty() => {}
                _ => break,
            }
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.wrote(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        let state = lock(&self.activity.state);
        let discards = state.upload && !state.switched;
        drop(state);
        if discards {
            ready!(self.poll_discard(cx));
        }
        Poll::Ready(Ok(()))
    }
}
