//! One answer that is kept: for whom it is right, and what becomes of it when it is given.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode, response};

use super::ResponseBody;
use super::changes::Standing;
use super::conditions::{self, Conditions};
use super::forwarding::Forwarding;
use super::freshness::{self, Terms, Times, own};
use super::lists::{self, Quoting};
use super::status::{self, CacheStatus};
use crate::service::Service;
use lodge_base::budget::Room;
use lodge_manifest::cache::{Edition, Rules};

/// Bytes that an answer takes besides its headers and its body: maps, counts, what the library keeps.
const OVERHEAD: usize = 1 << 10;

/// Bytes that a header takes besides its name and value.
const PER_HEADER: usize = 128;

/// The head of an answer that may be kept, and what is known of who asked for it.
pub(super) struct Draft {
    edition: Edition,
    /// When it was asked for.
    standing: Standing,
    service: Arc<Service>,
    terms: Terms,
    status: StatusCode,
    headers: HeaderMap,
    /// How the request came.
    forwarding: Forwarding,
    /// What the request has where `Vary` looks.
    vary: Vec<(HeaderName, Vec<HeaderValue>)>,
}

/// An answer that is kept, whole.
pub(super) struct Kept {
    draft: Draft,
    /// Shared with who is being given it, and so is its room.
    body: Bytes,
    /// Of the head.
    room: Room,
    /// When it was stored or last asked for, in seconds since 1970.
    used: AtomicU64,
}

/// Bytes, and the room that they take.
struct Housed {
    bytes: Vec<u8>,
    _room: Room,
}

impl AsRef<[u8]> for Housed {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A body that gives its room back when the last who has it is done. `room` is for all that is allocated, and becomes that
/// of the body.
pub(super) fn housed(bytes: Vec<u8>, mut room: Room) -> Bytes {
    let bytes = Vec::from(bytes.into_boxed_slice());
    room.shrink(bytes.len());
    Bytes::from_owner(Housed { bytes, _room: room })
}

/// Who asks.
pub(super) struct Asker<'a> {
    /// Who is to answer.
    pub(super) edition: &'a Edition,
    /// The request's headers.
    pub(super) headers: &'a HeaderMap,
    /// How the request came.
    pub(super) forwarding: &'a Forwarding,
    /// The request says who its client is.
    pub(super) personal: bool,
    /// When.
    pub(super) standing: Standing,
}

/// Whether a request says who its client is: then only what says itself that it is for everybody may be shared. Besides
/// credentials and cookies, the headers by which its service tells clients apart do.
pub(super) fn is_personal(headers: &HeaderMap, names: &[HeaderName]) -> bool {
    [header::AUTHORIZATION, header::COOKIE].iter().chain(names).any(|name| headers.contains_key(name))
}

impl Draft {
    /// The answer with this head, if it may be kept.
    pub(super) fn of(
        asker: &Asker<'_>,
        service: &Arc<Service>,
        head: &response::Parts,
        rules: Rules,
        times: Times,
    ) -> Option<Self> {
        let terms = Terms::of(asker.headers, head, rules, times)?;
        if asker.personal && !terms.shared {
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
            let values = asker.headers.get_all(&name).iter().filter_map(own).collect();
            (name, values)
        };
        Some(Self {
            edition: asker.edition.clone(),
            standing: asker.standing.clone(),
            service: Arc::clone(service),
            terms,
            status: head.status,
            headers,
            forwarding: asker.forwarding.clone(),
            vary: vary.into_iter().map(values).collect(),
        })
    }

    /// Bytes that it takes without its body.
    pub(super) fn bytes(&self) -> usize {
        let header = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + PER_HEADER;
        let vary = self.vary.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
        OVERHEAD + self.forwarding.len() + self.headers.iter().chain(vary).map(header).sum::<usize>()
    }

    /// The answer, now that its body is here; `room` is that of its head.
    pub(super) fn with(mut self, body: Bytes, room: Room) -> Kept {
        if !matches!(self.status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT) {
            // Also for HEAD, whose own body says nothing.
            self.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        self.service.figures.cached.keeps(room.bytes() + body.len());
        let used = AtomicU64::new(seconds(self.terms.received()));
        Kept { draft: self, body, room, used }
    }

    /// Whether it stands for a stored response from now on.
    pub(super) fn replaces(&self, other: &Kept) -> bool {
        let other = &other.draft;
        let outdates = self.edition != other.edition || self.standing != other.standing;
        let alike = self.forwarding == other.forwarding && self.vary == other.vary;
        self.edition.name == other.edition.name && (outdates || alike)
    }
}

impl Kept {
    /// Who made it.
    pub(super) fn edition(&self) -> &Edition {
        &self.draft.edition
    }

