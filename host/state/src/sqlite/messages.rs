//! Messages in SQLite: operations become jobs of the threads, beside those of the stores.

mod consumer;
mod dead;
mod stored;
mod work;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use rusqlite::{Connection, OptionalExtension};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::error::Error;
use crate::key::Namespace;
use crate::locks::Lease;
use crate::messages::{
    Afterlife, DeadMessage, DeadSelection, Message, Published, QueueBackend, QueueStatus, Receipt, Received,
    Settlement, SettlementOutcome,
};
use crate::messages::{Subscription, place_of, wait};
use crate::mutex::lock;
use crate::sqlite::queue::QueueShare;
use crate::sqlite::store::{read, submit};
use crate::sqlite::transaction::{Transaction, unusable};
use crate::sqlite::{Id, READ_QUEUE, Shared, WRITE_QUEUE};

/// What the receivers of each consumer wait for: a number that changes with its messages. Only this process changes the file.
#[derive(Default)]
pub(super) struct Arrivals(Mutex<HashMap<Id, watch::Sender<u64>>>);

impl Arrivals {
    /// Wakes the receivers of `consumer`.
    fn notify(&self, consumer: Id) {
        if let Some(changes) = lock(&self.0).get(&consumer) {
            changes.send_modify(|number| *number = number.wrapping_add(1));
        }
    }

    fn watch(&self, consumer: Id) -> watch::Receiver<u64> {
        lock(&self.0).entry(consumer).or_default().subscribe()
    }

    fn remove(&self, consumer: Id) {
        lock(&self.0).remove(&consumer);
    }
}

/// Makes what a process that has ended was processing deliverable. Every consumer has the time to come back from now on: it was
/// not absent while the host was.
pub(super) fn recover(connection: &Connection, now: Timestamp) -> rusqlite::Result<()> {
    let now = now.milliseconds();
    connection.execute("UPDATE message SET due = min(due, ?1), lease = NULL WHERE lease IS NOT NULL", [now])?;
    connection.execute("UPDATE consumer SET seen = ?1", [now])?;
    Ok(())
}

/// The messages of all services.
pub(super) struct SqliteQueue {
    shared: Arc<Shared>,
    write_budget: QueueShare,
    read_budget: QueueShare,
}

impl SqliteQueue {
    pub(super) fn new(shared: Arc<Shared>) -> SqliteQueue {
        let write_budget = shared.write_budget.share(WRITE_QUEUE.1);
        let read_budget = shared.read_budget.share(READ_QUEUE.1);
        SqliteQueue { shared, write_budget, read_budget }
    }

    /// The number of a consumer.
    async fn id(&self, consumer: &Namespace, deadline: Instant) -> Result<Option<Id>, Error> {
        let name = consumer.clone();
        read(&self.shared, &self.read_budget, deadline, move |reader| {
            let mut select = reader.connection.prepare_cached(consumer::ID).map_err(|error| unusable(&error))?;
            select.query_row([name.as_str()], |row| row.get(0)).optional().map_err(|error| unusable(&error))
        })
        .await
    }
}

impl QueueBackend for SqliteQueue {
    async fn subscribe(
        &self,
        consumer: &Namespace,
        subscription: Subscription,
        deadline: Instant,
    ) -> Result<(), Error> {
        let name = consumer.clone();
        submit(&self.shared, &self.write_budget, 0, deadline, move |transaction| {
            consumer::subscribe(transaction, &name, &subscription)
        })
        .await
    }

    async fn unsubscribe(&self, consumer: &Namespace, deadline: Instant) -> Result<bool, Error> {
        let name = consumer.clone();
        submit(&self.shared, &self.write_budget, 0, deadline, move |transaction| {
            consumer::unsubscribe(transaction, &name)
        })
        .await
    }

    async fn publish(&self, message: Message, deadline: Instant) -> Result<Published, Error> {
        let size = message.size();
        submit(&self.shared, &self.write_budget, size, deadline, move |transaction| work::publish(transaction, message))
            .await
    }

    async fn receive(
        &self,
        consumer: &Namespace,
        limit: usize,
        lease: Lease,
        until: Instant,
    ) -> Result<Received, Error> {
        // As long as it waits for messages it waits for the database at most.
        let deadline = until.max(Instant::now() + work::RECEIVE_TIMEOUT);
        let id = self.id(consumer, deadline).await?.ok_or_else(Error::unsubscribed)?;
        let mut changes = self.shared.arrivals.watch(id);
        loop {
            changes.mark_unchanged();
            let take = move |transaction: &mut Transaction<'_, '_>| work::receive(transaction, id, limit, lease);
            let (received, next) = submit(&self.shared, &self.write_budget, 0, deadline, take).await?;
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
        deadline: Instant,
    ) -> Result<SettlementOutcome, Error> {
        let (name, receipt) = (consumer.clone(), receipt.clone());
        submit(&self.shared, &self.write_budget, 0, deadline, move |transaction| {
            work::settle(transaction, &name, &receipt, settlement)
        })
        .await
    }

    async fn status(&self, consumer: &Namespace, deadline: Instant) -> Result<QueueStatus, Error> {
        let (name, now) = (consumer.clone(), self.shared.clock.now());
        read(&self.shared, &self.read_budget, deadline, move |reader| {
            consumer::status(reader.connection, &name, now).map_err(|error| unusable(&error))
        })
        .await
    }

    async fn dead(
        &self,
        consumer: &Namespace,
        after: Option<&str>,
        limit: usize,
        deadline: Instant,
    ) -> Result<Vec<DeadMessage>, Error> {
        let after = place_of(after)?.map_or(i64::MIN, u64::cast_signed);
        let name = consumer.clone();
        read(&self.shared, &self.read_budget, deadline, move |reader| {
            dead::list(reader.connection, &name, after, limit).map_err(|error| unusable(&error))
        })
        .await
    }

    async fn dead_message(
        &self,
        consumer: &Namespace,
        place: &str,
        deadline: Instant,
    ) -> Result<Option<DeadMessage>, Error> {
        let (name, place) = (consumer.clone(), place.to_owned());
        read(&self.shared, &self.read_budget, deadline, move |reader| {
            dead::find(reader.connection, &name, &place).map_err(|error| unusable(&error))
        })
        .await
    }

    async fn end_dead(
        &self,
        consumer: &Namespace,
        which: DeadSelection<'_>,
        afterlife: Afterlife,
        deadline: Instant,
    ) -> Result<u64, Error> {
        let (name, place) = (consumer.clone(), which.place().map(str::to_owned));
        submit(&self.shared, &self.write_budget, 0, deadline, move |transaction| {
            dead::end(transaction, &name, DeadSelection::of(place.as_deref()), afterlife)
        })
        .await
    }
}
