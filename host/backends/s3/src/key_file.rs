//! The access key that holds now. A file with it is read again while the host runs.
//!
//! One task follows the file, and one thread at a time reads it, however many requests need the key: a file system that does not
//! respond takes that thread and no other. Requests wait for the first reading only.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lodge_base::files;
use lodge_base::files::complete::{Completeness, FilesInUse, SeenFile, SeenFiles};
use lodge_state::blobs::BlobError;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{sleep, timeout};

use crate::credentials::{AccessKey, KeySource, MAX_FILE};

/// The time between two looks at the file.
const POLL: Duration = Duration::from_secs(1);
/// The time between two readings that must have the same result, so that no file is used that is being written.
const SETTLE: Duration = Duration::from_millis(100);
/// The most readings until two in a row have the same result.
const READINGS: usize = 5;
/// How long the file system has for a reading before the file counts as one that cannot be read.
const READ_TIME: Duration = Duration::from_secs(5);

/// The key that holds now.
pub(crate) enum S3Credentials {
    Fixed(Arc<AccessKey>),
    File(AccessKeyFile),
}

impl S3Credentials {
    pub(crate) fn new(source: KeySource) -> Self {
        match source {
            KeySource::Fixed(key) => Self::Fixed(Arc::new(key)),
            KeySource::File(path) => Self::File(AccessKeyFile::new(path)),
        }
    }

    /// Returns the key. While its file cannot be read, the last one is used.
    pub(crate) async fn current(&self) -> Result<Arc<AccessKey>, BlobError> {
        match self {
            Self::Fixed(key) => Ok(Arc::clone(key)),
            Self::File(file) => file
                .current()
                .await
                .map_err(|problem| BlobError::Unavailable(format!("the file of `state.blobs_credentials`: {problem}"))),
        }
    }
}

/// The key, or why there is none; `None` before the first reading has ended.
type KeyFound = Option<Result<Arc<AccessKey>, String>>;

/// A file with an access key.
pub(crate) struct AccessKeyFile {
    found: watch::Receiver<KeyFound>,
    /// What follows the file begins with the first request, which is where tasks can run.
    follower: Mutex<Option<KeyFollower>>,
}

struct KeyFollower {
    path: PathBuf,
    found: watch::Sender<KeyFound>,
    /// The file when the key in force was read.
    last: Option<SeenFile<String>>,
    files: FilesInUse<String>,
}

impl KeyFollower {
    fn new(path: PathBuf) -> (Self, watch::Receiver<KeyFound>) {
        let (sender, found) = watch::channel(None);
        (Self { path, found: sender, last: None, files: FilesInUse::default() }, found)
    }
}

impl AccessKeyFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        let (follower, found) = KeyFollower::new(path);
        Self { found, follower: Mutex::new(Some(follower)) }
    }

    /// Returns the key. While its file cannot be read, that is the last one.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn current(&self) -> Result<Arc<AccessKey>, String> {
        let begins = self.follower.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(follower) = begins {
            tokio::spawn(follower.follow());
        }
        let mut found = self.found.clone();
        let first = found.wait_for(Option::is_some).await.ok().and_then(|first| first.clone());
        first.unwrap_or_else(|| Err("it cannot be read: its reader has ended".into()))
    }
}

/// What is in the file now.
type FileRead = Result<SeenFile<String>, String>;

fn read(path: &Path) -> FileRead {
    let read = SeenFile::read(path, |path| files::read_text(path, MAX_FILE));
    read.map_err(|error| format!("it cannot be read: {error}"))
}

impl KeyFollower {
    /// Follows the file until nothing needs the key any more.
    async fn follow(mut self) {
        loop {
            let found = self.settled().await;
            match found.and_then(|file| self.accept(file)) {
                Ok(None) => {}
                Ok(Some(key)) => drop(self.found.send_replace(Some(Ok(key)))),
                Err(problem) => self.fail(problem),
            }
            tokio::select! {
                () = sleep(POLL) => {}
                () = self.found.closed() => return,
            }
        }
    }

    /// Says why there is no key, if there is none.
    fn fail(&self, problem: String) {
        self.found.send_if_modified(|found| {
            let is_new = !matches!(found, Some(Ok(_)));
            if is_new {
                *found = Some(Err(problem));
            }
            is_new
        });
    }

