//! Messages in rows of PostgreSQL.

use std::time::Duration;

use lodge_remote::LinkFailure;
use lodge_state::messages::{
    DeadMessage, Delivery, Fault, Headers, Message, MessageBody, MessageId, Receipt, Received, Subject,
};
use lodge_state::{Error, Timestamp};
use tokio_postgres::Row;

use crate::failure::{get, unexpected};

/// A message with its id, and the subject at which it died before.
type MessageParts = (Message, MessageId, Option<Subject>);

/// What a receiver has found.
pub(super) struct FoundMessages {
    pub(super) received: Received,
    /// The numbers and leases of what other programs have written.
    pub(super) unreadable: Vec<(i64, i64)>,
    /// When there is more.
    pub(super) next: Option<Duration>,
    /// Whether it is known for long that this host receives.
    pub(super) known: bool,
}

/// Reads `lodge.receive`; `None` without a subscription.
pub(super) fn found(rows: &[Row]) -> Result<Option<FoundMessages>, LinkFailure> {
    let Some((last, messages)) = rows.split_last() else { return Ok(None) };
    let mut found = FoundMessages {
        received: Received { dead: count(last, 10)?, ..Received::default() },
        unreadable: Vec::new(),
        next: get::<Option<i64>>(last, 11)?.map(milliseconds),
        known: get(last, 12)?,
    };
    for row in messages {
        let (number, lease): (i64, i64) = (get(row, 6)?, get(row, 7)?);
        let Ok((message, id, origin)) = stored(row) else {
            // It keeps none of the others from being delivered.
            found.unreadable.push((number, lease));
            continue;
        };
        let attempt = get::<i32>(row, 8)?.try_into().map_err(|_| unexpected())?;
        let (receipt, age) = (Receipt::new(format!("{number}.{lease}")), milliseconds(get(row, 9)?));
        found.received.deliveries.push(Delivery { message, id, receipt, attempt, age, origin });
    }
    Ok(Some(found))
}

/// Reads dead messages. What other programs have written is not shown.
pub(super) fn dead(rows: &[Row]) -> Result<Vec<DeadMessage>, LinkFailure> {
    let mut dead = Vec::new();
    for row in rows {
        let Ok((message, id, origin)) = stored(row) else { continue };
        let (number, died, attempt): (i64, i64, i32) = (get(row, 6)?, get(row, 7)?, get(row, 8)?);
        dead.push(DeadMessage {
            place: number.to_string().into(),
            message,
            id,
            origin,
            died: died.try_into().ok().map(Timestamp::new),
            attempts: attempt.try_into().ok(),
            fault: Fault::read(get(row, 9)?),
        });
    }
    Ok(dead)
}

/// Reads a number that is not negative.
pub(super) fn count(row: &Row, column: usize) -> Result<u64, LinkFailure> {
    get::<i64>(row, column)?.try_into().map_err(|_| unexpected().into())
}

/// A time from the server; none, if a clock was set back.
pub(super) fn milliseconds(milliseconds: i64) -> Duration {
    Duration::from_millis(milliseconds.try_into().unwrap_or(0))
}

fn stored(row: &Row) -> Result<MessageParts, Error> {
    let text = |column| row.try_get::<_, Option<&str>>(column).map_err(|_| unexpected());
    let subject = |column| text(column)?.map(Subject::new).transpose();
    let bytes = |column| row.try_get::<_, &[u8]>(column).map_err(|_| unexpected());
    let id = MessageId::new(text(0)?.ok_or_else(unexpected)?);
    let headers = Headers::read(std::str::from_utf8(bytes(4)?).map_err(|_| unexpected())?)?;
    let message = Message {
        subject: subject(1)?.ok_or_else(unexpected)?,
        reply_to: subject(3)?,
        headers,
        body: MessageBody::new(bytes(5)?.to_vec())?,
    };
    Ok((message, id, subject(2)?))
}
