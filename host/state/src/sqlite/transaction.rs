//! One transaction of the writer: many writes of many tasks, committed together.
//!
//! Writes change entries in memory first. So a key that is written often is written to the database once per transaction, and
//! a write that fails leaves nothing behind.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Statement, params};

use crate::clock::Timestamp;
use crate::entry::{Entry, Value, Version};
use crate::error::Error;
use crate::key::Key;
use crate::limits::Usage;
use crate::mutex::lock;
use crate::sqlite::path::{Id, Path, PathRef};
use crate::sqlite::recent::{RecentEntries, State};
use crate::sqlite::{Shared, Space};
use crate::write::{Change, Condition, Outcome, apply};

/// Expired entries that are removed at a time.
pub(super) const SWEEP: usize = 256;

/// A write with the name of its entry.
pub(super) struct OwnedWrite {
    pub(super) path: Path,
    pub(super) condition: Condition,
    pub(super) change: Change,
}

/// The statements of the writer, compiled once.
pub(super) struct Statements<'c> {
    select: Statement<'c>,
    upsert: Statement<'c>,
    delete: Statement<'c>,
    sweep: Statement<'c>,
    count: Statement<'c>,
    last: Statement<'c>,
    /// The last number that is stored.
    pub(super) stored: u64,
}

impl<'c> Statements<'c> {
    pub(super) fn new(connection: &'c Connection, stored: u64) -> rusqlite::Result<Statements<'c>> {
        Ok(Statements {
            select: connection.prepare(SELECT)?,
            upsert: connection.prepare(
                "INSERT INTO entry (namespace, bucket, name, version, expires, value) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT (namespace, bucket, name)
                 DO UPDATE SET version = excluded.version, expires = excluded.expires, value = excluded.value",
            )?,
            delete: connection.prepare("DELETE FROM entry WHERE namespace = ?1 AND bucket = ?2 AND name = ?3")?,
            sweep: connection.prepare(
                "DELETE FROM entry WHERE id IN
                 (SELECT id FROM entry WHERE namespace = ?1 AND expires <= ?2 ORDER BY expires LIMIT ?3)
                 RETURNING bucket, name, octet_length(value)",
            )?,
            count: connection.prepare("UPDATE namespace SET keys = ?2, bytes = ?3 WHERE id = ?1")?,
            last: connection.prepare("UPDATE meta SET last = ?1")?,
            stored,
        })
    }
}

/// Reads an entry.
pub(super) const SELECT: &str =
    "SELECT value, version, expires FROM entry WHERE namespace = ?1 AND bucket = ?2 AND name = ?3";

/// Reads an entry with [`SELECT`], whether or not it has expired.
pub(super) fn select(statement: &mut Statement<'_>, path: &Path) -> rusqlite::Result<State> {
    let key = path.key();
    let entry = |row: &rusqlite::Row<'_>| {
        let value = row.get_ref(0)?.as_bytes()?.to_vec();
        // Checked when it was written, so a longer one is damage.
        let value = Value::new(value).map_err(|_| rusqlite::Error::InvalidQuery)?;
        Ok(Entry {
            value,
            version: Version::new(row.get(1)?),
            expires: row.get::<_, Option<u64>>(2)?.map(Timestamp::new),
        })
    };
    statement.query_row(params![path.namespace, key.bucket(), key.name()], entry).optional()
}

/// Changes that are not committed yet.
pub(super) struct Transaction<'a, 'c> {
    pub(super) connection: &'c Connection,
    pub(super) now: Timestamp,
    statements: &'a mut Statements<'c>,
    pub(super) shared: &'a Shared,
    /// Entries as they are now, and whether they must be written still.
    entries: HashMap<Path, (State, bool)>,
    /// Usage of the namespaces that have changed.
    usage: HashMap<Id, (Arc<Space>, Usage)>,
    /// The first failed change of the database, after which nothing of the transaction can be kept.
    failed: Option<Error>,
}