    /// Reads the file until two readings in a row are the same. One is enough for a file that has not changed.
    async fn settled(&mut self) -> FileRead {
        let mut last = self.read().await?;
        if last.stamp.is_some() && self.last.as_ref() == Some(&last) {
            return Ok(last);
        }
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

    /// Reads the file once, however long that takes. Requests are told when it takes too long.
    async fn read(&self) -> FileRead {
        let path = self.path.clone();
        let mut reading: JoinHandle<FileRead> = spawn_blocking(move || read(&path));
        let done = match timeout(READ_TIME, &mut reading).await {
            Ok(done) => done,
            Err(_) => {
                self.fail("it cannot be read: its file system does not respond".into());
                reading.await
            }
        };
        done.unwrap_or_else(|_| Err("it cannot be read: the reader has panicked".into()))
    }

    /// The key of a text that has settled; `None` if the one before stays in force. A text that may be incomplete waits, the first one
    /// as well, unless it is no key.
    fn accept(&mut self, file: SeenFile<String>) -> Result<Option<Arc<AccessKey>>, String> {
        if self.last.as_ref() == Some(&file) {
            return Ok(None);
        }
        let files = SeenFiles::from([(self.path.clone(), file.clone())]);
        let completeness = self.files.judge(&files);
        let key = AccessKey::parse(&file.content)?;
        if completeness != Completeness::Complete {
            return Ok(None);
        }
        self.files.accept(files);
        self.last = Some(file);
        Ok(Some(Arc::new(key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(secret: &str) -> String {
        format!("[default]\naws_access_key_id = id\naws_secret_access_key = {secret}")
    }

    /// Half a secret is one. So what was written in place has to stay, the first text as well.
    #[tokio::test(start_paused = true)]
    async fn a_text_that_may_be_cut_has_to_stay() {
        let (mut follower, _found) = KeyFollower::new("/unused".into());
        let mut accept = |text: String, is_placed: bool| {
            // Its inode, and a time that is always ahead.
            let stamp = Some((0, u64::from(is_placed), i64::MAX >> 1, 0, text.len() as u64));
            let key = follower.accept(SeenFile { stamp, is_placed, content: text })?;
            Ok::<_, String>(key.map(|key| key.secret().to_owned()))
        };
        let wait = async |seconds| tokio::time::advance(Duration::from_secs(seconds)).await;
        assert_eq!(accept(text("fi"), false), Ok(None));
        assert!(accept(String::new(), false).unwrap_err().contains("aws_access_key_id"), "a mistake is told at once");
        assert_eq!(accept(text("first\n"), false), Ok(None));
        wait(5).await;
        assert_eq!(accept(text("first\n"), false), Ok(Some("first".into())), "it has stayed");
        assert_eq!(accept(text("other\n"), false), Ok(None), "it may be that of another key");
        wait(4).await;
        assert_eq!(accept(text("other\n"), false), Ok(None));
        assert_eq!(accept(text("whole"), true), Ok(Some("whole".into())), "it was renamed into place");
        assert_eq!(accept(text("who"), true), Ok(None), "and written to");
        wait(5).await;
        assert_eq!(accept(text("who"), true), Ok(Some("who".into())));
    }

    /// What cannot be read takes no threads, and the key comes when the file is one.
    #[tokio::test]
    async fn a_file_that_is_none_is_an_error_and_takes_no_threads() {
        let directory = lodge_remote::testing::directory();
        let path = directory.path().join("key");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let file = Arc::new(AccessKeyFile::new(path.clone()));
        let request = |_| {
            let file = Arc::clone(&file);
            tokio::spawn(async move { file.current().await })
        };
        for request in (0..600).map(request).collect::<Vec<_>>() {
            assert!(request.await.unwrap().unwrap_err().contains("not a regular file"));
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, text("secret\n")).unwrap();
        let key = loop {
            if let Ok(key) = file.current().await {
                break key;
            }
            sleep(Duration::from_millis(10)).await;
        };
        assert_eq!(key.secret(), "secret");
        // The last one holds while there is none.
        std::fs::remove_file(&path).unwrap();
        sleep(POLL.saturating_mul(2)).await;
        assert_eq!(file.current().await, Ok(key));
    }
}
