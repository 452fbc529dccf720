//! The span of a request to the world or to a replica: of kind CLIENT, from before the connection is made to the
//! response head. It does not include the body, because the sender may leave that unread.

use std::sync::Arc;
use std::time::Instant;

use http::uri::Scheme;
use http::{Method, Request, Response, StatusCode, Uri, Version};

use super::context::Context;
use super::trace::{CANCELLED, End, short};
use super::{Finished, Inner, Sink};

/// The most bytes of a path and query that are recorded, and the most characters of a URL that are exported.
const URL: usize = 2048;

/// The span of a request in flight; empty if it is not recorded.
///
/// A span that is dropped is exported as `cancelled`.
#[derive(Default)]
#[must_use = "a span that is dropped says that the request was cancelled"]
pub struct ClientSpan(Option<Open>);

struct Open {
    sink: Arc<Sink>,
    sent: Box<Sent>,
}

/// The destination of a request.
#[derive(Clone, Copy, Debug)]
pub struct ServerAddress<'a> {
    /// Whether it uses TLS.
    pub https: bool,
    /// A name, or an address without brackets.
    pub host: &'a str,
    /// The port, also if it is the default.
    pub port: u16,
}

/// The recording of a request to the world or to a replica.
pub(super) struct Sent {
    /// Its trace context, with the span of the original request as parent.
    pub(super) context: Context,
    /// The span id, which the server gets in the headers.
    pub(super) id: u64,
    /// The service that sends it, or to whose replica it goes.
    pub(super) sender: Arc<str>,
    pub(super) method: Method,
    https: bool,
    pub(super) host: String,
    pub(super) port: u16,
    /// Path and query, shortened. A copy, because a slice would keep the whole request head in memory while it is
    /// queued.
    target: Box<str>,
    /// Number of earlier attempts.
    pub(super) resent: usize,
    pub(super) response: Option<(StatusCode, Version)>,
    /// The reason if there was no response: a constant.
    pub(super) error: Option<&'static str>,
    pub(super) begin: Instant,
    pub(super) end: End,
}

impl<'a> ServerAddress<'a> {
    /// Returns the destination of an absolute URL.
    pub(super) fn of(uri: &'a Uri) -> Self {
        let https = uri.scheme() == Some(&Scheme::HTTPS);
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        Self { https, host, port: uri.port_u16().unwrap_or(usual(https)) }
    }
}

impl ClientSpan {
    /// Returns a span that records nothing.
    pub const fn off() -> Self {
        Self(None)
    }

    /// Begins a span with this context and id.
    pub(super) fn begun<B>(
        inner: &Inner,
        (context, id): (Context, u64),
        request: &Request<B>,
        to: ServerAddress<'_>,
        (sender, resent): (&Arc<str>, usize),
    ) -> Self {
        let begin = Instant::now();
        let sent = Sent {
            context,
            id,
            sender: Arc::clone(sender),
            method: short(request.method()),
            https: to.https,
            host: to.host.to_owned(),
            port: to.port,
            target: request.uri().path_and_query().map_or("/", |target| cut(target.as_str())).into(),
            resent,
            response: None,
            error: None,
            begin,
            end: End::after(begin),
        };
        Self(Some(Open { sink: Arc::clone(&inner.sink), sent: Box::new(sent) }))
    }

    /// Ends the span with a response head.
    pub fn finish<B>(mut self, response: &Response<B>) {
        self.close(|sent| sent.response = Some((response.status(), response.version())));
    }

    /// Ends the span without a response. `why` is a constant reason.
    pub fn fail(mut self, why: &'static str) {
        self.close(|sent| sent.error = Some(why));
    }

    fn close(&mut self, outcome: impl FnOnce(&mut Sent)) {
        if let Some(Open { sink, mut sent }) = self.0.take() {
            outcome(&mut sent);
            sent.end = End::now();
            sink.push(Finished::Sent(sent));
        }
    }
}

impl Drop for ClientSpan {
    fn drop(&mut self) {
        self.close(|sent| sent.error = Some(CANCELLED));
    }
}

impl Sent {
    /// Returns the URL without user information and without the values of its query, any of which may be an API key.
    pub(super) fn url(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let port = if self.port == usual(self.https) { String::new() } else { format!(":{}", self.port) };
        let (path, query) =
            self.target.split_once('?').map_or((&*self.target, None), |(path, query)| (path, Some(query)));
        let path = if path.is_empty() { "/" } else { path };
        let mut url = format!("{scheme}://{host}{port}{path}");
        for (n, pair) in query.into_iter().flat_map(|query| query.split('&')).enumerate() {
            if url.len() > URL {
                break;
            }
            url.push(if n == 0 { '?' } else { '&' });
            if let Some((name, _)) = pair.split_once('=') {
                url.push_str(name);
                url.push('=');
            }
            url.push_str("REDACTED");
        }
        url.chars().take(URL).collect()
    }
}

fn cut(target: &str) -> &str {
    target.get(..target.floor_char_boundary(URL)).unwrap_or_default()
}

fn usual(https: bool) -> u16 {
    if https { 443 } else { 80 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recordings are bounded in size, because thousands of them may be queued.
    #[test]
    fn the_queue_is_bounded() {
        let long = format!("/{}", "\u{e4}".repeat(30_000));
        assert_eq!((cut(&long).len(), cut("/a?b")), (URL - 1, "/a?b"));
        let method = Method::from_bytes("M".repeat(60_000).as_bytes()).unwrap();
        assert_eq!(short(&method).as_str(), "M".repeat(64));
        assert_eq!((short(&Method::GET), short(&Method::from_bytes(b"BREW").unwrap()).as_str()), (Method::GET, "BREW"));
    }
}
