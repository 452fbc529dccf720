//! The threads that read.

use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Statement, params};

use crate::clock::Timestamp;
use crate::error::Error;
use crate::limits::MAX_PAGE;
use crate::sqlite::path::{Id, Path};
use crate::sqlite::queue::Ticket;
use crate::sqlite::recent::State;
use crate::sqlite::transaction::{SELECT, select, unusable};
use crate::sqlite::{OpenError, Shared, schema};

/// A read that a task waits for.
pub(super) struct ReadJob {
    pub(super) work: Box<dyn FnOnce(&mut ReadSession<'_>) + Send>,
    pub(super) ticket: Ticket,
}

/// A connection with its statements, compiled once.
pub(super) struct ReadSession<'c> {
    pub(super) connection: &'c Connection,
    shared: &'c Shared,
    select: Statement<'c>,
    list: Statement<'c>,
    bucket: Statement<'c>,
}

/// Opens a connection for [`run`].
pub(super) fn open(path: &FilePath) -> Result<Connection, OpenError> {
    schema::open_reader(path).map_err(|error| schema::failure(path, error))
}

/// Runs until the queue is closed and empty.
pub(super) fn run(shared: &Arc<Shared>, connection: &Connection) {
    let mut jobs = Vec::with_capacity(1);
    // The statements fit the schema, which was checked; if they do not compile nevertheless, every read fails.
    let Ok(mut reader) = ReadSession::new(shared, connection) else {
        shared.reads.abandon();
        return;
    };
    while shared.reads.take(&mut jobs, 1, Duration::from_secs(3600)) {
        for ReadJob { work, ticket } in jobs.drain(..) {
            drop(ticket);
            work(&mut reader);
        }
    }
}

impl<'c> ReadSession<'c> {
    fn new(shared: &'c Shared, connection: &'c Connection) -> rusqlite::Result<ReadSession<'c>> {
        let list = "SELECT name FROM entry WHERE namespace = ?1 AND bucket = ?2 AND name >= ?3
             AND (expires IS NULL OR expires > ?4) ORDER BY name";
        let bucket = "SELECT bucket FROM entry WHERE namespace = ?1 AND bucket > ?2 ORDER BY bucket LIMIT 1";
        let [select, list, bucket] = [SELECT, list, bucket].map(|sql| connection.prepare(sql));
        Ok(ReadSession { connection, shared, select: select?, list: list?, bucket: bucket? })
    }

    /// Reads an entry, whether or not it has expired.
    pub(super) fn entry(&mut self, path: &Path) -> Result<State, Error> {
        let statement = &mut self.select;
        self.shared.recent.load(path, || select(statement, path)).map_err(|error| unusable(&error))
    }

    /// Reads keys of a bucket in ascending order, from `first`, until `each` returns `false`.
    pub(super) fn keys(
        &mut self,
        (namespace, bucket, first): (Id, &str, &str),
        now: Timestamp,
        mut each: impl FnMut(&str) -> bool,
    ) -> Result<(), Error> {
        let mut read = || {
            let mut rows = self.list.query(params![namespace, bucket, first, now.milliseconds()])?;
            while let Some(row) = rows.next()? {
                if !each(row.get_ref(0)?.as_str()?) {
                    break;
                }
            }
            Ok(())
        };
        read().map_err(|error| unusable(&error))
    }

    /// Reads the names of buckets after `after`.
    pub(super) fn buckets(&mut self, namespace: Id, mut after: String) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        // Each step finds the next name in the index, however many keys the bucket has.
        while names.len() < MAX_PAGE {
            let next = self.bucket.query_row(params![namespace, after], |row| row.get::<_, String>(0)).optional();
            let Some(name) = next.map_err(|error| unusable(&error))? else { break };
            after.clone_from(&name);
            names.push(name);
        }
        Ok(names)
    }
}
