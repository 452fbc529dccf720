//! *When* to scan a directory, never what is in it: on events where the file system has them, and always on a slow
//! poll.
//!
//! Events are hints that may be lost (NFS, bind mounts of some engines) or mean nothing (a touch). The poll makes sure
//! that every change is seen. An event for a file that was renamed into place makes the change effective sooner.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use lodge_base::lock::lock;

/// The maximum number of names that are remembered as renamed into place. Others are treated as without events.
const PLACED: usize = 10_000;

/// Ticks when a directory may have changed.
pub struct DirectoryWatch {
    path: PathBuf,
    recursive: RecursiveMode,
    ticks: Ticks,
    /// The names of files that were renamed into place and not written to since, according to events.
    placed: Arc<Mutex<HashSet<OsString>>>,
    armed: Option<Armed>,
    /// The lack of events was logged.
    complained: bool,
}

/// The receiver of a [`DirectoryWatch`]'s ticks.
#[derive(Clone)]
pub struct Ticks {
    poll: Duration,
    changed: Arc<Notify>,
}

struct Armed {
    /// The directory itself, not its name: a new directory under the name has to be watched anew.
    identity: (u64, u64),
    _watcher: RecommendedWatcher,
}

impl DirectoryWatch {
    /// Watches the directory `path`, which may not exist yet, and ticks at least every `poll`.
    pub fn new(path: &Path, poll: Duration) -> Self {
        let (recursive, ticks) = (RecursiveMode::NonRecursive, Ticks { poll, changed: Arc::default() });
        Self { path: path.to_owned(), recursive, ticks, placed: Arc::default(), armed: None, complained: false }
    }

    /// Also watches all directories below it.
    #[must_use]
    pub fn recursive(mut self) -> Self {
        self.recursive = RecursiveMode::Recursive;
        self
    }

    /// Watches the directory that exists now. Blocking. To be called *before* a scan, so that no change is missed
    /// between the scan and the watch.
    pub fn arm(&mut self) {
        let identity = identity(&self.path);
        if identity.is_some() && identity == self.armed.as_ref().map(|armed| armed.identity) {
            return;
        }
        // Drops the old watch first: two of them would tick for each other's removal.
        self.armed = None;
        let Some(identity) = identity else { return };
        match self.watcher() {
            Ok(_watcher) => self.armed = Some(Armed { identity, _watcher }),
            Err(error) if !self.complained => {
                self.complained = true;
                let poll = humantime::format_duration(self.ticks.poll);
                tracing::warn!("cannot watch {}, so it is scanned every {poll}: {error}", self.path.display());
            }
            Err(_) => {}
        }
    }

    /// Waits until it is time to scan. A change since the last tick is never lost.
    pub async fn tick(&self) {
        self.ticks.tick().await;
    }

    /// The receiver of the ticks, for use while the watch is armed elsewhere.
    pub fn ticks(&self) -> Ticks {
        self.ticks.clone()
    }

    /// Whether the file with this name was renamed into place and not written to since, according to events. An event
    /// may arrive some milliseconds late.
    pub fn is_placed(&self, name: &OsStr) -> bool {
        lock(&self.placed).contains(name)
    }

    fn watcher(&self) -> notify::Result<RecommendedWatcher> {
        // A new set: late events of an old watch are about another directory.
        let (changed, placed) = (Arc::clone(&self.ticks.changed), Arc::clone(&self.placed));
        lock(&placed).clear();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            match &event {
                Ok(event) if is_reading(event.kind) => return,
                Ok(event) if !event.need_rescan() => place(&mut lock(&placed), event),
                // An error, such as an overflow of the queue, may stand for any change.
                _ => lock(&placed).clear(),
            }
            changed.notify_one();
        })?;
        watcher.watch(&self.path, self.recursive)?;
        Ok(watcher)
    }
}

