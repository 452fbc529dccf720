//! What a scan has found of one service or version, and what became of it.

use std::time::{Duration, Instant};

use super::HELD;
use super::change::Change;
use super::ruling::Ruling;
use lodge_manifest::Manifest;
use lodge_manifest::refusal::Refusal;
use lodge_manifest::spec::GuestSpec;

/// The time between the second and the third attempt at files that failed for a temporary reason. Each further wait is
/// twice as long, up to [`LONGEST`]. The second attempt is at the next scan.
const FIRST: Duration = Duration::from_secs(1);

/// The longest wait between two attempts.
const LONGEST: Duration = Duration::from_secs(30);

/// The state of a service or version. `G` is a guest.
pub(super) struct LedgerEntry<G> {
    /// What is served.
    pub(super) live: Option<(GuestSpec, G)>,
    /// What is being compiled, and whether its file has settled.
    pub(super) compiling: Option<(GuestSpec, bool)>,
    /// Why the files cannot be served. The spec is there if trying again would be of no use.
    pub(super) refused: Option<(Option<GuestSpec>, Refusal)>,
    /// Since when the file is gone.
    pub(super) gone: Option<Instant>,
    /// The files on disk, if they can be compiled and differ from the served version.
    pub(super) wanted: Option<GuestSpec>,
    /// The manifest of files that cannot be compiled now: the last one that could be read, or what could be of the only one.
    pub(super) manifest: Option<Box<Manifest>>,
    /// The failed attempts at `wanted` that may be repeated, and when the next one may begin; unset until the next
    /// scan.
    pub(super) attempts: (u32, Option<Instant>),
    /// There is a manifest without a component, so there is no service.
    pub(super) orphan: bool,
    /// For a service without a manifest that has not served yet: when it was first seen.
    pub(super) bare: Option<Instant>,
    /// A manifest disables it.
    pub(super) disabled: bool,
    /// The files are still being written, or pulled.
    pub(super) changing: bool,
    /// The component is being pulled.
    pub(super) pulling: bool,
    /// A problem that leaves the files as good as they are.
    pub(super) trouble: Option<Refusal>,
    /// What was ruled on its files in the last scan.
    pub(super) ruling: Ruling,
    /// When its manifest counts as complete, though it takes requests that were denied before it. Until then that one holds.
    pub(super) opens: Option<Instant>,
    /// What will be served if a scan at least [`HELD`] later finds no manifest.
    pub(super) held: Option<(GuestSpec, G)>,
}

impl<G> Default for LedgerEntry<G> {
    fn default() -> Self {
        Self {
            live: None,
            compiling: None,
            refused: None,
            gone: None,
            wanted: None,
            manifest: None,
            attempts: (0, None),
            orphan: false,
            bare: None,
            disabled: false,
            changing: false,
            pulling: false,
            trouble: None,
            ruling: Ruling::Follow,
            opens: None,
            held: None,
        }
    }
}

impl<G> LedgerEntry<G> {
    /// Whether it was held back for long enough, without changes meanwhile.
    pub(super) fn is_due(&self, spec: &GuestSpec, now: Instant) -> bool {
        self.held.as_ref().is_some_and(|(held, _)| held == spec) && self.bare.is_none_or(|since| now >= since + HELD)
    }

    /// Discards the candidate.
    pub(super) fn drop_pending(&mut self) {
        (self.compiling, self.held, self.bare) = (None, None, None);
        (self.wanted, self.attempts) = (None, (0, None));
    }

    /// Ends the service, which is not being replaced, and returns what was served. Until the text is complete, which takes this time, its routes are those that were
    /// served.
    pub(super) fn disable(&mut self, unsure: Duration, now: Instant) -> Option<(GuestSpec, G)> {
        let live = self.live.take();
        let served = live.as_ref().filter(|_| !unsure.is_zero()).map(|(spec, _)| spec.manifest.clone());
        let mut manifest = served.map(Box::new).or(self.manifest.take());
        manifest.iter_mut().for_each(|manifest| manifest.enabled = false);
        let opens = Some(now + unsure).filter(|_| !unsure.is_zero());
        *self = Self { disabled: true, manifest, opens, ..Self::default() };
        live
    }

    /// Begins the compilation of files that are not served yet, if it may begin now.
    pub(super) fn want(
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
