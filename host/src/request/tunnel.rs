//! Carries bytes both ways over connections that have switched protocols, such as to WebSocket.
//!
//! Only HTTP/1.1 connections to replicas of an upstream with `upgrade = true` switch. A tunnel holds a slot of
//! `upstream.tunnels` and no permit. `limits.wall` does not apply; a tunnel without traffic for `upstream.idle` is
//! closed. When the host stops, tunnels have the grace period. A tunnel ends when the certificate of its client expires: it may last
//! for days, and nothing would check the client again.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use lodge_traffic::proxy::upgrade::ClientUpgrade;
use lodge_traffic::upstreams::send::Attempt;
use lodge_traffic::upstreams::tunnels::TunnelSlot;

/// The most bytes of one read.
const BUFFER: usize = 16 << 10;

/// The connections of the client and of the replica, which become available after the head of the response is sent.
pub struct Tunnel {
    ours: OnUpgrade,
    theirs: OnUpgrade,
    held: Held,
    idle: Duration,
    /// When the certificate of the client expires.
    expires: Option<Instant>,
}

/// What a tunnel holds until its end: the attempt, which keeps the replica in use, and the slot.
pub struct Held {
    _attempt: Attempt,
    _slot: TunnelSlot,
}

impl Held {
    /// Combines the attempt and the slot of a tunnel.
    pub fn new(attempt: Attempt, slot: TunnelSlot) -> Self {
        Self { _attempt: attempt, _slot: slot }
    }
}

impl Tunnel {
    /// Creates a tunnel. `ours` is the client's connection, `theirs` the replica's.
    pub fn new(ours: ClientUpgrade, theirs: OnUpgrade, held: Held, idle: Duration) -> Self {
        let left = ours.valid_until().map(|end| end.duration_since(SystemTime::now()).unwrap_or_default());
        let expires = left.and_then(|left| Instant::now().checked_add(left));
        Self { ours: ours.into_connection(), theirs, held, idle, expires }
    }

    /// Copies bytes until both sides have ended, one has failed, both were silent for `idle`, or the certificate of the client expires.
    pub async fn run(self) {
        match self.expires {
            Some(expires) => drop(tokio::time::timeout_at(expires.into(), self.copy()).await),
            None => self.copy().await,
        }
    }

    async fn copy(self) {
        let Self { ours, theirs, held, idle, expires: _ } = self;
        let both = tokio::time::timeout(idle, async { tokio::try_join!(ours, theirs) });
        let Ok(Ok((ours, theirs))) = both.await else { return };
        let (active, start) = (AtomicU64::new(0), Instant::now());
        let clock = Clock { active: &active, start, idle };
        let (ours_in, ours_out) = tokio::io::split(TokioIo::<Upgraded>::new(ours));
        let (theirs_in, theirs_out) = tokio::io::split(TokioIo::<Upgraded>::new(theirs));
        // An error ends both directions: the protocols in use need both.
        let _ = tokio::try_join!(pass(ours_in, theirs_out, &clock), pass(theirs_in, ours_out, &clock));
        drop(held);
    }
}

/// The time of the last bytes in either direction.
struct Clock<'a> {
    active: &'a AtomicU64,
    start: Instant,
    idle: Duration,
}

impl Clock<'_> {
    fn millis(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Returns the time until the tunnel counts as idle; `None` if it is idle already.
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
        // A peer that does not read for `idle` counts as gone.
        tokio::time::timeout(clock.idle, to.write_all(buffer.get(..bytes).unwrap_or_default())).await??;
    }
}
