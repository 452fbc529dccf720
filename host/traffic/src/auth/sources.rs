//! The files that credentials are verified with. They are read again while the host runs, and a bad file never replaces
//! a good one.
//!
//! Files are looked at every second (`POLL`). Events of the file system would not do: a file that a Secret mounts by
//! `subPath`, and a symlink that is replaced, cause none for their path.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{sleep, timeout};

use super::Authentication;
use super::api_keys::{self, KeyRing};
use lodge_base::files;
use lodge_base::lock::lock;

/// The time between two looks.
const POLL: Duration = Duration::from_secs(1);

/// The time between two readings that must have the same result, so that no file is used that is being written.
const SETTLE: Duration = Duration::from_millis(100);

/// The most readings until two in a row have the same result.
const READINGS: usize = 5;

/// The time that one reading may take.
const READ_TIME: Duration = Duration::from_secs(5);

/// The most threads that read. One in a file system that hangs stays until that responds.
const THREADS: usize = 64;

/// What the services of a host verify credentials with. Services that name the same file share it.
#[derive(Debug)]
pub struct CredentialSources {
    files: Mutex<HashMap<PathBuf, Weak<LiveValue<KeyRing>>>>,
    threads: Arc<Semaphore>,
}

/// A value that is replaced while requests use it.
#[derive(Debug)]
pub struct LiveValue<T>(ArcSwap<T>);

impl<T> LiveValue<T> {
    /// Returns a value that has not been replaced yet.
    pub(super) fn new(value: T) -> Self {
        Self(ArcSwap::from_pointee(value))
    }

    /// Replaces the value. Requests that have loaded the one before go on with that.
    pub(super) fn replace(&self, value: T) {
        self.0.store(Arc::new(value));
    }

    /// Returns the present value.
    pub(super) fn load(&self) -> Guard<Arc<T>> {
        self.0.load()
    }
}

impl Default for CredentialSources {
    fn default() -> Self {
        Self { files: Mutex::default(), threads: Arc::new(Semaphore::new(THREADS)) }
    }
}

impl CredentialSources {
    /// Reads what these checks need, and goes on reading it for as long as they are in use. Files are relative to
    /// `directory`.
    ///
    /// # Errors
    /// One line, if a file cannot be read or is not valid.
    pub async fn open(&self, checks: &mut Authentication, directory: &Path) -> Result<(), String> {
        for check in checks.checks() {
            if let Some(file) = &check.settings.api_keys {
                let path = directory.join(file);
                let keys = self.keys(&path).await.map_err(|why| format!("auth.api_keys: {}: {why}", path.display()))?;
                check.keys = Some(keys);
            }
        }
        Ok(())
    }

    /// Returns the API keys in a file.
    async fn keys(&self, path: &Path) -> Result<Arc<LiveValue<KeyRing>>, String> {
        if let Some(known) = lock(&self.files).get(path).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let file = Watched { path: path.to_owned(), threads: Arc::clone(&self.threads) };
        let (stamp, text) = file.settled().await?;
        let live = Arc::new(LiveValue::new(KeyRing::read(&text)?));
        let mut files = lock(&self.files);
        files.retain(|_, live| live.strong_count() > 0);
        files.insert(path.to_owned(), Arc::downgrade(&live));
        tokio::spawn(follow(file, Arc::downgrade(&live), stamp));
        Ok(live)
    }
}

/// What changes when a file changes: device and inode, time of change, and size.
type FileStamp = (u64, u64, i64, i64, u64);

/// A file that is looked at again and again.
struct Watched {
    path: PathBuf,
    threads: Arc<Semaphore>,
}