    /// When it was asked for.
    pub(super) fn standing(&self) -> &Standing {
        &self.draft.standing
    }

    /// On what terms it is kept.
    pub(super) fn terms(&self) -> &Terms {
        &self.draft.terms
    }

    /// Its headers, as they were stored.
    pub(super) fn headers(&self) -> &HeaderMap {
        &self.draft.headers
    }

    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        self.room.bytes() + self.body.len()
    }

    /// The headers that it varies by.
    pub(super) fn varies_by(&self) -> impl Iterator<Item = &HeaderName> {
        self.draft.vary.iter().map(|(name, _)| name)
    }

    /// Whether it is an answer to this, fresh or not.
    pub(super) fn answers(&self, asker: &Asker<'_>) -> bool {
        let draft = &self.draft;
        let same = |(name, values): &(HeaderName, Vec<HeaderValue>)| asker.headers.get_all(name).iter().eq(values);
        let current = draft.edition == *asker.edition && draft.standing == asker.standing;
        let shared = draft.terms.shared || !asker.personal;
        current && shared && draft.forwarding == *asker.forwarding && draft.vary.iter().all(same)
    }

    /// Its head, and for whom it is right.
    pub(super) fn draft(&self) -> &Draft {
        &self.draft
    }

    /// A request asks for it.
    pub(super) fn used(&self, now: SystemTime) {
        self.used.store(seconds(now), Relaxed);
    }

    /// How long no request has asked for it.
    pub(super) fn unused(&self, now: SystemTime) -> Duration {
        Duration::from_secs(seconds(now).saturating_sub(self.used.load(Relaxed)))
    }

    /// Its head with what a 304 has brought, but for what describes the body, which stays (RFC 9111, 3.2).
    pub(super) fn refreshed(&self, news: &HeaderMap) -> response::Parts {
        let (mut head, ()) = Response::new(()).into_parts();
        (head.status, head.headers) = (self.draft.status, self.draft.headers.clone());
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

    /// The same body under this head.
    pub(super) fn renewed(&self, draft: Draft, room: Room) -> Self {
        draft.with(self.body.clone(), room)
    }

    /// A response to a request: whole, its head, or word that the client has it already.
    pub(super) fn give<R: ResponseBody>(
        &self,
        conditions: &Conditions,
        head_only: bool,
        how: CacheStatus,
        now: SystemTime,
    ) -> Response<R> {
        let (headers, age) = (self.draft.headers.clone(), self.draft.terms.age(now));
        self.give_as(headers, age, conditions, head_only, how)
    }

    /// The response to the request that has validated it, with a head that a 304 has [refreshed](Self::refreshed).
    pub(super) fn give_validated<R: ResponseBody>(
        &self,
        headers: HeaderMap,
        conditions: &Conditions,
        times: Times,
    ) -> Response<R> {
        let age = freshness::age(&headers, times).as_secs();
        self.give_as(headers, age, conditions, false, CacheStatus::Revalidated)
    }

    fn give_as<R: ResponseBody>(
        &self,
        headers: HeaderMap,
        age: u64,
        conditions: &Conditions,
        head_only: bool,
        how: CacheStatus,
    ) -> Response<R> {
        let (mut head, ()) = Response::new(()).into_parts();
        (head.status, head.headers) = (self.draft.status, headers);
        let mut body = (!head_only && !self.body.is_empty()).then(|| self.body.clone());
        if conditions.hold(head.status, &head.headers) {
            conditions::not_modified(&mut head);
            body = None;
        }
        head.headers.insert(header::AGE, HeaderValue::from(age));
        status::append(&mut head.headers, how);
        Response::from_parts(head, R::stored(body))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.draft.service.figures.cached.drops(self.bytes());
    }
}

/// Seconds since 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Whether a header is stored with its response. `Age` is counted anew, a rate is one client's, and the last two are for
/// one connection or client of a proxy (RFC 9111, 3.1); others of that kind never come this far.
fn is_stored(name: &HeaderName) -> bool {
    let not = ["age", "ratelimit", "ratelimit-policy", "proxy-authentication-info", "trailer"];
    !not.contains(&name.as_str())
}
