//! Messages of services in PostgreSQL.
//!
//! * Every operation is one call of a function in SQL, so a message is stored for all of its consumers or for none, and quotas
//!   are exact. `messages.sql` has the tables.
//! * A receiver claims what is due with `FOR UPDATE SKIP LOCKED`, so receivers do not wait for each other. A lease is the time at
//!   which a message is due again, by the clock of the server: so those of a host that is killed come back.
//! * Whoever changes what a consumer has locks its row, of several in the order of their numbers. So what is published to one
//!   consumer, and what it settles, is one transaction after another.
//! * Receivers look again and again: `NOTIFY` would let the commits of all publishers wait for each other.

mod rows;

use std::sync::Arc;
use std::time::Duration;

use lodge_remote::{PRESENCE, RECEIVE_TIMEOUT, Receivers, RemoteSpace, SettlementArguments};
use lodge_state::limits::{MAX_ABSENCE, MAX_CONSUMERS, MAX_DEAD, MAX_RECEIVE, MAX_RECEIVE_BYTES};
use lodge_state::messages::{
    Afterlife, Backlog, DeadMessage, DeadSelection, Fault, Message, MessageId, Pattern, Published, QueueBackend,
    QueueStatus, Receipt, Received, Settlement, SettlementOutcome, Subject, Subscription, place_of,
};
use lodge_state::{Error, Holder, Lease, Namespace, Resource};
use tokio::time::Instant;
use tokio_postgres::Row;

use crate::Shared;
use crate::connector::PostgresConnection;
use crate::failure::{get, unexpected};
use crate::message_statements::MessageStatement;
use crate::messages::rows::{count, dead, found, milliseconds};
use crate::statements::Parameters;

/// The namespace of publishing. No service has such a name.
const PUBLISHING: &str = "@messages";
/// Messages of ended subscriptions that are removed at a time.
const DISCARDED: i64 = 5000;
const PRESENCE_TIME: i64 = whole(PRESENCE);
const ABSENCE_TIME: i64 = whole(MAX_ABSENCE);
const DEAD: i64 = MAX_DEAD as i64;

/// The messages of all services in PostgreSQL.
pub(crate) struct PostgresQueue {
    shared: Arc<Shared>,
    /// What bounds publishing, of all services together.
    publishing: Arc<RemoteSpace>,
    /// This host, among those that receive for a consumer.
    host: [u8; 16],
    receivers: Receivers,
}

/// Whole milliseconds; no fewer than the duration has, which is a day at most.
const fn whole(duration: Duration) -> i64 {
    duration.as_nanos().div_ceil(1_000_000) as i64
}

