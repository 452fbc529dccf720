//! A request that goes to its service on behalf of the cache, and what becomes of the answer: it is kept, it renews or
//! ends what is kept, or what is kept stands for it.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::header::HeaderMap;
use http::{Request, Response, StatusCode, request};

use super::changes::Standing;
use super::conditions::{self, Conditions};
use super::flights::Lead;
use super::forwarding::Forwarding;
use super::freshness::{self, Times};
use super::kept::{Asker, Draft, Kept};
use super::recorder::{Recorder, promised};
use super::status::{self, CacheStatus};
use super::store::Key;
use super::{Found, ResponseBody, Responses};
use crate::error::RequestError;
use crate::service::Service;
use lodge_base::telemetry::metrics::CacheOutcome;
use lodge_manifest::cache::{Edition, Rules};

/// A request that is on its way to its service, and what is to be done with the answer. Dropped, it was in vain.
#[must_use = "what the service says has to be told to the cache"]
pub struct Errand(Kind);

pub(super) enum Kind {
    /// Nothing: the response passes, unless it is a 304 to a request that is known to have no conditions.
    Pass { how: Option<CacheStatus>, unconditional: bool },
    /// It may change what is kept.
    Change(Change),
    /// It is to be kept.
    Keep(Box<Fetch>),
}

/// What became of a request that went to its service.
pub enum Settled<R> {
    /// This is the response, or the service's own failure.
    Done(Result<Response<R>, RequestError>),
    /// A 304 came that is about another response than the one that was asked about (RFC 9111, 4.3.4): the service is to
    /// be asked once more, without conditions.
    Again(Errand),
}

/// What is over when the service has done what it is asked for. It may have done so although nobody hears of it: then,
/// when this is dropped, it is taken for done.
pub(super) struct Change {
    what: Changed,
    /// The service is at work on it, or was.
    asked: bool,
}

/// What is kept of an answer's maker.
pub(super) enum Changed {
    /// What is kept under this key: a client asks.
    Key(Arc<Responses>, Key),
    /// What the service sees so, whatever its clients' URIs are: a guest asks.
    Path(Standing),
}

/// An answer that others may wait for.
pub(super) struct Fetch {
    pub(super) responses: Arc<Responses>,
    pub(super) lead: Lead,
    pub(super) rules: Rules,
    pub(super) edition: Edition,
    pub(super) service: Arc<Service>,
    /// As the client sent them.
    pub(super) asked: HeaderMap,
    /// They say who the client is.
    pub(super) personal: bool,
    /// How it came.
    pub(super) forwarding: Forwarding,
    /// When the service was asked.
    pub(super) requested: SystemTime,
    /// When it asked.
    pub(super) standing: Standing,
    pub(super) conditions: Conditions,
    /// What is kept, and must not be given without asking.
    pub(super) stale: Option<Arc<Kept>>,
    /// The service is asked whether that is still right.
    pub(super) validates: bool,
    /// It is asked without conditions, the client's own or others.
    pub(super) unconditional: bool,
    /// When the time of the request is up, once it was admitted.
    pub(super) deadline: Option<Instant>,
    /// The client wants no stored answer, though there is one.
    pub(super) insists: bool,
}

impl Errand {
    pub(super) fn of(kind: Kind) -> Self {
        Self(kind)
    }

    pub(super) fn found<R>(kind: Kind) -> Found<R> {
        Found::Ask(Self(kind))
    }

    /// A response of which nothing is stored, and nothing is known of its request.
    pub(super) fn none() -> Self {
        Self(Kind::Pass { how: None, unconditional: false })
    }

    /// The request was admitted, and has time until `deadline`: whatever becomes of it from now on, its service may have done
    /// what it asks for.
    pub fn begins(&mut self, deadline: Instant) {
        match &mut self.0 {
            Kind::Pass { .. } => {}
            Kind::Change(change) => change.asked = true,
            Kind::Keep(fetch) => (fetch.requested, fetch.deadline) = (fetch.responses.now(), Some(deadline)),
        }
    }

