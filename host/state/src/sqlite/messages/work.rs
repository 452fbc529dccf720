//! What the writer does with messages, in its transaction.

use std::time::Duration;

use rusqlite::{OptionalExtension, params};

use crate::clock::Timestamp;
use crate::error::Error;
use crate::key::Namespace;
use crate::limits::{MAX_PAUSE, MAX_RECEIVE, MAX_RECEIVE_BYTES};
use crate::locks::Lease;
use crate::messages::{
    Delivery, Fault, Message, MessageId, Published, Receipt, Received, Settlement, SettlementOutcome,
};
use crate::sqlite::Id;
use crate::sqlite::messages::consumer::{self, Consumer};
use crate::sqlite::messages::dead;
use crate::sqlite::messages::stored::{COLUMNS, StoredMessage, add, count, execute};
use crate::sqlite::transaction::{Transaction, unusable};

/// The longest time that a receiver waits for the database.
pub(super) const RECEIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often it is noted that a consumer receives.
const SEEN_EVERY: Duration = Duration::from_secs(60);

/// Stores a message for all of its consumers.
pub(super) fn publish(transaction: &mut Transaction<'_, '_>, message: Message) -> Result<Published, Error> {
    let number = transaction.shared.numbers.next();
    let published = transaction.now.milliseconds();
    let stored = StoredMessage { id: 0, number, published, attempt: 0, origin: None, message };
    let consumers = store(transaction, &stored)?;
    Ok(Published { id: MessageId::new(number.to_string()), consumers })
}

/// Stores a message for each of its consumers, or for none of them, and returns how many it has.
fn store(transaction: &mut Transaction<'_, '_>, stored: &StoredMessage) -> Result<usize, Error> {
    let (now, size) = (transaction.now, stored.message.size());
    let mut consumers = consumer::all(transaction.connection)?;
    consumers.retain(|consumer| !consumer.is_absent(now) && consumer.subscription.matches(&stored.message.subject));
    consumers.iter().try_for_each(|consumer| consumer.subscription.check(consumer.backlog, size))?;
    consumers.iter().try_for_each(|consumer| add(transaction, consumer.id, stored))?;
    Ok(consumers.len())
}

/// Leases messages that can be delivered now, and returns when there will be more.
pub(super) fn receive(
    transaction: &mut Transaction<'_, '_>,
    id: Id,
    limit: usize,
    lease: Lease,
) -> Result<(Received, Option<Duration>), Error> {
    let now = transaction.now;
    let Some(consumer) = consumer::find(transaction.connection, id)? else { return Ok(Default::default()) };
    if now.since(consumer.seen) >= SEEN_EVERY {
        execute(transaction, "UPDATE consumer SET seen = ?2 WHERE id = ?1", params![id, now.milliseconds()])?;
    }
    let mut received = Received::default();
    let (found, damaged) = due(transaction, id, limit.min(MAX_RECEIVE))?;
    for id in damaged {
        // It keeps none of the others from being delivered.
        dead::keep_damaged(transaction, &consumer, id)?;
        received.dead += 1;
    }
    for stored in found {
        if stored.attempt >= consumer.subscription.max_deliver() {
            bury(transaction, &consumer, Fault::Unsettled, stored)?;
            received.dead += 1;
            continue;
        }
        let (number, attempt) = (transaction.shared.numbers.next(), stored.attempt.saturating_add(1));
        let update = "UPDATE message SET due = ?2, attempt = ?3, lease = ?4 WHERE id = ?1";
        let until = now.after(lease.duration()).milliseconds();
        execute(transaction, update, params![stored.id, until, attempt, number])?;
        received.deliveries.push(Delivery {
            message: stored.message,
            id: MessageId::new(stored.number.to_string()),
            receipt: Receipt::new(format!("{}.{number}", stored.id)),
            attempt,
            age: consumer::age(now, stored.published),
            origin: stored.origin,
        });
    }
    let next = "SELECT min(due) FROM message WHERE consumer = ?1";
    let next = transaction.connection.prepare_cached(next).and_then(|mut next| next.query_row([id], |row| row.get(0)));
    let next: Option<u64> = next.map_err(|error| unusable(&error))?;
    Ok((received, next.map(|next| Timestamp::new(next).since(now))))
}

