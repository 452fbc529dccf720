mod conformance;
mod effects;
mod fakes;
mod memory;
mod negotiation;
mod proxy;
mod sharing;
mod waiting;

use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;

use self::fakes::{Body, FAILED, Failed, GONE};
use super::freshness::Times;
use super::recorder::{Recorder, declared_length};
use super::stored::StoredHead;
use super::*;
use crate::service::Service;
use lodge_base::config;
use lodge_base::cpu::scheduler::CpuScheduler;
use lodge_manifest::Manifest;
use lodge_manifest::digest::Digest;

/// A cache, and a service whose responses it stores.
struct Cache {
    cache: Arc<ResponseCache>,
    service: Arc<Service>,
    /// When responses are received.
    now: SystemTime,
    /// The same for all requests.
    forwarding: Forwarding,
}

fn edition(name: &str, component: &str) -> Edition {
    let limits = config::resolve(&[]).unwrap().config.limits;
    Edition::of(
        &Arc::from(name),
        Digest::of(component.as_bytes()),
        &Manifest::read("users", "", &limits, 1 << 30).unwrap(),
    )
}

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    lines.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse::<HeaderValue>().unwrap())).collect()
}

impl Cache {
    fn new(memory: usize, entry: usize) -> Self {
        let service = Arc::new(Service::new("users", Arc::new(CpuScheduler::new(1)).share()));
        let (now, forwarding) = (SystemTime::now(), Forwarding::default());
        Self { cache: ResponseCache::new(memory, entry).unwrap(), service, now, forwarding }
    }

    fn key(path: &str) -> CacheKey {
        CacheKey::new("users", &format!("http://Example.com{path}").parse().unwrap())
    }

