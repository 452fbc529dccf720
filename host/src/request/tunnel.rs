//! A connection that becomes something else, such as a WebSocket: from the answer on, bytes pass both ways.
//!
//! Only to replicas whose manifest says `upgrade = true`, and over HTTP/1.1. The connection has a place of its own, among
//! `upstream.tunnels`, for as long as it lives, and none of those that requests take. `limits.wall` is not for it, but one
//! over which nothing comes for `upstream.idle` is ended. When the host stops it has the grace period.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use lodge_traffic::proxy::upgrade::ClientUpgrade;
use lodge_traffic::upstreams::send::Attempt;
use lodge_traffic::upstreams::tunnels::TunnelSlot;

/// Bytes that are read at once.
const BUFFER: usize = 16 << 10;

/// Both sides, as soon as the head of the answer is sent.
pub struct Tunnel {
    ours: OnUpgrade,
    theirs: OnUpgrade,
    held: Held,
    idle: Duration,
}

/// What a tunnel holds until its end: the replica, which is busy with it, and its place.
pub struct Held {
    _attempt: Attempt,
    _slot: TunnelSlot,
}

impl Held {
    /// These two.
    pub fn new(attempt: Attempt, slot: TunnelSlot) -> Self {
        Self { _attempt: attempt, _slot: slot }
    }
}

impl Tunnel {
    /// Both connections, once the head of the response is sent.
    pub fn new(ours: ClientUpgrade, theirs: OnUpgrade, held: Held, idle: Duration) -> Self {
        Self { ours: ours.into_connection(), theirs, held, idle }
    }

    /// Passes bytes until both sides have ended, one has failed, or nothing has come for too long.
    pub async fn run(self) {
        let Self { ours, theirs, held, idle } = self;
        let both = tokio::time::timeout(idle, async { tokio::try_join!(ours, theirs) });
        let Ok(Ok((ours, theirs))) = both.await else { return };
        let (active, start) = (AtomicU64::new(0), Instant::now());
        let clock = Clock { active: &active, start, idle };
        let (ours_in, ours_out) = tokio::io::split(TokioIo::<Upgraded>::new(ours));
        let (theirs_in, theirs_out) = tokio::io::split(TokioIo::<Upgraded>::new(theirs));
        // The first error ends both: half of a tunnel is of no use.
        let _ = tokio::try_join!(pass(ours_in, theirs_out, &clock), pass(theirs_in, ours_out, &clock));
        drop(held);
    }
}

/// When something came last, over either direction.
struct Clock<'a> {
    active: &'a AtomicU64,
    start: Instant,
    idle: Duration,
}

impl Clock<'_> {
    fn millis(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// How long both directions may still be silent; nothing when they have been for too long.
    fn left(&self) -> Option<Duration> {
        let silent = Duration::from_millis(self.millis().saturating_sub(self.active.load(Relaxed)));
        self.idle.checked_sub(silent).filter(|left| !left.is_zero())
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    clock: &Clock<'_>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let Some(left) = clock.left() else { return Err(std::io::ErrorKind::TimedOut.into()) };
        let Ok(read) = tokio::time::timeout(left, from.read(&mut buffer)).await else { continue };
        let bytes = read?;
        clock.active.store(clock.millis(), Relaxed);
        if bytes == 0 {
            return tokio::time::timeout(clock.idle, to.shutdown()).await?;
        }
        // Who does not read for so long is as good as gone.
        tokio::time::timeout(clock.idle, to.write_all(buffer.get(..bytes).unwrap_or_default())).await??;
    }
}