/// Reads the messages that can be delivered now, the longest due first, up to a size, and the ids of those that cannot be read.
fn due(transaction: &Transaction<'_, '_>, consumer: Id, limit: usize) -> Result<(Vec<StoredMessage>, Vec<Id>), Error> {
    let read = || {
        let select =
            format!("SELECT {COLUMNS} FROM message WHERE consumer = ?1 AND due <= ?2 ORDER BY due, id LIMIT ?3");
        let mut statement = transaction.connection.prepare_cached(&select)?;
        let mut rows = statement.query(params![consumer, transaction.now.milliseconds(), limit])?;
        let (mut found, mut damaged, mut bytes) = (Vec::new(), Vec::new(), 0);
        while bytes < MAX_RECEIVE_BYTES {
            let Some(row) = rows.next()? else { break };
            match StoredMessage::read(row) {
                Ok(stored) => {
                    bytes += stored.message.size();
                    found.push(stored);
                }
                Err(_) => damaged.push(row.get(0)?),
            }
        }
        Ok((found, damaged))
    };
    read().map_err(|error: rusqlite::Error| unusable(&error))
}

/// Settles a message.
pub(super) fn settle(
    transaction: &mut Transaction<'_, '_>,
    name: &Namespace,
    receipt: &Receipt,
    settlement: Settlement,
) -> Result<SettlementOutcome, Error> {
    let parts = receipt.as_str().split_once('.');
    let parts = parts.and_then(|(id, lease)| Some((id.parse::<i64>().ok()?, lease.parse::<u64>().ok()?)));
    let (Some((id, lease)), Some(consumer)) = (parts, consumer::named(transaction.connection, name)?) else {
        return Ok(SettlementOutcome::Stale);
    };
    // The pause, and how many deliveries do not count; nothing for a message that dies.
    let (again, fault) = match settlement {
        Settlement::Acknowledge => return acknowledge(transaction, consumer.id, (id, lease)),
        Settlement::Retry(pause, fault) => (Some((pause, 0)), fault),
        Settlement::Release(pause) => (Some((pause, 1)), Fault::Unsettled),
        Settlement::Reject(fault) => (None, fault),
    };
    let select = format!("SELECT {COLUMNS} FROM message WHERE id = ?1 AND lease = ?2 AND consumer = ?3");
    let found = transaction
        .connection
        .prepare_cached(&select)
        .and_then(|mut select| select.query_row(params![id, lease, consumer.id], StoredMessage::read).optional());
    let Some(stored) = found.map_err(|error| unusable(&error))? else { return Ok(SettlementOutcome::Stale) };
    let again = again.map(|(pause, uncounted)| (pause, stored.attempt.saturating_sub(uncounted)));
    let Some((pause, attempt)) = again.filter(|(_, attempt)| *attempt < consumer.subscription.max_deliver()) else {
        bury(transaction, &consumer, fault, stored)?;
        return Ok(SettlementOutcome::Dead);
    };
    let due = transaction.now.after(pause.min(MAX_PAUSE)).milliseconds();
    let update = "UPDATE message SET due = ?2, attempt = ?3, lease = NULL WHERE id = ?1";
    execute(transaction, update, params![id, due, attempt])?;
    transaction.shared.arrivals.notify(consumer.id);
    Ok(SettlementOutcome::Done)
}

/// Ends the life of a message: it goes to the dead-letter subject once, or is kept apart.
fn bury(
    transaction: &mut Transaction<'_, '_>,
    consumer: &Consumer,
    fault: Fault,
    stored: StoredMessage,
) -> Result<(), Error> {
    delete(transaction, consumer, &stored)?;
    if let (Some(subject), None) = (consumer.subscription.dead_letter(), &stored.origin) {
        let origin = Some(stored.message.subject.clone());
        let message = Message { subject: subject.clone(), ..stored.message.clone() };
        match store(transaction, &StoredMessage { origin, message, ..stored }) {
            // Without a consumer, or without room, it is kept where it died.
            Ok(0) | Err(Error::QuotaExceeded { .. }) => {}
            result => return result.map(|_| ()),
        }
    }
    dead::keep(transaction, consumer, fault, &stored)
}

/// Acknowledges a message.
fn acknowledge(
    transaction: &mut Transaction<'_, '_>,
    consumer: Id,
    (id, lease): (i64, u64),
) -> Result<SettlementOutcome, Error> {
    let delete = "DELETE FROM message WHERE id = ?1 AND lease = ?2 AND consumer = ?3 RETURNING size";
    let deleted = transaction
        .connection
        .prepare_cached(delete)
        .and_then(|mut delete| delete.query_row(params![id, lease, consumer], |row| row.get::<_, u64>(0)).optional());
    let Some(size) = transaction.changed(deleted)? else { return Ok(SettlementOutcome::Stale) };
    count(transaction, consumer, -1, size)?;
    Ok(SettlementOutcome::Done)
}

/// Removes a message that was read before.
fn delete(transaction: &mut Transaction<'_, '_>, consumer: &Consumer, stored: &StoredMessage) -> Result<(), Error> {
    execute(transaction, "DELETE FROM message WHERE id = ?1", [stored.id])?;
    count(transaction, consumer.id, -1, stored.message.size())
}
