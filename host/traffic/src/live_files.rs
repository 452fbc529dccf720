//! Files that are read again while the host runs, and whose content requests use. A bad file never replaces a good one.
//!
//! Files are looked at every second (`POLL`). Events of the file system would not do: a file that a Secret mounts by
//! `subPath`, and a symlink that is replaced, cause none for their path.

mod followed;
mod value;
mod watched;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::sleep;

use self::followed::{FollowedFile, Looked};
pub use self::value::LiveValue;
#[cfg(test)]
pub(crate) use self::watched::SETTLE;
use self::watched::Watched;
use lodge_base::files::complete::WAITS;
use lodge_base::lock::lock;

/// The time between two looks.
pub(crate) const POLL: Duration = Duration::from_secs(1);

/// What a file has for effect that the service cannot use now.
pub(crate) const OF_SERVICE: &str = "the last good one is used, and the service will be refused at the next start";

/// The same of a file without which the host does not start.
pub(crate) const OF_HOST: &str = "the last good one is used, and the host will not start with it";

/// What a file contains.
pub(crate) trait FileContent: Sized + Send + Sync + 'static {
    /// What it is, for the log.
    const WHAT: &'static str;
    /// The most bytes of a file.
    const MOST_BYTES: u64;
    /// Whether the beginning of a text may be valid and allow more than the whole: then what was written in place
    /// has to stay. No beginning of a JSON document is one.
    const MAY_BE_CUT: bool = false;

    /// Reads the text of a file. The work for it is bounded, and not its time: on a host that is busy, a valid text may take long.
    fn read(text: &str) -> Result<Self, String>;

    /// Returns what is in force, with its verb: `3 keys are`.
    fn describe(&self) -> String;

    /// Checks the path of a file below its directory, without links.
    ///
    /// # Errors
    /// Why no such file may be read.
    fn beneath(_: &Path) -> Result<(), &'static str> {
        Ok(())
    }

    /// Returns what may be mistaken in a text that is valid, a line each.
    fn hints(_: &str) -> Vec<String> {
        Vec::new()
    }
}

/// The files of one kind that are in use. Those who name the same file share its content.
#[derive(Debug)]
pub(crate) struct LiveFiles<T> {
    live: Mutex<HashMap<PathBuf, Weak<LiveValue<T>>>>,
    /// The first content is read as it is, and may be incomplete.
    is_offline: bool,
}

impl<T> Default for LiveFiles<T> {
    fn default() -> Self {
        Self { live: Mutex::default(), is_offline: false }
    }
}

impl<T: FileContent> LiveFiles<T> {
    /// Reads files as they are from now on, for a check that serves nothing.
    pub(crate) fn set_offline(&mut self) {
        self.is_offline = true;
    }

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
        let (path, most, threads) = (path.to_owned(), T::MOST_BYTES, Arc::clone(threads));
        self.start(Watched { path, directory: None, beneath: T::beneath, most, threads }, changed).await
    }

    /// As [`follow`](Self::follow), for a path below this directory: neither `..` nor a link leads out of it.
    ///
    /// # Errors
    /// As `follow`, also if it leads out.
    pub(crate) async fn follow_beneath(
        &self,
        directory: &Path,
        path: &Path,
        threads: &Arc<Semaphore>,
    ) -> Result<Arc<LiveValue<T>>, String> {
        let (path, directory, threads) = (directory.join(path), Some(directory.into()), Arc::clone(threads));
        let file = Watched { path, directory, beneath: T::beneath, most: T::MOST_BYTES, threads };
        self.start(file, |_, _, _| {}).await
    }

    async fn start(
        &self,
        file: Watched,
        changed: impl Fn(&Path, &T, &T) + Send + Sync + 'static,
    ) -> Result<Arc<LiveValue<T>>, String> {
        if let Some(known) = lock(&self.live).get(&file.path).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let shown = file.shown::<T>();
        let mut followed = FollowedFile::new(file);
        let (content, hints) = followed.first::<T>(self.is_offline).await?;
        let mut files = lock(&self.live);
        // Another service may have waited for it as well.
        if let Some(known) = files.get(&followed.file.path).and_then(Weak::upgrade) {
            return Ok(known);
        }
        hints.iter().for_each(|hint| tracing::warn!("{shown}: {hint}"));
        let live = Arc::new(LiveValue::of_file(content, &followed.file.path, hints));
        files.retain(|_, live| live.strong_count() > 0);
        files.insert(followed.file.path.clone(), Arc::downgrade(&live));
        tokio::spawn(follow(followed, Arc::downgrade(&live), changed));
        Ok(live)
    }

    /// Returns the paths of the files that other services than this one use, as far as users are known.
    pub(crate) fn used_beside(&self, service: &str) -> Vec<PathBuf> {
        let is_other = |live: &Weak<LiveValue<T>>| {
            live.upgrade()
                .is_some_and(|live| lock(&live.file).users.iter().filter_map(Weak::upgrade).any(|of| *of != *service))
        };
        lock(&self.live).iter().filter(|(_, live)| is_other(live)).map(|(path, _)| path.clone()).collect()
    }

    /// Returns the number of files in use.
    #[cfg(test)]
    pub(crate) fn in_use(&self) -> usize {
        lock(&self.live).values().filter(|live| live.strong_count() > 0).count()
    }
}

/// Replaces the content whenever its file changes, for as long as it is in use. What cannot be used is logged once.
async fn follow<T: FileContent>(
    mut followed: FollowedFile,
    live: Weak<LiveValue<T>>,
    changed: impl Fn(&Path, &T, &T) + Send + Sync + 'static,
) {
    let shown = followed.file.shown::<T>();
    loop {
        sleep(POLL).await;
        if live.strong_count() == 0 {
            return;
        }
        let looked = followed.look::<T>().await;
        let Some(live) = live.upgrade() else { return };
        let is_new = |found: &str| lock(&live.file).problem.replace(found.to_owned()).as_deref() != Some(found);
        match looked {
            Looked::Content(content, hints) => {
                let users = live.users();
                tracing::info!("{shown}{users}: {} in force", content.describe());
                hints.iter().for_each(|hint| tracing::warn!("{shown}{users}: {hint}"));
                changed(&followed.file.path, &live.load(), &content);
                live.replace(content);
                let mut state = lock(&live.file);
                (state.problem, state.hints) = (None, hints);
            }
            Looked::Same => {}
            Looked::Waits => {
                if is_new(WAITS) {
                    tracing::info!("{shown}{}: {WAITS}", live.users());
                }
            }
            Looked::Refused(found) => {
                if is_new(&found) {
                    tracing::warn!(
                        "{shown}{}: {found}; what was read last stays in force until a restart",
                        live.users()
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
