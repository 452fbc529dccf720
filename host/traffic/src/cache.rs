//! The response cache: a shared cache (RFC 9111) for the routes whose manifest sets `cache`.
//!
//! A request looks here after routing and before admission. A hit needs neither a permit nor a sandbox. A miss gets a
//! [`CacheFill`], which is [settled](CacheFill::settle) with the service's response.
//!
//!
//! * `control` parses `Cache-Control`, and `freshness` decides from it what may be stored and for how long.
//! * `conditions` evaluates conditional requests and adds validators.
//! * `forwarding` is the part of the cache key that depends on how a request reached the service.
//! * `stored` holds one response and builds responses from it; `status` writes `Cache-Status`.
//! * `store` holds all of them within a `budget`.
//! * `coalescer` turns concurrent requests for the same response into one.
//! * `path_versions` invalidates paths that calls between services have changed.
//! * [`recorder`] copies response bodies as they pass.
//!
//! Stricter than the RFC: a response with `Set-Cookie` is never stored; a request with a cookie or credentials only
//! shares responses with `public` or `s-maxage`; a request with `Range`, `If-Match` or a body bypasses the cache. Not
//! implemented: partial responses (206), `only-if-cached`, and revalidation in the background: with
//! `stale-while-revalidate` one request revalidates, and the others get the stale response meanwhile.

mod coalescer;
pub(crate) mod conditions;
mod control;
mod fill;
mod forwarding;
pub(crate) mod freshness;
#[doc(hidden)]
pub mod fuzz;
mod path_versions;
pub mod recorder;
mod seam;
mod status;
mod store;
mod stored;

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::{Method, Request, Response, Uri};
use http_body::Body;

use self::coalescer::{Coalescer, FillGuard, Joined, Turn};
use self::conditions::Conditions;
use self::control::CacheControl;
pub use self::fill::{CacheFill, Settled};
use self::fill::{Fetch, FillKind, Invalidation, InvalidationScope};
use self::forwarding::Forwarding;
use self::path_versions::PathVersions;
pub use self::seam::{CacheBody, FetchError, UnexpectedNotModified, WaitObserver};
use self::status::CacheStatus;
use self::store::{CacheKey, ResponseStore};
use self::stored::{Selector, StoredResponse, is_personal};
use crate::service::deployment::Deployment;
use lodge_base::budget::Budget;
use lodge_base::config::limits::Limits;
use lodge_base::telemetry::metrics::CacheOutcome;
use lodge_manifest::cache::Rules;
use lodge_manifest::edition::Edition;

/// The part of the memory for stored responses. The rest is for responses that are being recorded, and for evicted ones
/// that clients still read.
const STORED_SHARE: (usize, usize) = (3, 4);

/// The stored responses of all services.
pub struct ResponseCache {
    budget: Arc<Budget>,
    store: ResponseStore,
    coalescer: Arc<Coalescer>,
    path_versions: PathVersions,
    /// The maximum size of one response, in bytes.
    entry: usize,
    /// The clock by which dates in responses are judged. A test sets its own.
    clock: fn() -> SystemTime,
}

/// The result of a lookup.
pub enum Lookup<R> {
    /// A stored response that the request may have.
    Hit(Response<R>),
    /// No such response: the request goes to its service.
    Miss(CacheFill),
}

/// A response with how it was found. Else the fill to do, the stale response if there is one, and whether the client
/// insists on a newer one; `None` for HEAD, which fills nothing.
type LookupResult<R> = Result<(Response<R>, CacheOutcome), Option<(FillGuard, Option<Arc<StoredResponse>>, bool)>>;

impl ResponseCache {
    /// Creates a cache of `memory` bytes, with at most `entry` bytes per response. Returns `None` if `memory` is 0 or
    /// too small.
    pub fn new(memory: usize, entry: usize) -> Option<Arc<Self>> {
        let store = ResponseStore::new(memory / STORED_SHARE.1 * STORED_SHARE.0, entry).filter(|_| memory > 0)?;
        Some(Arc::new(Self {
            budget: Budget::new(memory),
            store,
            coalescer: Coalescer::new(),
            path_versions: PathVersions::new(),
            entry,
            clock: SystemTime::now,
        }))
    }

    fn now(&self) -> SystemTime {
        (self.clock)()
    }

