//! The difference between the files on disk and the served versions, and the actions that follow. Pure: no clock, no I/O.
//!
//! A service keeps its last good version until its file is gone or a better version is ready. Whatever the order of
//! directory states, compilations and failures is, the result is what a restart would serve, plus the last good
//! versions of broken files.

mod change;
mod guard;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::guests::scan::{FileState, ScannedService};
use lodge_manifest::digest::Digest;
use lodge_manifest::refusal::Refusal;
use lodge_manifest::spec::{GuestSpec, split};

pub use change::Change;
use guard::{Formers, Ruling};

/// How long a file must be gone before its service is removed, so that tools that replace a file by deleting and
/// creating it lose no request.
pub const GONE: Duration = Duration::from_millis(500);

/// The time between the second and the third attempt at files that failed for a temporary reason. Each further wait is
/// twice as long, up to [`LONGEST`]. The second attempt is at the next scan.
pub const FIRST: Duration = Duration::from_secs(1);

/// The longest wait between two attempts.
pub const LONGEST: Duration = Duration::from_secs(30);

/// How long a new service without a manifest is held back after its component was first seen, since someone who copies
/// both may copy the component first. It is compiled meanwhile, which takes about as long.
pub const HELD: Duration = Duration::from_millis(80);

/// The state of every service. `G` is a guest.
pub struct Ledger<G> {
    services: BTreeMap<String, LedgerEntry<G>>,
    formers: Formers,
}

struct LedgerEntry<G> {
    /// What is served.
    live: Option<(GuestSpec, G)>,
    /// What is being compiled, and whether its file has settled.
    compiling: Option<(GuestSpec, bool)>,
    /// Why the files cannot be served. The spec is there if trying again would be of no use.
    refused: Option<(Option<GuestSpec>, Refusal)>,
    /// Since when the file is gone.
    gone: Option<Instant>,
    /// The files on disk, if they can be compiled and differ from the served version.
    wanted: Option<GuestSpec>,
    /// The failed attempts at `wanted` that may be repeated, and when the next one may begin; unset until the next
    /// scan.
    attempts: (u32, Option<Instant>),
    /// There is a manifest without a component, so there is no service.
    orphan: bool,
    /// For a service without a manifest that has not served yet: when it was first seen.
    bare: Option<Instant>,
    /// The files are still being written, or pulled.
    changing: bool,
    /// The component is being pulled.
    pulling: bool,
    /// A problem that leaves the files as good as they are.
    trouble: Option<Refusal>,
    /// What was ruled on its files in the last scan.
    ruling: Ruling,
    /// When its manifest counts as complete, though it takes requests that were denied before it.
    opens: Option<Instant>,
    /// What will be served if a scan at least [`HELD`] later finds no manifest.
    held: Option<(GuestSpec, G)>,
}

/// A service that cannot serve.
pub struct Absent<'a> {
    /// The service.
    pub name: &'a str,
    /// Its files, if they are readable.
    pub spec: Option<&'a GuestSpec>,
    /// Why it cannot serve; `None` while it is being compiled.
    pub refusal: Option<&'a Refusal>,
}

impl<G> Default for LedgerEntry<G> {
    fn default() -> Self {
        Self {
            live: None,
            compiling: None,
            refused: None,
            gone: None,
            wanted: None,
            attempts: (0, None),
            orphan: false,
            bare: None,
            changing: false,
            pulling: false,
            trouble: None,
            ruling: Ruling::Follow,
            opens: None,
            held: None,
        }
    }
}

impl<G> Default for Ledger<G> {
    fn default() -> Self {
        Self { services: BTreeMap::new(), formers: Formers::default() }
    }
}

