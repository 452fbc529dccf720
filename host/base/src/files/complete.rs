//! Which content of files may be used. A file that is written in place has the beginning of a text for a while. Where a beginning is
//! valid, it may allow more than the whole, or be half a secret.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::{FileStamp, is_placed, stamp};

/// The time that a content has to stay that was written in place.
pub const CUT_TIME: Duration = Duration::from_secs(5);

/// The time until the first content of files has to be complete.
pub const FIRST_TIME: Duration = Duration::from_secs(60);

/// The message for a content that waits.
pub const WAITS: &str =
    "it may be incomplete, as it was not renamed into place: it is in force once it has not changed for 5 seconds";

/// A file at one look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenFile<C> {
    /// `None` if there is no file.
    pub stamp: Option<FileStamp>,
    /// It was complete when it came to its path: see `is_placed`.
    pub is_placed: bool,
    /// Its content, or what identifies that.
    pub content: C,
}

/// Files at one look, which are used together.
pub type SeenFiles<C> = BTreeMap<PathBuf, SeenFile<C>>;

/// Whether contents may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completeness {
    /// They are complete, as far as can be known.
    Complete,
    /// One may be incomplete.
    Waits {
        /// The first such file.
        path: PathBuf,
        /// The contents are seen for the first time.
        is_new: bool,
        /// The time for which they have to stay.
        left: Duration,
    },
}

/// The files whose content is in use, and which content may follow.
#[derive(Debug)]
pub struct FilesInUse<C> {
    in_use: Option<SeenFiles<C>>,
    /// What the files have now that may be incomplete, and since when.
    waiting: Option<(SeenFiles<C>, Instant)>,
}

impl<C> Default for FilesInUse<C> {
    fn default() -> Self {
        Self { in_use: None, waiting: None }
    }
}

impl<C> SeenFile<C> {
    /// Reads a file.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn read<E>(path: &Path, read: impl FnOnce(&Path) -> Result<C, E>) -> Result<Self, E> {
        // A change after this is one at the next look.
        let (stamp, is_placed) = (stamp(path), is_placed(path));
        Ok(Self { stamp, is_placed, content: read(path)? })
    }

    /// Device and inode.
    fn file(&self) -> Option<(u64, u64)> {
        self.stamp.map(|(device, inode, ..)| (device, inode))
    }

    /// The time since it was written last, by the clock of its file system.
    fn age(&self, now: SystemTime) -> Option<Duration> {
        let (_, _, seconds, nanoseconds, _) = self.stamp?;
        let (seconds, nanoseconds) = (u64::try_from(seconds).ok()?, u32::try_from(nanoseconds).ok()?);
        let written = SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds))?;
        Some(now.duration_since(written).unwrap_or_default())
    }
}

impl<C: Clone + PartialEq> FilesInUse<C> {
    /// Judges what the files have now. A content is complete that is in use already, that is in another file, which came to its path
    /// after it was written, and one that has stayed for [`CUT_TIME`]. What is seen first may have stayed before.
    pub fn judge(&mut self, seen: &SeenFiles<C>) -> Completeness {
        self.judge_at(seen, Instant::now(), SystemTime::now())
    }

    /// As [`judge`](Self::judge), at this time.
    fn judge_at(&mut self, seen: &SeenFiles<C>, now: Instant, clock: SystemTime) -> Completeness {
        let Some(path) = self.incomplete(seen).cloned() else {
            self.waiting = None;
            return Completeness::Complete;
        };
        // A file may be written again and again with one content, which must not put that off.
        let before =
            self.waiting.as_ref().filter(|(files, _)| have_same_contents(files, seen)).map(|(_, since)| *since);
        let since = before.unwrap_or_else(|| now.checked_sub(self.stayed(seen, clock)).unwrap_or(now));
        self.waiting = Some((seen.clone(), since));
        let left = CUT_TIME.saturating_sub(now.saturating_duration_since(since));
        if left.is_zero() {
            Completeness::Complete
        } else {
            Completeness::Waits { path, is_new: before.is_none(), left }
        }
    }

    /// Takes in that these contents are used now.
    pub fn accept(&mut self, seen: SeenFiles<C>) {
        (self.in_use, self.waiting) = (Some(seen), None);
    }

    /// Returns the first file whose content may be incomplete, unless it stays.
    fn incomplete<'a>(&'a self, seen: &'a SeenFiles<C>) -> Option<&'a PathBuf> {
        let Some(in_use) = &self.in_use else {
            return seen.iter().find(|(_, file)| file.stamp.is_some() && !file.is_placed).map(|(path, _)| path);
        };
        let is_complete = |(path, file): &(&PathBuf, &SeenFile<C>)| {
            let before = in_use.get(*path);
            before.is_some_and(|before| before.content == file.content)
                || file.is_placed && file.file() != before.and_then(SeenFile::file)
        };
        let changed = seen.iter().find(|file| !is_complete(file)).map(|(path, _)| path);
        changed.or_else(|| in_use.keys().find(|path| !seen.contains_key(*path)))
    }

    /// How long contents have stayed that are seen for the first time. Once some are in use, a clock of a file system that is behind
    /// must not shorten the wait.
    fn stayed(&self, seen: &SeenFiles<C>, clock: SystemTime) -> Duration {
        let written = seen.values().filter(|file| self.in_use.is_none() && !file.is_placed);
        written.filter_map(|file| file.age(clock)).min().unwrap_or_default().min(CUT_TIME)
    }
}

fn have_same_contents<C: PartialEq>(one: &SeenFiles<C>, other: &SeenFiles<C>) -> bool {
    let contents = |(path, file)| {
        let SeenFile { stamp, content, .. }: &SeenFile<C> = file;
        (path, stamp.is_some(), content)
    };
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| contents(one) == contents(other))
}

#[cfg(test)]
mod tests;
