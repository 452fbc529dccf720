//! When a changed manifest takes effect: once it is complete, or gone for good. Pure: no clock, no I/O.
//!
//! Editors and tools change a file in several steps: they empty it and write it in pieces, or delete it and create it
//! again. The policies of a service must apply until they have finished, and nothing in a file tells that. So a
//! manifest stays in force until its file has not changed for [`SETTLE`] or, if it was renamed into place and so was
//! complete from the start, for [`PLACED`]. What may open a service is said here ([`Settling::unsure`]), and judged by the ledger,
//! which knows what is served.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::file::Stamp;
use lodge_manifest::refusal::Refusal;

/// How long a file must not change before it takes effect, or counts as removed.
pub const SETTLE: Duration = Duration::from_millis(500);

/// The same for a file that was renamed into place. Long enough for the events of its directory to tell if it was not,
/// or if it was changed since.
pub const PLACED: Duration = Duration::from_millis(50);

/// The same for a text by which requests are taken that were denied before it, as by the first part of one that is written slowly.
pub(super) const OPENS: Duration = Duration::from_secs(5);

/// The content of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// There is no file.
    Absent,
    /// The text of the file.
    Text(Arc<str>),
    /// The file is unreadable.
    Unreadable(Refusal),
}

impl Content {
    /// Whether it says nothing.
    pub(super) fn is_blank(&self) -> bool {
        match self {
            Self::Absent => true,
            Self::Text(text) => text.trim().is_empty(),
            Self::Unreadable(_) => false,
        }
    }
}

/// The state of a manifest at one scan.
#[derive(Clone, Debug)]
pub(super) struct ManifestState {
    pub(super) stamp: Option<Stamp>,
    pub(super) content: Content,
    /// The stamp of the component beside it. An edit of both is not finished before both stay unchanged.
    pub(super) beside: Option<Stamp>,
    /// An event says that it was renamed into place, and none that it was written to since.
    pub(super) placed: bool,
}

/// A manifest over several scans.
pub(super) struct Settling {
    /// The content in force.
    known: Content,
    /// It was renamed into place, or no request had used the service before it.
    whole: bool,
    /// The device and inode of the file that was in force last.
    file: Option<(u64, u64)>,
    /// The state at the last scan, and the first scan with that state.
    seen: ManifestState,
    since: Instant,
}

impl Settling {
    /// A manifest that takes effect at once, since no request has used the service yet.
    pub(super) fn taken(seen: ManifestState, now: Instant) -> Self {
        let file = seen.stamp.map(|stamp| stamp.file);
        Self { known: seen.content.clone(), whole: true, file, seen, since: now }
    }

    /// A manifest that did not exist until now.
    pub(super) fn absent(now: Instant) -> Self {
        Self::taken(ManifestState { stamp: None, content: Content::Absent, beside: None, placed: false }, now)
    }

    /// Applies the state at another scan.
    pub(super) fn see(&mut self, seen: ManifestState, now: Instant) {
        // Timestamps are coarse: two writes within one tick may differ in the text only.
        let same =
            |a: &ManifestState, b: &ManifestState| a.stamp == b.stamp && a.content == b.content && a.beside == b.beside;
        if !same(&seen, &self.seen) {
            self.since = now;
        }
        self.seen = seen;
        if self.left(now).is_some_and(|left| left.is_zero()) {
            self.whole = self.is_whole();
            self.known = self.seen.content.clone();
        }
        if !self.is_changing() {
            self.file = self.seen.stamp.map(|stamp| stamp.file);
        }
    }

    /// The content in force.
    pub(super) fn known(&self) -> &Content {
        &self.known
    }

    /// The content at the last scan.
    pub(super) fn seen(&self) -> &Content {
        &self.seen.content
    }

    /// Whether the content on disk differs from the content in force, and so may be incomplete.
    pub(super) fn is_changing(&self) -> bool {
        self.known != self.seen.content
    }

    /// How long the content on disk must stay unchanged until it takes effect; `None` if it is in force.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        if !self.is_changing() {
            return None;
        }
        let wait = if self.is_whole() { PLACED } else { SETTLE };
        Some(wait.saturating_sub(now.saturating_duration_since(self.since)))
    }

    /// How long the content in force may still turn out to be the first part of another.
    pub(super) fn unsure(&self, now: Instant) -> Duration {
        let wait = if self.whole { Duration::ZERO } else { OPENS };
        wait.saturating_sub(now.saturating_duration_since(self.since))
    }

    /// Whether the content on disk was complete from the start. A file that was in force before the rename may be complete in its
    /// previous version only, and an empty file says nothing yet.
    fn is_whole(&self) -> bool {
        let other = self.seen.stamp.is_some_and(|stamp| Some(stamp.file) != self.file);
        self.seen.placed && other && !self.seen.content.is_blank()
    }
}