impl<G: Clone> Ledger<G> {
    /// Applies the result of a scan. Returns the files to compile, and the changes that take effect at once.
    pub fn see(&mut self, found: BTreeMap<String, ScannedService>, now: Instant) -> (Vec<GuestSpec>, Vec<Change>) {
        let (mut wanted, mut changes) = (Vec::new(), Vec::new());
        for (name, service) in &mut self.services {
            if !found.contains_key(name) {
                service.drop_pending();
                (service.changing, service.refused, service.wanted) = (false, None, None);
                (service.pulling, service.trouble) = (false, None);
                (service.gone, service.opens) = (service.gone.or(Some(now)), None);
            }
        }
        self.formers.leave(|name| !found.contains_key(name));
        let mut arrived = Vec::new();
        for (name, scanned) in found {
            let ruling = self.rule(&name, &scanned);
            let service = self.services.entry(name.clone()).or_default();
            let ScannedService { state, settled, touched, bare, trouble, unsure, .. } = scanned;
            service.opens = (ruling == Ruling::Wait).then(|| now + unsure);
            let (state, settled) = match ruling.clone() {
                Ruling::Follow => (state, settled),
                Ruling::Refuse(refusal) => (FileState::Refused(refusal), true),
                Ruling::Wait => (FileState::Changing, settled),
            };
            service.ruling = ruling;
            (service.pulling, service.trouble) = (matches!(state, FileState::Pulling), trouble);
            let was_orphan = std::mem::replace(&mut service.orphan, matches!(state, FileState::Orphan(_)));
            service.changing = match state {
                FileState::Changing | FileState::Pulling => true,
                FileState::Refused(_) | FileState::Orphan(_) => !settled,
                FileState::Ready(_) | FileState::Disabled => false,
            };
            match state {
                FileState::Ready(spec) => {
                    service.gone = None;
                    // The component exists now, but may take long to compile.
                    service.refused.take_if(|_| was_orphan);
                    // A component that is being copied differs in every scan, so the time counts from the last
                    // difference.
                    let held = service.held.as_ref().is_some_and(|(held, _)| *held == spec);
                    let first = !held && service.wanted.as_ref() != Some(&spec);
                    let since = if first { now } else { service.bare.unwrap_or(now) };
                    service.bare = Some(since).filter(|_| bare && service.live.is_none());
                    if service.is_due(&spec, now) {
                        arrived.extend(service.held.take());
                    } else {
                        if service.live.is_none() {
                            self.formers.want(&name, &spec.manifest);
                        }
                        changes.extend(service.want(&name, spec, (settled, touched), now, &mut wanted));
                    }
                }
                FileState::Refused(refusal) => {
                    service.gone = None;
                    service.drop_pending();
                    // The files may be half written.
                    if settled {
                        service.refused = Some((None, refusal));
                    }
                }
                FileState::Disabled => {
                    // A manifest disables the service, so it is not being replaced.
                    self.formers.disable(&name);
                    changes.extend(service.live.take().map(|_| Change::Removed(name)));
                    *service = LedgerEntry { gone: Some(now), ..LedgerEntry::default() };
                }
                FileState::Changing | FileState::Pulling => {
                    // What is served stays under the previous manifest, and what is new waits for the next one. The
                    // component may be the one of earlier attempts: they still count, so that its machine code is kept.
                    service.gone = None;
                    (service.compiling, service.held, service.bare) = (None, None, None);
                    service.attempts.1 = None;
                    // The component exists now.
                    service.refused.take_if(|_| was_orphan);
                }
                FileState::Orphan(refusal) => {
                    service.drop_pending();
                    // The manifest may be removed in a moment, too. A service that still serves is not reported before
                    // it is gone for good.
                    let lasts = service.live.is_none() || now >= *service.gone.get_or_insert(now) + GONE;
                    service.refused = (settled && lasts).then_some((None, refusal));
                }
            }
        }
        changes.extend(arrived.into_iter().filter_map(|(spec, guest)| self.serve(spec, guest)));
        changes.extend(self.expire(now));
        (wanted, changes)
    }

    /// Rules on the files of a service or version. A version has the policies of its service, and so waits for them.
    fn rule(&self, name: &str, scanned: &ScannedService) -> Ruling {
        let live = |name: &str| self.services.get(name)?.live.as_ref().map(|(spec, _)| spec);
        let own = self.formers.rule(name, scanned, live(name));
        let (service, Some(_)) = split(name) else { return own };
        let of = self.services.get(service).map_or(&Ruling::Follow, |service| &service.ruling);
        own.beside(scanned, of, live(service))
    }

