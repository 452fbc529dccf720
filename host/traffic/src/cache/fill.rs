//! Requests that go to their service because of a miss, and what their responses do to the cache: they are stored,
//! refresh or invalidate a stored response, or are replaced by one.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::header::HeaderMap;
use http::{Request, Response, StatusCode, request};

use super::coalescer::FillGuard;
use super::conditions::{self, Conditions};
use super::forwarding::Forwarding;
use super::freshness::{self, Times};
use super::path_versions::PathVersion;
use super::recorder::{Recorder, declared_length};
use super::status::{self, CacheStatus};
use super::store::CacheKey;
use super::stored::{Selector, StoredHead, StoredResponse};
use super::{CacheBody, FetchError, Lookup, ResponseCache, UnexpectedNotModified};
use crate::service::Service;
use lodge_base::telemetry::metrics::CacheOutcome;
use lodge_manifest::cache::Rules;
use lodge_manifest::edition::Edition;

/// A request on its way to its service, and what the cache does with the response. Dropping it without
/// [`settle`](Self::settle) stores nothing.
#[must_use = "settle it with the response of the service"]
pub struct CacheFill(FillKind);

pub(super) enum FillKind {
    /// Nothing is stored. The response passes, unless it is a 304 to a request that is known to have no conditions.
    Pass { how: Option<CacheStatus>, unconditional: bool },
    /// The request may invalidate stored responses.
    Invalidation(Invalidation),
    /// The response is to be stored.
    Keep(Box<Fetch>),
}

/// The result of a request that went to its service.
pub enum Settled<R, E> {
    /// The response to send, or the service's failure.
    Done(Result<Response<R>, E>),
    /// The stored response to send instead of the service's failure, which was this error or a response.
    Stale(Response<R>, Option<E>),
    /// A 304 about another response than the one that was to be validated (RFC 9111, 4.3.4). Send the request once
    /// more, without conditions.
    Retry(CacheFill),
}

/// What becomes invalid when an unsafe request succeeds. If it is dropped before the result is known, the request
/// counts as successful, since the service may have executed it.
pub(super) struct Invalidation {
    what: InvalidationScope,
    /// The request was admitted, so the service may have executed it.
    started: bool,
}

/// The stored responses that an unsafe request invalidates.
pub(super) enum InvalidationScope {
    /// Those under a key: the request of a client.
    Key(Arc<ResponseCache>, CacheKey),
    /// Those of a path, whatever the host and prefix of their URIs: the call of a guest.
    Path(PathVersion),
}

/// A response that is being fetched, for which other requests may wait.
pub(super) struct Fetch {
    pub(super) cache: Arc<ResponseCache>,
    pub(super) guard: FillGuard,
    pub(super) rules: Rules,
    pub(super) edition: Edition,
    pub(super) service: Arc<Service>,
    /// The headers that the client sent.
    pub(super) request_headers: HeaderMap,
    /// The request identifies its client.
    pub(super) personal: bool,
    /// How the request reached the service.
    pub(super) forwarding: Forwarding,
    /// When the request was sent to the service.
    pub(super) requested: SystemTime,
    /// The version of the path when the request was looked up.
    pub(super) path_version: PathVersion,
    pub(super) conditions: Conditions,
    /// A stale response that must not be used without validation.
    pub(super) stale: Option<Arc<StoredResponse>>,
    /// The request has the validators of `stale`.
    pub(super) validates: bool,
    /// The request that the service gets has no conditions.
    pub(super) unconditional: bool,
    /// When the request times out; `None` before it is admitted.
    pub(super) deadline: Option<Instant>,
    /// The client's directives rule out a stored response.
    pub(super) insists: bool,
}

impl CacheFill {
    pub(super) fn of(kind: FillKind) -> Self {
        Self(kind)
    }

    pub(super) fn found<R>(kind: FillKind) -> Lookup<R> {
        Lookup::Miss(Self(kind))
    }

    /// A fill for a response that is never stored, and whose request may have conditions.
    pub(super) fn none() -> Self {
        Self(FillKind::Pass { how: None, unconditional: false })
    }

    /// To be called when the request was admitted and can take until `deadline`. From here on the service may execute
    /// it.
    pub fn begin(&mut self, deadline: Instant) {
        match &mut self.0 {
            FillKind::Pass { .. } => {}
            FillKind::Invalidation(change) => change.started = true,
            FillKind::Keep(fetch) => (fetch.requested, fetch.deadline) = (fetch.cache.now(), Some(deadline)),
        }
    }

    /// Whether other requests may be waiting for the response.
    #[cfg(test)]
    pub(super) fn is_joinable(&self) -> bool {
        matches!(&self.0, FillKind::Keep(fetch) if fetch.guard.is_joinable())
    }

    /// When the request times out; `None` if it was not admitted, or its response is not stored.
    pub fn deadline(&self) -> Option<Instant> {
        if let FillKind::Keep(fetch) = &self.0 { fetch.deadline } else { None }
    }

