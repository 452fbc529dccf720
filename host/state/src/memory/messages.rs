//! Messages in memory.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::{Clock, Timestamp};
use crate::error::{Error, Resource};
use crate::key::Namespace;
use crate::limits::{MAX_ABSENCE, MAX_CONSUMERS, MAX_DEAD, MAX_PAUSE, MAX_RECEIVE, MAX_RECEIVE_BYTES};
use crate::locks::{Lease, Numbers};
use crate::messages::{
    Afterlife, Backlog, DeadMessage, DeadSelection, Delivery, Fault, Message, MessageId, Published, QueueBackend,
    Receipt, Received, Settlement, SettlementOutcome, Subject, Subscription,
};
use crate::messages::{QueueStatus, place_of, wait};
use crate::mutex::lock;

/// The messages of all services.
pub(super) struct MemoryQueue {
    clock: Arc<dyn Clock>,
    numbers: Arc<Numbers>,
    consumers: Mutex<HashMap<Namespace, Consumer>>,
}

struct Consumer {
    subscription: Subscription,
    seen: Timestamp,
    backlog: Backlog,
    /// By the time at which they can be delivered, and their place.
    messages: BTreeMap<(Timestamp, u64), Waiting>,
    dead: VecDeque<(u64, Timestamp, Fault, Waiting)>,
    dead_bytes: u64,
    /// Counts the changes that receivers wait for.
    changes: watch::Sender<u64>,
}

#[derive(Clone)]
struct Waiting {
    message: Message,
    id: MessageId,
    published: Timestamp,
    attempt: u32,
    /// The number of its lease, while it is leased or its lease has ended.
    leased: Option<u64>,
    origin: Option<Subject>,
}

impl Consumer {
    fn new(subscription: Subscription, seen: Timestamp) -> Consumer {
        Consumer {
            subscription,
            seen,
            backlog: Backlog::default(),
            messages: BTreeMap::new(),
            dead: VecDeque::new(),
            dead_bytes: 0,
            changes: watch::Sender::default(),
        }
    }

    fn add(&mut self, at: (Timestamp, u64), waiting: Waiting) {
        self.backlog.messages = self.backlog.messages.saturating_add(1);
        self.backlog.bytes = self.backlog.bytes.saturating_add(waiting.message.size());
        self.messages.insert(at, waiting);
        self.changed();
    }

    fn changed(&self) {
        self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    fn remove(&mut self, at: (Timestamp, u64)) -> Option<Waiting> {
        let waiting = self.messages.remove(&at)?;
        self.backlog.messages = self.backlog.messages.saturating_sub(1);
        self.backlog.bytes = self.backlog.bytes.saturating_sub(waiting.message.size());
        Some(waiting)
    }

    fn keep_dead(&mut self, (number, now, fault): (u64, Timestamp, Fault), waiting: Waiting) {
        self.dead_bytes = self.dead_bytes.saturating_add(waiting.message.size());
        self.dead.push_back((number, now, fault, waiting));
        while self.dead.len() as u64 > MAX_DEAD || self.dead_bytes > self.subscription.quota().bytes {
            if self.remove_dead(0).is_none() {
                break;
            }
        }
    }

    fn remove_dead(&mut self, index: usize) -> Option<Waiting> {
        let (.., waiting) = self.dead.remove(index)?;
        self.dead_bytes = self.dead_bytes.saturating_sub(waiting.message.size());
        Some(waiting)
    }

    fn dead_messages(&self) -> impl Iterator<Item = (u64, DeadMessage)> {
        self.dead.iter().map(|(number, died, fault, waiting)| {
            let Waiting { message, id, attempt, origin, .. } = waiting.clone();
            let (place, died, attempts) = (number.to_string().into(), Some(*died), Some(attempt));
            (*number, DeadMessage { place, message, id, origin, died, attempts, fault: Some(*fault) })
        })
    }
}

impl MemoryQueue {
    pub(super) fn new(clock: Arc<dyn Clock>, numbers: Arc<Numbers>) -> MemoryQueue {
        MemoryQueue { clock, numbers, consumers: Mutex::default() }
    }

    /// Stores a message for each of its consumers that `all` has, or for none of them.
    fn store(&self, all: &mut HashMap<Namespace, Consumer>, waiting: &Waiting) -> Result<usize, Error> {
        let (now, size) = (self.clock.now(), waiting.message.size());
        let matching = |consumer: &&mut Consumer| {
            consumer.subscription.matches(&waiting.message.subject) && now.since(consumer.seen) < MAX_ABSENCE
        };
        let consumers: Vec<_> = all.values_mut().filter(matching).collect();
        consumers.iter().try_for_each(|consumer| consumer.subscription.check(consumer.backlog, size))?;
        let count = consumers.len();
        for consumer in consumers {
            consumer.add((now, self.numbers.next()), waiting.clone());
        }
        Ok(count)
    }