    /// Looks for a response to `request`. `uri` is the URI as it was routed, `route` the number of the service's route;
    /// the request's own URI and headers are those that the service sees.
    ///
    /// Waits for another request that fetches the same response, at most for `limits.queue_wait`. On a miss, replaces
    /// the client's conditions in `request` by the validators of a stale response.
    pub async fn lookup<B: Body, R: CacheBody>(
        self: &Arc<Self>,
        rules: Rules,
        (uri, route): (&Uri, usize),
        of: &Deployment,
        request: &mut Request<B>,
        record: &mut impl WaitObserver,
    ) -> Lookup<R> {
        let service = service_of(of);
        let (method, head_only) = (request.method(), *request.method() == Method::HEAD);
        if !method.is_safe() {
            let changed = InvalidationScope::Key(Arc::clone(self), CacheKey::new(service, uri));
            return CacheFill::found(FillKind::Invalidation(Invalidation::of(changed)));
        }
        if !rules.keep {
            return Lookup::Miss(CacheFill::none());
        }
        if !(head_only || *method == Method::GET) || bypasses(request) {
            of.service.metrics.cached.count(CacheOutcome::Bypass);
            return Lookup::Miss(pass(request, CacheStatus::Bypass));
        }
        let key = CacheKey::new(service, uri);
        let conditions = Conditions::of(request.headers());
        let headers = request.headers();
        let forwarding = Forwarding::of(route, headers);
        let personal = is_personal(headers, &of.spec.manifest.personal);
        let mut selector = Selector {
            edition: &of.edition,
            headers,
            forwarding: &forwarding,
            personal,
            path_version: self.path_versions.path_version(service, request.uri()),
        };
        let began = Instant::now();
        let found =
            self.find(&key, &mut selector, of.limits(), &conditions, head_only, || record.begin_waiting()).await;
        let (guard, stale, insists) = match found {
            Ok((response, outcome)) => {
                of.service.metrics.cached.count(outcome);
                return Lookup::Hit(response);
            }
            Err(None) => {
                of.service.metrics.cached.count(CacheOutcome::Miss);
                return Lookup::Miss(pass(request, CacheStatus::Miss(false)));
            }
            Err(Some(missed)) => missed,
        };
        record.waited(began.elapsed());
        let path_version = selector.path_version;
        let request_headers = request.headers().clone();
        let mut validates = false;
        // A fill that no other request can join is most likely uncacheable, so the client's own conditions go to the
        // service.
        if guard.is_joinable() || stale.is_some() {
            conditions::clear(request.headers_mut());
            validates = stale
                .as_ref()
                .is_some_and(|stored| conditions::add_validators(request.headers_mut(), stored.headers()));
        }
        let unconditional = !conditions::is_conditional(request.headers());
        let fetch = Fetch {
            cache: Arc::clone(self),
            guard,
            rules,
            edition: of.edition.clone(),
            service: Arc::clone(&of.service),
            request_headers,
            personal,
            forwarding,
            requested: self.now(),
            path_version,
            conditions,
            stale,
            validates,
            unconditional,
            deadline: None,
            insists,
        };
        CacheFill::found(FillKind::Keep(Box::new(fetch)))
    }