/// What a transaction has changed, for when it is committed.
pub(super) struct Committed {
    /// The last number that is stored.
    pub(super) last: u64,
    entries: HashMap<Path, (State, bool)>,
    usage: HashMap<Id, (Arc<Space>, Usage)>,
}

impl Committed {
    /// Whether any entry has changed.
    pub(super) fn any(&self) -> bool {
        !self.entries.is_empty()
    }

    /// Makes the changes visible, after the commit.
    pub(super) fn publish(self, recent: &RecentEntries) {
        for (path, (state, _)) in self.entries {
            recent.replace(path, state);
        }
        for (space, usage) in self.usage.into_values() {
            *lock(&space.usage) = usage;
        }
    }
}

impl<'a, 'c> Transaction<'a, 'c> {
    pub(super) fn new(
        connection: &'c Connection,
        statements: &'a mut Statements<'c>,
        shared: &'a Shared,
    ) -> Transaction<'a, 'c> {
        let (entries, usage) = Default::default();
        Transaction { connection, now: shared.clock.now(), statements, shared, entries, usage, failed: None }
    }

    /// Does several writes of one namespace, all or none.
    pub(super) fn write(&mut self, space: &Arc<Space>, writes: &[OwnedWrite]) -> Result<Vec<Outcome>, Error> {
        loop {
            match self.stage(space, writes) {
                // Entries that have expired do not count: tries again without some of them.
                Err(error @ Error::QuotaExceeded { .. }) if self.sweep(space)? == 0 => return Err(error),
                Err(Error::QuotaExceeded { .. }) => {}
                result => return result,
            }
        }
    }

    /// What a namespace uses in this transaction.
    fn usage(&self, space: &Space) -> Usage {
        self.usage.get(&space.id).map_or_else(|| *lock(&space.usage), |(_, usage)| *usage)
    }

    fn stage(&mut self, space: &Arc<Space>, writes: &[OwnedWrite]) -> Result<Vec<Outcome>, Error> {
        let mut staged: Vec<(Path, State)> = Vec::new();
        let mut outcomes = Vec::with_capacity(writes.len());
        let (mut usage, quota) = (self.usage(space), *lock(&space.quota));
        for write in writes {
            let key = write.path.key();
            let stored = match staged.iter().rev().find(|(path, _)| *path == write.path) {
                Some((_, state)) => state.clone(),
                None => self.current(&write.path)?,
            };
            let size = |entry: &Entry| key.size() + entry.value.size();
            let before = stored.clone().filter(|entry| entry.live(self.now));
            let version = Version::new(self.shared.numbers.next());
            let outcome = apply(before, &write.condition, &write.change, version, self.now)?;
            if outcome.applied && (stored.is_some() || outcome.after.is_some()) {
                usage = usage.replace(stored.as_ref().map(size), outcome.after.as_ref().map(size), quota)?;
                staged.push((write.path.clone(), outcome.after.clone()));
            }
            outcomes.push(outcome);
        }
        if !staged.is_empty() {
            self.usage.insert(space.id, (space.clone(), usage));
        }
        self.entries.extend(staged.into_iter().map(|(path, state)| (path, (state, true))));
        Ok(outcomes)
    }

    /// The entry as it is in this transaction, whether or not it has expired.
    fn current(&mut self, path: &Path) -> Result<State, Error> {
        if let Some((state, _)) = self.entries.get(path) {
            return Ok(state.clone());
        }
        if let Some(state) = self.shared.recent.get(PathRef { namespace: path.namespace, key: path.key() }) {
            return Ok(state);
        }
        select(&mut self.statements.select, path).map_err(|error| unusable(&error))
    }

