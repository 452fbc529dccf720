//! Messages of services in Redis.
//!
//! * Every operation is one script, so a message is stored for all of its consumers or for none, and quotas are exact. The first
//!   lines of `scripts/messages/common.lua` say what is where.
//! * A message is delivered by whoever finds that it is due. A lease is the time at which it is due again.
//! * Scripts cannot wait. A receiver looks again when the next message is due, when this host has published one, and after a
//!   pause that grows up to a second.

mod dead;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use lodge_remote::{PRESENCE, RECEIVE_TIMEOUT, Receivers, RemoteSpace, SettlementArguments};
use lodge_state::limits::{MAX_CONSUMERS, MAX_LEASE, MAX_RECEIVE, MAX_RECEIVE_BYTES};
use lodge_state::messages::{
    Afterlife, Backlog, DeadMessage, DeadSelection, Delivery, Fault, Message, MessageId, Pattern, Published,
    QueueBackend, QueueStatus, Receipt, Received, Settlement, SettlementOutcome, Subject, Subscription,
};
use lodge_state::{Error, Holder, Lease, Namespace, Resource};
use redis::Value;
use tokio::time::Instant;

use crate::messages::wire::{read, stored};
use crate::reply::{array, bytes, number, text, unexpected};
use crate::scripts::{Script, run};
use crate::{Shared, prefix};

/// The namespace of all messages. No service has such a name.
const MESSAGES: &str = "@messages";

/// The messages of all services in Redis.
pub(crate) struct RedisQueue {
    shared: Arc<Shared>,
    /// What bounds publishing, of all services together.
    publishing: Arc<RemoteSpace>,
    prefix: String,
    /// This host, among those that receive for a consumer.
    host: String,
    receivers: Receivers,
}

impl RedisQueue {
    /// The messages of a backend.
    ///
    /// # Errors
    /// If there are no random numbers.
    pub(crate) fn new(shared: Arc<Shared>) -> Result<RedisQueue, Error> {
        let namespace = Namespace::new(MESSAGES)?;
        let publishing = shared.spaces.open(&namespace, None)?;
        let host = format!("{:032x}", Holder::random()?.bits());
        Ok(RedisQueue { shared, publishing, prefix: prefix(&namespace), host, receivers: Receivers::default() })
    }

    fn space(&self, consumer: &Namespace) -> Result<Arc<RemoteSpace>, Error> {
        self.shared.spaces.open(consumer, None)
    }

    /// Runs a script that must not be run twice when its result was lost.
    async fn once(&self, script: Script, arguments: &[&str], deadline: Instant) -> Result<Value, Error> {
        let arguments: Vec<_> = arguments.iter().map(|argument| argument.as_bytes()).collect();
        let script = async |connection| Ok(run(&connection, script, &self.prefix, &arguments).await?);
        self.shared.links.once(deadline, script).await
    }

    /// Runs a script that can be run twice.
    async fn repeatable(&self, script: Script, arguments: &[&str], deadline: Instant) -> Result<Value, Error> {
        let arguments: Vec<_> = arguments.iter().map(|argument| argument.as_bytes()).collect();
        let script = async |connection| Ok(run(&connection, script, &self.prefix, &arguments).await?);
        self.shared.links.repeatable(deadline, script).await
    }

