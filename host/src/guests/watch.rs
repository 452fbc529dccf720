//! *When* to look at a directory, never what is there: events where the file system has them, and a slow poll always.
//!
//! Events are a hint that may be lost (NFS, bind mounts of some engines) or mean nothing (a touch); the poll is
//! what makes a change seen for certain.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// Ticks when a directory may have changed.
pub struct Watch {
    path: PathBuf,
    recursive: RecursiveMode,
    poll: Duration,
    changed: Arc<Notify>,
    armed: Option<Armed>,
    /// Said once that there are no events.
    complained: bool,
}

struct Armed {
    /// The directory itself, not its name: one that is replaced has to be watched anew.
    identity: (u64, u64),
    _watcher: RecommendedWatcher,
}

impl Watch {
    /// Watches the directory `path`, which may not exist yet, and ticks at least every `poll`.
    pub fn new(path: &Path, poll: Duration) -> Self {
        let recursive = RecursiveMode::NonRecursive;
        Self { path: path.to_owned(), recursive, poll, changed: Arc::default(), armed: None, complained: false }
    }

    /// Also everything below it.
    #[must_use]
    pub fn recursive(mut self) -> Self {
        self.recursive = RecursiveMode::Recursive;
        self
    }

    /// Watches the directory that is there now. Blocking. To be called *before* looking at it, so that no change
    /// falls between the look and the watch.
    pub fn arm(&mut self) {
        let identity = identity(&self.path);
        if identity.is_some() && identity == self.armed.as_ref().map(|armed| armed.identity) {
            return;
        }
        // The old watch first: two of them would tick for each other's removal.
        self.armed = None;
        let Some(identity) = identity else { return };
        match self.watcher() {
            Ok(_watcher) => self.armed = Some(Armed { identity, _watcher }),
            Err(error) if !self.complained => {
                self.complained = true;
                let poll = humantime::format_duration(self.poll);
                tracing::warn!("no events for {}, looking every {poll}: {error}", self.path.display());
            }
            Err(_) => {}
        }
    }

    /// Ready when it is time to look. A change since the last tick is never forgotten.
    pub async fn tick(&self) {
        let _ = tokio::time::timeout(self.poll, self.changed.notified()).await;
    }

    fn watcher(&self) -> notify::Result<RecommendedWatcher> {
        let changed = Arc::clone(&self.changed);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // An error, such as an overflow of the queue, may stand for any change.
            if event.is_ok_and(|event| is_reading(event.kind)) {
                return;
            }
            changed.notify_one();
        })?;
        watcher.watch(&self.path, self.recursive)?;
        Ok(watcher)
    }
}

/// What the scan itself does to files: it must not wake itself.
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

    /// Far longer than an event takes, far shorter than the poll.
    const SOON: Duration = Duration::from_secs(5);
    const NEVER: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn ticks_for_changes_and_not_for_reading() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a");
        std::fs::write(&file, "1").unwrap();
        let mut watch = Watch::new(directory.path(), NEVER);
        watch.arm();
        std::fs::write(&file, "2").unwrap();
        tokio::time::timeout(SOON, watch.tick()).await.unwrap();
        // The rest of that write's events, then silence.
        while tokio::time::timeout(Duration::from_millis(200), watch.tick()).await.is_ok() {}
        std::fs::read(&file).unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(200), watch.tick()).await.is_err(), "woken by a read");
    }

    #[tokio::test]
    async fn follows_a_directory_that_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("guests");
        let mut watch = Watch::new(&path, NEVER);
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
    async fn polls_without_events() {
        let watch = Watch::new(Path::new("/nowhere"), Duration::from_millis(50));
        tokio::time::timeout(SOON, watch.tick()).await.unwrap();
    }
}
