//! When a changed manifest takes effect: once it is complete, or gone for good. Pure: no clock, no I/O.
//!
//! Editors and tools change a file in several steps: they empty it and write it in pieces, or delete it and create it
//! again. The policies of a service must apply until they have finished, and nothing in a file tells that. So a
//! manifest stays in force until its file has not changed for [`SETTLE`] or, if it was renamed into place and so was
//! complete from the start, for [`PLACED`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::file::Stamp;
use lodge_manifest::refusal::Refusal;

/// How long a file must not change before it takes effect, or counts as removed.
pub const SETTLE: Duration = Duration::from_millis(500);

/// The same for a file that was renamed into place. Long enough for the events of its directory to tell if it was not,
/// or if it was changed since.
pub const PLACED: Duration = Duration::from_millis(50);

/// The same for a text without a part of the last one that said who may send requests, as the first part of one that is written
/// slowly.
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
    /// The file is gone or empty, and it said who may send requests.
    Withdrawn,
}

/// What a text has that says who may send requests.
type Guards = BTreeSet<String>;

/// The keys of a manifest, and of its routes, that say who may send requests.
const GUARDS: [&str; 4] = ["auth", "allow", "deny", "rules"];

impl Content {
    /// Whether it says nothing.
    fn is_blank(&self) -> bool {
        match self {
            Self::Absent => true,
            Self::Text(text) => text.trim().is_empty(),
            Self::Unreadable(_) | Self::Withdrawn => false,
        }
    }

    /// Returns what it has that says who may send requests: the keys, those of routes with their route, and each rule.
    fn guards(&self) -> Guards {
        let mut guards = Guards::new();
        let Self::Text(text) = self else { return guards };
        let Ok(keys) = text.parse::<toml::Table>() else { return guards };
        let mut add = |place: &str, keys: &toml::Table| {
            for (name, value) in GUARDS.iter().filter_map(|name| Some((name, keys.get(*name)?))) {
                if *value != toml::Value::Boolean(false) {
                    guards.insert(format!("{place} {name}"));
                }
                // Each is a table of its own, between which a text may end.
                if let ("rules", Some(rules)) = (*name, value.as_array()) {
                    guards.extend(rules.iter().map(|rule| format!("{place} {name} {rule}")));
                }
            }
        };
        add("", &keys);
        let routes = keys.get("routes").and_then(toml::Value::as_array).into_iter().flatten();
        for route in routes.filter_map(toml::Value::as_table) {
            add(&route.get("path").map(ToString::to_string).unwrap_or_default(), route);
        }
        guards
    }

    /// Whether it is the first part of another text.
    fn begins(&self, other: &Self) -> bool {
        let (Self::Text(part), Self::Text(text)) = (self, other) else { return false };
        part.len() < text.len() && text.starts_with(&**part)
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
    /// The content on disk that was put in force; another one than `known` if that is withdrawn.
    taken: Content,
    /// What the last text in force had about who may send requests.
    guards: Guards,
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
        let (known, guards) = (seen.content.clone(), seen.content.guards());
        Self { taken: known.clone(), known, guards, file, seen, since: now }
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
            self.take();
        }
        if !self.is_changing() {
            self.file = self.seen.stamp.map(|stamp| stamp.file);
        }
    }

    /// Puts the content on disk in force. A manifest that says who may send requests is not undone by a file that is gone or empty
    /// for a moment longer than an editor takes, as in a slow copy: only by another text, or with its component.
    fn take(&mut self) {
        self.taken = self.seen.content.clone();
        let withdrawn = !self.guards.is_empty() && self.taken.is_blank() && self.seen.beside.is_some();
        self.known = if withdrawn { Content::Withdrawn } else { self.taken.clone() };
        if !withdrawn && !matches!(self.known, Content::Unreadable(_)) {
            self.guards = self.known.guards();
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
        self.taken != self.seen.content
    }

    /// How long the content on disk must stay unchanged until it takes effect; `None` if it is in force.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        if !self.is_changing() {
            return None;
        }
        // A file that was in force before the rename may be complete in its previous version only. An empty file says
        // nothing yet.
        let other = self.seen.stamp.is_some_and(|stamp| Some(stamp.file) != self.file);
        let blank = self.seen.content.is_blank();
        let wait = match () {
            () if self.seen.placed && other && !blank => PLACED,
            () if !blank && !self.guards.is_subset(&self.seen.content.guards()) => OPENS,
            () if !blank && !self.guards.is_empty() && self.seen.content.begins(&self.known) => OPENS,
            () => SETTLE,
        };
        Some(wait.saturating_sub(now.saturating_duration_since(self.since)))
    }
}