    /// Ends the life of a message that was removed.
    fn bury(&self, all: &mut HashMap<Namespace, Consumer>, consumer: &Namespace, fault: Fault, waiting: Waiting) {
        let Some(of) = all.get(consumer) else { return };
        if let (Some(subject), None) = (of.subscription.dead_letter(), &waiting.origin) {
            let origin = Some(waiting.message.subject.clone());
            let message = Message { subject: subject.clone(), ..waiting.message.clone() };
            let letter = Waiting { message, attempt: 0, leased: None, origin, ..waiting.clone() };
            if self.store(all, &letter).is_ok_and(|consumers| consumers > 0) {
                return;
            }
        }
        if let Some(of) = all.get_mut(consumer) {
            of.keep_dead((self.numbers.next(), self.clock.now(), fault), waiting);
        }
    }

    /// Leases what can be delivered now, and returns when there will be more.
    fn take(&self, name: &Namespace, limit: usize, lease: Lease) -> (Received, Option<Duration>) {
        let mut all = lock(&self.consumers);
        let now = self.clock.now();
        let (mut received, mut bytes) = (Received::default(), 0);
        while received.deliveries.len() < limit.min(MAX_RECEIVE) && bytes < MAX_RECEIVE_BYTES {
            let Some(consumer) = all.get_mut(name) else { break };
            consumer.seen = now;
            let Some((&at, _)) = consumer.messages.first_key_value().filter(|((due, _), _)| *due <= now) else { break };
            let Some(mut waiting) = consumer.remove(at) else { break };
            if waiting.attempt >= consumer.subscription.max_deliver() {
                received.dead += 1;
                self.bury(&mut all, name, Fault::Unsettled, waiting);
                continue;
            }
            let number = self.numbers.next();
            (waiting.attempt, waiting.leased) = (waiting.attempt.saturating_add(1), Some(number));
            bytes += waiting.message.size();
            let due = now.after(lease.duration());
            received.deliveries.push(Delivery {
                message: waiting.message.clone(),
                id: waiting.id.clone(),
                receipt: Receipt::new(format!("{}.{}", due.milliseconds(), number)),
                attempt: waiting.attempt,
                age: now.since(waiting.published),
                origin: waiting.origin.clone(),
            });
            consumer.add((due, number), waiting);
        }
        let next = all.get(name).and_then(|consumer| consumer.messages.keys().next().map(|(due, _)| due.since(now)));
        (received, next)
    }

    fn changes(&self, name: &Namespace) -> Result<watch::Receiver<u64>, Error> {
        lock(&self.consumers).get(name).map(|consumer| consumer.changes.subscribe()).ok_or_else(Error::unsubscribed)
    }

    fn settled(&self, name: &Namespace, receipt: &Receipt, settlement: Settlement) -> SettlementOutcome {
        let mut all = lock(&self.consumers);
        let now = self.clock.now();
        let at = receipt
            .as_str()
            .split_once('.')
            .and_then(|(due, number)| Some((Timestamp::new(due.parse().ok()?), number.parse::<u64>().ok()?)));
        let Some((at, consumer)) = at.zip(all.get_mut(name)) else { return SettlementOutcome::Stale };
        let Some(mut waiting) = consumer.remove(at) else { return SettlementOutcome::Stale };
        let last = waiting.attempt >= consumer.subscription.max_deliver();
        let pause = match settlement {
            Settlement::Acknowledge => return SettlementOutcome::Done,
            Settlement::Retry(pause, _) if !last => pause,
            Settlement::Release(pause) => {
                waiting.attempt = waiting.attempt.saturating_sub(1);
                pause
            }
            Settlement::Retry(_, fault) | Settlement::Reject(fault) => {
                self.bury(&mut all, name, fault, waiting);
                return SettlementOutcome::Dead;
            }
        };
        waiting.leased = None;
        consumer.add((now.after(pause.min(MAX_PAUSE)), self.numbers.next()), waiting);
        SettlementOutcome::Done
    }
}

impl QueueBackend for MemoryQueue {
    async fn subscribe(&self, name: &Namespace, subscription: Subscription, _: Instant) -> Result<(), Error> {
        let now = self.clock.now();
        let mut all = lock(&self.consumers);
        all.retain(|known, consumer| known == name || now.since(consumer.seen) < MAX_ABSENCE);
        let used = all.len() as u64;
        if used >= MAX_CONSUMERS && !all.contains_key(name) {
            let resource = Resource::Consumers;
            return Err(Error::QuotaExceeded { resource, used, limit: MAX_CONSUMERS });
        }
        let new = || Consumer::new(subscription.clone(), now);
        let consumer = all.entry(name.clone()).or_insert_with(new);
        (consumer.subscription, consumer.seen) = (subscription, now);
        Ok(())
    }

