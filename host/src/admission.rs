//! Whether a request may run now. Holding a [`Permit`] is the proof that it may.
//!
//! What is view, in this order, and of each the route's before the service's:
//!
//! 1. [`clients`]: may this address ask at all?
//! 2. [`rate`]: has it view too often?
//! 3. [`breaker`]: does the service answer at all these days?
//! 4. [`shedding`]: is the host so full that there is no room for the likes of it?
//! 5. [`Concurrency`]: one slot of the service's `limits.in_flight`, so that a slow service cannot take the host, then
//!    one of the host's `engine.instances`, so that the pool always has room. Both waits are bounded in length and in
//!    time. How many slots a service has may be [`adaptive`].
//!
//! What costs least and is most final comes first. What a policy has taken for a request that a later one refuses stays
//! taken: to ask is to use one's rate. A service without policies costs a request the two slots and nothing else.
//!
//! The permit lives until the response is complete, not until its head: a complete response waits for its client without one,
//! within `listener.unsent`. What the breaker and the adaptive limit learn from is the head, when it is there: a stream that
//! goes on for hours has answered. See [`Permit::answered`].

pub mod adaptive;
pub mod breaker;
mod concurrency;
mod permit;
mod policy_set;
mod policy_status;
pub mod rate;
pub mod request_view;
pub mod shedding;

use std::iter;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use crate::manifest::clients::Clients;
pub use crate::manifest::policies::Policies;
pub use crate::manifest::policies::Priority;
use adaptive::Adaptive;
use breaker::BreakerState;
pub use concurrency::{Concurrency, Slot};
use permit::{AdaptiveSlots, PolicyState};
pub use permit::{Permit, Upload, Verdict};
use policy_set::PolicySet;
pub use policy_status::PolicyStatus;
pub use rate::Rate;
pub use request_view::RequestView;
pub use shedding::{Level, Shedding};

use crate::config::limits::Limits;
use crate::manifest;

/// What all services share.
#[derive(Debug)]
pub struct SharedLimits {
    /// `engine.instances`, and who waits for them.
    pub slots: Arc<Concurrency>,
    /// Who is turned away when there are too few.
    pub shedding: Shedding,
}

/// What stands between a request and a service.
#[derive(Debug)]
pub struct Admission {
    name: Arc<str>,
    service: Arc<Concurrency>,
    shared_limits: Arc<SharedLimits>,
    limits: (usize, usize, Duration),
    policies: PolicySet,
    /// By the number of the route; none when no route says anything.
    routes: Vec<PolicySet>,
    adaptive: Option<(manifest::adaptive::Settings, Arc<Adaptive>)>,
    /// What the version before had and this one does not: answers to its requests are still to come.
    retired: Option<Arc<Adaptive>>,
    /// There are no policies, so nothing is to be view.
    plain: bool,
}

/// Why a request was turned away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its client may not ask.
    Client,
    /// Its client has view too often.
    Rate(rate::RateStatus),
    /// The breaker is open, for so long at least.
    Breaker(Duration),
    /// The host is full, and others matter more.
    Shed,
    /// Too many are waiting already.
    QueueFull,
    /// It waited as long as it may.
    QueueTimeout,
}

impl SharedLimits {
    /// These slots, and nobody in them.
    pub fn new(slots: Arc<Concurrency>) -> Self {
        Self { shedding: Shedding::new(Arc::clone(&slots)), slots }
    }
}

