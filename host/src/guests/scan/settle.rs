//! When a manifest that changed is taken: once it is whole, or gone for good. Pure: no clock, no I/O.
//!
//! Editors and tools change a file in several steps: they empty it and write it in pieces, or delete it and create it
//! again. What it said of who may use a service must hold until they have finished, and nothing in a file says that
//! they have. So what was known of a manifest stays in force until the file has not changed for [`SETTLE`] or, where
//! it was renamed into place and thus was whole from the start, for [`PLACED`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::file::Stamp;
use lodge_manifest::refusal::Refusal;

/// How long a file must not have changed before it is taken, or believed to be gone.
pub const SETTLE: Duration = Duration::from_millis(500);

/// The same for a file that was renamed into place: long enough for its directory's events to say if it was not, or
/// if it was changed after that.
pub const PLACED: Duration = Duration::from_millis(50);

/// What there is of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// No file.
    Absent,
    /// A file with this text.
    Text(Arc<str>),
    /// A file whose text cannot be had.
    Unreadable(Refusal),
}

/// One look at a manifest.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) stamp: Option<Stamp>,
    pub(super) content: Content,
    /// The stamp of the component beside it: whoever changes both is not done before both stay as they are.
    pub(super) beside: Option<Stamp>,
    /// An event says that it was renamed into place, and none since that it was written to.
    pub(super) placed: bool,
}

/// A manifest over time.
pub(super) struct Settling {
    /// What is in force.
    known: Content,
    /// Device and inode of the file that was in force last.
    file: Option<(u64, u64)>,
    /// What the last look saw, and the first look that saw just this.
    seen: Seen,
    since: Instant,
}

impl Settling {
    /// A manifest that is taken as it is: nobody has used the service yet.
    pub(super) fn taken(seen: Seen, now: Instant) -> Self {
        let file = seen.stamp.map(|stamp| stamp.file);
        Self { known: seen.content.clone(), file, seen, since: now }
    }

    /// A manifest that was not there until now.
    pub(super) fn absent(now: Instant) -> Self {
        Self::taken(Seen { stamp: None, content: Content::Absent, beside: None, placed: false }, now)
    }

    /// Takes in another look.
    pub(super) fn see(&mut self, seen: Seen, now: Instant) {
        // Time stamps are coarse: what was written twice within one tick may differ in its text only.
        let same = |a: &Seen, b: &Seen| a.stamp == b.stamp && a.content == b.content && a.beside == b.beside;
        if !same(&seen, &self.seen) {
            self.since = now;
        }
        self.seen = seen;
        if self.left(now).is_some_and(|left| left.is_zero()) {
            self.known = self.seen.content.clone();
        }
        if !self.is_changing() {
            self.file = self.seen.stamp.map(|stamp| stamp.file);
        }
    }

    /// What is in force.
    pub(super) fn known(&self) -> &Content {
        &self.known
    }

    /// What the last look saw.
    pub(super) fn seen(&self) -> &Content {
        &self.seen.content
    }

    /// What is there is not what is in force: it may be in the middle of a change.
    pub(super) fn is_changing(&self) -> bool {
        self.known != self.seen.content
    }

    /// How long what is there must stay as it is until it is taken; `None` when it is what is in force.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        if !self.is_changing() {
            return None;
        }
        // In a file that was in force before the rename was the change before. An empty one says nothing yet.
        let other = self.seen.stamp.is_some_and(|stamp| Some(stamp.file) != self.file);
        let full = matches!(&self.seen.content, Content::Text(text) if !text.trim().is_empty());
        let wait = if self.seen.placed && other && full { PLACED } else { SETTLE };
        Some(wait.saturating_sub(now.saturating_duration_since(self.since)))
    }
}
