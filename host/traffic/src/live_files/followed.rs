//! A file that is read again, and which of its texts may be used.

use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, sleep};

use super::watched::{RESTLESS, Watched};
use super::{FileContent, POLL};
use lodge_base::files::complete::{Completeness, FIRST_TIME, FilesInUse, SeenFile, SeenFiles, WAITS};
use lodge_base::files::{self, FileStamp};

/// What a look at a file that has changed brings.
pub(super) enum Looked<T> {
    /// This content, and what may be mistaken in it.
    Content(T, Vec<String>),
    /// The text may be the beginning of another one, and waits.
    Waits,
    /// It is as it was at the last look.
    Same,
    /// The file cannot be used.
    Refused(String),
}

/// A file, and what was seen of it.
pub(super) struct FollowedFile {
    pub(super) file: Watched,
    /// The stamp of a text that need not be read again.
    stamp: Option<FileStamp>,
    in_use: FilesInUse<[u8; 32]>,
}

impl FollowedFile {
    pub(super) fn new(file: Watched) -> Self {
        Self { file, stamp: None, in_use: FilesInUse::default() }
    }

    /// Reads the first content, once that is complete. A mistake is told at once.
    pub(super) async fn first<T: FileContent>(&mut self, is_offline: bool) -> Result<(T, Vec<String>), String> {
        let (begun, mut is_said) = (Instant::now(), false);
        loop {
            match self.read::<T>(is_offline).await {
                Looked::Content(content, hints) => return Ok((content, hints)),
                Looked::Refused(why) => return Err(why),
                Looked::Waits | Looked::Same => {
                    if !std::mem::replace(&mut is_said, true) {
                        tracing::info!("{}: {WAITS}", self.file.shown::<T>());
                    }
                }
            }
            if begun.elapsed() > FIRST_TIME {
                return Err(RESTLESS.into());
            }
            sleep(POLL).await;
        }
    }

    /// Looks at the file, which may have changed.
    pub(super) async fn look<T: FileContent>(&mut self) -> Looked<T> {
        match self.file.run(files::stamp).await {
            Ok(now) if now.is_some() && now == self.stamp => Looked::Same,
            Ok(_) => self.read(false).await,
            Err(late) => {
                self.stamp = None;
                Looked::Refused(late)
            }
        }
    }

    /// Reads the file.
    async fn read<T: FileContent>(&mut self, is_offline: bool) -> Looked<T> {
        // What says nothing of the content is tried again, whatever the time of the file says.
        self.stamp = None;
        let reading = match self.file.settled().await {
            Ok(reading) => reading,
            Err(why) => return Looked::Refused(why),
        };
        let (stamp, text) = (reading.stamp, reading.content);
        let seen = SeenFile { stamp, is_placed: reading.is_placed, content: Sha256::digest(&text).into() };
        let seen = SeenFiles::from([(self.file.path.clone(), seen)]);
        let completeness = if T::MAY_BE_CUT && !is_offline { self.in_use.judge(&seen) } else { Completeness::Complete };
        if let Completeness::Waits { is_new: false, .. } = completeness {
            return Looked::Waits;
        }
        match (self.file.content::<T>(text).await, completeness) {
            (Ok(Ok(_)), Completeness::Waits { .. }) => Looked::Waits,
            (Ok(Ok((content, hints))), Completeness::Complete) => {
                self.stamp = stamp;
                self.in_use.accept(seen);
                Looked::Content(content, hints)
            }
            (Ok(Err(why)), _) => {
                self.stamp = stamp;
                Looked::Refused(why)
            }
            (Err(why), _) => Looked::Refused(why),
        }
    }
}
