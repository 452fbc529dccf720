//! A thread that reads the directory. A file system that hangs (NFS, FUSE) blocks this thread and nothing else:
//! requests are served meanwhile, and the host can end.
//!
//! A task would not do: a runtime waits for its workers and its blocking threads when it ends.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::watch::{DirectoryWatch, Ticks};
use crate::guests::scan::{Scan, Scanner};
use crate::registry::follow::Pulls;
use lodge_base::config::Config;

/// How long a scan may take until that is reported.
pub(super) const HANGS: Duration = Duration::from_secs(10);

/// A thread that reads on request. `T` is the result of a read.
pub(super) struct Reader<T> {
    ask: SyncSender<()>,
    results: mpsc::Receiver<io::Result<T>>,
    /// When the current read began. There is at most one.
    since: Option<Instant>,
}

/// Starts the thread that reads the directory. Returns it with the ticks that tell when to read.
pub(super) fn of_directory(config: &Arc<Config>, pulls: &Arc<Pulls>) -> io::Result<(Reader<Scan>, Ticks)> {
    let mut watch = DirectoryWatch::new(&config.guests, config.watch.poll);
    let mut scanner = Scanner::new(&config.guests).pulling(Arc::clone(pulls));
    let (ticks, config) = (watch.ticks(), Arc::clone(config));
    let reader = Reader::start(move || {
        watch.arm();
        scanner.scan_at(&config, Instant::now(), &|name| watch.is_placed(name))
    })?;
    Ok((reader, ticks))
}

impl<T: Send + 'static> Reader<T> {
    /// Starts the thread, which calls `read` on every request.
    ///
    /// # Errors
    /// When the system cannot start a thread.
    pub(super) fn start(read: impl FnMut() -> io::Result<T> + Send + 'static) -> io::Result<Self> {
        let (ask, asked) = sync_channel(1);
        let (sender, results) = mpsc::channel(1);
        std::thread::Builder::new().name("directory".into()).spawn(move || serve(read, &asked, &sender))?;
        Ok(Self { ask, results, since: None })
    }

    /// Starts a read, unless one is in progress.
    pub(super) fn begin(&mut self) {
        if self.since.is_none() && self.ask.try_send(()).is_ok() {
            self.since = Some(Instant::now());
        }
    }

    /// When the current read began.
    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Waits for the result of the current read. Dropping the future loses nothing.
    pub(super) async fn result(&mut self) -> io::Result<T> {
        let result = self.results.recv().await;
        self.since = None;
        result.unwrap_or_else(|| Err(io::Error::other("the thread that reads the directory has ended")))
    }
}

fn serve<T>(mut read: impl FnMut() -> io::Result<T>, asked: &Receiver<()>, results: &mpsc::Sender<io::Result<T>>) {
    while asked.recv().is_ok() {
        // A panic ends one read. The services stay, and the next read may succeed.
        let result = catch_unwind(AssertUnwindSafe(&mut read));
        let result = result.unwrap_or_else(|_| Err(io::Error::other("internal error; report this to Lodge's authors")));
        // The receiver is dropped when the host ends.
        if results.blocking_send(result).is_err() {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Much longer than the end of a runtime takes, much shorter than the file system hangs.
    const SOON: Duration = Duration::from_secs(20);

    /// A read that never ends blocks neither other work nor the end of the runtime.
    #[test]
    fn a_hanging_file_system_blocks_nothing() {
        let (hang, hung) = sync_channel::<()>(1);
        let (done, ended) = sync_channel(1);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async move {
                let mut reader = Reader::start(move || Ok(hung.recv().is_ok())).unwrap();
                reader.begin();
                reader.begin();
                assert!(reader.since().is_some());
                assert!(tokio::time::timeout(Duration::from_millis(50), reader.result()).await.is_err());
                assert!(reader.since().is_some(), "the read is still in progress");
            });
            drop(runtime);
            done.send(()).unwrap();
        });
        ended.recv_timeout(SOON).expect("the runtime ends");
        drop(hang);
    }

    #[tokio::test]
    async fn one_read_at_a_time_and_a_panic_is_one_of_them() {
        let mut number = 0;
        let read = move || {
            number += 1;
            assert!(number != 2, "the second read fails");
            Ok(number)
        };
        let mut reader = Reader::start(read).unwrap();
        let mut results = Vec::new();
        for _ in 0..3 {
            reader.begin();
            reader.begin();
            results.push(reader.result().await.ok());
            assert!(reader.since().is_none());
        }
        assert_eq!(results, [Some(1), None, Some(3)]);
    }
}
