//! A connection of a request: opened by its first statement, and rolled back when it ends.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{sleep, timeout_at};

use super::bounds::{Allowance, StatementBounds};
use super::database::{OpenConnection, SqlDatabase};
use super::{MAX_STATEMENT, MAX_TRANSFER, SqlError, SqlResult, SqlValue, statement};
use crate::closing::close;
use crate::mutex::lock;

/// The first and the longest pause before a statement that found the database locked is tried again.
const PAUSES: (Duration, Duration) = (Duration::from_micros(500), Duration::from_millis(20));

/// A connection to a database, for one request. Several statements of one connection run one after another.
pub struct SqlConnection {
    database: Arc<SqlDatabase>,
    slot: Mutex<DatabaseSlot>,
    last_insert_rowid: AtomicI64,
    changes: AtomicU64,
}

/// The place of an open connection.
type DatabaseSlot = Arc<AsyncMutex<Option<OpenConnection>>>;

/// Stops a statement that nobody waits for any more.
struct AbandonGuard(Arc<StatementBounds>);

impl Drop for AbandonGuard {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

impl SqlConnection {
    /// Creates a connection. It is opened by its first statement.
    pub fn new(database: Arc<SqlDatabase>) -> Self {
        let (last_insert_rowid, changes) = (AtomicI64::new(0), AtomicU64::new(0));
        Self { database, slot: Mutex::default(), last_insert_rowid, changes }
    }

    /// Runs one statement, and returns its result and the CPU time that it took. While another connection writes, it waits.
    ///
    /// # Errors
    /// See [`SqlError`]. After [`SqlError::Timeout`] a write may have been done.
    pub async fn execute(
        &self,
        text: String,
        parameters: Vec<SqlValue>,
        allowance: Allowance,
    ) -> (Result<SqlResult, SqlError>, Duration) {
        if let Err(error) = check(&text, &parameters) {
            return (Err(error), Duration::ZERO);
        }
        let bounds = Arc::new(StatementBounds::new(allowance, self.database.options.memory));
        let _guard = AbandonGuard(Arc::clone(&bounds));
        let call = Arc::new((text, parameters));
        let mut is_locked = false;
        let attempts = async {
            let (mut pause, longest) = PAUSES;
            loop {
                match self.attempt(&call, &bounds).await {
                    Err(SqlError::Locked) => is_locked = true,
                    other => return other,
                }
                sleep(pause).await;
                pause = (pause * 2).min(longest);
            }
        };
        let ended = timeout_at(allowance.deadline.into(), attempts).await;
        let late = if is_locked { SqlError::Locked } else { SqlError::Timeout };
        (ended.unwrap_or(Err(late)), bounds.used())
    }

    /// Runs the statement once, on a thread that may wait.
    async fn attempt(
        &self,
        call: &Arc<(String, Vec<SqlValue>)>,
        bounds: &Arc<StatementBounds>,
    ) -> Result<SqlResult, SqlError> {
        let slot = Arc::clone(&lock(&self.slot));
        let mut slot = slot.lock_owned().await;
        let places = self.database.places().await;
        let (database, call, bounds) = (Arc::clone(&self.database), Arc::clone(call), Arc::clone(bounds));
        let run = move || {
            let _places = places;
            let open = match &mut *slot {
                Some(open) => open,
                none => none.insert(database.open()?),
            };
            let result = statement::run(open, &call.0, &call.1, &bounds, &database);
            result.map(|result| (result, open.connection.last_insert_rowid(), open.connection.changes()))
        };
        let ended = tokio::task::spawn_blocking(run).await;
        let (result, last, changes) =
            ended.map_err(|error| SqlError::Unavailable(format!("the statement was not run: {error}")))??;
        self.last_insert_rowid.store(last, Relaxed);
        self.changes.store(changes, Relaxed);
        Ok(result)
    }

    /// Closes the connection, and rolls back what it has not committed. The next statement opens another.
    pub fn reset(&self) {
        // A new place: a statement that still runs keeps the old one.
        close_slot(std::mem::take(&mut *lock(&self.slot)));
        self.last_insert_rowid.store(0, Relaxed);
        self.changes.store(0, Relaxed);
    }

    /// The rowid of the last successful INSERT, or 0.
    pub fn last_insert_rowid(&self) -> i64 {
        self.last_insert_rowid.load(Relaxed)
    }

    /// The rows that the last INSERT, UPDATE or DELETE has changed.
    pub fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }
}

impl Drop for SqlConnection {
    fn drop(&mut self) {
        close_slot(std::mem::take(&mut *lock(&self.slot)));
    }
}

fn close_slot(slot: DatabaseSlot) {
    if let Ok(free) = slot.try_lock()
        && free.is_none()
    {
        return;
    }
    // A statement that still runs has a reference of its own, and the last reference closes the connection when it is dropped.
    close(slot);
}

/// Checks the sizes of a statement and its parameters, and that every parameter is a value of SQLite.
fn check(text: &str, parameters: &[SqlValue]) -> Result<(), SqlError> {
    if text.len() > MAX_STATEMENT {
        return Err(SqlError::TooLarge { what: "the statement", limit: MAX_STATEMENT });
    }
    if parameters.iter().map(SqlValue::size).sum::<usize>() > MAX_TRANSFER {
        return Err(SqlError::TooLarge { what: "the list of parameters", limit: MAX_TRANSFER });
    }
    if parameters.iter().any(|value| matches!(value, SqlValue::Real(number) if number.is_nan())) {
        return Err(SqlError::Invalid("a parameter is NaN, which SQLite would store as NULL".into()));
    }
    Ok(())
}