    /// The selector of a request with these headers.
    fn selector<'a>(&'a self, edition: &'a Edition, path: &str, headers: &'a HeaderMap) -> Selector<'a> {
        let path_version = self.cache.path_versions.path_version("users", &path.parse().unwrap());
        Selector { edition, headers, forwarding: &self.forwarding, personal: is_personal(headers, &[]), path_version }
    }

    fn times(&self) -> Times {
        Times { requested: self.now, received: self.now }
    }

    /// A recorder of a response to a request with these headers, if there is space for its head.
    fn recorder(
        &self,
        edition: &Edition,
        path: &str,
        asked: &HeaderMap,
        response_headers: &[(&'static str, &str)],
    ) -> Option<Recorder> {
        let selector = self.selector(edition, path, asked);
        let (mut head, ()) = Response::new(()).into_parts();
        head.headers = headers(response_headers);
        let rules = Rules { keep: true, ttl: Duration::from_secs(60) };
        let stored_head = StoredHead::of(&selector, &self.service, &head, rules, self.times()).unwrap();
        let Joined::Fill(guard) = self.cache.coalescer.join(&Self::key(path), 1, 0, Instant::now()) else {
            return None;
        };
        Recorder::new(&self.cache, guard, stored_head, declared_length(&head.headers))
    }

    fn keep(
        &self,
        edition: &Edition,
        path: &str,
        asked: &[(&'static str, &str)],
        response_headers: &[(&'static str, &str)],
        body: &str,
    ) {
        let mut recorder = self.recorder(edition, path, &headers(asked), response_headers).unwrap();
        recorder.frame(&Frame::data(Bytes::copy_from_slice(body.as_bytes())));
        recorder.end();
    }

    /// Whether a response is stored for this request.
    fn has(&self, edition: &Edition, path: &str, asked: &[(&'static str, &str)]) -> bool {
        let asked = headers(asked);
        let selector = self.selector(edition, path, &asked);
        let variants = self.cache.store.get(&Self::key(path));
        variants.iter().flat_map(|variants| variants.iter()).any(|stored| stored.matches(&selector))
    }

    /// What a client without conditions finds.
    async fn find(&self, edition: &Edition, path: &str, limits: &Limits) -> LookupResult<Body> {
        let headers = HeaderMap::new();
        let mut selector = self.selector(edition, path, &headers);
        self.cache.find(&Self::key(path), &mut selector, limits, &Conditions::default(), false, || {}).await
    }

    fn entries(&self) -> u64 {
        self.service.metrics.cached.entries()
    }
}

#[test]
fn variants_coexist_and_editions_replace_each_other() {
    let cache = Cache::new(1 << 20, 64 << 10);
    let (old, new, beta) = (edition("users", "1"), edition("users", "2"), edition("users@2", "2"));
    let vary = [("vary", "accept, Accept-Language")];
    for language in ["en", "de", "en"] {
        cache.keep(&old, "/a", &[("accept-language", language)], &vary, "x");
    }
    assert_eq!(cache.entries(), 2);
    assert!(cache.has(&old, "/a", &[("accept-language", "de")]) && !cache.has(&old, "/a", &[]));
    assert!(
        !cache.has(&new, "/a", &[("accept-language", "de")]) && !cache.has(&beta, "/a", &[("accept-language", "de")])
    );
    cache.keep(&beta, "/a", &[], &[], "x");
    cache.keep(&new, "/a", &[], &[], "x");
    assert!(cache.has(&new, "/a", &[]) && cache.has(&beta, "/a", &[]), "versions coexist");
    assert_eq!(cache.entries(), 2, "responses of an earlier edition are removed");
    for n in 0..100 {
        cache.keep(&new, "/b", &[("accept", &n.to_string())], &vary, "x");
    }
    assert_eq!(cache.entries(), 2 + 16, "the variants of one URI are bounded");
    assert!(cache.has(&new, "/b", &[("accept", "1")]) && !cache.has(&new, "/b", &[("accept", "99")]));
    cache.cache.retain(std::slice::from_ref(&beta));
    assert_eq!((cache.entries(), cache.has(&beta, "/a", &[])), (1, true));
}

#[test]
fn a_purge_selects_by_path_and_by_version() {
    let cache = Cache::new(1 << 20, 64 << 10);
    let (stable, beta) = (edition("users", "1"), edition("users@2", "2"));
    let paths = ["/", "/a", "/a?x", "/a/", "/a/b", "/ab"];
    let purges = |name: &str, path: &str| {
        for path in paths {
            cache.keep(&stable, path, &[], &[], "x");
        }
        cache.keep(&beta, "/a", &[], &[], "x");
        cache.cache.purge(name, path)
    };
    assert_eq!(purges("users", "/a"), 5);
    assert_eq!(purges("users", "/a/"), 2);
    assert_eq!(purges("users", "/a?x"), 1);
    assert_eq!(purges("users", "/other"), 0);
    assert_eq!(purges("users@2", "/"), 1);
    assert_eq!(purges("user", "/"), 0);
    assert_eq!(purges("users", "/"), 7);
    assert_eq!((cache.entries(), cache.cache.budget.used()), (0, 0));
}

#[test]
fn only_complete_responses_are_stored() {
    let cache = Cache::new(1 << 20, 64 << 10);
    let it = edition("users", "1");
    let none = HeaderMap::new();
    let data = |size| Frame::data(Bytes::from(vec![b'x'; size]));
    let record = |response_headers: &[(&'static str, &str)], frames: Vec<Frame<Bytes>>, end: bool| {
        let mut recorder = cache.recorder(&it, "/a", &none, response_headers).unwrap();
        frames.iter().for_each(|frame| recorder.frame(frame));
        if end {
            recorder.end();
        }
        drop(recorder);
        cache.cache.purge("users", "/")
    };
    assert_eq!(record(&[], vec![data(5), data(5)], true), 1);
    assert_eq!(record(&[], vec![], true), 1);
    assert_eq!(record(&[], vec![data(5)], false), 0, "it was incomplete");
    assert_eq!(record(&[("content-length", "6")], vec![data(5)], true), 0, "it is shorter than its Content-Length");
    assert_eq!(record(&[("content-length", "5")], vec![data(5)], true), 1);
    assert_eq!(record(&[], vec![data(5), Frame::trailers(HeaderMap::new())], true), 0, "it has trailers");
    assert_eq!(record(&[], vec![data(60 << 10), data(60 << 10)], true), 0, "it is too large");
    assert!(
        cache.recorder(&it, "/a", &none, &[("content-length", "70000")]).is_none(),
        "its Content-Length is too large"
    );
    assert_eq!((cache.entries(), cache.cache.budget.used(), cache.cache.coalescer.active_fills()), (0, 0, 0));
}

/// A request waits for the response to another one at most for `queue_wait`, then fetches it itself. Later requests
/// wait for that fetch, and not for the stuck one.
#[tokio::test]
async fn waiting_for_another_response_is_bounded() {
    let cache = Cache::new(1 << 20, 64 << 10);
    let (it, mut limits) = (edition("users", "1"), config::resolve(&[]).unwrap().config.limits);
    let _stuck = cache.find(&it, "/a", &limits).await.err().flatten().unwrap().0;
    let start = Instant::now();
    limits.queue_wait = Duration::from_millis(20);
    let instead = cache.find(&it, "/a", &limits).await.err().flatten().unwrap().0;
    assert!(start.elapsed() >= limits.queue_wait);
    assert!(instead.is_joinable());
    limits.queue_wait = Duration::from_secs(3600);
    limits.queue = 0;
    assert!(cache.find(&it, "/a", &limits).await.is_err(), "the queue is full");
    limits.queue = 10;
    let waiting = async { tokio::join!(cache.find(&it, "/a", &limits), async { drop(instead) }).0 };
    let waiting = tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("it waits for the stuck fill");
    assert!(waiting.err().flatten().unwrap().0.is_joinable());
}

#[tokio::test]
async fn one_request_revalidates_while_others_get_the_stale_response() {
    let mut cache = Cache::new(1 << 20, 64 << 10);
    let (it, limits) = (edition("users", "1"), config::resolve(&[]).unwrap().config.limits);
    cache.now -= Duration::from_secs(5);
    cache.keep(&it, "/a", &[], &[("cache-control", "max-age=1, stale-while-revalidate=60")], "x");
    let (guard, stale, insists) = cache.find(&it, "/a", &limits).await.err().flatten().unwrap();
    assert!(guard.is_joinable() && stale.is_some() && !insists);
    let Ok((response, CacheOutcome::Stale)) = cache.find(&it, "/a", &limits).await else { panic!("it waits") };
    assert!(response.headers()["cache-status"].to_str().unwrap().starts_with("lodge; hit; ttl=-"));
}

/// The rate limit of one client and the age of its response are not stored.
#[test]
fn headers_for_one_client_are_not_stored() {
    let cache = Cache::new(1 << 20, 64 << 10);
    let own = [("ratelimit", "\"client\";r=3;t=60"), ("ratelimit-policy", "\"client\";q=5;w=3600"), ("age", "7")];
    let all = [own[0], own[1], own[2], ("x-kept", "1")];
    cache.keep(&edition("users", "1"), "/a", &[], &all, "x");
    let variants = cache.cache.store.get(&Cache::key("/a")).unwrap();
    let response = variants[0].response(&Conditions::default(), false, CacheStatus::Collapsed, cache.now);
    assert!(response.headers().contains_key("x-kept"));
    for name in ["ratelimit", "ratelimit-policy"] {
        assert!(!response.headers().contains_key(name), "{name} is for another client");
    }
    assert!(!variants[0].headers().contains_key("age"));
    // A 304 does not bring these headers in.
    let stored = variants[0].refreshed(&headers(&all));
    let asked = HeaderMap::new();
    let rules = Rules { keep: true, ttl: Duration::from_secs(60) };
    let it = edition("users", "1");
    let stored_head =
        StoredHead::of(&cache.selector(&it, "/a", &asked), &cache.service, &stored, rules, cache.times()).unwrap();
    let renewed = variants[0].renewed(stored_head, cache.cache.budget.reserve(0).unwrap());
    assert!(!own.iter().any(|(name, _)| renewed.headers().contains_key(*name)), "{:?}", renewed.headers());
}

/// A call invalidates its path under every host, for stored responses and for those on their way.
#[tokio::test]
async fn a_call_invalidates_its_path() {
    let cache = Cache::new(1 << 20, 64 << 10);
    let (it, none) = (edition("users", "1"), HeaderMap::new());
    let of = |service: &str, path: &str| {
        cache.cache.path_versions.path_version(service, &format!("http://{service}.internal{path}").parse().unwrap())
    };
    let path_version = |path: &str| of("users", path);
    // Some paths share a counter with these, so one is searched that does not.
    let paths: Vec<_> = (0..20).map(|n| format!("/a?{n}")).collect();
    let is_other = |path: &&String| ["/a", "/a?slow"].iter().all(|changed| path_version(path) != path_version(changed));
    let other = paths.iter().find(is_other).unwrap();
    assert!(paths.iter().any(|path| of("users", path) != of("hello", path)), "each service has its own counters");
    for path in ["/a", other] {
        cache.keep(&it, path, &[], &[("vary", "accept")], "old");
    }
    let mut late = cache.recorder(&it, "/a", &none, &[]).unwrap();
    let mut later = cache.recorder(&it, "/a", &none, &[]).unwrap();
    let limits = config::resolve(&[]).unwrap().config.limits;
    let _asks = cache.find(&it, "/a?slow", &limits).await.err().flatten().unwrap();
    path_version("/a").record_change();
    path_version("/a?slow").record_change();
    assert!(!cache.has(&it, "/a", &[]), "a call has changed it");
    assert!(cache.has(&it, other, &[]), "another query is another resource");
    late.end();
    assert!(!cache.has(&it, "/a", &[]), "it was requested before the change");
    assert_eq!(cache.entries(), 2, "it takes no space");
    let start = std::time::Instant::now();
    let again = cache.find(&it, "/a?slow", &limits).await.err().flatten().unwrap().0;
    assert!(again.is_joinable() && start.elapsed() < limits.queue_wait / 2, "requests wait for an outdated fill");
    // The next response is stored, and replaces all outdated ones.
    cache.keep(&it, "/a", &[], &[], "new");
    assert_eq!((cache.has(&it, "/a", &[]), cache.entries()), (true, 2));
    later.end();
    assert!(cache.has(&it, "/a", &[]), "an older response replaced it");
}

/// A request whose result is not known counts as successful if its service may have executed it.
#[test]
fn an_unknown_result_invalidates() {
    let cache = Cache::new(1 << 20, 64 << 10);
    let it = edition("users", "1");
    let scopes: [fn(&Cache) -> InvalidationScope; 2] = [
        |cache| InvalidationScope::Key(Arc::clone(&cache.cache), Cache::key("/a")),
        |cache| InvalidationScope::Path(cache.cache.path_versions.path_version("users", &"/a".parse().unwrap())),
    ];
    let response = |status: u16| Ok(Response::builder().status(status).body(Body::text(None)).unwrap());
    for scope in scopes {
        // Whether the stored response is invalid after a request that was admitted or not, and had this result or none.
        let over = |begin: bool, end: Option<Result<Response<Body>, Failed>>| {
            cache.keep(&it, "/a", &[], &[], "x");
            let mut cache_fill = CacheFill::of(FillKind::Invalidation(Invalidation::of(scope(&cache))));
            if begin {
                cache_fill.begin(Instant::now());
            }
            match end {
                Some(result) => drop(cache_fill.settle(result)),
                None => drop(cache_fill),
            }
            !cache.has(&it, "/a", &[])
        };
        assert!(over(true, None) && !over(false, None));
        assert!(over(true, Some(response(200))) && over(true, Some(response(303))));
        assert!(!over(true, Some(response(404))) && !over(true, Some(response(500))));
        assert!(over(true, Some(Err(FAILED))) && !over(true, Some(Err(GONE))) && !over(false, Some(Err(FAILED))));
    }
}

/// A response that a slow client is reading counts until the client is done.
#[test]
fn a_response_in_transfer_keeps_its_reservation() {
    let cache = Cache::new(1 << 20, 64 << 10);
    cache.keep(&edition("users", "1"), "/a", &[], &[], &"x".repeat(5000));
    let variants = cache.cache.store.get(&Cache::key("/a")).unwrap();
    let response = variants[0].response(&Conditions::default(), false, CacheStatus::Collapsed, SystemTime::now());
    drop(variants);
    cache.cache.purge("users", "/");
    assert_eq!((cache.entries(), cache.cache.budget.used()), (0, 5000));
    drop(response);
    assert_eq!(cache.cache.budget.used(), 0);
}
