//! Dead messages in SQLite.

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::clock::Timestamp;
use crate::error::Error;
use crate::key::Namespace;
use crate::limits::{MAX_DEAD, MAX_RECEIVE_BYTES};
use crate::messages::{Afterlife, DeadMessage, DeadSelection, Fault, Message, MessageId, Subject};
use crate::sqlite::Id;
use crate::sqlite::messages::consumer::{self, Consumer};
use crate::sqlite::messages::stored::{COLUMNS, StoredMessage, add, execute};
use crate::sqlite::transaction::{Transaction, unusable};

/// Keeps a dead message, and removes the oldest ones that are too many.
pub(super) fn keep(
    transaction: &mut Transaction<'_, '_>,
    consumer: &Consumer,
    fault: Fault,
    stored: &StoredMessage,
) -> Result<(), Error> {
    let insert = "INSERT INTO dead_message
         (consumer, number, published, died, attempt, subject, origin, reply_to, headers, size, body, fault)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
    let Message { subject, reply_to, headers, body } = &stored.message;
    let row = params![
        consumer.id,
        stored.number,
        stored.published,
        transaction.now.milliseconds(),
        stored.attempt,
        subject.as_str(),
        stored.origin.as_ref().map(Subject::as_str),
        reply_to.as_ref().map(Subject::as_str),
        headers.as_str(),
        stored.message.size(),
        &*body.bytes(),
        fault.code()
    ];
    execute(transaction, insert, row)?;
    trim(transaction, consumer)
}

/// Keeps a message that cannot be read as a dead one, as it is. It is counted, and not listed.
pub(super) fn keep_damaged(transaction: &mut Transaction<'_, '_>, consumer: &Consumer, id: Id) -> Result<(), Error> {
    let insert = "INSERT INTO dead_message
         (consumer, number, published, died, attempt, subject, origin, reply_to, headers, size, body, fault)
         SELECT consumer, number, published, ?2, attempt, subject, origin, reply_to, headers, max(size, 0), body, ?3
         FROM message WHERE id = ?1";
    let died = transaction.now.milliseconds();
    execute(transaction, insert, params![id, died, Fault::Unsettled.code()])?;
    let count = "UPDATE consumer SET messages = messages - 1,
         bytes = bytes - (SELECT max(size, 0) FROM message WHERE id = ?2) WHERE id = ?1";
    execute(transaction, count, params![consumer.id, id])?;
    execute(transaction, "DELETE FROM message WHERE id = ?1", [id])?;
    trim(transaction, consumer)
}

/// Removes the oldest dead messages that are too many.
fn trim(transaction: &mut Transaction<'_, '_>, consumer: &Consumer) -> Result<(), Error> {
    let sum = "SELECT count(*), ifnull(sum(size), 0) FROM dead_message WHERE consumer = ?1";
    let oldest = "DELETE FROM dead_message WHERE id = (SELECT min(id) FROM dead_message WHERE consumer = ?1)";
    loop {
        let total = transaction
            .connection
            .prepare_cached(sum)
            .and_then(|mut sum| sum.query_row([consumer.id], |row| Ok((row.get::<_, u64>(0)?, row.get::<_, u64>(1)?))));
        let (messages, bytes) = total.map_err(|error| unusable(&error))?;
        if messages <= MAX_DEAD && bytes <= consumer.subscription.quota().bytes {
            return Ok(());
        }
        execute(transaction, oldest, [consumer.id])?;
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<DeadMessage> {
    let StoredMessage { id, number, attempt, origin, message, .. } = StoredMessage::read(row)?;
    Ok(DeadMessage {
        place: id.to_string().into(),
        message,
        id: MessageId::new(number.to_string()),
        origin,
        died: Some(Timestamp::new(row.get(9)?)),
        attempts: Some(attempt),
        fault: row.get::<_, Option<String>>(10)?.as_deref().and_then(Fault::read),
    })
}

/// Returns a page of the dead messages of a consumer, without those that cannot be read.
pub(super) fn list(
    connection: &Connection,
    name: &Namespace,
    after: i64,
    limit: usize,
) -> rusqlite::Result<Vec<DeadMessage>> {
    let select = format!(
        "SELECT {COLUMNS}, died, fault FROM dead_message
         WHERE consumer = (SELECT id FROM consumer WHERE name = ?1) AND id > ?2 ORDER BY id LIMIT ?3"
    );
    let mut statement = connection.prepare_cached(&select)?;
    let mut rows = statement.query(params![name.as_str(), after, limit])?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    while bytes < MAX_RECEIVE_BYTES {
        let Some(row) = rows.next()? else { break };
        let Ok(dead) = read(row) else { continue };
        bytes += dead.message.size();
        found.push(dead);
    }
    Ok(found)
}

/// Returns the dead message at a place.
pub(super) fn find(connection: &Connection, name: &Namespace, place: &str) -> rusqlite::Result<Option<DeadMessage>> {
    let Ok(id) = place.parse::<i64>() else { return Ok(None) };
    let select = format!(
        "SELECT {COLUMNS}, died, fault FROM dead_message
         WHERE consumer = (SELECT id FROM consumer WHERE name = ?1) AND id = ?2"
    );
    let found = connection.prepare_cached(&select)?.query_row(params![name.as_str(), id], |row| Ok(read(row).ok()));
    Ok(found.optional()?.flatten())
}

/// Retries dead messages or removes them.
pub(super) fn end(
    transaction: &mut Transaction<'_, '_>,
    name: &Namespace,
    which: DeadSelection<'_>,
    afterlife: Afterlife,
) -> Result<u64, Error> {
    let Some(consumer) = consumer::named(transaction.connection, name)? else { return Ok(0) };
    let one = match which {
        DeadSelection::All => None,
        DeadSelection::One(place) => match place.parse::<i64>() {
            Ok(id) => Some(id),
            Err(_) => return Ok(0),
        },
    };
    let select = "SELECT id FROM dead_message WHERE consumer = ?1 AND id = ifnull(?2, id) ORDER BY id";
    let ids = transaction.connection.prepare_cached(select).and_then(|mut select| {
        select.query_map(params![consumer.id, one], |row| row.get::<_, i64>(0))?.collect::<Result<Vec<_>, _>>()
    });
    let mut ended = 0;
    for id in ids.map_err(|error| unusable(&error))? {
        if afterlife == Afterlife::Retry {
            match retry(transaction, name, id) {
                Err(Error::QuotaExceeded { .. }) if ended > 0 => break,
                retried => {
                    if !retried? {
                        continue;
                    }
                }
            }
        }
        execute(transaction, "DELETE FROM dead_message WHERE id = ?1", [id])?;
        ended += 1;
    }
    Ok(ended)
}

/// Stores a dead message again, if there is room for it; `false` if it cannot be read.
fn retry(transaction: &mut Transaction<'_, '_>, name: &Namespace, id: i64) -> Result<bool, Error> {
    let select = format!("SELECT {COLUMNS} FROM dead_message WHERE id = ?1");
    let found = transaction
        .connection
        .prepare_cached(&select)
        .and_then(|mut select| select.query_row([id], |row| Ok(StoredMessage::read(row).ok())));
    let Some(stored) = found.map_err(|error| unusable(&error))? else { return Ok(false) };
    let Some(consumer) = consumer::named(transaction.connection, name)? else { return Ok(false) };
    consumer.subscription.check(consumer.backlog, stored.message.size())?;
    add(transaction, consumer.id, &stored).map(|()| true)
}