    /// Applies the result of a compilation, unless it is not wanted any more.
    pub fn compiled(&mut self, spec: GuestSpec, result: Result<G, Refusal>) -> Option<Change> {
        let service = self.services.get_mut(&spec.name)?;
        let settled = service.compiling.take_if(|(wanted, _)| *wanted == spec)?.1;
        let guest = match result.map_err(|refusal| refusal.of(spec.digest)) {
            Ok(guest) => guest,
            Err(refusal) if !settled || refusal.passing => {
                // Tried again at a later scan. Reported now only if the file is not being written.
                service.attempts = (service.attempts.0.saturating_add(1), None);
                service.refused = settled.then_some((None, refusal));
                return None;
            }
            Err(refusal) => {
                service.refused = Some((Some(spec), refusal));
                return None;
            }
        };
        (service.refused, service.wanted, service.attempts) = (None, None, (0, None));
        if service.bare.is_some() {
            service.held = Some((spec, guest));
            return None;
        }
        self.serve(spec, guest)
    }

    /// Serves `guest` from now on.
    fn serve(&mut self, spec: GuestSpec, guest: G) -> Option<Change> {
        let service = self.services.get_mut(&spec.name)?;
        service.bare = None;
        let before = service.live.replace((spec.clone(), guest));
        if let Some((old, _)) = &before {
            self.formers.replaced(old);
        }
        Some(match before {
            Some((old, _)) if old.digest == spec.digest => Change::Reconfigured(spec),
            Some((old, _)) => Change::Replaced(spec, old.digest),
            None => match self.take_renamed(&spec) {
                Some(old) => Change::Renamed(spec, old),
                None => Change::Added(spec),
            },
        })
    }

    /// Tells that what is live was published, except what was refused beside other services: of these the former ones stay.
    pub fn published(&mut self, is_served: impl Fn(&GuestSpec) -> bool) {
        let live = |name: &str| self.services.get(name).and_then(|service| service.live.as_ref());
        self.formers.retain(|name| live(name).is_none_or(|(spec, _)| !is_served(spec)));
    }

    /// The services that are served, by name.
    pub fn live(&self) -> impl Iterator<Item = G> + use<'_, G> {
        self.services.values().filter_map(|service| Some(service.live.as_ref()?.1.clone()))
    }

    /// The refusals of all files.
    pub fn refusals(&self) -> Vec<Refusal> {
        let refused = self.services.values().filter_map(|service| Some(&service.refused.as_ref()?.1));
        refused.chain(self.services.values().filter_map(|service| service.trouble.as_ref())).cloned().collect()
    }

    /// The services in the directory that cannot serve.
    pub fn absent(&self) -> impl Iterator<Item = Absent<'_>> {
        let services = self.services.iter().filter(|(_, service)| service.live.is_none() && !service.orphan);
        services.filter_map(|(name, service)| {
            let spec = service.compiling.as_ref().map(|(spec, _)| spec).or(service.wanted.as_ref());
            let refusal = service.refused.as_ref().map(|(_, refusal)| refusal);
            // A service that is tried again stays refused until it serves.
            let known = refusal.is_some() || service.compiling.is_some() || service.held.is_some() || service.pulling;
            known.then_some(Absent { name, spec, refusal })
        })
    }

    /// Whether this is to be compiled, and was not until now.
    pub fn wants(&self, spec: &GuestSpec) -> bool {
        let compiling = self.services.get(&spec.name).and_then(|service| service.compiling.as_ref());
        compiling.is_some_and(|(wanted, _)| wanted == spec)
    }

    /// Whether a component is being tried, or will be tried again.
    pub fn tries(&self, digest: Digest) -> bool {
        let tried = |service: &&LedgerEntry<G>| service.compiling.is_some() || service.attempts.0 > 0;
        let mut wanted = self.services.values().filter(tried).filter_map(|service| service.wanted.as_ref());
        wanted.any(|spec| spec.digest == digest)
    }

    /// Whether every service is served or refused, and none is being written, compiled, tried again or held back.
    pub fn is_settled(&self) -> bool {
        self.services.values().all(|service| {
            let tried = service.wanted.is_none() || service.refused.is_some();
            tried && service.compiling.is_none() && service.held.is_none() && !service.changing
        })
    }

    /// When to scan again even without a change: to remove a service whose file is gone, to repeat an attempt, or to
    /// serve a service without a manifest.
    pub fn next_look(&self) -> Option<Instant> {
        let leaving = self.services.values().filter(|service| service.live.is_some());
        let retried = self.services.values().filter(|service| service.compiling.is_none());
        let held = self.services.values().filter(|service| service.held.is_some());
        let gone = leaving.filter_map(|service| Some(service.gone? + GONE));
        let due = held.filter_map(|service| Some(service.bare? + HELD));
        let opens = self.services.values().filter_map(|service| service.opens);
        gone.chain(due).chain(opens).chain(retried.filter_map(|service| service.attempts.1)).min()
    }

    fn expire(&mut self, now: Instant) -> Vec<Change> {
        let mut removed = Vec::new();
        self.services.retain(|name, service| {
            let gone = service.gone.is_some_and(|since| service.live.is_none() || now >= since + GONE);
            if let Some((spec, _)) = service.live.take_if(|_| gone) {
                self.formers.remove(spec);
                removed.push(Change::Removed(name.clone()));
            }
            // A refusal stays as long as its file.
            !gone || service.refused.is_some()
        });
        removed
    }

    /// The service that served the same component until its file was removed, if there is one.
    fn take_renamed(&mut self, spec: &GuestSpec) -> Option<String> {
        let same = |service: &LedgerEntry<G>| {
            service.gone.is_some() && service.live.as_ref().is_some_and(|(old, _)| old.digest == spec.digest)
        };
        let name = self.services.iter().find(|(_, service)| same(service)).map(|(name, _)| name.clone())?;
        self.services.remove(&name);
        Some(name)
    }
}

