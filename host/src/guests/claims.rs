//! Which service has a route that several manifests claim.
//!
//! A claim is for a host, a path and methods, or for the host name that calls between services use. These rules hold for each, the first
//! one that decides:
//!
//! | of two services | the claim is that of |
//! |---|---|
//! | one has it | the one that has it, for as long as its manifest claims it |
//! | one takes fewer requests ([`Openness`]) | that one |
//! | one is refused | the other one |
//! | otherwise | the first by name |
//!
//! A service has what it has served, and what it denies requests on. It makes no difference what else changes in its manifest, whether
//! it can serve now, and whether the host is still starting.
//!
//! A service serves if all claims of its files are its own. Otherwise its last good version serves, whose claims are. A service that
//! cannot serve has those of its routes that are its own: no other service gets their requests. Where it would deny requests, of which
//! another service has some by their method, nobody gets the others.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use http::Method;

use lodge_manifest::guards::Openness;
use lodge_manifest::route::{Route, Segment};
use lodge_manifest::spec::{ServiceRoutes, host_of};

/// After so many rounds every service that has lost a claim is refused, whatever becomes of the one that has it.
const ROUNDS: usize = 16;

/// The services that have routes, whether or not they can serve.
#[derive(Default)]
pub(super) struct RouteOwners {
    places: HashMap<RoutePlace, Vec<RouteOwner>>,
}

/// What requests are routed by, without their methods.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum RoutePlace {
    /// A host and a path, with `None` for a parameter.
    Clients { host: Option<String>, segments: Vec<Option<String>>, below: bool },
    /// The host of calls between services.
    Calls(String),
}

/// The service that has some methods of a place; all of them, if there are none.
#[derive(Clone, Debug)]
struct RouteOwner {
    name: Arc<str>,
    methods: Vec<Method>,
    /// It has served there or denies requests, so that no other service gets it. Otherwise the next snapshot may decide anew.
    keeps: bool,
    /// It has all of these methods. Otherwise others have some, and nobody gets the rest, which it would deny.
    has: bool,
}

/// All claims of one manifest: its routes in their order, and then the host name for calls.
#[derive(Clone, Debug)]
pub(super) struct RouteClaims(Vec<RouteClaim>);

#[derive(Clone, Debug)]
struct RouteClaim {
    place: RoutePlace,
    methods: Vec<Method>,
    openness: Openness,
}

/// A service with what it claims.
pub(super) struct Claimant<'a> {
    pub(super) name: &'a str,
    /// The claims of its files.
    pub(super) wanted: RouteClaims,
    /// Those of the version that serves, if that is another one.
    pub(super) last_good: Option<RouteClaims>,
    pub(super) state: ClaimantState,
}

/// Whether a service can serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClaimantState {
    /// It can.
    Ready,
    /// Not yet or not any more: it is being compiled or is disabled.
    Waiting,
    /// Its files are refused.
    Refused,
}

/// What is served of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Served {
    /// What its files say.
    Wanted,
    /// The last good version, since its files claim this.
    LastGood(LostClaim),
    /// Nothing; if it could serve, since its files claim this.
    Nothing(Option<LostClaim>),
}

/// A claim for what another service has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LostClaim {
    /// Its number among the claims; one more than the last route is the host name for calls.
    pub(super) number: usize,
    /// The service that has it.
    pub(super) owner: Arc<str>,
}

/// The order of claims for what nobody has.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Rank<'a> {
    openness: Openness,
    is_refused: bool,
    name: &'a str,
    number: usize,
}

impl RouteClaims {
    /// The claims of the service `name` with these routes.
    pub(super) fn of(name: &str, all: &ServiceRoutes) -> Self {
        let routes = all.routes.iter().zip(&all.openness).map(|(route, openness)| RouteClaim {
            place: RoutePlace::of(route),
            methods: route.methods.clone(),
            openness: *openness,
        });
        let openness = all.openness.iter().min().copied().unwrap_or(Openness::Everybody);
        let calls = RouteClaim { place: RoutePlace::Calls(host_of(name)), methods: Vec::new(), openness };
        Self(routes.chain([calls]).collect())
    }
}

impl RoutePlace {
    fn of(route: &Route) -> Self {
        let segment = |segment: &Segment| match segment {
            Segment::Name(name) => Some(name.clone()),
            Segment::Parameter(_) => None,
        };
        let segments = route.path.segments.iter().map(segment).collect();
        Self::Clients { host: route.host.clone(), segments, below: route.path.below }
    }
}

impl RouteOwners {
    /// Returns the owners that follow these, and what is served of each claimant.
    pub(super) fn assign(&self, claimants: &[Claimant<'_>]) -> (Self, Vec<Served>) {
        let first = |claimant: &Claimant<'_>| match claimant.state {
            ClaimantState::Ready => Served::Wanted,
            ClaimantState::Waiting | ClaimantState::Refused => Served::Nothing(None),
        };
        let mut all: Vec<_> = claimants.iter().map(|claimant| (claimant, first(claimant))).collect();
        let mut owners = self.next(&all);
        for round in 0.. {
            let loss = |(claimant, served): &(&Claimant<'_>, Served)| {
                (*served == Served::Wanted).then(|| owners.loss(claimant.name, &claimant.wanted, |_| true)).flatten()
            };
            let lost: Vec<_> = all.iter().map(loss).collect();
            let losing = all.iter().zip(&lost).filter(|(_, loss)| loss.is_some());
            let losers: BTreeSet<_> = losing.map(|((claimant, _), _)| claimant.name).collect();
            if losers.is_empty() {
                break;
            }
            // A service that loses itself may lose what it has won.
            let is_sure = |loss: &LostClaim| !losers.contains(&*loss.owner);
            let any = round >= ROUNDS || !lost.iter().flatten().any(is_sure);
            for ((claimant, served), loss) in all.iter_mut().zip(lost) {
                if let Some(loss) = loss.filter(|loss| any || is_sure(loss)) {
                    *served = match claimant.last_good {
                        Some(_) => Served::LastGood(loss),
                        None => Served::Nothing(Some(loss)),
                    };
                }
            }
            owners = self.next(&all);
        }
        // Since a service was refused, the other one may have lost what it had won.
        let mut returned = false;
        for (claimant, served) in &mut all {
            let was_refused = matches!(served, Served::Nothing(Some(_)));
            if was_refused && owners.loss(claimant.name, &claimant.wanted, |_| true).is_none() {
                (*served, returned) = (Served::Wanted, true);
            }
        }
        let owners = if returned { self.next(&all) } else { owners };
        (owners, all.into_iter().map(|(_, served)| served).collect())
    }

