//! Answers that are kept, and given again without asking the service: a shared cache as RFC 9111 has it, for the routes
//! whose manifest says `cache`.
//!
//! A request looks here after it was routed and before it is admitted. What it finds costs no permit and no sandbox;
//! what it does not find it gets an [`Errand`] for, and [settles](Errand::settle) that with what the service said.
//! `freshness` decides by `control` what may be stored and for how long, `conditions` what a client has already,
//! `forwarding` which requests a service can tell apart by how they came, `kept` what a response becomes when it is used
//! again, `status` how that is said; `store` holds them within a `budget`, `flights` makes many requests for the same
//! one, `changes` knows what calls between services have changed, and [`recorder`] writes responses down as they go by.
//!
//! Stricter than the standard asks: `Set-Cookie` is never kept; a request with a cookie or credentials shares only what
//! says `public` or `s-maxage`; one with `Range`, `If-Match` or a body is not looked up. Not there: parts of answers
//! (206), `only-if-cached`, and asking for a newer answer behind the back of the client (`stale-while-revalidate` lets
//! all but one go on with the old one).

mod changes;
mod conditions;
mod control;
mod errand;
mod flights;
mod forwarding;
mod freshness;
#[doc(hidden)]
pub mod fuzz;
mod kept;
mod lists;
pub mod recorder;
mod seam;
mod status;
mod store;

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::{Method, Request, Response, Uri};
use http_body::Body;

use self::changes::Changes;
use self::conditions::Conditions;
use self::control::Control;
use self::errand::{Change, Changed, Fetch, Kind};
pub use self::errand::{Errand, Settled, unconditional};
use self::flights::{Flights, Joined, Lead};
use self::forwarding::Forwarding;
use self::kept::{Asker, Kept, is_personal};
pub use self::seam::{ResponseBody, Waiting};
use self::status::CacheStatus;
use self::store::{Key, Store};
use crate::service::deployment::Deployment;
use lodge_base::budget::Budget;
use lodge_base::config::limits::Limits;
use lodge_base::telemetry::metrics::CacheOutcome;
use lodge_manifest::cache::{Edition, Rules};

/// Of the budget, for what is kept. The rest is for what is being written down, or still on its way after it had to go.
const KEPT: (usize, usize) = (3, 4);

/// The answers of all services.
pub struct Responses {
    budget: Arc<Budget>,
    store: Store,
    flights: Arc<Flights>,
    changes: Changes,
    /// Bytes of one answer.
    entry: usize,
    /// The time of day: what responses say of times is in it.
    clock: fn() -> SystemTime,
}

/// What a request found.
pub enum Found<R> {
    /// An answer.
    Kept(Response<R>),
    /// Nothing that it may have.
    Ask(Errand),
}

/// An answer; or the right to ask for one, what is stale, and whether the client insists on a newer one; or, for HEAD,
/// neither.
type Looked<R> = Result<(Response<R>, CacheOutcome), Option<(Lead, Option<Arc<Kept>>, bool)>>;

impl Responses {
    /// For `memory` bytes in all and `entry` bytes an answer; `None` when there is no memory for it.
    pub fn new(memory: usize, entry: usize) -> Option<Arc<Self>> {
        let store = Store::new(memory / KEPT.1 * KEPT.0, entry).filter(|_| memory > 0)?;
        Some(Arc::new(Self {
            budget: Budget::new(memory),
            store,
            flights: Flights::new(),
            changes: Changes::new(),
            entry,
            clock: SystemTime::now,
        }))
    }

    fn now(&self) -> SystemTime {
        (self.clock)()
    }

