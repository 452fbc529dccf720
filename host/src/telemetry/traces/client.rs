//! The span of a request that is sent on: of kind CLIENT, from before there is a connection to the head of the answer.
//! Whoever sends it may leave the rest unread, and then nobody would know when that is over.

use std::sync::Arc;
use std::time::Instant;

use http::uri::Scheme;
use http::{Method, Request, Response, StatusCode, Uri, Version};

use super::context::Context;
use super::trace::{CANCELLED, End, short};
use super::{Finished, Inner, Sink};

/// Bytes of a path with its query that are kept until they are exported, and characters of a URL that are then.
const URL: usize = 2048;

/// The span while the request is under way; empty for one that is not recorded.
///
/// One that is dropped is exported all the same, as `cancelled`.
#[derive(Default)]
#[must_use = "a span that is dropped says that the request was cancelled"]
pub struct ClientSpan(Option<Open>);

struct Open {
    sink: Arc<Sink>,
    sent: Box<Sent>,
}

/// Where a request is sent.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// With TLS.
    pub https: bool,
    /// A name, or an address without brackets.
    pub host: &'a str,
    /// Also where it is the usual one.
    pub port: u16,
}

/// What a request that was sent on left behind.
pub(super) struct Sent {
    /// Its place in the trace, below what it was sent on for.
    pub(super) context: Context,
    /// What whoever answers it was told.
    pub(super) id: u64,
    /// The service that sends it, or that it is for.
    pub(super) sender: Arc<str>,
    pub(super) method: Method,
    https: bool,
    pub(super) host: String,
    pub(super) port: u16,
    /// The path with its query, as much of it as may be kept. A copy: what it is a part of may be the whole head that the
    /// request came with, and the queue is long.
    target: Box<str>,
    /// How many tries there were before.
    pub(super) resent: usize,
    pub(super) answer: Option<(StatusCode, Version)>,
    /// Why there was none, in one of a few words.
    pub(super) error: Option<&'static str>,
    pub(super) begin: Instant,
    pub(super) end: End,
}

impl<'a> Origin<'a> {
    /// What an absolute URL names.
    pub(super) fn of(uri: &'a Uri) -> Self {
        let https = uri.scheme() == Some(&Scheme::HTTPS);
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        Self { https, host, port: uri.port_u16().unwrap_or(usual(https)) }
    }
}

impl ClientSpan {
    /// One that records nothing.
    pub const fn off() -> Self {
        Self(None)
    }

    /// One that begins now, in this place of its trace, with this id.
    pub(super) fn begun<B>(
        inner: &Inner,
        (context, id): (Context, u64),
        request: &Request<B>,
        to: Origin<'_>,
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
            answer: None,
            error: None,
            begin,
            end: End::after(begin),
        };
        Self(Some(Open { sink: Arc::clone(&inner.sink), sent: Box::new(sent) }))
    }

    /// The head of an answer is here.
    pub fn answered<B>(mut self, answer: &Response<B>) {
        self.close(|sent| sent.answer = Some((answer.status(), answer.version())));
    }

    /// There is no answer, for this reason: one of a few words.
    pub fn failed(mut self, why: &'static str) {
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
    /// The URL, whoever's name goes before its host left out, and the values of its query: the key to an API is as likely
    /// there as anywhere, and under any name.
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

    /// Thousands of these wait for their collector.
    #[test]
    fn what_is_kept_is_bounded() {
        let long = format!("/{}", "\u{e4}".repeat(30_000));
        assert_eq!((cut(&long).len(), cut("/a?b")), (URL - 1, "/a?b"));
        let method = Method::from_bytes("M".repeat(60_000).as_bytes()).unwrap();
        assert_eq!(short(&method).as_str(), "M".repeat(64));
        assert_eq!((short(&Method::GET), short(&Method::from_bytes(b"BREW").unwrap()).as_str()), (Method::GET, "BREW"));
    }
}
