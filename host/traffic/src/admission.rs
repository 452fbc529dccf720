//! Decides whether a request may run now. A [`Permit`] is the proof that it may.
//!
//! The checks, in this order, each for the route before the service:
//!
//! 1. `allow` and `deny`: is the client's address allowed?
//! 2. [`rate`]: is the request within the rate limit?
//! 3. [`breaker`]: is the service's circuit breaker closed?
//! 4. [`shedding`]: load shedding: is the host overloaded for this request's priority?
//! 5. [`Concurrency`]: one slot of the service's `limits.in_flight`, so that a slow service cannot use up the host,
//!    then one of the host's `engine.instances`, so that the instance pool always has room. Both queues are bounded in
//!    length and in time. A service can have an [`adaptive`] number of slots.
//!
//! Cheap, definitive checks come first. A rate token is not returned when a later check refuses the request. A service
//! without policies needs only the two slots.
//!
//! A permit is held until the response is complete, not only until its head. A complete response that waits for a slow
//! client holds no permit; `listener.unsent` bounds it instead. The breaker and the adaptive limit learn when the head
//! is there, because a stream may go on for hours after that. See [`Permit::record_response`].

pub mod adaptive;
pub mod breaker;
pub mod client_memory;
mod concurrency;
mod permit;
mod policy_set;
mod policy_status;
pub mod rate;
pub mod request_view;
pub mod shedding;
mod time_limit;

use std::iter;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adaptive::Adaptive;
use breaker::BreakerState;
pub use concurrency::{Concurrency, Slot};
pub use lodge_manifest::clients::Clients;
pub use lodge_manifest::policies::Policies;
pub use lodge_manifest::policies::Priority;
use permit::{AdaptiveSlots, PolicyState};
pub use permit::{Permit, Upload, Verdict, client_caused_timeout};
use policy_set::PolicySet;
pub use policy_status::PolicyStatus;
pub use rate::{ClusterRates, Rate};
pub use request_view::RequestView;
pub use shedding::{LoadLevel, Shedding};
pub use time_limit::TimeLimit;

use lodge_base::config::limits::Limits;

/// The limits that all services of a host share.
#[derive(Debug)]
pub struct SharedLimits {
    /// The slots of `engine.instances` and their queue.
    pub slots: Arc<Concurrency>,
    /// Load shedding, for when the host is short of slots.
    pub shedding: Shedding,
    /// The rate limits that hold for the cluster of the host.
    pub rates: Arc<ClusterRates>,
}

/// The checks and slots of one service.
#[derive(Debug)]
pub struct Admission {
    name: Arc<str>,
    service: Arc<Concurrency>,
    shared_limits: Arc<SharedLimits>,
    limits: (usize, usize, Duration),
    policies: PolicySet,
    /// The policies of each route, by the route's number; empty when no route has policies.
    routes: Vec<PolicySet>,
    adaptive: Option<(lodge_manifest::adaptive::Settings, Arc<Adaptive>)>,
    /// The adaptive limit of the previous version, where this version has none: requests that it admitted still report
    /// to it.
    retired: Option<Arc<Adaptive>>,
    /// The service has no policies, so no check is necessary.
    plain: bool,
}

/// The reason why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The client's address is not allowed.
    #[error("this client address is not allowed")]
    Client,
    /// The client is over the rate limit.
    #[error("too many requests")]
    Rate(Box<rate::RateStatus>),
    /// The breaker is open, for at least this long.
    #[error("the service is failing")]
    Breaker(Duration),
    /// The host is overloaded for this request's priority.
    #[error("the service is overloaded")]
    Shed,
    /// The queue is full.
    #[error("the service is overloaded")]
    QueueFull,
    /// The request waited as long as `queue_wait` allows.
    #[error("the service is overloaded")]
    QueueTimeout,
}

impl SharedLimits {
    /// Returns the shared limits with `slots`, all of them free.
    pub fn new(slots: Arc<Concurrency>) -> Self {
        Self { shedding: Shedding::new(Arc::clone(&slots)), slots, rates: Arc::default() }
    }
}

