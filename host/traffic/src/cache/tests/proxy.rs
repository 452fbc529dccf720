//! A cache between a client and an origin server, without sockets, and with a clock that tests set.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};

use super::fakes::{Body, Failed, NoRecord};
use crate::cache::{CacheFill, Lookup, ResponseCache, Settled};
use crate::proxy::headers::strip_hop_by_hop;
use crate::service::Services;
use crate::service::deployment::Deployment;
use lodge_base::config;
use lodge_base::cpu::scheduler::CpuScheduler;
use lodge_manifest::Manifest;
use lodge_manifest::cache::Rules;
use lodge_manifest::digest::Digest;
use lodge_manifest::spec::GuestSpec;

thread_local! {
    static NOW: Cell<SystemTime> = const { Cell::new(SystemTime::UNIX_EPOCH) };
    static READS: Cell<usize> = const { Cell::new(0) };
}

/// How often the cache has read the clock. It does so whenever a request looks for a response.
pub(super) fn clock_reads() -> usize {
    READS.get()
}

/// The cache of one service.
pub(super) struct Proxy {
    pub(super) cache: Arc<ResponseCache>,
    of: Deployment,
    /// The number of responses of the origin server.
    made: Cell<u32>,
}

/// What a client received.
#[derive(Debug)]
pub(super) struct Got {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
    /// The headers of each request that reached the origin server.
    pub(super) asked: Vec<HeaderMap>,
}

/// How a request was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// From a stored response.
    Hit,
    /// By a 304 of the cache.
    NotModified,
    /// From a stored response that the origin server has validated.
    Validated,
    /// By a new response.
    Miss,
}

