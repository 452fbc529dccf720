mod conformance;
mod effects;
mod fakes;
mod memory;
mod negotiation;
mod proxy;
mod sharing;

use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;

use self::fakes::Body;
use super::freshness::Times;
use super::kept::Draft;
use super::recorder::{Recorder, promised};
use super::*;
use crate::error::RequestError;
use crate::service::Service;
use lodge_base::config;
use lodge_base::cpu::scheduler::CpuScheduler;
use lodge_manifest::Manifest;
use lodge_manifest::digest::Digest;

/// A cache, and a service whose answers it keeps.
struct Cache {
    responses: Arc<Responses>,
    service: Arc<Service>,
    /// When answers come.
    now: SystemTime,
    /// All requests come alike.
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
        Self { responses: Responses::new(memory, entry).unwrap(), service, now, forwarding }
    }

    fn key(path: &str) -> Key {
        Key::new("users", &format!("http://Example.com{path}").parse().unwrap())
    }

    /// A request with these headers for a path.
    fn asker<'a>(&'a self, edition: &'a Edition, path: &str, headers: &'a HeaderMap) -> Asker<'a> {
        let standing = self.responses.changes.standing("users", &path.parse().unwrap());
        Asker { edition, headers, forwarding: &self.forwarding, personal: is_personal(headers, &[]), standing }
    }

    fn times(&self) -> Times {
        Times { requested: self.now, received: self.now }
    }

    /// A recorder of an answer to a request with these headers, if there is room for its head.
    fn recorder(
        &self,
        edition: &Edition,
        path: &str,
        asked: &HeaderMap,
        answer: &[(&'static str, &str)],
    ) -> Option<Recorder> {
        let asker = self.asker(edition, path, asked);
        let (mut head, ()) = Response::new(()).into_parts();
        head.headers = headers(answer);
        let rules = Rules { keep: true, ttl: Duration::from_secs(60) };
        let draft = Draft::of(&asker, &self.service, &head, rules, self.times()).unwrap();
        let Joined::Lead(lead) = self.responses.flights.join(&Self::key(path), 1, 0, Instant::now()) else {
            return None;
        };
        Recorder::new(&self.responses, lead, draft, promised(&head.headers)).ok()
    }

    fn keep(
        &self,
        edition: &Edition,
        path: &str,
        asked: &[(&'static str, &str)],
        answer: &[(&'static str, &str)],
        body: &str,
    ) {
        let mut recorder = self.recorder(edition, path, &headers(asked), answer).unwrap();
        recorder.frame(&Frame::data(Bytes::copy_from_slice(body.as_bytes())));
        recorder.end();
    }

    /// Whether something is kept for this request.
    fn has(&self, edition: &Edition, path: &str, asked: &[(&'static str, &str)]) -> bool {
        let asked = headers(asked);
        let asker = self.asker(edition, path, &asked);
        let variants = self.responses.store.get(&Self::key(path));
        variants.iter().flat_map(|variants| variants.iter()).any(|kept| kept.answers(&asker))
    }

    /// What a client without conditions finds.
    async fn find(&self, edition: &Edition, path: &str, limits: &Limits) -> Looked<Body> {
        let headers = HeaderMap::new();
        let asker = self.asker(edition, path, &headers);
        self.responses.find(&Self::key(path), &asker, limits, &Conditions::default(), false, || {}).await
    }

    fn entries(&self) -> u64 {
        self.service.figures.cached.entries()
    }
}

#[test]
fn variants_stand_side_by_side_and_editions_do_not() {
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
    assert!(cache.has(&new, "/a", &[]) && cache.has(&beta, "/a", &[]), "versions live side by side");
    assert_eq!(cache.entries(), 2, "what an earlier edition has left is gone");
    for n in 0..100 {
        cache.keep(&new, "/b", &[("accept", &n.to_string())], &vary, "x");
    }
    assert_eq!(cache.entries(), 2 + 16, "the variants of one URI are bounded");
    assert!(cache.has(&new, "/b", &[("accept", "1")]) && !cache.has(&new, "/b", &[("accept", "99")]));
    cache.responses.retain(std::slice::from_ref(&beta));
    assert_eq!((cache.entries(), cache.has(&beta, "/a", &[])), (1, true));
}

#[test]
fn purged_by_path_and_by_version() {
    let cache = Cache::new(1 << 20, 64 << 10);
    let (stable, beta) = (edition("users", "1"), edition("users@2", "2"));
    let paths = ["/", "/a", "/a?x", "/a/", "/a/b", "/ab"];
    let purges = |name: &str, path: &str| {
        for path in paths {
            cache.keep(&stable, path, &[], &[], "x");
        }
        cache.keep(&beta, "/a", &[], &[], "x");
        cache.responses.purge(name, path)
    };
    assert_eq!(purges("users", "/a"), 5);
    assert_eq!(purges("users", "/a/"), 2);
    assert_eq!(purges("users", "/a?x"), 1);
    assert_eq!(purges("users", "/other"), 0);
    assert_eq!(purges("users@2", "/"), 1);
    assert_eq!(purges("user", "/"), 0);
    assert_eq!(purges("users", "/"), 7);
    assert_eq!((cache.entries(), cache.responses.budget.used()), (0, 0));
}

#[test]
fn only_what_came_to_its_proper_end() {
    let cache = Cache::new(1 << 20, 64 << 10);
    let it = edition("users", "1");
    let none = HeaderMap::new();
    let data = |size| Frame::data(Bytes::from(vec![b'x'; size]));
    let record = |answer: &[(&'static str, &str)], frames: Vec<Frame<Bytes>>, end: bool| {
        let mut recorder = cache.recorder(&it, "/a", &none, answer).unwrap();
        frames.iter().for_each(|frame| recorder.frame(frame));
        if end {
            recorder.end();
        }
        drop(recorder);
        cache.responses.purge("users", "/")
    };
    assert_eq!(record(&[], vec![data(5), data(5)], true), 1);
    assert_eq!(record(&[], vec![], true), 1);
    assert_eq!(record(&[], vec![data(5)], false), 0, "it broke off");
    assert_eq!(record(&[("content-length", "6")], vec![data(5)], true), 0, "it is shorter than it says");
    assert_eq!(record(&[("content-length", "5")], vec![data(5)], true), 1);
    assert_eq!(record(&[], vec![data(5), Frame::trailers(HeaderMap::new())], true), 0, "it has trailers");
    assert_eq!(record(&[], vec![data(60 << 10), data(60 << 10)], true), 0, "it is too large");
    assert!(cache.recorder(&it, "/a", &none, &[("content-length", "70000")]).is_none(), "it says that it is too large");
    assert_eq!((cache.entries(), cache.responses.budget.used(), cache.responses.flights.flying()), (0, 0, 0));
}

/// A request that waits for another's response waits no longer than in a queue, and then asks itself. The next one waits
/// for that, and no more for what got stuck.
#[tokio::test]
async fn a_wait_has_an_end() {
    let cache = Cache::new(1 << 20, 64 << 10);
    let (it, mut limits) = (edition("users", "1"), config::resolve(&[]).unwrap().config.limits);
    let _stuck = cache.find(&it, "/a", &limits).await.err().flatten().unwrap().0;
    let start = Instant::now();
    limits.queue_wait = Duration::from_millis(20);
    let instead = cache.find(&it, "/a", &limits).await.err().flatten().unwrap().0;
    assert!(start.elapsed() >= limits.queue_wait);
    assert!(instead.is_followed());
    limits.queue_wait = Duration::from_secs(3600);
    limits.queue = 0;
    assert!(cache.find(&it, "/a", &limits).await.is_err(), "no place in the queue");
    limits.queue = 10;
    let waiting = async { tokio::join!(cache.find(&it, "/a", &limits), async { drop(instead) }).0 };
    let waiting = tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("it waits for what is stuck");
    assert!(waiting.err().flatten().unwrap().0.is_followed());
}

#[tokio::test]
async fn one_revalidates_and_the_others_go_on() {
    let mut cache = Cache::new(1 << 20, 64 << 10);
    let (it, limits) = (edition("users", "1"), config::resolve(&[]).unwrap().config.limits);
    cache.now -= Duration::from_secs(5);
    cache.keep(&it, "/a", &[], &[("cache-control", "max-age=1, stale-while-revalidate=60")], "x");
    let (lead, stale, insists) = cache.find(&it, "/a", &limits).await.err().flatten().unwrap();
    assert!(lead.is_followed() && stale.is_some() && !insists);
    let Ok((response, CacheOutcome::Stale)) = cache.find(&it, "/a", &limits).await else { panic!("it waits") };
    assert!(response.headers()["cache-status"].to_str().unwrap().starts_with("lodge; hit; ttl=-"));
}

/// Where one client stands with its rate, and how old an answer was for it, is nobody else's.
#[test]
fn what_is_said_to_one_client_is_not_kept() {
    let cache = Cache::new(1 << 20, 64 << 10);
    let own = [("ratelimit", "\"client\";r=3;t=60"), ("ratelimit-policy", "\"client\";q=5;w=3600"), ("age", "7")];
    let all = [own[0], own[1], own[2], ("x-kept", "1")];
    cache.keep(&edition("users", "1"), "/a", &[], &all, "x");
    let variants = cache.responses.store.get(&Cache::key("/a")).unwrap();
    let given = variants[0].give::<Body>(&Conditions::default(), false, CacheStatus::Collapsed, cache.now);
    assert!(given.headers().contains_key("x-kept"));
    for name in ["ratelimit", "ratelimit-policy"] {
        assert!(!given.headers().contains_key(name), "{name} is another client's");
    }
    assert!(!variants[0].headers().contains_key("age"));
    // Nor does it come in with a revalidation.
    let kept = variants[0].refreshed(&headers(&all));
    let asked = HeaderMap::new();
    let rules = Rules { keep: true, ttl: Duration::from_secs(60) };
    let it = edition("users", "1");
    let draft = Draft::of(&cache.asker(&it, "/a", &asked), &cache.service, &kept, rules, cache.times()).unwrap();
    let renewed = variants[0].renewed(draft, cache.responses.budget.room(0).unwrap());
    assert!(!own.iter().any(|(name, _)| renewed.headers().contains_key(*name)), "{:?}", renewed.headers());
}

/// A call's URI is no client's: what is kept of its path is over, whatever the host, and so is what is on its way.
#[tokio::test]
async fn a_call_ends_what_is_kept_of_its_path() {
    let cache = Cache::new(1 << 20, 64 << 10);
    let (it, none) = (edition("users", "1"), HeaderMap::new());
    let of = |service: &str, path: &str| {
        cache.responses.changes.standing(service, &format!("http://{service}.internal{path}").parse().unwrap())
    };
    let standing = |path: &str| of("users", path);
    // Some share a counter.
    let paths: Vec<_> = (0..20).map(|n| format!("/a?{n}")).collect();
    let is_other = |path: &&String| ["/a", "/a?slow"].iter().all(|changed| standing(path) != standing(changed));
    let other = paths.iter().find(is_other).unwrap();
    assert!(paths.iter().any(|path| of("users", path) != of("hello", path)), "services share their paths");
    for path in ["/a", other] {
        cache.keep(&it, path, &[], &[("vary", "accept")], "old");
    }
    let mut late = cache.recorder(&it, "/a", &none, &[]).unwrap();
    let mut later = cache.recorder(&it, "/a", &none, &[]).unwrap();
    let limits = config::resolve(&[]).unwrap().config.limits;
    let _asks = cache.find(&it, "/a?slow", &limits).await.err().flatten().unwrap();
    standing("/a").note();
    standing("/a?slow").note();
    assert!(!cache.has(&it, "/a", &[]), "it was changed");
    assert!(cache.has(&it, other, &[]), "another query is another resource");
    late.end();
    assert!(!cache.has(&it, "/a", &[]), "it was asked for before the change");
    assert_eq!(cache.entries(), 2, "nor is it in the way");
    let start = std::time::Instant::now();
    let again = cache.find(&it, "/a?slow", &limits).await.err().flatten().unwrap().0;
    assert!(again.is_followed() && start.elapsed() < limits.queue_wait / 2, "nobody waits for what is out of date");
    // The next one is kept, and takes the place of all that is over.
    cache.keep(&it, "/a", &[], &[], "new");
    assert_eq!((cache.has(&it, "/a", &[]), cache.entries()), (true, 2));
    later.end();
    assert!(cache.has(&it, "/a", &[]), "an older one took its place");
}

/// Whoever does not hear how a change ended has to take it for made, once there was somebody to make it.
#[test]
fn a_change_that_nobody_hears_of_is_one() {
    let cache = Cache::new(1 << 20, 64 << 10);
    let it = edition("users", "1");
    let errands: [fn(&Cache) -> Changed; 2] = [
        |cache| Changed::Key(Arc::clone(&cache.responses), Cache::key("/a")),
        |cache| Changed::Path(cache.responses.changes.standing("users", &"/a".parse().unwrap())),
    ];
    let answer = |status: u16| Ok(Response::builder().status(status).body(Body::text(None)).unwrap());
    for errand in errands {
        // Whether it is over, after one that was let in or not, and came to this end, or to none.
        let over = |begins: bool, end: Option<Result<Response<Body>, RequestError>>| {
            cache.keep(&it, "/a", &[], &[], "x");
            let mut errand = Errand::of(Kind::Change(Change::of(errand(&cache))));
            if begins {
                errand.begins(Instant::now());
            }
            match end {
                Some(result) => drop(errand.settle(result, &Arc::from("1"))),
                None => drop(errand),
            }
            !cache.has(&it, "/a", &[])
        };
        assert!(over(true, None) && !over(false, None));
        assert!(over(true, Some(answer(200))) && over(true, Some(answer(303))));
        assert!(!over(true, Some(answer(404))) && !over(true, Some(answer(500))));
        for error in [RequestError::WallTime, RequestError::NoAnswer, RequestError::BodyBroken] {
            assert!(over(true, Some(Err(error))));
        }
        assert!(!over(true, Some(Err(RequestError::NoReplica))) && !over(false, Some(Err(RequestError::QueueFull))));
        assert!(!over(true, Some(Err(RequestError::Unforwardable(String::new())))));
    }
}

/// What a slow client has of an answer counts until he is done with it.
#[test]
fn on_its_way_it_still_takes_room() {
    let cache = Cache::new(1 << 20, 64 << 10);
    cache.keep(&edition("users", "1"), "/a", &[], &[], &"x".repeat(5000));
    let variants = cache.responses.store.get(&Cache::key("/a")).unwrap();
    let given = variants[0].give::<Body>(&Conditions::default(), false, CacheStatus::Collapsed, SystemTime::now());
    drop(variants);
    cache.responses.purge("users", "/");
    assert_eq!((cache.entries(), cache.responses.budget.used()), (0, 5000));
    drop(given);
    assert_eq!(cache.responses.budget.used(), 0);
}