    /// Looks for a response to `request`, which is for `uri` as it was routed, by the service's route of this number; its
    /// own URI and headers are what the service sees. Waits, no longer than the service's queue may take, for another
    /// request that asks for the same. What is to be asked of the service is made of `request`.
    pub async fn look<B: Body, R: ResponseBody>(
        self: &Arc<Self>,
        rules: Rules,
        (uri, route): (&Uri, usize),
        of: &Deployment,
        request: &mut Request<B>,
        record: &mut impl Waiting,
    ) -> Found<R> {
        let service = service_of(of);
        let (method, head_only) = (request.method(), *request.method() == Method::HEAD);
        if !method.is_safe() {
            let changed = Changed::Key(Arc::clone(self), Key::new(service, uri));
            return Errand::found(Kind::Change(Change::of(changed)));
        }
        if !rules.keep {
            return Found::Ask(Errand::none());
        }
        if !(head_only || *method == Method::GET) || bypasses(request) {
            of.service.figures.cached.count(CacheOutcome::Bypass);
            return Found::Ask(pass(request, CacheStatus::Bypass));
        }
        let key = Key::new(service, uri);
        let conditions = Conditions::of(request.headers());
        let (headers, standing) = (request.headers(), self.changes.standing(service, request.uri()));
        let forwarding = Forwarding::of(route, headers);
        let personal = is_personal(headers, &of.spec.manifest.personal);
        let asker =
            Asker { edition: &of.edition, headers, forwarding: &forwarding, personal, standing: standing.clone() };
        let began = Instant::now();
        let found = self.find(&key, &asker, of.limits(), &conditions, head_only, || record.begin_waiting()).await;
        let (lead, stale, insists) = match found {
            Ok((given, outcome)) => {
                of.service.figures.cached.count(outcome);
                return Found::Kept(given);
            }
            Err(None) => {
                of.service.figures.cached.count(CacheOutcome::Miss);
                return Found::Ask(pass(request, CacheStatus::Miss(false)));
            }
            Err(Some(missed)) => missed,
        };
        record.waited(began.elapsed());
        let asked = request.headers().clone();
        let mut validates = false;
        // Who goes alone most likely brings nothing that could be kept: what his client has is the service's business.
        if lead.is_followed() || stale.is_some() {
            conditions::clear(request.headers_mut());
            validates = stale.as_ref().is_some_and(|kept| conditions::ask(request.headers_mut(), kept.headers()));
        }
        let unconditional = !conditions::are_in(request.headers());
        let fetch = Fetch {
            responses: Arc::clone(self),
            lead,
            rules,
            edition: of.edition.clone(),
            service: Arc::clone(&of.service),
            asked,
            personal,
            forwarding,
            requested: self.now(),
            standing,
            conditions,
            stale,
            validates,
            unconditional,
            deadline: None,
            insists,
        };
        Errand::found(Kind::Keep(Box::new(fetch)))
    }

    /// Looks, and waits for who asks for the same.
    async fn find<R: ResponseBody>(
        &self,
        key: &Key,
        asker: &Asker<'_>,
        limits: &Limits,
        conditions: &Conditions,
        head_only: bool,
        mut waits: impl FnMut(),
    ) -> Looked<R> {
        let mut until = None;
        loop {
            let now = self.now();
            let variants = self.store.get(key);
            let best = variants.iter().flat_map(|variants| variants.iter()).find(|kept| kept.answers(asker));
            let give = |kept: &Kept, how| kept.give(conditions, head_only, how, now);
            best.iter().for_each(|kept| kept.used(now));
            if let Some(kept) = best.filter(|kept| kept.terms().satisfies(asker.headers, now)) {
                return Ok(match until {
                    None => (give(kept, CacheStatus::Hit(kept.terms().left(now))), CacheOutcome::Hit),
                    Some(_) => (give(kept, CacheStatus::Collapsed), CacheOutcome::Collapsed),
                });
            }
            if head_only {
                return Err(None);
            }
            // Requests are alike that agree in what answers of this URI vary by, as far as that is known.
            let varying = variants.iter().flat_map(|variants| variants.first()).flat_map(|kept| kept.varies_by());
            let values = varying.map(|name| asker.headers.get_all(name).iter().collect::<Vec<_>>());
            let (personal, came) = (asker.personal, (asker.forwarding, &asker.standing));
            let like = self.flights.like((key, asker.edition, personal, came, values.collect::<Vec<_>>()));
            // The client has words of its own on what it takes, and does not take this.
            let insists = best.is_some() && freshness::has_directives(asker.headers);
            let missed = |lead| Some((lead, best.map(Arc::clone), insists));
            match self.flights.join(key, like, if insists { 0 } else { limits.queue }, Instant::now()) {
                Joined::Lead(lead) => return Err(missed(lead)),
                Joined::Follow(flight) => {
                    if let Some(kept) = best.filter(|kept| kept.terms().serves_meanwhile(now)) {
                        let how = CacheStatus::Hit(kept.terms().left(now));
                        return Ok((give(kept, how), CacheOutcome::Stale));
                    }
                    let until = *until.get_or_insert_with(|| {
                        waits();
                        Instant::now() + limits.queue_wait
                    });
                    if tokio::time::timeout_at(until.into(), flight.landed()).await.is_err() {
                        return Err(missed(self.flights.instead_of(&flight)));
                    }
                }
            }
        }
    }