impl Admission {
    /// The admission of a service with these limits and terms.
    ///
    /// What `previous` knows of the service lives on, and the requests that it has admitted still count; `another` is whether
    /// another component, or other replicas, answer from now on. Nothing changes for the service before
    /// [`Admission::activate`].
    pub fn new(
        name: &Arc<str>,
        (limits, terms): (&Limits, &Policies),
        shared_limits: &Arc<SharedLimits>,
        previous: Option<(&Self, bool)>,
        now: Instant,
    ) -> Self {
        let (known, another) = previous.map_or((None, false), |(known, another)| (Some(known), another));
        let policies = PolicySet::new("", &terms.service, known.map(|known| &known.policies), another, now);
        let of = |route: &str| known?.routes.iter().find(|policies| policies.route == route);
        let routes = terms.routes.iter().filter(|_| terms.has_routes());
        let routes: Vec<_> = routes.map(|(at, of_it)| PolicySet::new(at, of_it, of(at), another, now)).collect();
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
            plain: policies.is_open() && routes.is_empty() && adaptive.is_none(),
            policies,
            routes,
            retired: retired.map(|(_, adaptive)| Arc::clone(adaptive)),
            adaptive,
        }
    }

    /// It is what stands before its service from now on: its limits and settings hold, also for what is known already.
    pub fn activate(&self) {
        let (slots, queue, wait) = self.limits;
        let breakers = self.routes.iter().chain([&self.policies]).filter_map(|policies| policies.breaker.as_ref());
        breakers.filter_map(|breaker| breaker.activate()).for_each(|change| permit::say(&self.name, change));
        if let Some(retired) = &self.retired {
            retired.reconfigure(manifest::adaptive::Settings { latency: Duration::MAX, floor: slots }, slots);
        }
        let adapted = self.adaptive.as_ref().map(|(settings, adaptive)| adaptive.reconfigure(*settings, slots));
        self.service.resize(adapted.unwrap_or(slots));
        self.service.set_queue(queue, wait);
    }

    /// Asks every policy, then waits, within bounds, for a slot. `now` is when the request came.
    ///
    /// # Errors
    /// The first that refuses it, and why.
    pub async fn admit(&self, view: &RequestView<'_>, now: Instant) -> Result<Permit, Refusal> {
        let state = if self.plain { None } else { self.check_policies(view, now)? };
        self.acquire_slots(view, state, now).await
    }

    /// The same for a request that was admitted before and has to be sent once more: it uses its rate only once.
    ///
    /// # Errors
    /// When a breaker is open by now, or there is no slot.
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

    /// Asks only whether this client may ask at all: for answers that take no slot.
    ///
    /// # Errors
    /// When it may not.
    pub fn check_client(&self, view: &RequestView<'_>) -> Result<(), Refusal> {
        if self.plain || view.inside {
            return Ok(());
        }
        let policy_sets = self.policy_sets(view);
        if policy_sets.clone().all(|policies| policies.clients.admits_all()) {
            return Ok(());
        }
        let admits = |client| policy_sets.clone().all(|policies| policies.clients.admits(client));
        if admits(view.client()) && view.claimed.is_none_or(admits) { Ok(()) } else { Err(Refusal::Client) }
    }

    /// A slot without a wait, and without a word from the policies: for what nobody waits for. Half of the host's
    /// slots are not for that.
    ///
    /// # Errors
    /// When there is none.
    pub fn try_admit(&self, now: Instant) -> Result<Permit, Refusal> {
        let slots = &self.shared_limits.slots;
        if slots.taken() * 2 >= slots.size() {
            return Err(Refusal::QueueFull);
        }
        let service = self.service.try_acquire()?;
        let host = slots.try_acquire()?;
        Ok(Permit::new(service, host, None, now))
    }

    /// The policy_sets of a request: its route's, then its service's.
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
                *status = Some(rate.take(view, now).map_err(Refusal::Rate)?);
            }
        }
        self.enter_breakers(view, state, now)
    }

    /// Asks the breakers, and notes what is to be learned from the response.
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

    /// Requests of the service that are being answered.
    pub fn in_flight(&self) -> usize {
        self.service.taken()
    }

    /// Requests of the service that wait for its slots. Those that have one and wait for the host's are not among them.
    pub fn queued(&self) -> usize {
        self.service.queued()
    }

    /// Places that it has now.
    pub fn slots(&self) -> usize {
        self.service.size()
    }

    /// The worst position of its breakers, if it has any.
    pub fn breaker_state(&self, now: Instant) -> Option<BreakerState> {
        let positions = self.routes.iter().chain([&self.policies]).filter_map(|policies| policies.state(now));
        positions.max_by_key(|position| *position as u8)
    }

    /// Keys that its rate limits remember, if it has any by key.
    pub fn keys(&self, now: Instant) -> Option<usize> {
        let keys = self.routes.iter().chain([&self.policies]).filter_map(|policies| policies.rate.as_ref()?.keys(now));
        keys.reduce(|one, other| one + other)
    }
}

#[cfg(test)]
mod tests;