    /// Removes up to [`SWEEP`] expired entries of a namespace, and returns how many.
    pub(super) fn sweep(&mut self, space: &Arc<Space>) -> Result<usize, Error> {
        self.flush()?;
        let (namespace, mut usage) = (space.id, self.usage(space));
        let mut swept = Vec::new();
        let mut run = |statement: &mut Statement<'_>| {
            let mut rows = statement.query(params![namespace, self.now.milliseconds(), SWEEP])?;
            while let Some(row) = rows.next()? {
                let (bucket, name) = (row.get_ref(0)?.as_str()?, row.get_ref(1)?.as_str()?);
                let key = Key::stored(bucket, name);
                swept.push((Path::new(namespace, key), key.size() + row.get::<_, u64>(2)?));
            }
            Ok(())
        };
        let result = run(&mut self.statements.sweep);
        self.changed(result)?;
        let count = swept.len();
        for (path, size) in swept {
            usage.keys = usage.keys.saturating_sub(1);
            usage.bytes = usage.bytes.saturating_sub(size);
            self.entries.insert(path, (None, false));
        }
        if count > 0 {
            self.usage.insert(namespace, (space.clone(), usage));
        }
        Ok(count)
    }

    /// Runs a statement that changes the database.
    pub(super) fn execute(&mut self, sql: &str, params: impl rusqlite::Params) -> Result<usize, Error> {
        let result = self.connection.prepare(sql).and_then(|mut statement| statement.execute(params));
        self.changed(result)
    }

    /// Notes that a change of the database has failed.
    pub(super) fn changed<T>(&mut self, result: rusqlite::Result<T>) -> Result<T, Error> {
        result.map_err(|error| {
            let error = unusable(&error);
            self.failed.get_or_insert(error).clone()
        })
    }

    /// Writes the changed entries to the database.
    fn flush(&mut self) -> Result<(), Error> {
        let Statements { upsert, delete, .. } = &mut *self.statements;
        let mut written = Ok(0);
        for (path, (state, dirty)) in &mut self.entries {
            if !std::mem::take(dirty) {
                continue;
            }
            let key = path.key();
            written = match state {
                Some(Entry { value, version, expires }) => upsert.execute(params![
                    path.namespace,
                    key.bucket(),
                    key.name(),
                    version.number(),
                    expires.map(Timestamp::milliseconds),
                    value.as_slice()
                ]),
                None => delete.execute(params![path.namespace, key.bucket(), key.name()]),
            };
            if written.is_err() {
                break;
            }
        }
        self.changed(written).map(|_| ())
    }

    /// Writes everything to the database, and returns what has changed.
    pub(super) fn finish(mut self) -> Result<Committed, Error> {
        self.flush()?;
        let Transaction { statements, shared, entries, usage, failed, .. } = self;
        if let Some(error) = failed {
            return Err(error);
        }
        let mut count = || {
            for (id, (_, usage)) in &usage {
                statements.count.execute(params![id, usage.keys, usage.bytes])?;
            }
            // Also without changes, for the tokens of locks.
            let last = shared.numbers.last();
            if last != statements.stored {
                statements.last.execute([last])?;
            }
            Ok(last)
        };
        let last = count().map_err(|error: rusqlite::Error| unusable(&error))?;
        Ok(Committed { last, entries, usage })
    }
}

/// An error of SQLite as an error of an operation.
pub(super) fn unusable(error: &rusqlite::Error) -> Error {
    use rusqlite::ErrorCode::{DatabaseBusy, DatabaseCorrupt, DiskFull, NotADatabase, SystemIoFailure};
    match error.sqlite_error_code() {
        Some(DiskFull) => Error::unavailable("the disk is full: free some space"),
        Some(DatabaseCorrupt | NotADatabase) => Error::unavailable("the database is damaged: restore a backup"),
        Some(SystemIoFailure) => Error::unavailable(format!("the disk does not work: {error}")),
        Some(DatabaseBusy) => Error::unavailable("another program has locked the database: close it"),
        _ => Error::unavailable(format!("SQLite: {error}")),
    }
}