    /// Looks for a response, and waits for a fill in progress.
    async fn find<R: CacheBody>(
        &self,
        key: &CacheKey,
        selector: &mut Selector<'_>,
        limits: &Limits,
        conditions: &Conditions,
        head_only: bool,
        mut waits: impl FnMut(),
    ) -> LookupResult<R> {
        let (mut until, mut turn) = (None, Turn::Look);
        loop {
            // Or else a response could not be stored because of a change before the request for it.
            selector.path_version.refresh();
            let now = self.now();
            let variants = self.store.get(key);
            let best = variants.iter().flat_map(|variants| variants.iter()).find(|stored| stored.matches(selector));
            let give = |stored: &StoredResponse, how| stored.response(conditions, head_only, how, now).map(R::stored);
            best.iter().for_each(|stored| stored.mark_used(now));
            if let Some(stored) = best.filter(|stored| stored.freshness().satisfies(selector.headers, now)) {
                if let Turn::Lead(guard) = turn {
                    guard.look_again();
                }
                return Ok(match until {
                    None => (give(stored, CacheStatus::Hit(stored.freshness().left(now))), CacheOutcome::Hit),
                    Some(_) => (give(stored, CacheStatus::Collapsed), CacheOutcome::Collapsed),
                });
            }
            if head_only {
                return Err(None);
            }
            // Requests are the same variant if they agree in the headers that responses of this URI vary by, as far as
            // these are known.
            let varying = variants.iter().flat_map(|variants| variants.first()).flat_map(|stored| stored.varies_by());
            let values = varying.map(|name| selector.headers.get_all(name).iter().collect::<Vec<_>>());
            let (personal, came) = (selector.personal, (selector.forwarding, &selector.path_version));
            let variant = self.coalescer.variant((key, selector.edition, personal, came, values.collect::<Vec<_>>()));
            // The request's own directives rule out the stored response.
            let insists = best.is_some() && freshness::has_directives(selector.headers);
            let missed = |guard| Some((guard, best.map(Arc::clone), insists));
            let most = if insists || matches!(turn, Turn::Alone) { 0 } else { limits.queue };
            let waiter = match self.coalescer.go_on(turn, key, variant, most) {
                Joined::Fill(guard) => return Err(missed(guard)),
                Joined::Wait(waiter) => waiter,
            };
            if let Some(stored) = best.filter(|stored| stored.freshness().allows_while_revalidating(now)) {
                let how = CacheStatus::Hit(stored.freshness().left(now));
                return Ok((give(stored, how), CacheOutcome::Stale));
            }
            let until = *until.get_or_insert_with(|| {
                waits();
                tokio::time::Instant::now() + limits.queue_wait
            });
            turn = match tokio::time::timeout_at(until, waiter.turn()).await {
                Ok(turn) => turn,
                Err(_) => return Err(missed(self.coalescer.replace(&waiter))),
            };
        }
    }

    /// Stores a response, unless a call has changed its path since it was requested, so that it does not replace a
    /// newer one. Returns false if its URI has no space for another variant.
    fn put(&self, key: CacheKey, stored: Arc<StoredResponse>) -> bool {
        !stored.path_version().is_current() || self.store.put(key, stored, self.now())
    }

    /// What a call of a guest invalidates once it has succeeded. Calls are not looked up, but an unsafe one invalidates
    /// the responses stored for clients.
    pub fn invalidated_by_call<B>(&self, of: &Deployment, request: &Request<B>) -> CacheFill {
        if request.method().is_safe() || of.spec.manifest.cache.is_none() {
            return CacheFill::none();
        }
        let path_version = self.path_versions.path_version(service_of(of), request.uri());
        CacheFill::of(FillKind::Invalidation(Invalidation::of(InvalidationScope::Path(path_version))))
    }

    /// Removes the responses of a service, or of one version of it, at and below a path, and returns their number.
    /// Responses that are being fetched are not stored.
    pub fn purge(&self, name: &str, path: &str) -> usize {
        let (service, version) = name.split_once('@').map_or((name, None), |(service, _)| (service, Some(name)));
        let of = |key: &CacheKey| key.service() == service && key.is_below(path);
        let so = |key: &CacheKey, edition: &Edition| of(key) && version.is_none_or(|version| *edition.name == *version);
        self.coalescer.invalidate(of, || self.store.drop_if(so))
    }

    /// Removes the responses of editions that are not `served`.
    pub fn retain(&self, served: &[Edition]) {
        self.path_versions.retain(|name| served.iter().any(|edition| base(&edition.name) == name));
        self.coalescer.invalidate(|_| false, || self.store.drop_if(|_, edition| !served.contains(edition)));
    }
}

/// A fill for a request that bypasses the cache.
fn pass<B>(request: &Request<B>, how: CacheStatus) -> CacheFill {
    let is_get = [Method::GET, Method::HEAD].contains(request.method());
    let unconditional = is_get && !conditions::is_conditional(request.headers());
    CacheFill::of(FillKind::Pass { how: Some(how), unconditional })
}

/// The service of a version; a service is its own.
fn service_of(of: &Deployment) -> &str {
    of.spec.version_of().map_or(&*of.name, |(service, _)| service)
}

/// The service in the name of a version: `users` of `users@2`.
fn base(name: &str) -> &str {
    name.split_once('@').map_or(name, |(service, _)| service)
}

/// Whether a request cannot be served from the cache, or forbids it with `no-store`.
fn bypasses<B: Body>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let forbids = || CacheControl::read(headers).is_none_or(|control| control.has("no-store"));
    conditions::BYPASSING.iter().any(|name| headers.contains_key(name))
        || !request.body().is_end_stream()
        || (freshness::has_directives(headers) && forbids())
}

#[cfg(test)]
mod tests;