impl Watched {
    fn stamp(path: &Path) -> Option<FileStamp> {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec(), metadata.size()))
    }

    /// Reads the file until two readings in a row are the same.
    async fn settled(&self) -> Result<(Option<FileStamp>, String), String> {
        let mut last = self.read().await?;
        for _ in 0..READINGS {
            sleep(SETTLE).await;
            let next = self.read().await?;
            if next == last {
                return Ok(next);
            }
            last = next;
        }
        Err("it changes again and again while it is read".into())
    }

    async fn read(&self) -> Result<(Option<FileStamp>, String), String> {
        self.run(|path| {
            let stamp = Self::stamp(path);
            let text = files::read_text(path, api_keys::MOST_BYTES);
            text.map(|text| (stamp, text)).map_err(|error| format!("it cannot be read: {error}"))
        })
        .await
        .and_then(|read| read)
    }

    /// Runs `look` on a thread that may wait.
    async fn run<R: Send + 'static>(&self, look: impl FnOnce(&Path) -> R + Send + 'static) -> Result<R, String> {
        const LATE: &str = "it cannot be read: its file system does not respond";
        let permit = timeout(READ_TIME, Arc::clone(&self.threads).acquire_owned()).await;
        let Ok(Ok(permit)) = permit else { return Err(LATE.into()) };
        let path = self.path.clone();
        let thread: JoinHandle<R> = spawn_blocking(move || {
            let looked = look(&path);
            drop(permit);
            looked
        });
        match timeout(READ_TIME, thread).await {
            Ok(Ok(looked)) => Ok(looked),
            Ok(Err(_)) => Err("it cannot be read: the reader has panicked".into()),
            Err(_) => Err(LATE.into()),
        }
    }
}

/// Replaces the keys whenever their file changes, for as long as they are in use. What cannot be used is logged once.
async fn follow(file: Watched, live: Weak<LiveValue<KeyRing>>, mut stamp: Option<FileStamp>) {
    let shown = file.path.display().to_string();
    let mut problem = None;
    loop {
        sleep(POLL).await;
        if live.strong_count() == 0 {
            return;
        }
        let found = match file.run(Watched::stamp).await {
            Ok(now) if now.is_some() && now == stamp => continue,
            Ok(_) => file.settled().await,
            Err(late) => Err(late),
        };
        let read = found.and_then(|(now, text)| {
            stamp = now;
            KeyRing::read(&text)
        });
        match (read, live.upgrade()) {
            (_, None) => return,
            (Ok(keys), Some(live)) => {
                tracing::info!("API keys in {shown}: {} are in force", keys.count());
                live.replace(keys);
                problem = None;
            }
            (Err(found), Some(_)) => {
                if problem.as_ref() != Some(&found) {
                    tracing::warn!("API keys in {shown}: {found}; the last good keys stay in force");
                }
                problem = Some(found);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn key(name: &str, digit: &str) -> String {
        format!("[[key]]\nname = '{name}'\nsha256 = '{}'\n", digit.repeat(64))
    }

    async fn until(what: &str, mut reached: impl FnMut() -> bool) {
        let waited = timeout(PATIENCE, async {
            while !reached() {
                sleep(Duration::from_millis(10)).await;
            }
        });
        waited.await.unwrap_or_else(|_| panic!("not reached: {what}"));
    }

    /// A file is followed for as long as it is used, through links as well, and services share it.
    #[tokio::test]
    async fn files_are_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (first, link) = (directory.path().join("1.toml"), directory.path().join("keys.toml"));
        fs::write(&first, key("ada", "a")).unwrap();
        std::os::unix::fs::symlink(&first, &link).unwrap();
        let sources = CredentialSources::default();
        let live = sources.keys(&link).await.unwrap();
        assert!(Arc::ptr_eq(&live, &sources.keys(&link).await.unwrap()));
        assert_eq!(live.load().count(), 1);
        // A bad file, and none at all, leave the last keys in force.
        fs::write(&first, "[[key]]\nname = 'ada'").unwrap();
        sleep(POLL + SETTLE * 4).await;
        assert_eq!(live.load().count(), 1);
        fs::remove_file(&link).unwrap();
        sleep(POLL + SETTLE * 4).await;
        assert_eq!(live.load().count(), 1);
        let second = directory.path().join("2.toml");
        fs::write(&second, key("ada", "a") + &key("bob", "b")).unwrap();
        std::os::unix::fs::symlink(&second, &link).unwrap();
        until("the keys of the second file", || live.load().count() == 2).await;
        // No keys are keys: this revokes all.
        fs::write(&second, "").unwrap();
        until("no keys", || live.load().count() == 0).await;
        drop(live);
        until("nothing follows the file", || lock(&sources.files).values().all(|live| live.strong_count() == 0)).await;
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.toml");
        let problem = async || CredentialSources::default().keys(&path).await.unwrap_err();
        assert!(problem().await.starts_with("it cannot be read: "));
        fs::write(&path, vec![b'#'; api_keys::MOST_BYTES as usize + 1]).unwrap();
        assert!(problem().await.contains("over 4.0 MiB"), "{}", problem().await);
        fs::write(&path, "[[key]]").unwrap();
        assert!(problem().await.contains("missing field"));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(problem().await.contains("it is not a regular file"));
    }
}
