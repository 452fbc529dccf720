//! Messages between services: published to a subject, stored for every service that consumes it, and delivered at least once.
//!
//! A [`MessageQueue`] keeps a copy of a message for every consumer whose [`Subscription`] matches. A consumer receives messages
//! under a lease, and settles each: until then they are its own, and after the lease they are delivered again. A message that
//! was delivered as often as its subscription allows is dead: it goes to the dead-letter subject, or is kept apart.

mod backend;
mod dead;
mod message;
mod subject;

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::{Error, Resource};
use crate::key::Namespace;
use crate::limits::{MAX_DELIVERIES, MAX_PATTERNS};
use crate::locks::Lease;
use crate::pending::{Pending, ready};

pub use backend::QueueBackend;
pub use dead::{Afterlife, DeadMessage, DeadSelection, Fault, FaultReason, place_of};
pub use message::{Delivery, Headers, Message, MessageBody, MessageId, Receipt};
pub use subject::{Pattern, Subject};

/// Which messages a consumer receives, how often, and how many may wait for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    patterns: Vec<Pattern>,
    max_deliver: u32,
    dead_letter: Option<Subject>,
    quota: Backlog,
}

/// Messages that wait, and their bytes; or how many and how much may wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Messages that are not acknowledged.
    pub messages: u64,
    /// Bytes of their subjects, headers and bodies.
    pub bytes: u64,
}

impl Subscription {
    /// A subscription to all subjects that match one of `patterns`. A message is delivered `max_deliver` times at most, and then
    /// published once to `dead_letter`. Publishing fails while `quota` is used up.
    ///
    /// # Errors
    /// If there are no patterns or more than [`MAX_PATTERNS`], if `max_deliver` is not from 1 to [`MAX_DELIVERIES`], or if
    /// `dead_letter` matches the subscription itself: its messages would never end.
    pub fn new(
        patterns: Vec<Pattern>,
        max_deliver: u32,
        dead_letter: Option<Subject>,
        quota: Backlog,
    ) -> Result<Subscription, Error> {
        let invalid = |what, problem| Err(Error::Invalid { what, problem });
        if patterns.is_empty() || patterns.len() > MAX_PATTERNS {
            return invalid("the subscription", "has no subject, or more than 16: use a wildcard");
        }
        if max_deliver == 0 || max_deliver > MAX_DELIVERIES {
            return invalid("max_deliver", "is not from 1 to 1000");
        }
        let subscription = Subscription { patterns, max_deliver, dead_letter, quota };
        if subscription.dead_letter.as_ref().is_some_and(|subject| subscription.matches(subject)) {
            return invalid("the dead-letter subject", "is one that the consumer itself receives: use another");
        }
        Ok(subscription)
    }

    /// Whether the consumer receives messages to `subject`.
    pub fn matches(&self, subject: &Subject) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(subject))
    }

    /// The subjects.
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    /// How often a message is delivered at most.
    pub const fn max_deliver(&self) -> u32 {
        self.max_deliver
    }

    /// Where dead messages are published.
    pub const fn dead_letter(&self) -> Option<&Subject> {
        self.dead_letter.as_ref()
    }

    /// What may wait.
    pub const fn quota(&self) -> Backlog {
        self.quota
    }

    /// Checks that a message of `size` bytes may wait besides those that do.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`].
    pub fn check(&self, waiting: Backlog, size: u64) -> Result<(), Error> {
        let exceeded = |resource, used, limit| Err(Error::QuotaExceeded { resource, used, limit });
        if waiting.messages >= self.quota.messages {
            return exceeded(Resource::Messages, waiting.messages, self.quota.messages);
        }
        if waiting.bytes.saturating_add(size) > self.quota.bytes {
            return exceeded(Resource::Bytes, waiting.bytes, self.quota.bytes);
        }
        Ok(())
    }
}

/// A message that is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its id, the same for all consumers and in every delivery.
    pub id: MessageId,
    /// The consumers that it is stored for. With none it is discarded.
    pub consumers: usize,
}

/// What a consumer has received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// The messages, the one that has waited longest first.
    pub deliveries: Vec<Delivery>,
    /// Messages that died instead, because their last lease has ended without a settlement.
    pub dead: u64,
    /// Messages that are lost, since there was no room for them when they came; only where none is stored.
    pub dropped: u64,
}

/// What becomes of a delivered message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It is done.
    Acknowledge,
    /// It is delivered again after a pause, or is dead if this was the last delivery.
    Retry(Duration, Fault),
    /// It was not processed: it is delivered again after a pause, and this delivery does not count.
    Release(Duration),
    /// It is dead, whatever is left of its deliveries.
    Reject(Fault),
}

/// What a settlement has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettlementOutcome {
    /// The message is done, or is delivered again.
    Done,
    /// The message is dead.
    Dead,
    /// Nothing: the lease had ended, and the message was delivered again or is gone.
    Stale,
}