impl<G> LedgerEntry<G> {
    /// Whether it was held back for long enough, without changes meanwhile.
    fn is_due(&self, spec: &GuestSpec, now: Instant) -> bool {
        self.held.as_ref().is_some_and(|(held, _)| held == spec) && self.bare.is_none_or(|since| now >= since + HELD)
    }

    /// Discards the candidate.
    fn drop_pending(&mut self) {
        (self.compiling, self.held, self.bare) = (None, None, None);
        (self.wanted, self.attempts) = (None, (0, None));
    }

    fn want(
        &mut self,
        name: &str,
        spec: GuestSpec,
        (settled, touched): (bool, bool),
        now: Instant,
        wanted: &mut Vec<GuestSpec>,
    ) -> Option<Change> {
        if self.live.as_ref().is_some_and(|(live, _)| *live == spec) {
            (self.compiling, self.wanted, self.attempts) = (None, None, (0, None));
            return match self.refused.take() {
                Some(_) => Some(Change::Recovered(spec)),
                None => touched.then(|| Change::Touched(name.to_owned())),
            };
        }
        if matches!(&self.refused, Some((Some(refused), _)) if *refused == spec) && !touched {
            return None;
        }
        if self.held.as_ref().is_some_and(|(held, _)| *held == spec) {
            return None;
        }
        self.held = None;
        if self.wanted.as_ref() != Some(&spec) || touched {
            (self.wanted, self.attempts) = (Some(spec.clone()), (0, None));
        }
        if let Some((_, was_settled)) = self.compiling.as_mut().filter(|(compiling, _)| *compiling == spec) {
            *was_settled = settled;
        } else if self.may_begin(now) {
            self.compiling = Some((spec.clone(), settled));
            wanted.push(spec);
        }
        None
    }

    /// Whether the wait since the last attempt is over.
    fn may_begin(&mut self, now: Instant) -> bool {
        let (attempts, next) = &mut self.attempts;
        let wait = match *attempts {
            0 | 1 => return true,
            more => FIRST.saturating_mul(1 << (more - 2).min(5)).min(LONGEST),
        };
        now >= *next.get_or_insert(now + wait)
    }
}

#[cfg(test)]
mod tests;