    /// The head of `request` without conditions, in case it has to be [sent again](Settled::Retry). `None` if it has no
    /// validators of the cache.
    pub fn unconditional<B>(&self, request: &Request<B>) -> Option<request::Parts> {
        let FillKind::Keep(fetch) = &self.0 else { return None };
        fetch.validates.then(|| {
            let (mut head, ()) = Request::new(()).into_parts();
            (head.method, head.uri, head.version) =
                (request.method().clone(), request.uri().clone(), request.version());
            head.headers = request.headers().clone();
            conditions::clear(&mut head.headers);
            head
        })
    }

    /// Applies the service's response to the cache, and returns the response for the client. An error stays one, unless
    /// a stored response may be used instead of it.
    pub fn settle<R: CacheBody, E: FetchError>(self, result: Result<Response<R>, E>) -> Settled<R, E> {
        match self.0 {
            FillKind::Pass { how, unconditional } => {
                Settled::Done(reject_unconditional_304(result, unconditional).map(|mut response| {
                    how.into_iter().for_each(|how| status::append(response.headers_mut(), how));
                    response
                }))
            }
            FillKind::Invalidation(change) => {
                change.end(result.as_ref().map_or_else(E::may_have_taken_effect, is_success));
                Settled::Done(result)
            }
            FillKind::Keep(fetch) => fetch.settle(result),
        }
    }
}

impl Invalidation {
    /// Invalidates nothing until the request [begins](CacheFill::begin).
    pub(super) fn of(what: InvalidationScope) -> Self {
        Self { what, started: false }
    }

    /// Sets whether the request has taken effect.
    fn end(mut self, done: bool) {
        self.started &= done;
    }
}

impl Drop for Invalidation {
    fn drop(&mut self) {
        match &self.what {
            _ if !self.started => {}
            InvalidationScope::Key(cache, key) => {
                cache.coalescer.invalidate_key(key, || cache.store.remove(key));
            }
            InvalidationScope::Path(path_version) => path_version.record_change(),
        }
    }
}

impl Fetch {
    fn settle<R: CacheBody, E: FetchError>(mut self: Box<Self>, result: Result<Response<R>, E>) -> Settled<R, E> {
        let was_ok = result.is_ok();
        let result = reject_unconditional_304(result, self.unconditional);
        let is_unrequested = was_ok && result.is_err();
        let now = self.cache.now();
        let times = Times { requested: self.requested, received: now };
        let serves =
            |stored: &&Arc<StoredResponse>| fails(&result) && !self.insists && stored.freshness().allows_on_error(now);
        if let Some(stored) = self.stale.as_ref().filter(serves) {
            self.count(CacheOutcome::Stale);
            let response = stored
                .response(&self.conditions, false, CacheStatus::Hit(stored.freshness().left(now)), now)
                .map(R::stored);
            self.guard.hand_over();
            return Settled::Stale(response, result.err());
        }
        let response = match result {
            Ok(response) => response,
            Err(error) => {
                self.count(CacheOutcome::Miss);
                // Requests that go alone have the conditions of their clients, for which the service may be waiting.
                if is_unrequested {
                    self.guard.finish_uncacheable();
                } else {
                    self.guard.hand_over();
                }
                return Settled::Done(Err(error));
            }
        };
        let validated = self.stale.clone().filter(|_| self.validates && response.status() == StatusCode::NOT_MODIFIED);
        Settled::Done(Ok(match validated {
            Some(stored) if conditions::confirms(response.headers(), stored.headers()) => {
                self.refresh(&stored, response.headers(), times)
            }
            Some(_) => {
                (self.validates, self.unconditional) = (false, true);
                return Settled::Retry(CacheFill(FillKind::Keep(self)));
            }
            None => self.store_new(response, times),
        }))
    }

    /// Refreshes the stored response with a 304, and returns it to the client.
    fn refresh<R: CacheBody>(self, stored: &Arc<StoredResponse>, news: &HeaderMap, times: Times) -> Response<R> {
        self.count(CacheOutcome::Revalidated);
        let head = stored.refreshed(news);
        let stored_head = StoredHead::of(&self.selector(), &self.service, &head, self.rules, times);
        let forbidden = self.forbids_stored(&head.headers);
        let response = stored.validated_response(head.headers, &self.conditions, times).map(R::stored);
        // The body has its reservation already.
        let reservation =
            |stored_head: &StoredHead| self.cache.budget.reserve(stored_head.bytes() + self.guard.key().len());
        match stored_head {
            Some(stored_head) => match reservation(&stored_head) {
                Some(reservation) => {
                    let renewed = Arc::new(stored.renewed(stored_head, reservation));
                    let cache = Arc::clone(&self.cache);
                    self.guard.store(|key| cache.put(key, renewed));
                }
                None => self.guard.finish_unstored(),
            },
            None if forbidden => self.forbid_stale(stored, times.received),
            None => self.guard.finish_uncacheable(),
        }
        response
    }