    /// Receives what is due now, and when there will be more. With a limit of 0, it is only known that this host is there.
    async fn take(
        &self,
        consumer: &Namespace,
        limit: usize,
        lease: Lease,
    ) -> Result<(Received, Option<Duration>), Error> {
        let _permit = self.space(consumer)?.enter(0)?;
        let presence = PRESENCE.as_millis().to_string();
        let (limit, lease) = (limit.min(MAX_RECEIVE).to_string(), milliseconds(lease.duration()));
        let enough = MAX_RECEIVE_BYTES.to_string();
        let arguments = [consumer.as_str(), &self.host, &presence, &limit, &lease, &enough];
        // What a lost response contained is delivered again.
        let reply = self.repeatable(Script::Receive, &arguments, Instant::now() + RECEIVE_TIMEOUT).await?;
        let mut reply = array(reply)?;
        if text(reply.next())? != "done" {
            return Err(Error::unsubscribed());
        }
        let mut received = Received { dead: number(reply.next())?, ..Received::default() };
        let next = match bytes(reply.next())? {
            None => None,
            Some(next) => Some(Duration::from_millis(number(Some(Value::BulkString(next)))?)),
        };
        let mut parts = array(reply.next().ok_or_else(unexpected)?)?;
        let mut unreadable = Vec::new();
        while let Some(id) = parts.next() {
            let (id, lease) = (text(Some(id))?, text(parts.next())?);
            let attempt = number(parts.next())?.try_into().map_err(|_| unexpected())?;
            let age = Duration::from_millis(number(parts.next())?);
            let stored = bytes(parts.next())?;
            let kept = stored.is_some();
            let Some((message, known, origin)) = stored.and_then(|stored| read(stored).ok()) else {
                // Another program has written it: it keeps none of the others from being delivered.
                unreadable.push((id, lease, kept));
                continue;
            };
            let receipt = Receipt::new(format!("{id}.{lease}"));
            received.deliveries.push(Delivery { message, id: known, receipt, attempt, age, origin });
        }
        for (id, lease, kept) in unreadable {
            if self.reject(consumer, &id, &lease, kept).await.is_ok() {
                received.dead += 1;
            }
        }
        Ok((received, next))
    }

    /// Ends an entry that is no message: it is kept as a dead one, if there is anything to keep.
    async fn reject(&self, consumer: &Namespace, id: &str, lease: &str, kept: bool) -> Result<(), Error> {
        let (kind, fault) = (if kept { "dead" } else { "done" }, Fault::Unsettled.code());
        let arguments = [consumer.as_str(), id, lease, kind, "0", "0", &fault];
        self.once(Script::Settle, &arguments, Instant::now() + RECEIVE_TIMEOUT).await.map(drop)
    }
}

/// Whole milliseconds, as text; no fewer than the duration has.
fn milliseconds(duration: Duration) -> String {
    duration.as_nanos().div_ceil(1_000_000).to_string()
}

/// The error of a script that says which quota is used up.
fn exceeded(status: &str, used: Option<Value>, limit: Option<Value>) -> Error {
    let Some(resource) = Resource::read(status) else { return unexpected() };
    match (number(used), number(limit)) {
        (Ok(used), Ok(limit)) => Error::QuotaExceeded { resource, used, limit },
        _ => unexpected(),
    }
}

impl QueueBackend for RedisQueue {
    async fn subscribe(
        &self,
        consumer: &Namespace,
        subscription: Subscription,
        deadline: Instant,
    ) -> Result<(), Error> {
        let _permit = self.space(consumer)?.enter(0)?;
        let patterns: Vec<_> = subscription.patterns().iter().map(Pattern::as_str).collect();
        let (presence, patterns) = (PRESENCE.as_millis().to_string(), patterns.join(" "));
        let (deliveries, quota) = (subscription.max_deliver().to_string(), subscription.quota());
        let (messages, bytes, most) = (quota.messages.to_string(), quota.bytes.to_string(), MAX_CONSUMERS.to_string());
        let dead = subscription.dead_letter().map_or("", Subject::as_str);
        let arguments =
            [consumer.as_str(), &self.host, &presence, &patterns, &deliveries, dead, &messages, &bytes, &most];
        let mut reply = array(self.repeatable(Script::Subscribe, &arguments, deadline).await?)?;
        match text(reply.next())?.as_str() {
            "done" => Ok(()),
            status => Err(exceeded(status, reply.next(), reply.next())),
        }
    }

    async fn unsubscribe(&self, consumer: &Namespace, deadline: Instant) -> Result<bool, Error> {
        let _permit = self.space(consumer)?.enter(0)?;
        let arguments = [consumer.as_str(), &self.host];
        let ended = self.once(Script::Unsubscribe, &arguments, deadline).await?;
        self.receivers.remove(consumer);
        Ok(ended == Value::Int(1))
    }

