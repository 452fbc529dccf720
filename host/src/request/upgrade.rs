//! A connection that becomes something else, such as a WebSocket: from the answer on, bytes pass both ways.
//!
//! Only to replicas whose manifest says `upgrade = true`, and over HTTP/1.1. The connection has a place of its own, among
//! `upstream.tunnels`, for as long as it lives, and none of those that requests take. `limits.wall` is not for it, but one
//! over which nothing comes for `upstream.idle` is ended. When the host stops it has the grace period.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Version, request};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::upstreams::send::Source;
use crate::upstreams::tunnels::Place;

/// Bytes that are read at once.
const BUFFER: usize = 16 << 10;

/// The protocols that a client offers to switch to, in its order of preference (RFC 9110 7.8): a list of at least one. Among
/// the extensions of a request that has some.
#[derive(Clone, Debug)]
pub struct Wanted(HeaderValue);

/// A request's part of an upgrade: what is offered, and the client's connection once it is free.
pub struct Ours {
    offered: HeaderValue,
    freed: OnUpgrade,
}

/// Both sides, as soon as the head of the answer is sent.
pub struct Tunnel {
    ours: OnUpgrade,
    theirs: OnUpgrade,
    held: Held,
    idle: Duration,
}

/// What a tunnel holds until its end: the replica, which is busy with it, and its place.
pub struct Held {
    _source: Source,
    _place: Place,
}

impl Held {
    /// These two.
    pub fn new(source: Source, place: Place) -> Self {
        Self { _source: source, _place: place }
    }
}

impl Wanted {
    /// Looks for it before the headers that say so are taken away.
    pub fn note(head: &mut request::Parts) {
        if head.headers.contains_key(header::UPGRADE)
            && head.version == Version::HTTP_11
            && head.method == Method::GET
            && members(&head.headers, &header::CONNECTION).any(|option| option.eq_ignore_ascii_case("upgrade"))
            && let offered = members(&head.headers, &header::UPGRADE).filter(|name| !is_http(name)).collect::<Vec<_>>()
            && !offered.is_empty()
            && let Ok(offered) = HeaderValue::try_from(offered.join(", "))
        {
            head.extensions.insert(Self(offered));
        }
    }
}

impl Ours {
    /// Takes it out of a request; `None` when it asks for no such thing.
    pub fn take<B>(request: &mut Request<B>) -> Option<Self> {
        let Wanted(offered) = request.extensions_mut().remove()?;
        Some(Self { offered, freed: hyper::upgrade::on(request) })
    }

    /// Whether the protocols of an answer with these headers are some of those that were offered. There are several where one
    /// is on top of another.
    pub fn is(&self, headers: &HeaderMap) -> bool {
        let offered = self.offered.to_str().unwrap_or_default();
        let is_offered = |chosen: &str| list(offered).any(|offer| offer.eq_ignore_ascii_case(chosen));
        let mut chosen = members(headers, &header::UPGRADE).peekable();
        chosen.peek().is_some() && chosen.all(is_offered)
    }

    /// Asks the replica for it.
    pub fn ask(&self, headers: &mut HeaderMap) {
        speak(headers, &self.offered);
    }

    /// The replica agrees, in an answer with these headers and this connection.
    pub fn meet(self, theirs: OnUpgrade, held: Held, idle: Duration) -> Tunnel {
        Tunnel { ours: self.freed, theirs, held, idle }
    }
}

/// The members of a header that is a list, of all its lines (RFC 9110 5.6.1). A line that is no text has none.
fn members<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok()).flat_map(list)
}

fn list(line: &str) -> impl Iterator<Item = &str> {
    line.split(',').map(str::trim).filter(|member| !member.is_empty())
}

/// Another version of HTTP, or TLS, inside of which requests would pass that nobody here has looked at.
fn is_http(protocol: &str) -> bool {
    let name = protocol.split('/').next().unwrap_or_default().trim();
    ["h2c", "h2", "h3", "http", "tls"].iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// The protocols that a replica switches to, as one list.
pub fn chosen(headers: &HeaderMap) -> Option<HeaderValue> {
    HeaderValue::try_from(members(headers, &header::UPGRADE).collect::<Vec<_>>().join(", ")).ok()
}

/// Says that the connection is to become something else, or does.
pub fn speak(headers: &mut HeaderMap, what: &HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, what.clone());
}

impl Tunnel {
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

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    fn ours(version: Version, lines: &[(HeaderName, &'static str)]) -> Option<Ours> {
        let request = lines.iter().fold(Request::get("/"), |request, (name, value)| request.header(name, *value));
        let (mut head, ()) = request.version(version).body(()).unwrap().into_parts();
        Wanted::note(&mut head);
        Ours::take(&mut Request::from_parts(head, ()))
    }

    /// What a replica is asked for when a client offers these protocols.
    fn offered(lines: &[&'static str]) -> Option<String> {
        let lines =
            lines.iter().map(|line| (header::UPGRADE, *line)).chain([(header::CONNECTION, "keep-alive, Upgrade")]);
        let ours = ours(Version::HTTP_11, &lines.collect::<Vec<_>>())?;
        let mut asked = HeaderMap::new();
        ours.ask(&mut asked);
        Some(asked[header::UPGRADE].to_str().unwrap().to_owned())
    }

    #[test]
    fn a_list_is_passed_on_without_http() {
        for (lines, expected) in [
            (&["websocket"][..], Some("websocket")),
            (&["foo/1, WebSocket"], Some("foo/1, WebSocket")),
            (&["websocket", "foo"], Some("websocket, foo")),
            (&["websocket, h2c"], Some("websocket")),
            (&["h2c", "HTTP/2.0, TLS/1.0 ,h2"], None),
            (&[" ,, "], None),
        ] {
            assert_eq!(offered(lines).as_deref(), expected, "{lines:?}");
        }
        let plain = [(header::UPGRADE, "websocket"), (header::CONNECTION, "keep-alive")];
        assert!(ours(Version::HTTP_11, &plain).is_none(), "it is not for this connection");
        let asks = [(header::UPGRADE, "websocket"), (header::CONNECTION, "upgrade")];
        assert!(ours(Version::HTTP_10, &asks).is_none() && ours(Version::HTTP_11, &asks).is_some());
    }

    #[test]
    fn a_replica_chooses_among_what_was_offered() {
        let asks = [(header::UPGRADE, "foo/1, websocket"), (header::CONNECTION, "upgrade")];
        for (chosen, may) in [
            (&["websocket"][..], true),
            (&["WEBSOCKET"], true),
            (&["foo/1"], true),
            (&["foo/1, websocket"], true),
            (&["foo/1", "websocket"], true),
            (&["foo/2"], false),
            (&["websocket, bar"], false),
            (&["h2c"], false),
            (&[""], false),
            (&[], false),
        ] {
            let answer = chosen.iter().fold(Response::builder(), |answer, line| answer.header(header::UPGRADE, *line));
            let ours = ours(Version::HTTP_11, &asks).unwrap();
            assert_eq!(ours.is(answer.body(()).unwrap().headers()), may, "{chosen:?}");
        }
    }
}
