//! When a reference is pulled, beside others.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{AbortHandle, JoinSet};

use super::Pulls;
use crate::registry::content::PulledComponent;
use lodge_base::lock::lock;
use lodge_manifest::digest::Digest;

/// The time after which a service whose first component still arrives does not keep the host from being ready.
pub(super) const LATE: Duration = Duration::from_secs(30);

/// A reference that a manifest names.
pub(super) struct FollowedReference {
    /// What it has led to.
    pub(super) record: Option<PulledComponent>,
    /// The manifest before that, whose component may still be read.
    pub(super) previous: Option<Digest>,
    /// The manifest whose component arrives.
    pub(super) arriving: Option<Digest>,
    /// When its first component was wanted.
    pub(super) since: Instant,
    /// The first component takes long.
    pub(super) late: bool,
    /// An attempt has ended, or none is needed.
    pub(super) looked: bool,
    /// Why the last attempt failed.
    pub(super) problem: Option<String>,
    pub(super) failures: u32,
    /// When the next attempt is due; `None` while one is in progress, or if none is.
    pub(super) due: Option<Instant>,
    pub(super) running: Option<AbortHandle>,
    /// Whether the current scan has seen it.
    pub(super) seen: bool,
}

impl FollowedReference {
    pub(super) fn new(record: Option<PulledComponent>, due: Option<Instant>) -> Self {
        Self {
            record,
            previous: None,
            arriving: None,
            since: Instant::now(),
            late: false,
            looked: due.is_none(),
            problem: None,
            failures: 0,
            due,
            running: None,
            seen: false,
        }
    }

    /// Forgets what is not there any more.
    pub(super) fn repeat(&mut self) {
        (self.record, self.since, self.late) = (None, Instant::now(), false);
        if self.running.is_none() {
            self.due = Some(Instant::now());
        }
    }
}

impl Pulls {
    /// Starts what is due, as far as `pull.concurrent` allows. Returns the next time at which something is due.
    pub(super) fn begin(self: &Arc<Self>, tasks: &mut JoinSet<()>) -> Option<Instant> {
        let mut references = lock(&self.references);
        let (now, concurrent) = (Instant::now(), self.config.pull.concurrent);
        // One registry that is slow leaves one pull to the others.
        let most = concurrent.saturating_sub(1).max(1);
        let mut busy = HashMap::<String, usize>::new();
        let mut next: Option<Instant> = None;
        let mut at_next = |at: Instant| next = Some(next.map_or(at, |next| next.min(at)));
        for (reference, followed) in &mut *references {
            if followed.running.is_some() {
                *busy.entry(reference.registry.clone()).or_default() += 1;
            }
            if followed.record.is_none() && followed.problem.is_none() && !followed.late {
                let at = followed.since + LATE;
                followed.late = at <= now;
                if followed.late { self.changed.notify_one() } else { at_next(at) }
            }
        }
        let due = references.iter_mut().filter_map(|(reference, followed)| Some((followed.due?, reference, followed)));
        let mut due: Vec<_> = due.collect();
        due.sort_by_key(|(at, ..)| *at);
        for (at, reference, followed) in due {
            let of = busy.entry(reference.registry.clone()).or_default();
            if at > now {
                at_next(at);
            } else if tasks.len() < concurrent && *of < most {
                *of += 1;
                followed.due = None;
                let (this, reference) = (Arc::clone(self), reference.clone());
                followed.running = Some(tasks.spawn(async move { this.attempt(reference).await }));
            }
        }
        next
    }
}