/// Headers from lines of `name: value`; `{-5}` is the date of five seconds ago.
pub(super) fn headers(lines: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines.lines().filter(|line| !line.trim().is_empty()) {
        let (name, value) = line.split_once(':').unwrap();
        let value = value.trim();
        let offset = value.strip_prefix('{').and_then(|value| value.strip_suffix('}'));
        let value =
            offset.map_or_else(|| value.to_owned(), |offset| httpdate::fmt_http_date(at(offset.parse().unwrap())));
        let name = HeaderName::from_bytes(name.trim().to_ascii_lowercase().as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

fn at(offset: i64) -> SystemTime {
    let span = Duration::from_secs(offset.unsigned_abs());
    if offset < 0 { NOW.get() - span } else { NOW.get() + span }
}

/// Advances the clock.
pub(super) fn pass(seconds: u64) {
    NOW.set(at(i64::try_from(seconds).unwrap()));
}

/// Sets the clock back.
pub(super) fn set_back(seconds: u64) {
    NOW.set(at(-i64::try_from(seconds).unwrap()));
}

impl Proxy {
    pub(super) fn new(manifest: &str) -> Self {
        NOW.set(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        let limits = config::resolve(&[]).unwrap().config.limits;
        let manifest = Manifest::read("users", manifest, &limits, 1 << 30).unwrap();
        let spec = GuestSpec {
            name: "users".into(),
            path: "users.wasm".into(),
            content: None,
            digest: Digest::of(b"users"),
            size: 0,
            middleware: Vec::new(),
            manifest,
        };
        let mut cache = ResponseCache::new(1 << 20, 64 << 10).unwrap();
        Arc::get_mut(&mut cache).unwrap().clock = || {
            READS.set(READS.get() + 1);
            NOW.get()
        };
        Self { cache, of: Deployment::new(spec, &Services::new(CpuScheduler::new(1))), made: Cell::new(0) }
    }

    /// The origin server's response: these headers (with `status` for the status), and a unique body; or a 304 if the
    /// client's condition holds.
    pub(super) fn responds(&self, lines: &str) -> impl Fn(&HeaderMap) -> Response<Body> + use<'_> {
        let (lines, made) = (lines.to_owned(), &self.made);
        move |asked| {
            let mut headers = headers(&lines);
            let status = headers.remove("status").map_or(200, |status| status.to_str().unwrap().parse().unwrap());
            let same = |asked_name, name| asked_name_is(asked, asked_name, headers.get(name));
            let has =
                same(header::IF_NONE_MATCH, header::ETAG) || same(header::IF_MODIFIED_SINCE, header::LAST_MODIFIED);
            made.set(made.get() + 1);
            let body = if has { None } else { Some(Bytes::from(format!("body {}", made.get()))) };
            let mut response = Response::new(Body::text(body.filter(|_| status != 204)));
            *response.status_mut() = if has { StatusCode::NOT_MODIFIED } else { StatusCode::from_u16(status).unwrap() };
            *response.headers_mut() = headers;
            response
        }
    }

    /// Sends one request of a client.
    pub(super) async fn send(
        &self,
        (method, path): (&str, &str),
        asked: &str,
        origin: impl Fn(&HeaderMap) -> Response<Body>,
    ) -> Got {
        self.send_by(0, (method, path), asked, |asked| Ok(origin(asked))).await.unwrap()
    }

    /// Sends one request by the route with this number. The origin server may be unreachable.
    pub(super) async fn send_by(
        &self,
        route: usize,
        (method, path): (&str, &str),
        asked: &str,
        origin: impl Fn(&HeaderMap) -> Result<Response<Body>, Failed>,
    ) -> Result<Got, Failed> {
        let uri: Uri = format!("http://example.com{path}").parse().unwrap();
        let body = if ["GET", "HEAD"].contains(&method) { Bytes::new() } else { Bytes::from("abc") };
        let mut request = Request::builder().method(method).uri(&uri).body(Full::new(body)).unwrap();
        *request.headers_mut() = headers(asked);
        let rules = Rules { keep: true, ttl: Duration::ZERO };
        let mut seen = Vec::new();
        let found = self.cache.lookup(rules, (&uri, route), &self.of, &mut request, &mut NoRecord).await;
        let response = match found {
            Lookup::Hit(response) => response,
            Lookup::Miss(mut cache_fill) => {
                let again = cache_fill.unconditional(&request);
                cache_fill.begin(Instant::now());
                seen.push(request.headers().clone());
                match cache_fill.settle(received(origin(request.headers()))) {
                    Settled::Done(result) => result?,
                    Settled::Stale(response, _) => response,
                    Settled::Retry(mut cache_fill) => {
                        let head = again.unwrap();
                        cache_fill.begin(Instant::now());
                        seen.push(head.headers.clone());
                        match cache_fill.settle(received(origin(&head.headers))) {
                            Settled::Done(result) => result?,
                            Settled::Stale(response, _) => response,
                            Settled::Retry(_) => panic!("it is sent a third time"),
                        }
                    }
                }
            }
        };
        let (head, body) = response.into_parts();
        let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        // Lets the task run that records a body which the client does not get.
        tokio::task::yield_now().await;
        Ok(Got { status: head.status.as_u16(), headers: head.headers, body, asked: seen })
    }
}

impl Proxy {
    /// Whether requests wait for one that begins now.
    pub(super) async fn lets_others_wait(&self) -> bool {
        self.begin("").await.is_joinable()
    }

    /// Begins a request for `/a`, which nothing stored satisfies.
    pub(super) async fn begin(&self, asked: &str) -> CacheFill {
        self.look(asked).await.expect("it is stored")
    }

    /// Begins a request for `/a`; `None` if it has a stored response.
    pub(super) async fn look(&self, asked: &str) -> Option<CacheFill> {
        let uri: Uri = "http://example.com/a".parse().unwrap();
        let mut request = Request::get(&uri).body(Full::new(Bytes::new())).unwrap();
        *request.headers_mut() = headers(asked);
        let rules = Rules { keep: true, ttl: Duration::ZERO };
        let found: Lookup<Body> = self.cache.lookup(rules, (&uri, 0), &self.of, &mut request, &mut NoRecord).await;
        if let Lookup::Miss(fill) = found { Some(fill) } else { None }
    }

    /// Another service calls this one with a POST to `/a`.
    pub(super) fn change(&self) {
        let mut fill = self.cache.invalidated_by_call(&self.of, &Request::post("/a").body(()).unwrap());
        fill.begin(Instant::now());
        let Settled::Done(Ok(_)) = fill.settle(Ok::<_, Failed>(Response::new(Body::text(None)))) else { panic!() };
    }
}

/// The response as the cache gets it: without hop-by-hop headers.
fn received(result: Result<Response<Body>, Failed>) -> Result<Response<Body>, Failed> {
    result.map(|mut response| {
        strip_hop_by_hop(response.headers_mut());
        response
    })
}

fn asked_name_is(asked: &HeaderMap, name: HeaderName, value: Option<&HeaderValue>) -> bool {
    value.is_some() && asked.get(name) == value
}

impl Got {
    /// How the request was served, compared to a response from before.
    pub(super) fn how(&self, before: &Self) -> How {
        match (self.asked.is_empty(), self.status == 304) {
            (true, true) => How::NotModified,
            (true, false) if self.body == before.body => How::Hit,
            (false, _) if self.body == before.body => How::Validated,
            _ => How::Miss,
        }
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// The case's name; the headers of the first request and of its response; the headers of a second request, three
/// seconds later; and how that one is served.
pub(super) type Case = (&'static str, &'static str, &'static str, &'static str, How);

pub(super) const HOUR: &str = "cache-control: max-age=3600\ndate: {0}";
pub(super) const BRIEF: &str = "cache-control: max-age=2\ndate: {0}";

/// Runs the cases, and lists those with another result.
pub(super) async fn check(cases: &[Case]) {
    let mut wrong = Vec::new();
    for (name, asked, response, again, expected) in cases {
        let proxy = Proxy::new("cache = true");
        let first = proxy.send(("GET", "/a"), asked, proxy.responds(response)).await;
        pass(3);
        let second = proxy.send(("GET", "/a"), again, proxy.responds(response)).await;
        if second.how(&first) != *expected {
            wrong.push(format!("{name}: {:?} and not {expected:?}", second.how(&first)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
