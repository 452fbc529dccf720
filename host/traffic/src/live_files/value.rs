//! A value that requests use while it is replaced, and what is known of its file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use arc_swap::{ArcSwap, Guard};

use lodge_base::files::complete::WAITS;
use lodge_base::lock::lock;

/// The most services that a line of the log names.
const MOST_NAMED: usize = 5;

/// A value that is replaced while requests use it.
#[derive(Debug)]
pub struct LiveValue<T> {
    value: ArcSwap<T>,
    /// What is known of its file.
    pub(super) file: Mutex<LiveFileStatus>,
}

/// What is known of the file of a value.
#[derive(Debug, Default)]
pub(super) struct LiveFileStatus {
    path: PathBuf,
    /// Why it could not be used when it was read last.
    pub(super) problem: Option<String>,
    /// What may be mistaken in what is in force.
    pub(super) hints: Vec<String>,
    /// The services that use it, for the log. Each holds its name for as long as it does.
    pub(super) users: Vec<Weak<str>>,
}

impl<T> LiveValue<T> {
    /// Returns a value that has not been replaced yet.
    pub(crate) fn new(value: T) -> Self {
        Self { value: ArcSwap::from_pointee(value), file: Mutex::default() }
    }

    /// Returns the value of this file, with what may be mistaken in it.
    pub(super) fn of_file(value: T, path: &Path, hints: Vec<String>) -> Self {
        let file = LiveFileStatus { path: path.to_owned(), hints, ..LiveFileStatus::default() };
        Self { value: ArcSwap::from_pointee(value), file: Mutex::new(file) }
    }

    /// Replaces the value. Requests that have loaded the one before go on with that.
    pub(crate) fn replace(&self, value: T) {
        self.value.store(Arc::new(value));
    }

    /// Returns the present value.
    pub fn load(&self) -> Guard<Arc<T>> {
        self.value.load()
    }

    /// Returns why the file cannot be used now, in one line, and what becomes of that: `effect`, unless the file only waits. `None` if
    /// what it has is in force.
    pub(crate) fn problem(&self, effect: &str) -> Option<String> {
        let file = lock(&self.file);
        let effect =
            if file.problem.as_deref() == Some(WAITS) { "until then, the last good one is used" } else { effect };
        file.problem.as_ref().map(|why| format!("{why}; {effect}"))
    }

    /// Returns the same behind the path of the file.
    pub(crate) fn problem_of(&self, effect: &str) -> Option<String> {
        let problem = self.problem(effect)?;
        Some(format!("{}: {problem}", lock(&self.file).path.display()))
    }

    /// Returns the path of the file.
    pub(crate) fn path(&self) -> PathBuf {
        lock(&self.file).path.clone()
    }

    /// Returns what may be mistaken in what is in force, a line each.
    pub(crate) fn hints(&self) -> Vec<String> {
        lock(&self.file).hints.clone()
    }

    /// Names the service in the log of the file, for as long as `service` lives.
    pub(crate) fn used_by(&self, service: &Arc<str>) {
        let users = &mut lock(&self.file).users;
        users.retain(|user| user.strong_count() > 0);
        users.push(Arc::downgrade(service));
    }

    /// Returns the services that use the file, as ` of users, orders`; empty if none is known.
    pub(super) fn users(&self) -> String {
        let names: BTreeSet<_> = lock(&self.file).users.iter().filter_map(Weak::upgrade).collect();
        if names.is_empty() {
            return String::new();
        }
        let mut shown: Vec<_> = names.iter().take(MOST_NAMED).map(|name| &**name).collect();
        shown.extend((names.len() > MOST_NAMED).then_some("…"));
        format!(" of {}", shown.join(", "))
    }
}