/// A number of a quota.
fn most(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn is_done(row: &Row) -> bool {
    matches!(row.try_get(0), Ok("done"))
}

/// The error of a row that says which quota is used up.
fn exceeded(row: &Row, limit: u64) -> Error {
    let resource = get::<&str>(row, 0).ok().and_then(Resource::read);
    match (resource, count(row, 1)) {
        (Some(resource), Ok(used)) => Error::QuotaExceeded { resource, used, limit },
        _ => unexpected(),
    }
}

impl PostgresQueue {
    /// The messages of a backend.
    ///
    /// # Errors
    /// If there are no random numbers.
    pub(crate) fn new(shared: Arc<Shared>) -> Result<PostgresQueue, Error> {
        let publishing = shared.spaces.open(&Namespace::new(PUBLISHING)?, None)?;
        let host = Holder::random()?.bits().to_be_bytes();
        Ok(PostgresQueue { shared, publishing, host, receivers: Receivers::default() })
    }

    fn space(&self, consumer: &Namespace) -> Result<Arc<RemoteSpace>, Error> {
        self.shared.spaces.open(consumer, None)
    }

    /// Runs a statement that must not be run twice when its result was lost, and returns its row.
    async fn once(
        &self,
        statement: MessageStatement,
        parameters: &Parameters<'_>,
        deadline: Instant,
    ) -> Result<Row, Error> {
        let run = async |connection: PostgresConnection| connection.of_messages(statement, parameters).await;
        self.shared.links.once(deadline, run).await?.pop().ok_or_else(unexpected)
    }

    /// Runs a statement that can be run twice, and returns its rows.
    async fn repeatable(
        &self,
        statement: MessageStatement,
        parameters: &Parameters<'_>,
        deadline: Instant,
    ) -> Result<Vec<Row>, Error> {
        let run = async |connection: PostgresConnection| connection.of_messages(statement, parameters).await;
        self.shared.links.repeatable(deadline, run).await
    }

    /// Receives what is due now, and when there will be more.
    async fn take(
        &self,
        consumer: &Namespace,
        limit: usize,
        lease: Lease,
    ) -> Result<(Received, Option<Duration>), Error> {
        let _permit = self.space(consumer)?.enter(0)?;
        let (name, host) = (consumer.as_str().as_bytes(), &self.host[..]);
        let (limit, lease) = (limit.clamp(1, MAX_RECEIVE) as i64, whole(lease.duration()));
        let deadline = Instant::now() + RECEIVE_TIMEOUT;
        let parameters: &Parameters<'_> =
            &[&name, &host, &PRESENCE_TIME, &limit, &lease, &most(MAX_RECEIVE_BYTES), &ABSENCE_TIME, &DEAD];
        // What a lost response contained is delivered again.
        let rows = self.repeatable(MessageStatement::Receive, parameters, deadline).await?;
        let mut found = found(&rows).map_err(|_| unexpected())?.ok_or_else(Error::unsubscribed)?;
        for (number, lease) in found.unreadable {
            let rejected = Settlement::Reject(Fault::Unsettled).into();
            if self.settled(consumer, (number, lease), &rejected, deadline).await.is_ok() {
                found.received.dead += 1;
            }
        }
        if !found.known {
            // What was received is not lost because of this. The next receiver says it.
            let _ = self.present(consumer, deadline).await;
        }
        Ok((found.received, found.next))
    }

    /// Says that this host receives for a consumer.
    async fn present(&self, consumer: &Namespace, deadline: Instant) -> Result<(), Error> {
        let (name, host) = (consumer.as_str().as_bytes(), &self.host[..]);
        let parameters: &Parameters<'_> = &[&name, &host, &PRESENCE_TIME];
        self.repeatable(MessageStatement::Present, parameters, deadline).await.map(drop)
    }

    async fn settled(
        &self,
        consumer: &Namespace,
        (number, lease): (i64, i64),
        arguments: &SettlementArguments,
        deadline: Instant,
    ) -> Result<SettlementOutcome, Error> {
        let SettlementArguments { kind, pause, uncounted, fault } = arguments;
        let (name, pause, uncounted) = (consumer.as_str().as_bytes(), whole(*pause), i32::from(*uncounted));
        let parameters: &Parameters<'_> =
            &[&name, &number, &lease, kind, &pause, &uncounted, fault, &ABSENCE_TIME, &DEAD];
        let row = self.once(MessageStatement::Settle, parameters, deadline).await?;
        match row.try_get(0) {
            Ok("done") => Ok(SettlementOutcome::Done),
            Ok("dead") => Ok(SettlementOutcome::Dead),
            Ok("stale") => Ok(SettlementOutcome::Stale),
            _ => Err(unexpected()),
        }
    }

    /// Removes the messages of ended subscriptions. What is left is removed by the next one who subscribes.
    async fn discard(&self, deadline: Instant) {
        let removed = async || {
            let row = self.once(MessageStatement::Discard, &[&DISCARDED], deadline).await?;
            count(&row, 0).map_err(|_| unexpected())
        };
        while removed().await.is_ok_and(|removed| removed > 0) {}
    }

    async fn find_dead(
        &self,
        consumer: &Namespace,
        (after, only, limit): (i64, Option<i64>, usize),
        deadline: Instant,
    ) -> Result<Vec<DeadMessage>, Error> {
        let _permit = self.space(consumer)?.enter(0)?;
        let name = consumer.as_str().as_bytes();
        let (limit, enough) = (i64::try_from(limit).unwrap_or(i64::MAX), most(MAX_RECEIVE_BYTES));
        let parameters: &Parameters<'_> = &[&name, &after, &only, &limit, &enough];
        dead(&self.repeatable(MessageStatement::Dead, parameters, deadline).await?).map_err(|_| unexpected())
    }
}

impl QueueBackend for PostgresQueue {
    async fn subscribe(
        &self,
        consumer: &Namespace,
        subscription: Subscription,
        deadline: Instant,
    ) -> Result<(), Error> {
        let _permit = self.space(consumer)?.enter(0)?;
        let (name, host) = (consumer.as_str().as_bytes(), &self.host[..]);
        let patterns: Vec<_> = subscription.patterns().iter().map(Pattern::as_str).collect();
        let deliveries = i32::try_from(subscription.max_deliver()).unwrap_or(i32::MAX);
        let (letters, quota) = (subscription.dead_letter().map(Subject::as_str), subscription.quota());
        let (messages, bytes, consumers) = (most(quota.messages), most(quota.bytes), most(MAX_CONSUMERS));
        let parameters: &Parameters<'_> = &[
            &name,
            &host,
            &PRESENCE_TIME,
            &patterns,
            &deliveries,
            &letters,
            &messages,
            &bytes,
            &consumers,
            &ABSENCE_TIME,
        ];
        let row = self.repeatable(MessageStatement::Subscribe, parameters, deadline).await?;
        let row = row.first().ok_or_else(unexpected)?;
        if !is_done(row) {
            return Err(exceeded(row, MAX_CONSUMERS));
        }
        self.discard(deadline).await;
        Ok(())
    }

    async fn unsubscribe(&self, consumer: &Namespace, deadline: Instant) -> Result<bool, Error> {
        let _permit = self.space(consumer)?.enter(0)?;
        let (name, host) = (consumer.as_str().as_bytes(), &self.host[..]);
        let row = self.once(MessageStatement::Unsubscribe, &[&name, &host], deadline).await?;
        self.receivers.remove(consumer);
        self.discard(deadline).await;
        row.try_get(0).map_err(|_| unexpected())
    }

    async fn publish(&self, message: Message, deadline: Instant) -> Result<Published, Error> {
        let _permit = self.publishing.enter(message.size())?;
        let id = format!("{:032x}", Holder::random()?.bits());
        let (subject, reply_to) = (message.subject.as_str(), message.reply_to.as_ref().map(Subject::as_str));
        let (headers, body) = (message.headers.as_str().as_bytes(), message.body.bytes());
        let body = &body[..];
        let parameters: &Parameters<'_> = &[&id, &subject, &reply_to, &headers, &body, &ABSENCE_TIME];
        let row = self.once(MessageStatement::Publish, parameters, deadline).await?;
        if !is_done(&row) {
            let limit = count(&row, 2).map_err(|_| unexpected())?;
            return Err(exceeded(&row, limit));
        }
        let names: Vec<Vec<u8>> = row.try_get::<_, Option<_>>(3).map_err(|_| unexpected())?.unwrap_or_default();
        for name in &names {
            let name = std::str::from_utf8(name).map_err(|_| unexpected())?;
            self.receivers.notify(&Namespace::new(name)?);
        }
        Ok(Published { id: MessageId::new(id), consumers: names.len() })
    }

    async fn receive(
        &self,
        consumer: &Namespace,
        limit: usize,
        lease: Lease,
        until: Instant,
    ) -> Result<Received, Error> {
        self.receivers.receive(consumer, until, || self.take(consumer, limit, lease)).await
    }

    fn interrupt(&self, consumer: &Namespace) -> bool {
        self.receivers.interrupt(consumer);
        true
    }

    async fn renew(&self, consumer: &Namespace, deadline: Instant) -> Result<(), Error> {
        let _permit = self.space(consumer)?.enter(0)?;
        self.present(consumer, deadline).await
    }

    async fn settle(
        &self,
        consumer: &Namespace,
        receipt: &Receipt,
        settlement: Settlement,
        deadline: Instant,
    ) -> Result<SettlementOutcome, Error> {
        let parts = receipt.as_str().split_once('.');
        let parts = parts.and_then(|(number, lease)| Some((number.parse().ok()?, lease.parse().ok()?)));
        let Some(place) = parts else { return Ok(SettlementOutcome::Stale) };
        let _permit = self.space(consumer)?.enter(0)?;
        let arguments = SettlementArguments::from(settlement);
        let outcome = self.settled(consumer, place, &arguments, deadline).await?;
        if arguments.kind == "again" {
            self.receivers.notify(consumer);
        }
        Ok(outcome)
    }

    async fn status(&self, consumer: &Namespace, deadline: Instant) -> Result<QueueStatus, Error> {
        let _permit = self.space(consumer)?.enter(0)?;
        let name = consumer.as_str().as_bytes();
        let rows = self.repeatable(MessageStatement::Status, &[&name], deadline).await?;
        let Some(row) = rows.first() else { return Ok(QueueStatus::default()) };
        let number = |column| count(row, column).map_err(|_| unexpected());
        let backlog = Backlog { messages: number(0)?, bytes: number(1)? };
        let oldest: Option<i64> = row.try_get(4).map_err(|_| unexpected())?;
        Ok(QueueStatus { backlog, leased: number(2)?, dead: number(3)?, oldest: oldest.map(milliseconds) })
    }

    async fn dead(
        &self,
        consumer: &Namespace,
        after: Option<&str>,
        limit: usize,
        deadline: Instant,
    ) -> Result<Vec<DeadMessage>, Error> {
        let after = most(place_of(after)?.unwrap_or_default());
        self.find_dead(consumer, (after, None, limit), deadline).await
    }

    async fn dead_message(
        &self,
        consumer: &Namespace,
        place: &str,
        deadline: Instant,
    ) -> Result<Option<DeadMessage>, Error> {
        let Ok(number) = place.parse() else { return Ok(None) };
        Ok(self.find_dead(consumer, (0, Some(number), 1), deadline).await?.pop())
    }

    async fn end_dead(
        &self,
        consumer: &Namespace,
        which: DeadSelection<'_>,
        afterlife: Afterlife,
        deadline: Instant,
    ) -> Result<u64, Error> {
        let only: Option<i64> = match which.place().map(str::parse) {
            Some(Err(_)) => return Ok(0),
            only => only.and_then(Result::ok),
        };
        let _permit = self.space(consumer)?.enter(0)?;
        let (name, again) = (consumer.as_str().as_bytes(), afterlife == Afterlife::Retry);
        let row = self.once(MessageStatement::EndDead, &[&name, &only, &again], deadline).await?;
        if !is_done(&row) {
            let limit = count(&row, 2).map_err(|_| unexpected())?;
            return Err(exceeded(&row, limit));
        }
        self.receivers.notify(consumer);
        count(&row, 1).map_err(|_| unexpected())
    }
}
