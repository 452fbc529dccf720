//! A connection that becomes something else, such as a WebSocket: from the answer on, bytes pass both ways.
//!
//! Only to replicas whose manifest says `upgrade = true`, and over HTTP/1.1. The connection holds its permit and its place at
//! the replica for as long as it lives; `limits.wall` is not for it, but one over which nothing comes for `upstream.idle`
//! is ended. When the host stops it has the grace period.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Version, request};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::admission::Permit;
use crate::upstreams::send::Source;

/// Bytes that are read at once.
const BUFFER: usize = 16 << 10;

/// What a client wants its connection to become, in its own words. Among the extensions of a request that asks for that.
#[derive(Clone, Debug)]
pub struct Wanted(HeaderValue);

/// A request's part of an upgrade: what is wanted, and the client's connection once it is free.
pub struct Ours {
    wanted: HeaderValue,
    freed: OnUpgrade,
}

/// Both sides, as soon as the head of the answer is sent.
pub struct Tunnel {
    ours: OnUpgrade,
    theirs: OnUpgrade,
    source: Source,
    idle: Duration,
}

impl Wanted {
    /// Looks for it before the headers that say so are taken away.
    pub fn note(head: &mut request::Parts) {
        if let Some(wanted) = head.headers.get(header::UPGRADE)
            && head.version == Version::HTTP_11
            && head.method == Method::GET
            && names(&head.headers, "upgrade")
            && !is_http(wanted)
        {
            let wanted = Self(wanted.clone());
            head.extensions.insert(wanted);
        }
    }
}

impl Ours {
    /// Takes it out of a request; `None` when it asks for no such thing.
    pub fn take<B>(request: &mut Request<B>) -> Option<Self> {
        let Wanted(wanted) = request.extensions_mut().remove()?;
        Some(Self { wanted, freed: hyper::upgrade::on(request) })
    }

    /// Whether this is what was asked for.
    pub fn is(&self, headers: &HeaderMap) -> bool {
        headers.get(header::UPGRADE).is_some_and(|what| what.as_bytes().eq_ignore_ascii_case(self.wanted.as_bytes()))
    }

    /// Asks the replica for it.
    pub fn ask(&self, headers: &mut HeaderMap) {
        speak(headers, &self.wanted);
    }

    /// The replica agrees, in an answer with these headers and this connection.
    pub fn meet(self, theirs: OnUpgrade, source: Source, idle: Duration) -> Tunnel {
        Tunnel { ours: self.freed, theirs, source, idle }
    }
}

/// Whether `Connection` names this.
fn names(headers: &HeaderMap, option: &str) -> bool {
    let lines = headers.get_all(header::CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|word| word.trim().eq_ignore_ascii_case(option))
}

/// Another version of HTTP, or TLS, inside of which requests would pass that nobody here has looked at.
fn is_http(wanted: &HeaderValue) -> bool {
    let text = wanted.to_str().unwrap_or("http").to_ascii_lowercase();
    text.split(',')
        .any(|name| ["h2c", "h2", "http", "tls"].contains(&name.trim().split('/').next().unwrap_or_default()))
}

/// Says that the connection is to become something else, or does.
pub fn speak(headers: &mut HeaderMap, what: &HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, what.clone());
}

impl Tunnel {
    /// Passes bytes until both sides have ended, one has failed, or nothing has come for too long.
    pub async fn run(self, permit: Permit) {
        let Self { ours, theirs, source, idle } = self;
        let both = tokio::time::timeout(idle, async { tokio::try_join!(ours, theirs) });
        let Ok(Ok((ours, theirs))) = both.await else { return };
        let (active, start) = (AtomicU64::new(0), Instant::now());
        let clock = Clock { active: &active, start, idle };
        let (ours_in, ours_out) = tokio::io::split(TokioIo::<Upgraded>::new(ours));
        let (theirs_in, theirs_out) = tokio::io::split(TokioIo::<Upgraded>::new(theirs));
        // The first error ends both: half of a tunnel is of no use.
        let _ = tokio::try_join!(pass(ours_in, theirs_out, &clock), pass(theirs_in, ours_out, &clock));
        drop((source, permit));
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
