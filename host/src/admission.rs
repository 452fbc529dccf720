//! Whether a request may run now. Holding a [`Permit`] is the proof that it may.
//!
//! What is asked, in this order, and of each the route's before the service's:
//!
//! 1. `allow` and `deny`: may this address ask at all?
//! 2. [`rate`]: has it asked too often?
//! 3. [`breaker`]: does the service answer at all these days?
//! 4. [`shedding`]: is the host so full that there is no room for the likes of it?
//! 5. [`Concurrency`]: one place of the service's `limits.in_flight`, so that a slow service cannot take the host, then
//!    one of the host's `engine.instances`, so that the pool always has room. Both waits are bounded in length and in
//!    time. How many places a service has may be [`adaptive`].
//!
//! What costs least and is most final comes first. What a policy has taken for a request that a later one refuses stays
//! taken: to ask is to use one's rate. A service without policies costs a request the two places and nothing else.
//!
//! The permit lives until the response is complete, not until its head: a complete response waits for its client without one,
//! within `listener.unsent`. What the breaker and the adaptive limit learn from is the head, when it is there: a stream that
//! goes on for hours has answered. See [`Permit::answered`].

pub mod adaptive;
pub mod asked;
pub mod breaker;
mod concurrency;
mod gate;
mod permit;
pub mod rate;
pub mod shedding;
mod shown;

use std::iter;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use crate::manifest::clients::Clients;
pub use crate::manifest::terms::Priority;
pub use crate::manifest::terms::Terms;
use adaptive::Adaptive;
pub use asked::Asked;
use breaker::Position;
pub use concurrency::{Concurrency, Place};
use gate::Gate;
pub use permit::{Permit, Upload, Verdict};
use permit::{Regulated, Watched};
pub use rate::Rate;
pub use shedding::{Level, Shedding};
pub use shown::Shown;

use crate::config::limits::Limits;
use crate::manifest;

/// What all services share.
#[derive(Debug)]
pub struct Commons {
    /// `engine.instances`, and who waits for them.
    pub places: Arc<Concurrency>,
    /// Who is turned away when there are too few.
    pub shedding: Shedding,
}

/// What stands between a request and a service.
#[derive(Debug)]
pub struct Admission {
    name: Arc<str>,
    service: Arc<Concurrency>,
    commons: Arc<Commons>,
    limits: (usize, usize, Duration),
    gate: Gate,
    /// By the number of the route; none when no route says anything.
    routes: Vec<Gate>,
    adaptive: Option<(manifest::adaptive::Settings, Arc<Adaptive>)>,
    /// What the version before had and this one does not: answers to its requests are still to come.
    retired: Option<Arc<Adaptive>>,
    /// There are no policies, so nothing is to be asked.
    plain: bool,
}

/// Why a request was turned away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its client may not ask.
    Client,
    /// Its client has asked too often.
    Rate(rate::Standing),
    /// The breaker is open, for so long at least.
    Breaker(Duration),
    /// The host is full, and others matter more.
    Shed,
    /// Too many are waiting already.
    QueueFull,
    /// It waited as long as it may.
    QueueTimeout,
}

impl Commons {
    /// These places, and nobody in them.
    pub fn new(places: Arc<Concurrency>) -> Self {
        Self { shedding: Shedding::new(Arc::clone(&places)), places }
    }
}