impl Admission {
    /// Returns the admission of a service with these limits and policies.
    ///
    /// The state of `previous` (rates, breakers, slots in use) carries over. `another` says that another component, or
    /// other replicas, serve from now on: then breakers start anew. Nothing changes for the service before
    /// [`Admission::activate`].
    pub fn new(
        name: &Arc<str>,
        (limits, terms): (&Limits, &Policies),
        shared_limits: &Arc<SharedLimits>,
        previous: Option<(&Self, bool)>,
        now: Instant,
    ) -> Self {
        let (known, another) = previous.map_or((None, false), |(known, another)| (Some(known), another));
        let rates = &shared_limits.rates;
        let before = known.map(|known| &known.policies);
        let policies = PolicySet::new((name, ""), rates, &terms.service, before, another, now);
        let of = |route: &str| known?.routes.iter().find(|policies| policies.route == route);
        let routes = terms.routes.iter().filter(|_| terms.has_routes());
        let set = |(at, of_it): &(String, _)| PolicySet::new((name, at), rates, of_it, of(at), another, now);
        let routes: Vec<_> = routes.map(set).collect();
        let adaptive = terms.adaptive.map(|settings| {
            let known = known.and_then(|known| known.adaptive.as_ref()).map(|(_, adaptive)| Arc::clone(adaptive));
            (settings, known.unwrap_or_else(|| Arc::new(Adaptive::new(settings, limits.in_flight, now))))
        });
        let retired = known.and_then(|known| known.adaptive.as_ref()).filter(|_| adaptive.is_none());
        let service = known.map_or_else(
            || Arc::new(Concurrency::new(limits.in_flight, limits.queue, limits.queue_wait)),
            |known| Arc::clone(&known.service),
        );
        Self {
            name: Arc::clone(name),
            service,
            shared_limits: Arc::clone(shared_limits),
            limits: (limits.in_flight, limits.queue, limits.queue_wait),
            plain: policies.is_empty() && routes.is_empty() && adaptive.is_none(),
            policies,
            routes,
            retired: retired.map(|(_, adaptive)| Arc::clone(adaptive)),
            adaptive,
        }
    }

    /// Applies this version's limits and settings, also to the state that it shares with the previous version.
    pub fn activate(&self) {
        let (slots, queue, wait) = self.limits;
        let rates = self.routes.iter().chain([&self.policies]).filter_map(|policies| policies.rate.as_ref());
        rates.for_each(|rate| rate.activate(Instant::now()));
        let breakers = self.routes.iter().chain([&self.policies]).filter_map(|policies| policies.breaker.as_ref());
        breakers.filter_map(|breaker| breaker.activate()).for_each(|change| permit::log_change(&self.name, change));
        if let Some(retired) = &self.retired {
            retired.reconfigure(lodge_manifest::adaptive::Settings { latency: Duration::MAX, floor: slots }, slots);
        }
        let adapted = self.adaptive.as_ref().map(|(settings, adaptive)| adaptive.reconfigure(*settings, slots));
        self.service.resize(adapted.unwrap_or(slots));
        self.service.set_queue(queue, wait);
    }