    /// Records a new response.
    fn store_new<R: CacheBody>(self, response: Response<R>, times: Times) -> Response<R> {
        self.count(CacheOutcome::Miss);
        let (mut head, mut body) = response.into_parts();
        let stored_head = StoredHead::of(&self.selector(), &self.service, &head, self.rules, times);
        let (stale, insists) = (self.stale.is_some(), self.insists);
        let holds = self.conditions.match_response(head.status, &head.headers);
        let has_place =
            |stored_head: &StoredHead| self.cache.store.has_place(self.guard.key(), stored_head, times.received);
        let stored = match (stored_head, self.stale.clone()) {
            (Some(stored_head), _) if has_place(&stored_head) => {
                match Recorder::new(&self.cache, self.guard, stored_head, declared_length(&head.headers)) {
                    Some(recorder) => {
                        body = body.recorded(recorder);
                        true
                    }
                    None => false,
                }
            }
            // Other clients have taken all places of variants.
            (Some(_), _) => {
                self.guard.finish_unstored();
                false
            }
            (None, Some(stored)) if can_withdraw(head.status) && self.forbids_stored(&head.headers) => {
                self.forbid_stale(&stored, times.received);
                false
            }
            (None, _) if is_about_resource(head.status) => {
                self.guard.finish_uncacheable();
                false
            }
            // Other requests may get another response.
            (None, _) => {
                self.guard.hand_over();
                false
            }
        };
        if holds {
            conditions::not_modified(&mut head);
            // The client has this response, but other clients may not: its body is read for the recorder alone.
            let whole = std::mem::replace(&mut body, R::stored(None));
            if stored {
                tokio::spawn(whole.drain());
            }
        }
        let how = match (stale, insists) {
            (_, true) => CacheStatus::Request(stored),
            (true, _) => CacheStatus::Stale(stored),
            _ => CacheStatus::Miss(stored),
        };
        status::append(&mut head.headers, how);
        Response::from_parts(head, body)
    }

    /// Whether a response with these headers forbids to use the stored one. A response to an identified client says
    /// nothing about the stored one, which is for all.
    fn forbids_stored(&self, headers: &HeaderMap) -> bool {
        !self.personal && freshness::forbids(headers)
    }

    /// Forbids to use a stored response once it is stale, whatever it allowed itself. A fresh one stays valid, as its
    /// own `Cache-Control` says.
    fn forbid_stale(self, stored: &Arc<StoredResponse>, now: SystemTime) {
        stored.freshness().forbid_stale();
        let (store, fresh) = (&self.cache.store, stored.freshness().is_fresh(now));
        self.guard.finish_uncacheable_after(|key| {
            if !fresh {
                store.remove_one(key, stored)
            }
        });
    }

    fn selector(&self) -> Selector<'_> {
        let Self { edition, request_headers: headers, forwarding, personal, path_version, .. } = self;
        Selector { edition, headers, forwarding, personal: *personal, path_version: path_version.clone() }
    }

    fn count(&self, outcome: CacheOutcome) {
        self.service.metrics.cached.count(outcome);
    }
}

/// Turns a 304 to a request without conditions into an error: its client has nothing to use in its place (RFC 9110,
/// 15.4.5).
fn reject_unconditional_304<R, E: FetchError>(
    result: Result<Response<R>, E>,
    unconditional: bool,
) -> Result<Response<R>, E> {
    match result {
        Ok(response) if unconditional && response.status() == StatusCode::NOT_MODIFIED => {
            Err(UnexpectedNotModified.into())
        }
        result => result,
    }
}

/// Whether a response is not an error by RFC 9111, 4.4, so that the request has taken effect.
fn is_success<R>(response: &Response<R>) -> bool {
    response.status().is_success() || response.status().is_redirection()
}

/// Whether a result is an error by RFC 5861.
fn fails<R, E: FetchError>(result: &Result<Response<R>, E>) -> bool {
    is_failure(result.as_ref().map_or_else(E::status, Response::status))
}

fn is_failure(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502..=504)
}

/// Whether a response with this status is about the resource, whatever the rest of the request is: successes, redirections, and the
/// errors that are heuristically cacheable (RFC 9110, 15.1). A client can cause any other: by its conditions, or by a request that fails.
fn is_about_resource(status: StatusCode) -> bool {
    let is_final = status.is_success() || (status.is_redirection() && status != StatusCode::NOT_MODIFIED);
    is_final || matches!(status.as_u16(), 404 | 405 | 410 | 414 | 501)
}

/// Whether a response with this status can be the service's word on what is stored: that of the resource, or that it is closed to all.
fn can_withdraw(status: StatusCode) -> bool {
    is_about_resource(status) || matches!(status.as_u16(), 401 | 403 | 451)
}
