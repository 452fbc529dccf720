//! Messages in the tables, and the statements that change them.

use rusqlite::{Row, params};

use crate::error::Error;
use crate::messages::{Headers, Message, MessageBody, Subject};
use crate::sqlite::Id;
use crate::sqlite::transaction::Transaction;

/// A message as it is stored.
pub(super) struct StoredMessage {
    pub(super) id: i64,
    pub(super) number: u64,
    pub(super) published: u64,
    pub(super) attempt: u32,
    pub(super) origin: Option<Subject>,
    pub(super) message: Message,
}

pub(super) const COLUMNS: &str = "id, number, published, attempt, subject, origin, reply_to, headers, body";

impl StoredMessage {
    /// Reads a row of [`COLUMNS`].
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<StoredMessage> {
        // Checked when it was written, so anything else is damage.
        let damaged = |_| rusqlite::Error::InvalidQuery;
        let subject = |text: Option<String>| text.as_deref().map(Subject::new).transpose().map_err(damaged);
        Ok(StoredMessage {
            id: row.get(0)?,
            number: row.get(1)?,
            published: row.get(2)?,
            attempt: row.get(3)?,
            origin: subject(row.get(5)?)?,
            message: Message {
                subject: Subject::new(row.get_ref(4)?.as_str()?).map_err(damaged)?,
                reply_to: subject(row.get(6)?)?,
                headers: Headers::stored(row.get(7)?).map_err(damaged)?,
                body: MessageBody::new(row.get::<_, Vec<u8>>(8)?).map_err(damaged)?,
            },
        })
    }
}

/// Stores a message for a consumer, to be delivered now.
pub(super) fn add(transaction: &mut Transaction<'_, '_>, consumer: Id, stored: &StoredMessage) -> Result<(), Error> {
    let insert = "INSERT INTO message
         (consumer, number, published, due, attempt, subject, origin, reply_to, headers, size, body)
         VALUES (?1, ?2, ?3, ?4, 0, ?5, ?6, ?7, ?8, ?9, ?10)";
    let Message { subject, reply_to, headers, body } = &stored.message;
    let row = params![
        consumer,
        stored.number,
        stored.published,
        transaction.now.milliseconds(),
        subject.as_str(),
        stored.origin.as_ref().map(Subject::as_str),
        reply_to.as_ref().map(Subject::as_str),
        headers.as_str(),
        stored.message.size(),
        &*body.bytes()
    ];
    execute(transaction, insert, row)?;
    count(transaction, consumer, 1, stored.message.size())?;
    // The receiver's job comes after this one: it sees the message, or fails as this one does.
    transaction.shared.arrivals.notify(consumer);
    Ok(())
}

/// Counts a message that was added or removed.
pub(super) fn count(transaction: &mut Transaction<'_, '_>, consumer: Id, sign: i64, size: u64) -> Result<(), Error> {
    let update = "UPDATE consumer SET messages = messages + ?2, bytes = bytes + ?2 * ?3 WHERE id = ?1";
    execute(transaction, update, params![consumer, sign, size])
}

/// Runs a statement that changes the database, compiled once.
pub(super) fn execute(
    transaction: &mut Transaction<'_, '_>,
    sql: &str,
    params: impl rusqlite::Params,
) -> Result<(), Error> {
    let result = transaction.connection.prepare_cached(sql).and_then(|mut statement| statement.execute(params));
    transaction.changed(result).map(|_| ())
}
