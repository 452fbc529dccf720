//! Files that are read again while the host runs, and whose content requests use. A bad file never replaces a good one.
//!
//! Files are looked at every second (`POLL`). Events of the file system would not do: a file that a Secret mounts by
//! `subPath`, and a symlink that is replaced, cause none for their path.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{sleep, timeout};

use lodge_base::files;
use lodge_base::files::FileStamp;
use lodge_base::lock::lock;

/// The time between two looks.
pub(crate) const POLL: Duration = Duration::from_secs(1);

/// The time between two readings that must have the same result, so that no file is used that is being written.
pub(crate) const SETTLE: Duration = Duration::from_millis(100);

/// The most readings until two in a row have the same result.
const READINGS: usize = 5;

/// The time that one reading may take.
const READ_TIME: Duration = Duration::from_secs(5);

/// A value that is replaced while requests use it.
#[derive(Debug)]
pub struct LiveValue<T>(ArcSwap<T>);

impl<T> LiveValue<T> {
    /// Returns a value that has not been replaced yet.
    pub(crate) fn new(value: T) -> Self {
        Self(ArcSwap::from_pointee(value))
    }

    /// Replaces the value. Requests that have loaded the one before go on with that.
    pub(crate) fn replace(&self, value: T) {
        self.0.store(Arc::new(value));
    }

    /// Returns the present value.
    pub fn load(&self) -> Guard<Arc<T>> {
        self.0.load()
    }
}

/// What a file contains.
pub(crate) trait FileContent: Sized + Send + Sync + 'static {
    /// What it is, for the log.
    const WHAT: &'static str;
    /// The most bytes of a file.
    const MOST_BYTES: u64;

    /// Reads the text of a file.
    fn read(text: &str) -> Result<Self, String>;

    /// Returns what is in force, with its verb: `3 keys are`.
    fn describe(&self) -> String;
}

/// The files of one kind that are in use. Those who name the same file share its content.
#[derive(Debug)]
pub(crate) struct LiveFiles<T>(Mutex<HashMap<PathBuf, Weak<LiveValue<T>>>>);

impl<T> Default for LiveFiles<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: FileContent> LiveFiles<T> {
    /// Returns the content of a file, which is replaced when the file changes, for as long as it is in use. `threads` bounds the
    /// threads that read, and `changed` is told of the path and of both contents before the new one is in force.
    ///
    /// # Errors
    /// One line, if the file cannot be read or is not valid.
    pub(crate) async fn follow(
        &self,
        path: &Path,
        threads: &Arc<Semaphore>,
        changed: impl Fn(&Path, &T, &T) + Send + Sync + 'static,
    ) -> Result<Arc<LiveValue<T>>, String> {
        if let Some(known) = lock(&self.0).get(path).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let file = Watched { path: path.to_owned(), most: T::MOST_BYTES, threads: Arc::clone(threads) };
        let (stamp, text) = file.settled().await?;
        let live = Arc::new(LiveValue::new(file.run(move |_| T::read(&text)).await??));
        let mut files = lock(&self.0);
        files.retain(|_, live| live.strong_count() > 0);
        files.insert(path.to_owned(), Arc::downgrade(&live));
        tokio::spawn(follow(file, Arc::downgrade(&live), stamp, changed));
        Ok(live)
    }

    /// Returns the number of files in use.
    #[cfg(test)]
    pub(crate) fn in_use(&self) -> usize {
        lock(&self.0).values().filter(|live| live.strong_count() > 0).count()
    }
}

/// A file that is looked at again and again.
struct Watched {
    path: PathBuf,
    /// The most bytes of it.
    most: u64,
    threads: Arc<Semaphore>,
}

impl Watched {
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
        let most = self.most;
        self.run(move |path| {
            let stamp = files::stamp(path);
            let text = files::read_text(path, most);
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

/// Replaces the content whenever its file changes, for as long as it is in use. What cannot be used is logged once.
async fn follow<T: FileContent>(
    file: Watched,
    live: Weak<LiveValue<T>>,
    mut stamp: Option<FileStamp>,
    changed: impl Fn(&Path, &T, &T) + Send + Sync + 'static,
) {
    let shown = format!("{} in {}", T::WHAT, file.path.display());
    let mut problem = None;
    loop {
        sleep(POLL).await;
        if live.strong_count() == 0 {
            return;
        }
        let found = match file.run(files::stamp).await {
            Ok(now) if now.is_some() && now == stamp => continue,
            Ok(_) => file.settled().await,
            Err(late) => Err(late),
        };
        let read = match found {
            Ok((now, text)) => {
                stamp = now;
                file.run(move |_| T::read(&text)).await.and_then(|read| read)
            }
            Err(why) => Err(why),
        };
        match (read, live.upgrade()) {
            (_, None) => return,
            (Ok(content), Some(live)) => {
                tracing::info!("{shown}: {} in force", content.describe());
                changed(&file.path, &live.load(), &content);
                live.replace(content);
                problem = None;
            }
            (Err(found), Some(_)) => {
                if problem.as_ref() != Some(&found) {
                    tracing::warn!("{shown}: {found}; what was read last stays in force");
                }
                problem = Some(found);
            }
        }
    }
}