    async fn unsubscribe(&self, consumer: &Namespace, _: Instant) -> Result<bool, Error> {
        Ok(lock(&self.consumers).remove(consumer).is_some())
    }

    async fn publish(&self, message: Message, _: Instant) -> Result<Published, Error> {
        let id = MessageId::new(self.numbers.next().to_string());
        let published = self.clock.now();
        let waiting = Waiting { message, id: id.clone(), published, attempt: 0, leased: None, origin: None };
        let stored = self.store(&mut lock(&self.consumers), &waiting);
        stored.map(|consumers| Published { id, consumers })
    }

    async fn receive(
        &self,
        consumer: &Namespace,
        limit: usize,
        lease: Lease,
        until: Instant,
    ) -> Result<Received, Error> {
        let mut changes = self.changes(consumer)?;
        loop {
            changes.mark_unchanged();
            let (received, next) = self.take(consumer, limit, lease);
            if received != Received::default() || !wait(&mut changes, next, until).await {
                return Ok(received);
            }
        }
    }

    async fn settle(
        &self,
        consumer: &Namespace,
        receipt: &Receipt,
        settlement: Settlement,
        _: Instant,
    ) -> Result<SettlementOutcome, Error> {
        Ok(self.settled(consumer, receipt, settlement))
    }

    async fn status(&self, consumer: &Namespace, _: Instant) -> Result<QueueStatus, Error> {
        let all = lock(&self.consumers);
        let now = self.clock.now();
        let status = |consumer: &Consumer| {
            let leased = consumer.messages.iter().filter(|((due, _), waiting)| waiting.leased.is_some() && *due > now);
            QueueStatus {
                backlog: consumer.backlog,
                leased: leased.count() as u64,
                dead: consumer.dead.len() as u64,
                oldest: consumer.messages.values().map(|waiting| now.since(waiting.published)).max(),
            }
        };
        Ok(all.get(consumer).map(status).unwrap_or_default())
    }

    async fn dead(
        &self,
        consumer: &Namespace,
        after: Option<&str>,
        limit: usize,
        _: Instant,
    ) -> Result<Vec<DeadMessage>, Error> {
        let after = place_of(after)?;
        let all = lock(&self.consumers);
        let dead = all.get(consumer).map(|consumer| {
            let rest = consumer.dead_messages().filter(|(number, _)| after.is_none_or(|after| *number > after));
            rest.map(|(_, dead)| dead).take(limit).collect()
        });
        Ok(dead.unwrap_or_default())
    }

    async fn dead_message(&self, consumer: &Namespace, place: &str, _: Instant) -> Result<Option<DeadMessage>, Error> {
        let all = lock(&self.consumers);
        let found = all
            .get(consumer)
            .and_then(|consumer| consumer.dead_messages().map(|(_, dead)| dead).find(|dead| &*dead.place == place));
        Ok(found)
    }

    async fn end_dead(
        &self,
        consumer: &Namespace,
        which: DeadSelection<'_>,
        afterlife: Afterlife,
        _: Instant,
    ) -> Result<u64, Error> {
        let mut all = lock(&self.consumers);
        let Some(of) = all.get_mut(consumer) else { return Ok(0) };
        let (mut ended, mut index) = (0, 0);
        while let Some((number, _, _, waiting)) = of.dead.get(index) {
            if matches!(which, DeadSelection::One(place) if number.to_string() != place) {
                index += 1;
                continue;
            }
            if afterlife == Afterlife::Retry
                && let Err(error) = of.subscription.check(of.backlog, waiting.message.size())
            {
                return if ended > 0 { Ok(ended) } else { Err(error) };
            }
            let Some(waiting) = of.remove_dead(index) else { break };
            ended += 1;
            if afterlife == Afterlife::Retry {
                let again = Waiting { attempt: 0, leased: None, ..waiting };
                of.add((self.clock.now(), self.numbers.next()), again);
            }
        }
        Ok(ended)
    }
}
