//! A stored response: the requests that may use it, and the responses that are made from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode, response};

use super::conditions::{self, Conditions};
use super::forwarding::Forwarding;
use super::freshness::{self, Freshness, Times, own};
use super::path_versions::PathVersion;
use super::status::{self, CacheStatus};
use crate::auth::identity;
use crate::proxy::lists::{self, Quoting};
use crate::service::Service;
use lodge_base::budget::Reservation;
use lodge_manifest::cache::Rules;
use lodge_manifest::edition::Edition;

/// Bytes per response besides headers and body: map entries, counters, the cache library's own.
const OVERHEAD: usize = 1 << 10;

/// Bytes per header besides name and value.
const PER_HEADER: usize = 128;

/// The head of a response that may be stored, and the properties of the request that it depends on.
pub(super) struct StoredHead {
    edition: Edition,
    /// The version of the path when it was requested.
    path_version: PathVersion,
    service: Arc<Service>,
    freshness: Freshness,
    status: StatusCode,
    headers: HeaderMap,
    /// How the request reached the service.
    forwarding: Forwarding,
    /// The values of the request's headers that `Vary` names.
    vary: Vec<(HeaderName, Vec<HeaderValue>)>,
}

/// A complete stored response.
pub(super) struct StoredResponse {
    stored_head: StoredHead,
    /// Shared with the responses that are being sent, as is its reservation.
    body: Bytes,
    /// For the head.
    reservation: Reservation,
    /// When it was stored or last used, in seconds since 1970.
    used: AtomicU64,
}

/// Bytes with their reservation.
struct Accounted {
    bytes: Vec<u8>,
    _room: Reservation,
}

impl AsRef<[u8]> for Accounted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Makes a body that releases its reservation when the last clone is dropped. `reservation` covers the capacity of
/// `bytes`; it is shrunk to their length.
pub(super) fn accounted(bytes: Vec<u8>, mut reservation: Reservation) -> Bytes {
    let bytes = Vec::from(bytes.into_boxed_slice());
    reservation.shrink(bytes.len());
    Bytes::from_owner(Accounted { bytes, _room: reservation })
}

/// The properties of a request by which a stored response is selected.
pub(super) struct Selector<'a> {
    /// The version of the service that the request is for.
    pub(super) edition: &'a Edition,
    /// The request's headers.
    pub(super) headers: &'a HeaderMap,
    /// How the request reached the service.
    pub(super) forwarding: &'a Forwarding,
    /// Whether the request identifies its client.
    pub(super) personal: bool,
    /// The current version of the path.
    pub(super) path_version: PathVersion,
}

/// Whether a request identifies its client, by credentials, a cookie or one of the headers by which its service
/// distinguishes clients. Such a request only shares responses that are explicitly public. The header of the host says that it
/// has verified credentials, which it may have removed.
pub(super) fn is_personal(headers: &HeaderMap, names: &[HeaderName]) -> bool {
    [header::AUTHORIZATION, header::COOKIE, identity::METHOD].iter().chain(names).any(|name| headers.contains_key(name))
}

impl StoredHead {
    /// The head to store, or `None` if the response must not be stored.
    pub(super) fn of(
        selector: &Selector<'_>,
        service: &Arc<Service>,
        head: &response::Parts,
        rules: Rules,
        times: Times,
    ) -> Option<Self> {
        let freshness = Freshness::of(selector.headers, head, rules, times)?;
        if selector.personal && !freshness.shared {
            return None;
        }
        let mut headers = HeaderMap::with_capacity(head.headers.len());
        for (name, value) in head.headers.iter().filter(|(name, _)| is_stored(name)) {
            headers.append(name.clone(), own(value)?);
        }
        if !headers.contains_key(header::DATE) {
            let date = HeaderValue::try_from(httpdate::fmt_http_date(times.received)).ok()?;
            headers.insert(header::DATE, date);
        }
        let mut vary: Vec<_> = lists::elements(&headers, &header::VARY, Quoting::Escapes)
            .map(|name| HeaderName::from_bytes(name).ok())
            .collect::<Option<_>>()?;
        vary.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        vary.dedup();
        let values = |name: HeaderName| {
            let values = selector.headers.get_all(&name).iter().filter_map(own).collect();
            (name, values)
        };
        Some(Self {
            edition: selector.edition.clone(),
            path_version: selector.path_version.clone(),
            service: Arc::clone(service),
            freshness,
            status: head.status,
            headers,
            forwarding: selector.forwarding.clone(),
            vary: vary.into_iter().map(values).collect(),
        })
    }

    /// Bytes without the body.
    pub(super) fn bytes(&self) -> usize {
        let header = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + PER_HEADER;
        let vary = self.vary.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
        OVERHEAD + self.forwarding.len() + self.headers.iter().chain(vary).map(header).sum::<usize>()
    }

