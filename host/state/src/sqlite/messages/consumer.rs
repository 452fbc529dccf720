//! Consumers in SQLite: their subscriptions, and how many messages they have.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use crate::clock::Timestamp;
use crate::error::{Error, Resource};
use crate::key::Namespace;
use crate::limits::{MAX_ABSENCE, MAX_CONSUMERS};
use crate::messages::{Backlog, Pattern, QueueStatus, Subject, Subscription};
use crate::sqlite::Id;
use crate::sqlite::transaction::{Transaction, unusable};

/// Returns the number of a consumer.
pub(super) const ID: &str = "SELECT id FROM consumer WHERE name = ?1";

/// A consumer in a transaction.
pub(super) struct Consumer {
    pub(super) id: Id,
    pub(super) subscription: Subscription,
    pub(super) seen: Timestamp,
    pub(super) backlog: Backlog,
}

impl Consumer {
    /// Whether it has not received for so long that it has no subscription any more.
    pub(super) fn is_absent(&self, now: Timestamp) -> bool {
        now.since(self.seen) >= MAX_ABSENCE
    }
}

const CONSUMERS: &str =
    "SELECT id, patterns, max_deliver, dead_letter, max_messages, max_bytes, seen, messages, bytes FROM consumer";

/// Reads the consumers that `condition` selects.
fn select(connection: &Connection, condition: &str, params: impl rusqlite::Params) -> Result<Vec<Consumer>, Error> {
    let read = || {
        let mut statement = connection.prepare_cached(&format!("{CONSUMERS} {condition}"))?;
        let mut rows = statement.query(params)?;
        let mut consumers = Vec::new();
        while let Some(row) = rows.next()? {
            // Checked when it was written, so anything else is damage.
            let damaged = |_| rusqlite::Error::InvalidQuery;
            let patterns = row.get_ref(1)?.as_str()?.split(' ').map(Pattern::new).collect::<Result<_, _>>();
            let dead_letter = row.get::<_, Option<String>>(3)?.as_deref().map(Subject::new).transpose();
            let quota = Backlog { messages: row.get(4)?, bytes: row.get(5)? };
            let (patterns, dead_letter) = (patterns.map_err(damaged)?, dead_letter.map_err(damaged)?);
            let subscription = Subscription::new(patterns, row.get(2)?, dead_letter, quota).map_err(damaged)?;
            consumers.push(Consumer {
                id: row.get(0)?,
                subscription,
                seen: Timestamp::new(row.get(6)?),
                backlog: Backlog { messages: row.get(7)?, bytes: row.get(8)? },
            });
        }
        Ok(consumers)
    };
    read().map_err(|error| unusable(&error))
}

/// Returns all consumers, of which there are at most [`MAX_CONSUMERS`].
pub(super) fn all(connection: &Connection) -> Result<Vec<Consumer>, Error> {
    select(connection, "", [])
}

/// Returns the consumer with this number.
pub(super) fn find(connection: &Connection, id: Id) -> Result<Option<Consumer>, Error> {
    Ok(select(connection, "WHERE id = ?1", [id])?.pop())
}

/// Returns the consumer with this name.
pub(super) fn named(connection: &Connection, name: &Namespace) -> Result<Option<Consumer>, Error> {
    Ok(select(connection, "WHERE name = ?1", [name.as_str()])?.pop())
}

pub(super) fn subscribe(
    transaction: &mut Transaction<'_, '_>,
    name: &Namespace,
    subscription: &Subscription,
) -> Result<(), Error> {
    let now = transaction.now;
    let consumers = all(transaction.connection)?;
    for absent in consumers.iter().filter(|consumer| consumer.is_absent(now)) {
        remove(transaction, absent.id)?;
    }
    let used = consumers.iter().filter(|consumer| !consumer.is_absent(now)).count() as u64;
    if used >= MAX_CONSUMERS && named(transaction.connection, name)?.is_none() {
        return Err(Error::QuotaExceeded { resource: Resource::Consumers, used, limit: MAX_CONSUMERS });
    }
    let patterns: Vec<_> = subscription.patterns().iter().map(Pattern::as_str).collect();
    let Backlog { messages, bytes } = subscription.quota();
    let upsert = "INSERT INTO consumer
         (name, patterns, max_deliver, dead_letter, max_messages, max_bytes, seen, messages, bytes)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0, 0)
         ON CONFLICT (name) DO UPDATE SET patterns = excluded.patterns, max_deliver = excluded.max_deliver,
         dead_letter = excluded.dead_letter, max_messages = excluded.max_messages, max_bytes = excluded.max_bytes,
         seen = excluded.seen";
    let dead_letter = subscription.dead_letter().map(Subject::as_str);
    let (deliveries, now) = (subscription.max_deliver(), now.milliseconds());
    transaction
        .execute(upsert, params![name.as_str(), patterns.join(" "), deliveries, dead_letter, messages, bytes, now])?;
    Ok(())
}

pub(super) fn unsubscribe(transaction: &mut Transaction<'_, '_>, name: &Namespace) -> Result<bool, Error> {
    let Some(consumer) = named(transaction.connection, name)? else { return Ok(false) };
    remove(transaction, consumer.id)?;
    Ok(true)
}

fn remove(transaction: &mut Transaction<'_, '_>, consumer: Id) -> Result<(), Error> {
    transaction.execute("DELETE FROM message WHERE consumer = ?1", [consumer])?;
    transaction.execute("DELETE FROM dead_message WHERE consumer = ?1", [consumer])?;
    transaction.execute("DELETE FROM consumer WHERE id = ?1", [consumer])?;
    transaction.shared.arrivals.remove(consumer);
    Ok(())
}

/// Returns the state of a consumer's messages.
pub(super) fn status(connection: &Connection, name: &Namespace, now: Timestamp) -> rusqlite::Result<QueueStatus> {
    let select = "SELECT messages, bytes,
         (SELECT count(*) FROM message m WHERE m.consumer = c.id AND lease IS NOT NULL AND due > ?2),
         (SELECT count(*) FROM dead_message d WHERE d.consumer = c.id),
         (SELECT min(published) FROM message m WHERE m.consumer = c.id)
         FROM consumer c WHERE name = ?1";
    let mut statement = connection.prepare_cached(select)?;
    let status = |row: &rusqlite::Row<'_>| {
        Ok(QueueStatus {
            backlog: Backlog { messages: row.get(0)?, bytes: row.get(1)? },
            leased: row.get(2)?,
            dead: row.get(3)?,
            oldest: row.get::<_, Option<u64>>(4)?.map(|published| age(now, published)),
        })
    };
    let status = statement.query_row(params![name.as_str(), now.milliseconds()], status).optional()?;
    Ok(status.unwrap_or_default())
}

/// How long ago something was published.
pub(super) fn age(now: Timestamp, published: u64) -> Duration {
    now.since(Timestamp::new(published))
}