    /// When the time of the request is up; `None` for one that was not admitted, or whose response is not stored.
    pub fn deadline(&self) -> Option<Instant> {
        if let Kind::Keep(fetch) = &self.0 { fetch.deadline } else { None }
    }

    /// The head of `request` without conditions, for the case that it has to be sent [again](Settled::Again).
    pub fn unconditional<B>(&self, request: &Request<B>) -> Option<request::Parts> {
        let Kind::Keep(fetch) = &self.0 else { return None };
        fetch.validates.then(|| {
            let (mut head, ()) = Request::new(()).into_parts();
            (head.method, head.uri, head.version) =
                (request.method().clone(), request.uri().clone(), request.version());
            head.headers = request.headers().clone();
            conditions::clear(&mut head.headers);
            head
        })
    }

    /// What becomes of the request, now that its service was asked. A failure stays one, unless a stored response may
    /// stand for it.
    pub fn settle<R: ResponseBody>(self, result: Result<Response<R>, RequestError>, request_id: &str) -> Settled<R> {
        match self.0 {
            Kind::Pass { how, unconditional } => Settled::Done(believed(result, unconditional).map(|mut response| {
                how.into_iter().for_each(|how| status::append(response.headers_mut(), how));
                response
            })),
            Kind::Change(change) => {
                change.end(result.as_ref().map_or_else(may_be_done, is_no_error));
                Settled::Done(result)
            }
            Kind::Keep(fetch) => fetch.settle(result, request_id),
        }
    }
}

impl Change {
    /// Nothing is changed before the request [begins](Errand::begins).
    pub(super) fn of(what: Changed) -> Self {
        Self { what, asked: false }
    }

    /// It is known how it ended.
    fn end(mut self, done: bool) {
        self.asked &= done;
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        match &self.what {
            _ if !self.asked => {}
            Changed::Key(responses, key) => {
                responses.flights.doom_key(key, || responses.store.remove(key));
            }
            Changed::Path(standing) => standing.note(),
        }
    }
}

impl Fetch {
    fn settle<R: ResponseBody>(
        mut self: Box<Self>,
        result: Result<Response<R>, RequestError>,
        request_id: &str,
    ) -> Settled<R> {
        let result = believed(result, self.unconditional);
        let now = self.responses.now();
        let times = Times { requested: self.requested, received: now };
        let serves = |kept: &&Arc<Kept>| fails(&result) && !self.insists && kept.terms().serves_on_error(now);
        if let Some(kept) = self.stale.as_ref().filter(serves) {
            if let Err(error) = &result {
                self.service.record_failure(error, request_id, false);
            }
            self.count(CacheOutcome::Stale);
            let given = kept.give(&self.conditions, false, CacheStatus::Hit(kept.terms().left(now)), now);
            // While others are given what is stale, one of them at a time may well find out whether the service is back.
            if !kept.terms().serves_meanwhile(now) {
                self.lead.barren();
            }
            return Settled::Done(Ok(given));
        }
        let response = match result {
            Ok(response) => response,
            Err(error) => {
                self.count(CacheOutcome::Miss);
                self.lead.barren();
                return Settled::Done(Err(error));
            }
        };
        let validated = self.stale.clone().filter(|_| self.validates && response.status() == StatusCode::NOT_MODIFIED);
        Settled::Done(Ok(match validated {
            Some(kept) if conditions::confirms(response.headers(), kept.headers()) => {
                self.revalidated(&kept, response.headers(), times)
            }
            Some(_) => {
                (self.validates, self.unconditional) = (false, true);
                return Settled::Again(Errand(Kind::Keep(self)));
            }
            None => self.fetched(response, times),
        }))
    }

    /// What is stored is still right.
    fn revalidated<R: ResponseBody>(self, kept: &Arc<Kept>, news: &HeaderMap, times: Times) -> Response<R> {
        self.count(CacheOutcome::Revalidated);
        let head = kept.refreshed(news);
        let draft = Draft::of(&self.asker(), &self.service, &head, self.rules, times);
        let withdrawn = self.withdraws(&head.headers);
        let given = kept.give_validated(head.headers, &self.conditions, times);
        // The body is there already, and has its room.
        let room = |draft: &Draft| self.responses.budget.room(draft.bytes() + self.lead.key().len());
        match draft.and_then(|draft| Some((room(&draft)?, draft))) {
            Some((room, draft)) => {
                let renewed = Arc::new(kept.renewed(draft, room));
                let responses = Arc::clone(&self.responses);
                self.lead.land(|key| responses.put(key, renewed));
            }
            None if withdrawn => self.withdraw(kept, times.received),
            None => self.lead.barren(),
        }
        given
    }

