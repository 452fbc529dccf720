//! The PROXY protocol: a proxy that passes bytes on says in a header before them whose connection it is.
//!
//! Only `trusted_proxies` are believed, and no other peer may connect: whether a connection begins with a header must never be
//! guessed, since its client could write one. The header is read exactly to its end, with TLS or HTTP behind it, within
//! `listener.first_byte`. `header` parses it.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod header;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use self::header::{MOST, Source, parse};
use super::connection::Server;
use lodge_traffic::proxy::headers::Peer;

/// How long a header may take after the host begins to stop: a slow round trip.
const LINGER: Duration = Duration::from_millis(500);

/// Why a connection is closed without a response.
enum HeaderFailure {
    /// It ended before its first byte, as that of a health check.
    Closed,
    /// Its peer is none of `trusted_proxies`.
    Untrusted,
    /// It did not begin with a valid header.
    Invalid(String),
    /// Its header was late.
    Late,
    /// The host stops.
    Stopping,
}

/// Returns the client of a connection from `remote` to `local`, after reading the header that names it; `None` if the connection
/// must be closed. What is wrong is counted, and logged at its first occurrence; later ones are at `debug`.
pub(super) async fn client(
    stream: &mut TcpStream,
    (remote, local): (SocketAddr, SocketAddr),
    server: &Server,
) -> Option<Peer> {
    let (proxies, counts) = (&server.handler.trusted_proxies, &server.handler.metrics.proxy_headers);
    let stopped = async {
        server.drain.stop_signal().clone().stopping().await;
        tokio::time::sleep(LINGER).await;
    };
    let read = async {
        match Peer::new(remote, local, proxies).is_trusted() {
            true => receive(stream).await,
            false => Err(HeaderFailure::Untrusted),
        }
    };
    let received = tokio::select! {
        biased;
        received = read => received,
        () = tokio::time::sleep(server.bounds.first_byte) => Err(HeaderFailure::Late),
        () = stopped => Err(HeaderFailure::Stopping),
    };
    match received {
        Ok(source) => {
            counts.count(source.word());
            let peer = match source {
                Source::Client(address) => Peer::new(address, local, proxies),
                // The sender of these bytes is unknown, so its forwarding headers are not trusted as those of the proxy.
                Source::Unknown | Source::Local => Peer::new(remote, local, &[]),
            };
            Some(peer.relayed())
        }
        Err(refused) => {
            let first = counts.count(refused.word()) == 1;
            match refused.problem() {
                Some(problem) if first => tracing::warn!("closed a connection from {}: {problem}", remote.ip()),
                problem => tracing::debug!("closed a connection from {remote}: {problem:?}"),
            }
            None
        }
    }
}

/// Reads a header, and nothing of what follows it.
async fn receive(stream: &mut TcpStream) -> Result<Source, HeaderFailure> {
    let (mut bytes, mut have) = ([0; MOST], 0);
    loop {
        let (_, free) = bytes.split_at_mut(have);
        let arrived = match stream.peek(free).await {
            Ok(0) if have == 0 => return Err(HeaderFailure::Closed),
            Err(error) if have == 0 && error.kind() == io::ErrorKind::ConnectionReset => {
                return Err(HeaderFailure::Closed);
            }
            Ok(0) => return Err(HeaderFailure::Invalid("it ended within its header".into())),
            Ok(arrived) => arrived,
            Err(error) => return Err(HeaderFailure::Invalid(error.to_string())),
        };
        let seen = bytes.get(..have + arrived).unwrap_or_default();
        let parsed = parse(seen).map_err(|why| HeaderFailure::Invalid(why.into()))?;
        // What is peeked at again and again would not be waited for.
        let end = parsed.map_or(have + arrived, |(_, length)| length);
        let part = bytes.get_mut(have..end).unwrap_or_default();
        stream.read_exact(part).await.map_err(|error| HeaderFailure::Invalid(error.to_string()))?;
        have = end;
        if let Some((source, _)) = parsed {
            return Ok(source);
        }
    }
}

impl Source {
    /// The label of its counter.
    fn word(self) -> &'static str {
        match self {
            Self::Client(_) => "ok",
            Self::Unknown => "unknown",
            Self::Local => "local",
        }
    }
}

impl HeaderFailure {
    /// The label of its counter.
    fn word(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Untrusted => "untrusted",
            Self::Invalid(_) => "invalid",
            Self::Late => "timeout",
            Self::Stopping => "stopping",
        }
    }

    /// What an operator has to mend; `None` if this is nobody's mistake.
    fn problem(&self) -> Option<String> {
        Some(match self {
            Self::Closed | Self::Stopping => return None,
            Self::Untrusted => {
                "with `listener.proxy_protocol = \"on\"`, only `trusted_proxies` may connect; name its address \
                                there if it is your proxy"
                    .to_owned()
            }
            Self::Invalid(why) => {
                format!("{why}; let the proxy send one (HAProxy: `send-proxy-v2`)")
            }
            Self::Late => "its PROXY protocol header was not complete within `listener.first_byte`".to_owned(),
        })
    }
}