    async fn publish(&self, message: Message, deadline: Instant) -> Result<Published, Error> {
        let _permit = self.publishing.enter(message.size())?;
        let id = MessageId::new(format!("{:032x}", Holder::random()?.bits()));
        let (size, stored) = (message.size().to_string(), stored(&message, &id));
        let arguments = [message.subject.as_str().as_bytes(), size.as_bytes(), &stored];
        let script = async |connection| Ok(run(&connection, Script::Publish, &self.prefix, &arguments).await?);
        let mut reply = array(self.shared.links.once(deadline, script).await?)?;
        let status = text(reply.next())?;
        if status != "done" {
            return Err(exceeded(&status, reply.next(), reply.next()));
        }
        let consumers = array(reply.next().ok_or_else(unexpected)?)?;
        let consumers: Vec<_> = consumers.map(|name| text(Some(name))).collect::<Result<_, _>>()?;
        for consumer in &consumers {
            self.receivers.notify(&Namespace::new(consumer)?);
        }
        Ok(Published { id, consumers: consumers.len() })
    }

    async fn receive(
        &self,
        consumer: &Namespace,
        limit: usize,
        lease: Lease,
        until: Instant,
    ) -> Result<Received, Error> {
        self.receivers.receive(consumer, until, || self.take(consumer, limit.max(1), lease)).await
    }

    fn interrupt(&self, consumer: &Namespace) -> bool {
        self.receivers.interrupt(consumer);
        true
    }

    async fn renew(&self, consumer: &Namespace, _: Instant) -> Result<(), Error> {
        self.take(consumer, 0, Lease::new(MAX_LEASE)?).await.map(drop)
    }

    async fn settle(
        &self,
        consumer: &Namespace,
        receipt: &Receipt,
        settlement: Settlement,
        deadline: Instant,
    ) -> Result<SettlementOutcome, Error> {
        let _permit = self.space(consumer)?.enter(0)?;
        let Some((id, lease)) = receipt.as_str().split_once('.') else { return Ok(SettlementOutcome::Stale) };
        let SettlementArguments { kind, pause, uncounted, fault } = settlement.into();
        let fault = dead::one_word(&fault);
        let (pause, uncounted) = (milliseconds(pause), uncounted.to_string());
        let arguments = [consumer.as_str(), id, lease, kind, &pause, &uncounted, &fault];
        let outcome = self.once(Script::Settle, &arguments, deadline).await?;
        if kind == "again" {
            self.receivers.notify(consumer);
        }
        match text(Some(outcome))?.as_str() {
            "done" => Ok(SettlementOutcome::Done),
            "dead" => Ok(SettlementOutcome::Dead),
            "stale" => Ok(SettlementOutcome::Stale),
            _ => Err(unexpected()),
        }
    }

    async fn status(&self, consumer: &Namespace, deadline: Instant) -> Result<QueueStatus, Error> {
        let _permit = self.space(consumer)?.enter(0)?;
        let mut reply = array(self.repeatable(Script::Status, &[consumer.as_str()], deadline).await?)?;
        let mut next = || number(reply.next());
        let backlog = Backlog { messages: next()?, bytes: next()? };
        let (leased, dead) = (next()?, next()?);
        let oldest = match bytes(reply.next())? {
            None => None,
            Some(age) => Some(Duration::from_millis(number(Some(Value::BulkString(age)))?)),
        };
        Ok(QueueStatus { backlog, leased, dead, oldest })
    }

    async fn dead(
        &self,
        consumer: &Namespace,
        after: Option<&str>,
        limit: usize,
        deadline: Instant,
    ) -> Result<Vec<DeadMessage>, Error> {
        self.find_dead(consumer, (after.unwrap_or_default(), limit), "", deadline).await
    }

    async fn dead_message(
        &self,
        consumer: &Namespace,
        place: &str,
        deadline: Instant,
    ) -> Result<Option<DeadMessage>, Error> {
        // All, to the script.
        if place.is_empty() {
            return Ok(None);
        }
        Ok(self.find_dead(consumer, ("", 1), place, deadline).await?.pop())
    }

    async fn end_dead(
        &self,
        consumer: &Namespace,
        which: DeadSelection<'_>,
        afterlife: Afterlife,
        deadline: Instant,
    ) -> Result<u64, Error> {
        self.end(consumer, which, afterlife, deadline).await
    }
}
