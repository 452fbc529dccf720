//! Threads that read files, with bounds on their time and number.
//!
//! A thread in a file system that hangs cannot be stopped. It is left alone until it comes back, and counts among those that hang:
//! their number has a bound of its own, so that the others can still be read.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

/// The time between two readings that must have the same result.
const SETTLE: Duration = Duration::from_millis(100);

/// The most readings until two in a row have the same result.
const READINGS: usize = 5;

/// Threads that read at a time.
const READING: usize = 8;

/// Threads that hang besides.
const HANGING: usize = 64;

/// The threads.
pub(super) struct Readers {
    reading: Arc<Semaphore>,
    hanging: Arc<Semaphore>,
    /// The time that one reading, and waiting for a thread, may take.
    time: Duration,
}

/// Why there is no result.
pub(super) enum Unread<T> {
    /// It did not come in time. It may come later.
    Late(JoinHandle<T>),
    /// All threads are in use.
    Full,
    /// The thread has panicked.
    Failed,
}

impl Readers {
    pub(super) fn new(time: Duration) -> Self {
        Self { reading: Arc::new(Semaphore::new(READING)), hanging: Arc::new(Semaphore::new(HANGING)), time }
    }

    /// Reads again until two results in a row are the same, so that neither a file that is being written is read nor a
    /// directory in two versions.
    ///
    /// # Errors
    /// Those of `read`, and if the results differ again and again.
    pub(super) async fn confirm<T, F>(&self, mut last: T, read: F) -> Result<T, String>
    where
        T: PartialEq + Send + 'static,
        F: Fn() -> Result<T, String> + Clone + Send + 'static,
    {
        for _ in 0..READINGS {
            tokio::time::sleep(SETTLE).await;
            let next = self.run(read.clone()).await.unwrap_or_else(|unread| Err(unread.to_string()))?;
            if next == last {
                return Ok(next);
            }
            last = next;
        }
        Err("its files change again and again while they are read".into())
    }

    /// Runs `read` on a thread that may wait.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unread<T>> {
        let Ok(Ok(permit)) = timeout(self.time, Arc::clone(&self.reading).acquire_owned()).await else {
            return Err(Unread::Full);
        };
        let mut thread = spawn_blocking(read);
        match timeout(self.time, &mut thread).await {
            Ok(read) => read.map_err(|_| Unread::Failed),
            Err(_) => {
                // Beyond this bound, it keeps the place of one that reads.
                let permit = Arc::clone(&self.hanging).try_acquire_owned().unwrap_or(permit);
                Err(Unread::Late(tokio::spawn(async move {
                    let read = thread.await;
                    drop(permit);
                    match read {
                        Ok(read) => read,
                        Err(error) => std::panic::resume_unwind(Box::new(error.to_string())),
                    }
                })))
            }
        }
    }
}

impl Unread<()> {
    /// What [`Unread::Late`] says.
    pub(super) const LATE: &'static str = "the configuration cannot be read: its file system does not respond";
}

impl<T> fmt::Display for Unread<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late(_) => f.write_str(Unread::LATE),
            Self::Full => f.write_str("the configuration cannot be read: too many file systems do not respond"),
            Self::Failed => f.write_str("the configuration cannot be read: the reader has panicked"),
        }
    }
}