    /// Returns the owners that follow these, if this is served.
    fn next(&self, all: &[(&Claimant<'_>, Served)]) -> Self {
        let mut next = Self::default();
        let mut ranked = Vec::new();
        for (claimant, served) in all {
            let claims = match (served, &claimant.last_good) {
                (Served::LastGood(_), Some(claims)) => claims,
                _ => &claimant.wanted,
            };
            let serves = !matches!(served, Served::Nothing(_));
            let is_refused = claimant.state == ClaimantState::Refused || matches!(served, Served::Nothing(Some(_)));
            for (number, claim) in claims.0.iter().enumerate() {
                for had in self.at(&claim.place).filter(|had| had.keeps && *had.name == *claimant.name) {
                    if let Some(methods) = common(&had.methods, &claim.methods) {
                        next.add(&claim.place, RouteOwner { methods, ..had.clone() });
                    }
                }
                let rank = Rank { openness: claim.openness, is_refused, name: claimant.name, number };
                ranked.push((rank, claim, serves));
            }
        }
        ranked.sort_by(|(one, ..), (other, ..)| one.cmp(other));
        for (rank, claim, serves) in ranked {
            let (has, denies) = (next.rival(rank.name, claim, |_| true).is_none(), rank.openness < Openness::Everybody);
            if has || denies {
                let (name, methods, keeps) = (rank.name.into(), claim.methods.clone(), has && (serves || denies));
                next.add(&claim.place, RouteOwner { name, methods, keeps, has });
            }
        }
        next
    }

    /// Whether this service has a route.
    pub(super) fn owns(&self, name: &str, route: &Route) -> bool {
        self.has_all(name, &RoutePlace::of(route), &route.methods)
    }

    /// Returns the first claim of the service `name` for what another service keeps, if there is one.
    pub(super) fn kept(&self, name: &str, claims: &RouteClaims) -> Option<LostClaim> {
        self.loss(name, claims, |owner| owner.keeps)
    }

    fn loss(&self, name: &str, claims: &RouteClaims, counts: impl Fn(&RouteOwner) -> bool) -> Option<LostClaim> {
        let lost = |(number, claim): (usize, &RouteClaim)| {
            self.rival(name, claim, &counts).map(|rival| LostClaim { number, owner: Arc::clone(&rival.name) })
        };
        claims.0.iter().enumerate().find_map(lost)
    }

    /// Returns another service that has a part of a claim, or would deny requests there.
    fn rival(&self, name: &str, claim: &RouteClaim, counts: impl Fn(&RouteOwner) -> bool) -> Option<&RouteOwner> {
        let rivals = |owner: &&RouteOwner| {
            *owner.name != *name && common(&owner.methods, &claim.methods).is_some() && counts(owner)
        };
        self.at(&claim.place).find(rivals).filter(|_| !self.has_all(name, &claim.place, &claim.methods))
    }

    fn has_all(&self, name: &str, place: &RoutePlace, methods: &[Method]) -> bool {
        let own = || self.at(place).filter(|owner| owner.has && *owner.name == *name);
        let has = |method: &Method| own().any(|owner| covers(&owner.methods, std::slice::from_ref(method)));
        own().any(|owner| owner.methods.is_empty()) || (!methods.is_empty() && methods.iter().all(has))
    }

    fn at(&self, place: &RoutePlace) -> impl Iterator<Item = &RouteOwner> {
        self.places.get(place).into_iter().flatten()
    }

    fn add(&mut self, place: &RoutePlace, owner: RouteOwner) {
        let owners = self.places.entry(place.clone()).or_default();
        let within = |one: &RouteOwner, other: &RouteOwner| {
            one.name == other.name
                && covers(&other.methods, &one.methods)
                && other.keeps >= one.keeps
                && other.has >= one.has
        };
        if !owners.iter().any(|other| within(&owner, other)) {
            owners.retain(|other| !within(other, &owner));
            owners.push(owner);
        }
    }
}

/// The methods that are in both lists, of which an empty one has all; `None` if there are none.
fn common(some: &[Method], others: &[Method]) -> Option<Vec<Method>> {
    match (some, others) {
        ([], all) | (all, []) => Some(all.to_vec()),
        _ => {
            let both: Vec<_> = some.iter().filter(|method| others.contains(method)).cloned().collect();
            Some(both).filter(|both| !both.is_empty())
        }
    }
}

/// Whether all of `others` are among these methods.
fn covers(all: &[Method], others: &[Method]) -> bool {
    all.is_empty() || (!others.is_empty() && others.iter().all(|method| all.contains(method)))
}

#[cfg(test)]
mod tests;