/// The state of a consumer's messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStatus {
    /// All that are not acknowledged.
    pub backlog: Backlog,
    /// Those of them that are being processed.
    pub leased: u64,
    /// Dead messages that are kept.
    pub dead: u64,
    /// How long ago the oldest message was published that is not acknowledged.
    pub oldest: Option<Duration>,
}

/// The messages of all services. Backends implement [`QueueBackend`].
///
/// What holds for every backend, and the conformance suite checks:
///
/// * A message whose publication is confirmed is delivered to each of its consumers until that consumer acknowledges it, or it
///   is dead. A message whose acknowledgement is confirmed is not delivered again.
/// * While a lease lasts, the message is delivered to nobody else.
/// * After [`Error::Timeout`] and [`Error::Unavailable`] an operation may have been done.
pub trait MessageQueue: Send + Sync + 'static {
    /// Creates or changes the subscription of `consumer`. It lasts until [`unsubscribe`](Self::unsubscribe), or until the consumer
    /// has not received for [`MAX_ABSENCE`](crate::limits::MAX_ABSENCE).
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`] with more than [`MAX_CONSUMERS`](crate::limits::MAX_CONSUMERS).
    fn subscribe<'a>(
        &'a self,
        consumer: &'a Namespace,
        subscription: Subscription,
        deadline: Instant,
    ) -> Pending<'a, ()>;

    /// Ends a subscription, discards its messages, and returns whether there was one. While another host receives for the
    /// consumer, nothing ends.
    fn unsubscribe<'a>(&'a self, consumer: &'a Namespace, deadline: Instant) -> Pending<'a, bool>;

    /// Stores a message for all consumers whose subscription matches, or for none of them.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`] if the quota of one of them is used up.
    fn publish(&self, message: Message, deadline: Instant) -> Pending<'_, Published>;

    /// Returns up to `limit` messages, at most [`MAX_RECEIVE`](crate::limits::MAX_RECEIVE), and leases them. Waits for the first
    /// one until `until`.
    fn receive<'a>(
        &'a self,
        consumer: &'a Namespace,
        limit: usize,
        lease: Lease,
        until: Instant,
    ) -> Pending<'a, Received>;

    /// Lets those who [`receive`](Self::receive) for `consumer` in this process wait no longer: they return what has come. Who
    /// drops them instead loses that until its lease ends, and its delivery counts. Returns whether the backend can do this.
    fn interrupt(&self, consumer: &Namespace) -> bool {
        let _ = consumer;
        false
    }

    /// Says that this host still receives for `consumer`, though it has no room for messages just now. Who receives all the time
    /// need not say so.
    fn renew<'a>(&'a self, consumer: &'a Namespace, deadline: Instant) -> Pending<'a, ()> {
        let _ = (consumer, deadline);
        ready(Ok(()))
    }

    /// Settles a message.
    fn settle<'a>(
        &'a self,
        consumer: &'a Namespace,
        receipt: &'a Receipt,
        settlement: Settlement,
        deadline: Instant,
    ) -> Pending<'a, SettlementOutcome>;

    /// Returns the state of a consumer's messages; zeros without a subscription.
    fn status<'a>(&'a self, consumer: &'a Namespace, deadline: Instant) -> Pending<'a, QueueStatus>;

    /// Returns up to `limit` dead messages that are kept with a consumer, from the one after the place `after` on: the one that died
    /// first comes first. Fewer than `limit` are returned if they are large; the last page is empty.
    fn dead<'a>(
        &'a self,
        consumer: &'a Namespace,
        after: Option<&'a str>,
        limit: usize,
        deadline: Instant,
    ) -> Pending<'a, Vec<DeadMessage>>;

    /// Returns a dead message.
    fn dead_message<'a>(
        &'a self,
        consumer: &'a Namespace,
        place: &'a str,
        deadline: Instant,
    ) -> Pending<'a, Option<DeadMessage>>;

    /// Retries dead messages or removes them, and returns how many. Those for which the quota has no room stay dead. After an error,
    /// some may have been retried, and may be dead as well.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`] if there is room for none.
    fn end_dead<'a>(
        &'a self,
        consumer: &'a Namespace,
        which: DeadSelection<'a>,
        afterlife: Afterlife,
        deadline: Instant,
    ) -> Pending<'a, u64>;
}

/// Waits until something has changed, until the next message is due in `next`, or until `until`. Returns `false` at `until` and
/// after the end of the subscription.
pub(crate) async fn wait(changes: &mut watch::Receiver<u64>, next: Option<Duration>, until: Instant) -> bool {
    let due = next.and_then(|next| Instant::now().checked_add(next));
    let end = due.map_or(until, |due| due.min(until));
    match tokio::time::timeout_at(end, changes.changed()).await {
        Ok(changed) => changed.is_ok(),
        Err(_) => Instant::now() < until,
    }
}