impl Ticks {
    /// Waits until it is time to scan. A change since the last tick is never lost.
    pub async fn tick(&self) {
        let _ = tokio::time::timeout(self.poll, self.changed.notified()).await;
    }
}

/// Applies an event to the set of files that were renamed into place.
fn place(placed: &mut HashSet<OsString>, event: &notify::Event) {
    let names = event.paths.iter().filter_map(|path| path.file_name());
    match event.kind {
        EventKind::Modify(ModifyKind::Name(RenameMode::To)) if placed.len() < PLACED => {
            placed.extend(names.map(OsStr::to_owned));
        }
        // Some systems report the ends of a rename one by one. Changes of metadata do not change the content.
        EventKind::Modify(ModifyKind::Name(RenameMode::Both) | ModifyKind::Metadata(_)) => {}
        _ => names.for_each(|name| {
            placed.remove(name);
        }),
    }
}

/// Whether the event is caused by reading: a scan must not trigger itself.
fn is_reading(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Much longer than an event takes, much shorter than the poll.
    const SOON: Duration = Duration::from_secs(5);
    const NEVER: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn changes_tick_and_reads_do_not() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a");
        std::fs::write(&file, "1").unwrap();
        let mut watch = DirectoryWatch::new(directory.path(), NEVER);
        watch.arm();
        std::fs::write(&file, "2").unwrap();
        tokio::time::timeout(SOON, watch.tick()).await.unwrap();
        // The remaining events of that write, then silence.
        while tokio::time::timeout(Duration::from_millis(200), watch.tick()).await.is_ok() {}
        std::fs::read(&file).unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(200), watch.tick()).await.is_err(), "woken by a read");
    }

    /// Only a rename makes a file appear complete, and a later write ends that.
    #[tokio::test]
    async fn files_renamed_into_place_are_known() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let mut watch = DirectoryWatch::new(directory.path(), NEVER);
        watch.arm();
        let becomes = async |name: &str, placed: bool| {
            let start = std::time::Instant::now();
            while watch.is_placed(OsStr::new(name)) != placed {
                assert!(start.elapsed() < SOON, "{name} is not placed: {placed}");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let appended = |name: &str| {
            use std::io::Write;
            std::fs::File::options().append(true).open(at(name)).unwrap().write_all(b"more").unwrap();
        };
        std::fs::write(at("new"), "1").unwrap();
        std::fs::rename(at("new"), at("a")).unwrap();
        becomes("a", true).await;
        appended("a");
        becomes("a", false).await;
        std::fs::write(at("new"), "2").unwrap();
        std::fs::rename(at("new"), at("a")).unwrap();
        becomes("a", true).await;
        std::fs::remove_file(at("a")).unwrap();
        becomes("a", false).await;
        // A file that is created afterwards is written piece by piece.
        std::fs::write(at("new"), "3").unwrap();
        std::fs::rename(at("new"), at("a")).unwrap();
        becomes("a", true).await;
        std::fs::rename(at("a"), at("b")).unwrap();
        becomes("b", true).await;
        becomes("a", false).await;
        std::fs::write(at("b"), "4").unwrap();
        becomes("b", false).await;
    }

    #[tokio::test]
    async fn a_replaced_directory_is_followed() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("guests");
        let mut watch = DirectoryWatch::new(&path, NEVER);
        watch.arm();
        for _ in 0..2 {
            std::fs::create_dir(&path).unwrap();
            watch.arm();
            while tokio::time::timeout(Duration::from_millis(100), watch.tick()).await.is_ok() {}
            std::fs::write(path.join("a"), "").unwrap();
            tokio::time::timeout(SOON, watch.tick()).await.unwrap();
            std::fs::remove_dir_all(&path).unwrap();
            watch.arm();
        }
    }

    #[tokio::test]
    async fn without_events_the_poll_ticks() {
        let watch = DirectoryWatch::new(Path::new("/nowhere"), Duration::from_millis(50));
        tokio::time::timeout(SOON, watch.tick()).await.unwrap();
    }
}