    /// Runs every check, then waits for a slot within bounds. `now` is when the request arrived.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn admit(&self, view: &RequestView<'_>, now: Instant) -> Result<Permit, Refusal> {
        let state = if self.plain { None } else { self.check_policies(view, now)? };
        self.acquire_slots(view, state, now).await
    }

    /// Admits a request once more that was admitted before and has to be sent again. It takes no second rate token.
    ///
    /// # Errors
    /// When a breaker has opened since, or when there is no slot.
    pub async fn admit_again(&self, view: &RequestView<'_>, now: Instant) -> Result<Permit, Refusal> {
        let state = if self.plain { None } else { self.enter_breakers(view, PolicyState::default(), now)? };
        self.acquire_slots(view, state, now).await
    }

    async fn acquire_slots(
        &self,
        view: &RequestView<'_>,
        state: Option<Box<PolicyState>>,
        now: Instant,
    ) -> Result<Permit, Refusal> {
        if let Some((_, adaptive)) = self.adaptive.as_ref().filter(|_| self.service.free() == 0)
            && let Some(slots) = adaptive.raise_if_silent(now)
        {
            self.service.resize(slots);
        }
        if self.shared_limits.shedding.sheds(self.priority(view)) {
            return Err(Refusal::Shed);
        }
        let service = self.service.acquire().await?;
        let host = self.shared_limits.slots.acquire().await?;
        Ok(Permit::new(service, host, state, now))
    }

    /// Checks only the client's address: for responses that need no slot.
    ///
    /// # Errors
    /// When the address is not allowed.
    pub fn check_client(&self, view: &RequestView<'_>) -> Result<(), Refusal> {
        if self.plain || view.inside {
            return Ok(());
        }
        let policy_sets = self.policy_sets(view);
        if policy_sets.clone().all(|policies| policies.clients.admits_all()) {
            return Ok(());
        }
        let admits = |client| policy_sets.clone().all(|policies| policies.clients.admits(client));
        if admits(view.client) && view.claimed.is_none_or(admits) { Ok(()) } else { Err(Refusal::Client) }
    }

    /// Takes slots without waiting and without policies, for background work such as mirrored requests. It may use at
    /// most half of the host's slots.
    ///
    /// # Errors
    /// When no slot is free.
    pub fn try_admit(&self, now: Instant) -> Result<Permit, Refusal> {
        let slots = &self.shared_limits.slots;
        if slots.taken() * 2 >= slots.size() {
            return Err(Refusal::QueueFull);
        }
        let service = self.service.try_acquire()?;
        let host = slots.try_acquire()?;
        Ok(Permit::new(service, host, None, now))
    }

    /// Returns the policies that apply to a request: those of its route, then those of its service.
    fn policy_sets(&self, view: &RequestView<'_>) -> impl Iterator<Item = &PolicySet> + Clone {
        self.routes.get(view.route).into_iter().chain(iter::once(&self.policies))
    }

    fn priority(&self, view: &RequestView<'_>) -> Priority {
        if self.plain {
            return Priority::default();
        }
        self.policy_sets(view).find_map(|policies| policies.priority).unwrap_or_default()
    }

    fn check_policies(&self, view: &RequestView<'_>, now: Instant) -> Result<Option<Box<PolicyState>>, Refusal> {
        let policy_sets = self.policy_sets(view);
        self.check_client(view)?;
        let mut state = PolicyState::default();
        for (policies, status) in policy_sets.zip(&mut state.rate_statuses) {
            if let Some(rate) = &policies.rate {
                *status = Some(rate.take(view, now).map_err(|status| Refusal::Rate(Box::new(status)))?);
            }
        }
        self.enter_breakers(view, state, now)
    }

    /// Passes the breakers, and collects what has to be recorded when the request ends.
    fn enter_breakers(
        &self,
        view: &RequestView<'_>,
        mut state: PolicyState,
        now: Instant,
    ) -> Result<Option<Box<PolicyState>>, Refusal> {
        let policy_sets = self.policy_sets(view);
        for (policies, pass) in policy_sets.zip(&mut state.passes) {
            if let Some(breaker) = &policies.breaker {
                *pass = Some(breaker.admit(now).map_err(Refusal::Breaker)?);
            }
        }
        state.adaptive = self
            .adaptive
            .as_ref()
            .map(|(_, adaptive)| AdaptiveSlots { adaptive: Arc::clone(adaptive), slots: Arc::clone(&self.service) });
        state.name = Some(Arc::clone(&self.name));
        Ok(state.is_needed().then(|| Box::new(state)))
    }

    /// Returns the number of requests of the service that are in flight.
    pub fn in_flight(&self) -> usize {
        self.service.taken()
    }

    /// Returns the number of requests that wait for a slot of the service. Requests that wait for a slot of the host
    /// are not counted.
    pub fn queued(&self) -> usize {
        self.service.queued()
    }

    /// Returns the number of slots that the service has now.
    pub fn slots(&self) -> usize {
        self.service.size()
    }

    /// Returns the worst state among the service's breakers; `None` when it has none.
    pub fn breaker_state(&self, now: Instant) -> Option<BreakerState> {
        let positions = self.routes.iter().chain([&self.policies]).filter_map(|policies| policies.state(now));
        positions.max_by_key(|position| *position as u8)
    }

    /// Returns the number of keys that its rate limits track; `None` when no limit is by key.
    pub fn keys(&self, now: Instant) -> Option<usize> {
        let keys = self.routes.iter().chain([&self.policies]).filter_map(|policies| policies.rate.as_ref()?.keys(now));
        keys.reduce(|one, other| one + other)
    }
}

#[cfg(test)]
mod tests;