    /// Stores a response, unless it was asked for before a call that has changed it: a newer one must not go for that. False
    /// when its URI has no place for another variant.
    fn put(&self, key: Key, kept: Arc<Kept>) -> bool {
        !kept.standing().stands() || self.store.put(key, kept, self.now())
    }

    /// What is to become of the answer to a guest's call: calls are not looked up, but one that changes something ends what is
    /// kept for clients.
    pub fn called<B>(&self, of: &Deployment, request: &Request<B>) -> Errand {
        if request.method().is_safe() || of.spec.manifest.cache.is_none() {
            return Errand::none();
        }
        let standing = self.changes.standing(service_of(of), request.uri());
        Errand::of(Kind::Change(Change::of(Changed::Path(standing))))
    }

    /// Drops what is kept of a service, or of one version of it, at this path and below; says how many answers that was.
    /// What is being asked for now is not kept either.
    pub fn purge(&self, name: &str, path: &str) -> usize {
        let (service, version) = name.split_once('@').map_or((name, None), |(service, _)| (service, Some(name)));
        let of = |key: &Key| key.service() == service && key.is_below(path);
        let so = |key: &Key, edition: &Edition| of(key) && version.is_none_or(|version| *edition.name == *version);
        self.flights.doom(of, || self.store.drop_if(so))
    }

    /// Drops what is kept of editions that nobody serves any more.
    pub fn retain(&self, served: &[Edition]) {
        self.changes.retain(|name| served.iter().any(|edition| base(&edition.name) == name));
        self.flights.doom(|_| false, || self.store.drop_if(|_, edition| !served.contains(edition)));
    }
}

/// A request that goes to its service past the cache.
fn pass<B>(request: &Request<B>, how: CacheStatus) -> Errand {
    let is_get = [Method::GET, Method::HEAD].contains(request.method());
    let unconditional = is_get && !conditions::are_in(request.headers());
    Errand::of(Kind::Pass { how: Some(how), unconditional })
}

/// The service that a version is one of, or itself.
fn service_of(of: &Deployment) -> &str {
    of.spec.version_of().map_or(&*of.name, |(service, _)| service)
}

/// The same by name: `users` of `users@2`.
fn base(name: &str) -> &str {
    name.split_once('@').map_or(name, |(service, _)| service)
}

/// Whether a request asks for something that is not stored, or says that nothing is to be.
fn bypasses<B: Body>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let forbids = || Control::read(headers).is_none_or(|control| control.says("no-store"));
    conditions::OTHERS.iter().any(|name| headers.contains_key(name))
        || !request.body().is_end_stream()
        || (freshness::has_directives(headers) && forbids())
}

#[cfg(test)]
mod tests;