    /// There is a new answer.
    fn fetched<R: ResponseBody>(self, response: Response<R>, times: Times) -> Response<R> {
        self.count(CacheOutcome::Miss);
        let (mut head, mut body) = response.into_parts();
        let draft = Draft::of(&self.asker(), &self.service, &head, self.rules, times);
        let (stale, insists) = (self.stale.is_some(), self.insists);
        let holds = self.conditions.hold(head.status, &head.headers);
        let draft = draft.filter(|draft| self.responses.store.has_place(self.lead.key(), draft, times.received));
        let stored = match (draft, self.stale.clone()) {
            (Some(draft), _) => match Recorder::new(&self.responses, self.lead, draft, promised(&head.headers)) {
                Ok(recorder) => {
                    body = body.recorded(recorder);
                    true
                }
                Err(lead) => {
                    lead.barren();
                    false
                }
            },
            (None, Some(kept)) if !is_failure(head.status) && self.withdraws(&head.headers) => {
                self.withdraw(&kept, times.received);
                false
            }
            (None, _) => {
                self.lead.barren();
                false
            }
        };
        if holds {
            conditions::not_modified(&mut head);
            // The client has it; the others have not.
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

    /// Whether a response with these headers says that what is stored must not be used any more. What is said to a client
    /// that is known by its credentials is about its own response, and says nothing of the stored one, which is everybody's.
    fn withdraws(&self, headers: &HeaderMap) -> bool {
        !self.personal && freshness::forbids(headers)
    }

    /// The stored response is given to nobody any more once it is stale, whatever terms it was stored on. A fresh one is as
    /// right as its own `Cache-Control` says.
    fn withdraw(self, kept: &Arc<Kept>, now: SystemTime) {
        kept.terms().withdraw();
        let (store, fresh) = (&self.responses.store, kept.terms().is_fresh(now));
        self.lead.barren_after(|key| {
            if !fresh {
                store.remove_one(key, kept)
            }
        });
    }

    fn asker(&self) -> Asker<'_> {
        let Self { edition, asked: headers, forwarding, personal, standing, .. } = self;
        Asker { edition, headers, forwarding, personal: *personal, standing: standing.clone() }
    }

    fn count(&self, outcome: CacheOutcome) {
        self.service.figures.cached.count(outcome);
    }
}

/// A response as it is, but for a 304 to a request without conditions: that is a failure of the service, since its client has
/// nothing to use in its place (RFC 9110, 15.4.5).
fn believed<R>(result: Result<Response<R>, RequestError>, unconditional: bool) -> Result<Response<R>, RequestError> {
    match result {
        Ok(response) if unconditional && response.status() == StatusCode::NOT_MODIFIED => Err(self::unconditional()),
        result => result,
    }
}

/// The failure of a service that answers 304 to a request without conditions.
pub fn unconditional() -> RequestError {
    RequestError::BadAnswer("it answers 304 to a request without conditions".into())
}

/// What RFC 9111, 4.4, does not call an error: what was asked for was done.
fn is_no_error<R>(response: &Response<R>) -> bool {
    response.status().is_success() || response.status().is_redirection()
}

/// Whether who fails like this may have done before what it was asked for.
fn may_be_done(error: &RequestError) -> bool {
    // What is wrong with a body is only seen when somebody reads it.
    let reads = matches!(error, RequestError::BodyTooLarge | RequestError::BodyLate | RequestError::BodyBroken);
    reads || error.reached_backend()
}

/// What RFC 5861 calls an error.
fn fails<R>(result: &Result<Response<R>, RequestError>) -> bool {
    is_failure(result.as_ref().map_or_else(RequestError::status, Response::status))
}

fn is_failure(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502..=504)
}