impl Admission {
    /// The admission of a service with these limits and terms.
    ///
    /// What `previous` knows of the service lives on, and the requests that it has admitted still count; `another` is whether
    /// another component, or other replicas, answer from now on. Nothing changes for the service before
    /// [`Admission::takes_over`].
    pub fn new(
        name: &Arc<str>,
        (limits, terms): (&Limits, &Terms),
        commons: &Arc<Commons>,
        previous: Option<(&Self, bool)>,
        now: Instant,
    ) -> Self {
        let (known, another) = previous.map_or((None, false), |(known, another)| (Some(known), another));
        let gate = Gate::new("", &terms.service, known.map(|known| &known.gate), another, now);
        let of = |route: &str| known?.routes.iter().find(|gate| gate.route == route);
        let routes = terms.routes.iter().filter(|_| terms.has_routes());
        let routes: Vec<_> = routes.map(|(at, of_it)| Gate::new(at, of_it, of(at), another, now)).collect();
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
            commons: Arc::clone(commons),
            limits: (limits.in_flight, limits.queue, limits.queue_wait),
            plain: gate.is_open() && routes.is_empty() && adaptive.is_none(),
            gate,
            routes,
            retired: retired.map(|(_, adaptive)| Arc::clone(adaptive)),
            adaptive,
        }
    }

    /// It is what stands before its service from now on: its limits and settings hold, also for what is known already.
    pub fn takes_over(&self) {
        let (places, queue, wait) = self.limits;
        let breakers = self.routes.iter().chain([&self.gate]).filter_map(|gate| gate.breaker.as_ref());
        breakers.filter_map(|breaker| breaker.takes_over()).for_each(|change| permit::say(&self.name, change));
        if let Some(retired) = &self.retired {
            retired.settle(manifest::adaptive::Settings { latency: Duration::MAX, floor: places }, places);
        }
        let adapted = self.adaptive.as_ref().map(|(settings, adaptive)| adaptive.settle(*settings, places));
        self.service.resize(adapted.unwrap_or(places));
        self.service.queues(queue, wait);
    }

    /// Asks every policy, then waits, within bounds, for a place. `now` is when the request came.
    ///
    /// # Errors
    /// The first that refuses it, and why.
    pub async fn admit(&self, asked: &Asked<'_>, now: Instant) -> Result<Permit, Refusal> {
        let watched = if self.plain { None } else { self.pass(asked, now)? };
        self.enter(asked, watched, now).await
    }

    /// The same for a request that was admitted before and has to be sent once more: it uses its rate only once.
    ///
    /// # Errors
    /// When a breaker is open by now, or there is no place.
    pub async fn admit_again(&self, asked: &Asked<'_>, now: Instant) -> Result<Permit, Refusal> {
        let watched = if self.plain { None } else { self.watch(asked, Watched::default(), now)? };
        self.enter(asked, watched, now).await
    }

    async fn enter(&self, asked: &Asked<'_>, watched: Option<Box<Watched>>, now: Instant) -> Result<Permit, Refusal> {
        if let Some((_, adaptive)) = self.adaptive.as_ref().filter(|_| self.service.free() == 0)
            && let Some(places) = adaptive.starved(now)
        {
            self.service.resize(places);
        }
        if self.commons.shedding.sheds(self.priority(asked)) {
            return Err(Refusal::Shed);
        }
        let service = self.service.enter().await?;
        let host = self.commons.places.enter().await?;
        Ok(Permit::new(service, host, watched, now))
    }

    /// Asks only whether this client may ask at all: for answers that take no place.
    ///
    /// # Errors
    /// When it may not.
    pub fn greet(&self, asked: &Asked<'_>) -> Result<(), Refusal> {
        if self.plain || asked.inside {
            return Ok(());
        }
        let gates = self.gates(asked);
        if gates.clone().all(|gate| gate.clients.admits_all()) {
            return Ok(());
        }
        let admits = |client| gates.clone().all(|gate| gate.clients.admits(client));
        if admits(asked.client()) && asked.claimed.is_none_or(admits) { Ok(()) } else { Err(Refusal::Client) }
    }

    /// A place without a wait, and without a word from the policies: for what nobody waits for. Half of the host's
    /// places are not for that.
    ///
    /// # Errors
    /// When there is none.
    pub fn admit_aside(&self, now: Instant) -> Result<Permit, Refusal> {
        let places = &self.commons.places;
        if places.taken() * 2 >= places.size() {
            return Err(Refusal::QueueFull);
        }
        let service = self.service.enter_at_once()?;
        let host = places.enter_at_once()?;
        Ok(Permit::new(service, host, None, now))
    }

    /// The gates of a request: its route's, then its service's.
    fn gates(&self, asked: &Asked<'_>) -> impl Iterator<Item = &Gate> + Clone {
        self.routes.get(asked.route).into_iter().chain(iter::once(&self.gate))
    }

    fn priority(&self, asked: &Asked<'_>) -> Priority {
        if self.plain {
            return Priority::default();
        }
        self.gates(asked).find_map(|gate| gate.priority).unwrap_or_default()
    }

    fn pass(&self, asked: &Asked<'_>, now: Instant) -> Result<Option<Box<Watched>>, Refusal> {
        let gates = self.gates(asked);
        self.greet(asked)?;
        let mut watched = Watched::default();
        for (gate, standing) in gates.zip(&mut watched.standings) {
            if let Some(rate) = &gate.rate {
                *standing = Some(rate.take(asked, now).map_err(Refusal::Rate)?);
            }
        }
        self.watch(asked, watched, now)
    }

    /// Asks the breakers, and notes what is to be learned from the response.
    fn watch(&self, asked: &Asked<'_>, mut watched: Watched, now: Instant) -> Result<Option<Box<Watched>>, Refusal> {
        let gates = self.gates(asked);
        for (gate, pass) in gates.zip(&mut watched.passes) {
            if let Some(breaker) = &gate.breaker {
                *pass = Some(breaker.pass(now).map_err(Refusal::Breaker)?);
            }
        }
        watched.regulated = self
            .adaptive
            .as_ref()
            .map(|(_, adaptive)| Regulated { adaptive: Arc::clone(adaptive), places: Arc::clone(&self.service) });
        watched.name = Some(Arc::clone(&self.name));
        Ok(watched.is_needed().then(|| Box::new(watched)))
    }

    /// Requests of the service that are being answered.
    pub fn in_flight(&self) -> usize {
        self.service.taken()
    }

    /// Requests of the service that wait for its places. Those that have one and wait for the host's are not among them.
    pub fn queued(&self) -> usize {
        self.service.queued()
    }

    /// Places that it has now.
    pub fn places(&self) -> usize {
        self.service.size()
    }

    /// The worst position of its breakers, if it has any.
    pub fn breaker(&self, now: Instant) -> Option<Position> {
        let positions = self.routes.iter().chain([&self.gate]).filter_map(|gate| gate.position(now));
        positions.max_by_key(|position| *position as u8)
    }

    /// Keys that its rate limits remember, if it has any by key.
    pub fn keys(&self, now: Instant) -> Option<usize> {
        let keys = self.routes.iter().chain([&self.gate]).filter_map(|gate| gate.rate.as_ref()?.keys(now));
        keys.reduce(|one, other| one + other)
    }
}

#[cfg(test)]
mod tests;
