//! Reading a file whose directory may be that of others, on threads that may wait for its file system.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cap_primitives::fs::{OpenOptions, OpenOptionsExt, open};
use rustix::fs::OFlags;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{sleep, timeout};

use super::FileContent;
use lodge_base::files;
use lodge_base::files::complete::SeenFile;

/// The time between two readings that must have the same result, so that no file is used that is being written.
pub(crate) const SETTLE: Duration = Duration::from_millis(100);

/// The most readings until two in a row have the same result.
const READINGS: usize = 5;

/// The time that a file system has for one reading, and the time that a reading waits for a thread.
pub(super) const READ_TIME: Duration = Duration::from_secs(5);

/// The error for a file that does not come to rest.
pub(super) const RESTLESS: &str = "it changes again and again while it is read";

const PANICKED: &str = "it cannot be read: the reader has panicked";

/// A file that is looked at again and again.
pub(super) struct Watched {
    pub(super) path: PathBuf,
    /// The directory that it must be below, if there is one.
    pub(super) directory: Option<Arc<Path>>,
    /// Checks its path below that directory.
    pub(super) beneath: fn(&Path) -> Result<(), &'static str>,
    /// The most bytes of it.
    pub(super) most: u64,
    pub(super) threads: Arc<Semaphore>,
}

impl Watched {
    /// Returns what the log calls the file.
    pub(super) fn shown<T: FileContent>(&self) -> String {
        format!("{} in {}", T::WHAT, self.path.display())
    }

    /// Reads the content of a text of the file, and what may be mistaken in it. Waits until that is done, however long it takes.
    ///
    /// # Errors
    /// If there is no thread for it now. The inner error is about the text.
    pub(super) async fn content<T: FileContent>(
        &self,
        text: String,
    ) -> Result<Result<(T, Vec<String>), String>, String> {
        let thread = self.thread(move |_| T::read(&text).map(|content| (content, T::hints(&text)))).await?;
        Ok(thread.await.unwrap_or_else(|_| Err(PANICKED.into())))
    }

    /// Reads the file until two readings in a row are the same.
    pub(super) async fn settled(&self) -> Result<SeenFile<String>, String> {
        let mut last = self.read().await?;
        for _ in 0..READINGS {
            sleep(SETTLE).await;
            let next = self.read().await?;
            if next == last {
                return Ok(next);
            }
            last = next;
        }
        Err(RESTLESS.into())
    }

    async fn read(&self) -> Result<SeenFile<String>, String> {
        let (most, directory, beneath) = (self.most, self.directory.clone(), self.beneath);
        self.run(move |path| {
            let read = SeenFile::read(path, |path| match &directory {
                Some(directory) => read_beneath(directory, path, most, beneath),
                None => files::read_text(path, most),
            });
            read.map_err(|error| format!("it cannot be read: {error}"))
        })
        .await
        .and_then(|read| read)
    }

    /// Runs `look`, which waits for the file system.
    pub(super) async fn run<R: Send + 'static>(
        &self,
        look: impl FnOnce(&Path) -> R + Send + 'static,
    ) -> Result<R, String> {
        match timeout(READ_TIME, self.thread(look).await?).await {
            Ok(looked) => looked.map_err(|_| PANICKED.into()),
            Err(_) => Err("it cannot be read: its file system does not respond".into()),
        }
    }

    /// Starts `work` on a thread that may wait.
    async fn thread<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> R + Send + 'static,
    ) -> Result<JoinHandle<R>, String> {
        let permit = timeout(READ_TIME, Arc::clone(&self.threads).acquire_owned()).await;
        let Ok(Ok(permit)) = permit else {
            return Err(
                "it cannot be read now: too many other files are being read, or wait for their file system".into()
            );
        };
        let path = self.path.clone();
        Ok(spawn_blocking(move || {
            let done = work(&path);
            drop(permit);
            done
        }))
    }
}

/// Reads a regular UTF-8 file of at most `most` bytes that is below `directory`, also through links. `beneath` checks the path that
/// these lead to.
fn read_beneath(
    directory: &Path,
    path: &Path,
    most: u64,
    beneath: fn(&Path) -> Result<(), &'static str>,
) -> io::Result<String> {
    let inner = path.strip_prefix(directory).map_err(io::Error::other)?;
    let (mut options, flags) = (OpenOptions::new(), OFlags::NONBLOCK | OFlags::NOCTTY);
    options.read(true).custom_flags(flags.bits().cast_signed());
    // A relative path may begin at the working directory.
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let root = File::open(directory)?;
    let file = open(&root, inner, &options)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    // Of the open file: a path could lead to another one by now.
    let (around, real) = (real_path(&root, directory)?, real_path(&file, path)?);
    beneath(real.strip_prefix(&around).map_err(io::Error::other)?).map_err(io::Error::other)?;
    files::text(files::rest_of(&file, metadata.len(), most)?).map_err(io::Error::other)
}

/// Returns the path of an open file without links. Other systems than Linux look at its name again.
fn real_path(file: &File, path: &Path) -> io::Result<PathBuf> {
    if cfg!(target_os = "linux") {
        std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
    } else {
        path.canonicalize()
    }
}