    /// Completes the head with its body. `reservation` is that of the head.
    pub(super) fn complete(mut self, body: Bytes, reservation: Reservation) -> StoredResponse {
        if !matches!(self.status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT) {
            // A HEAD needs it, whose response has no body to count.
            self.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        self.service.metrics.cached.keeps(reservation.bytes() + body.len());
        let used = AtomicU64::new(seconds(self.freshness.received()));
        StoredResponse { stored_head: self, body, reservation, used }
    }

    /// Whether it takes the place of the stored response `other`.
    pub(super) fn replaces(&self, other: &StoredResponse) -> bool {
        let other = &other.stored_head;
        let outdates = self.edition != other.edition || self.path_version != other.path_version;
        let alike = self.forwarding == other.forwarding && self.vary == other.vary;
        self.edition.name == other.edition.name && (outdates || alike)
    }
}

impl StoredResponse {
    pub(super) fn edition(&self) -> &Edition {
        &self.stored_head.edition
    }

    pub(super) fn path_version(&self) -> &PathVersion {
        &self.stored_head.path_version
    }

    pub(super) fn freshness(&self) -> &Freshness {
        &self.stored_head.freshness
    }

    /// The headers as they were stored.
    pub(super) fn headers(&self) -> &HeaderMap {
        &self.stored_head.headers
    }

    /// Bytes of head and body.
    pub(super) fn bytes(&self) -> usize {
        self.reservation.bytes() + self.body.len()
    }

    /// The names of the headers in `Vary`.
    pub(super) fn varies_by(&self) -> impl Iterator<Item = &HeaderName> {
        self.stored_head.vary.iter().map(|(name, _)| name)
    }

    /// Whether the response matches a request, fresh or not.
    pub(super) fn matches(&self, selector: &Selector<'_>) -> bool {
        let stored_head = &self.stored_head;
        let same = |(name, values): &(HeaderName, Vec<HeaderValue>)| selector.headers.get_all(name).iter().eq(values);
        let current = stored_head.edition == *selector.edition && stored_head.path_version == selector.path_version;
        let shared = stored_head.freshness.shared || !selector.personal;
        current && shared && stored_head.forwarding == *selector.forwarding && stored_head.vary.iter().all(same)
    }

    pub(super) fn stored_head(&self) -> &StoredHead {
        &self.stored_head
    }

    /// Sets the time of the last use.
    pub(super) fn mark_used(&self, now: SystemTime) {
        self.used.store(seconds(now), Relaxed);
    }

    /// The time since the last use.
    pub(super) fn idle_time(&self, now: SystemTime) -> Duration {
        Duration::from_secs(seconds(now).saturating_sub(self.used.load(Relaxed)))
    }

    /// The head with the headers of a 304, except those that describe the body (RFC 9111, 3.2).
    pub(super) fn refreshed(&self, news: &HeaderMap) -> response::Parts {
        let (mut head, ()) = Response::new(()).into_parts();
        (head.status, head.headers) = (self.stored_head.status, self.stored_head.headers.clone());
        let of_the_body = [header::CONTENT_LENGTH, header::CONTENT_ENCODING, header::CONTENT_RANGE];
        head.headers.remove(header::DATE);
        for name in news.keys().filter(|name| !of_the_body.contains(name)) {
            head.headers.remove(name);
            for value in news.get_all(name) {
                head.headers.append(name, value.clone());
            }
        }
        head
    }

    /// A response with the same body under a new head.
    pub(super) fn renewed(&self, stored_head: StoredHead, reservation: Reservation) -> Self {
        stored_head.complete(self.body.clone(), reservation)
    }

    /// The response to a request: complete, or its head alone for HEAD, or a 304 if the client has it.
    pub(super) fn response(
        &self,
        conditions: &Conditions,
        head_only: bool,
        how: CacheStatus,
        now: SystemTime,
    ) -> Response<Option<Bytes>> {
        let (headers, age) = (self.stored_head.headers.clone(), self.stored_head.freshness.age(now));
        self.build_response(headers, age, conditions, head_only, how)
    }

    /// The response to the request that has validated this one. `headers` are the [refreshed](Self::refreshed) ones.
    pub(super) fn validated_response(
        &self,
        headers: HeaderMap,
        conditions: &Conditions,
        times: Times,
    ) -> Response<Option<Bytes>> {
        let age = freshness::age(&headers, times).as_secs();
        self.build_response(headers, age, conditions, false, CacheStatus::Revalidated)
    }

    fn build_response(
        &self,
        headers: HeaderMap,
        age: u64,
        conditions: &Conditions,
        head_only: bool,
        how: CacheStatus,
    ) -> Response<Option<Bytes>> {
        let (mut head, ()) = Response::new(()).into_parts();
        (head.status, head.headers) = (self.stored_head.status, headers);
        let mut body = (!head_only && !self.body.is_empty()).then(|| self.body.clone());
        if conditions.match_response(head.status, &head.headers) {
            conditions::not_modified(&mut head);
            body = None;
        }
        head.headers.insert(header::AGE, HeaderValue::from(age));
        status::append(&mut head.headers, how);
        Response::from_parts(head, body)
    }
}

impl Drop for StoredResponse {
    fn drop(&mut self) {
        self.stored_head.service.metrics.cached.drops(self.bytes());
    }
}

/// Seconds since 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Whether a header is stored with its response. `Age` is computed for every response, `RateLimit` is about one client,
/// and the last two are for one connection or one client of a proxy (RFC 9111, 3.1). Other hop-by-hop headers were
/// removed before.
fn is_stored(name: &HeaderName) -> bool {
    let not = ["age", "ratelimit", "ratelimit-policy", "proxy-authentication-info", "trailer"];
    !not.contains(&name.as_str())
}
