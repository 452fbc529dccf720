//! The thread that writes. It commits whatever has queued up while it made the last commit as one transaction, so that many
//! writers share the cost of a commit, and confirms each write after it.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Statement};
use tokio::sync::watch;

use crate::clock::Timestamp;
use crate::error::Error;
use crate::mutex::lock;
use crate::sqlite::Shared;
use crate::sqlite::possession::Possession;
use crate::sqlite::queue::{Ticket, closed};
use crate::sqlite::transaction::{SWEEP, Statements, Transaction, unusable};

/// Jobs of one transaction: as many as can be done in a few milliseconds.
const GROUP: usize = 512;
/// How often expired entries are removed. They do not exist for any operation before.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How often the time of writes is kept.
const KEEP_EVERY: Duration = Duration::from_secs(1);

/// A write that a task waits for.
pub(super) struct WriteJob {
    pub(super) work: WriteWork,
    pub(super) ticket: Ticket,
}

/// Does the write in a transaction, or fails it with the reason why there is none. Returns `None` if the task has ended.
pub(super) type WriteWork = Box<dyn FnOnce(Result<&mut Transaction<'_, '_>, Error>) -> Option<Confirm> + Send>;

/// Reports the end of the transaction to the task.
pub(super) type Confirm = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// The writer, before its thread begins.
pub(super) struct WriteThread {
    pub(super) shared: Arc<Shared>,
    pub(super) connection: Connection,
    /// The threads that read, which end before the writer closes the database.
    pub(super) readers: Vec<JoinHandle<()>>,
    /// Proof that no other process uses the database.
    pub(super) possession: Possession,
    /// Dropped when everything is closed.
    pub(super) open: watch::Sender<()>,
}

impl WriteThread {
    /// Runs until the queue is closed and empty.
    pub(super) fn run(self) {
        let WriteThread { shared, connection, readers, possession, open } = self;
        // Also if this thread panics, no task waits for it until its deadline.
        let abandon = Abandon(shared.clone());
        // Its statements fit the schema, which was checked; if they do not compile nevertheless, every write fails.
        if let Ok(session) = WriteSession::new(&shared, &connection, &possession) {
            session.run();
        }
        drop(abandon);
        for reader in readers {
            let _ = reader.join();
        }
        // The last connection copies the log into the database, and removes the log.
        drop(connection);
        drop(possession);
        drop(open);
    }
}

/// Closes the queues when the writer ends.
struct Abandon(Arc<Shared>);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.writes.abandon();
        self.0.reads.close();
    }
}

/// The connection with its statements, compiled once.
struct WriteSession<'c> {
    shared: &'c Shared,
    connection: &'c Connection,
    possession: &'c Possession,
    begin: Statement<'c>,
    commit: Statement<'c>,
    rollback: Statement<'c>,
    statements: Statements<'c>,
    /// The time of a write that was kept last.
    kept: Timestamp,
}

impl<'c> WriteSession<'c> {
    fn new(
        shared: &'c Shared,
        connection: &'c Connection,
        possession: &'c Possession,
    ) -> rusqlite::Result<WriteSession<'c>> {
        let statements = Statements::new(connection, shared.numbers.last())?;
        let [begin, commit, rollback] = ["BEGIN IMMEDIATE", "COMMIT", "ROLLBACK"].map(|sql| connection.prepare(sql));
        Ok(WriteSession {
            shared,
            connection,
            possession,
            begin: begin?,
            commit: commit?,
            rollback: rollback?,
            statements,
            kept: Timestamp::new(0),
        })
    }

    fn run(mut self) {
        let mut jobs = Vec::with_capacity(GROUP);
        let mut due = Instant::now() + SWEEP_EVERY;
        while self.shared.writes.take(&mut jobs, GROUP, due.saturating_duration_since(Instant::now())) {
            if !jobs.is_empty() {
                self.group(&mut jobs);
            }
            if Instant::now() >= due {
                // Without pause while there is more, but after the jobs that have come meanwhile.
                due = Instant::now() + if self.sweep() { Duration::ZERO } else { SWEEP_EVERY };
            }
        }
    }

    /// Does all of `jobs` in one transaction.
    fn group(&mut self, jobs: &mut Vec<WriteJob>) {
        let mut confirms = Vec::with_capacity(jobs.len());
        let result = self.transaction(|transaction| {
            for WriteJob { work, ticket } in jobs.drain(..) {
                confirms.extend(work(Ok(transaction)).map(|confirm| (confirm, ticket)));
            }
            Ok(())
        });
        // Without a transaction none of them was begun.
        for WriteJob { work, ticket } in jobs.drain(..) {
            let failed = result.clone().err().unwrap_or_else(closed);
            confirms.extend(work(Err(failed)).map(|confirm| (confirm, ticket)));
        }
        for (confirm, ticket) in confirms {
            drop(ticket);
            confirm(result.clone());
        }
    }

    /// Removes expired entries, a bounded number of them, and returns whether there may be more.
    fn sweep(&mut self) -> bool {
        let spaces: Vec<_> = lock(&self.shared.spaces).values().cloned().collect();
        let mut more = false;
        let result = self.transaction(|transaction| {
            let mut swept = 0;
            for space in spaces {
                let count = transaction.sweep(&space)?;
                swept += count;
                if count == SWEEP || swept >= SWEEP {
                    more = true;
                    break;
                }
            }
            Ok(())
        });
        result.is_ok() && more
    }

    /// Runs `work` in a transaction, and publishes its changes after the commit.
    fn transaction(&mut self, work: impl FnOnce(&mut Transaction<'_, 'c>) -> Result<(), Error>) -> Result<(), Error> {
        self.begin.execute([]).map_err(|error| unusable(&error))?;
        let mut transaction = Transaction::new(self.connection, &mut self.statements, self.shared);
        let now = transaction.now;
        let changes = work(&mut transaction).and_then(|()| transaction.finish());
        let committed = changes.and_then(|changes| {
            self.possession.check()?;
            self.commit.execute([]).map_err(|error| unusable(&error))?;
            Ok(changes)
        });
        match committed {
            Ok(changes) => {
                self.statements.stored = changes.last;
                if changes.any() && now.since(self.kept) >= KEEP_EVERY {
                    self.possession.keep_time(now);
                    self.kept = now;
                }
                changes.publish(&self.shared.recent);
                Ok(())
            }
            Err(error) => {
                // Some errors have rolled it back already; then this one fails, and nothing is lost.
                let _ = self.rollback.execute([]);
                Err(error)
            }
        }
    }
}
