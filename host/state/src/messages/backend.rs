//! [`MessageQueue`] as backends write it: with async functions, without the boxes and lifetimes of a trait object.

use std::future::Future;

use tokio::time::Instant;

use crate::error::Error;
use crate::key::Namespace;
use crate::locks::Lease;
use crate::messages::{
    Afterlife, DeadMessage, DeadSelection, Message, MessageQueue, Published, QueueStatus, Receipt, Received,
    Settlement, SettlementOutcome, Subscription,
};
use crate::pending::Pending;

/// What a backend does with messages. It is a [`MessageQueue`] by this, and the operations of the same names say what they promise.
pub trait QueueBackend: Send + Sync + 'static {
    /// See [`MessageQueue::subscribe`].
    fn subscribe(
        &self,
        consumer: &Namespace,
        subscription: Subscription,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// See [`MessageQueue::unsubscribe`].
    fn unsubscribe(&self, consumer: &Namespace, deadline: Instant) -> impl Future<Output = Result<bool, Error>> + Send;

    /// See [`MessageQueue::publish`].
    fn publish(&self, message: Message, deadline: Instant) -> impl Future<Output = Result<Published, Error>> + Send;

    /// See [`MessageQueue::receive`].
    fn receive(
        &self,
        consumer: &Namespace,
        limit: usize,
        lease: Lease,
        until: Instant,
    ) -> impl Future<Output = Result<Received, Error>> + Send;

    /// See [`MessageQueue::interrupt`].
    fn interrupt(&self, consumer: &Namespace) -> bool {
        let _ = consumer;
        false
    }

    /// See [`MessageQueue::renew`].
    fn renew(&self, consumer: &Namespace, deadline: Instant) -> impl Future<Output = Result<(), Error>> + Send {
        let _ = (consumer, deadline);
        std::future::ready(Ok(()))
    }

    /// See [`MessageQueue::settle`].
    fn settle(
        &self,
        consumer: &Namespace,
        receipt: &Receipt,
        settlement: Settlement,
        deadline: Instant,
    ) -> impl Future<Output = Result<SettlementOutcome, Error>> + Send;

    /// See [`MessageQueue::status`].
    fn status(
        &self,
        consumer: &Namespace,
        deadline: Instant,
    ) -> impl Future<Output = Result<QueueStatus, Error>> + Send;

    /// See [`MessageQueue::dead`].
    fn dead(
        &self,
        consumer: &Namespace,
        after: Option<&str>,
        limit: usize,
        deadline: Instant,
    ) -> impl Future<Output = Result<Vec<DeadMessage>, Error>> + Send;

    /// See [`MessageQueue::dead_message`].
    fn dead_message(
        &self,
        consumer: &Namespace,
        place: &str,
        deadline: Instant,
    ) -> impl Future<Output = Result<Option<DeadMessage>, Error>> + Send;

    /// See [`MessageQueue::end_dead`].
    fn end_dead(
        &self,
        consumer: &Namespace,
        which: DeadSelection<'_>,
        afterlife: Afterlife,
        deadline: Instant,
    ) -> impl Future<Output = Result<u64, Error>> + Send;
}

impl<Q: QueueBackend> MessageQueue for Q {
    fn subscribe<'a>(
        &'a self,
        consumer: &'a Namespace,
        subscription: Subscription,
        deadline: Instant,
    ) -> Pending<'a, ()> {
        Box::pin(QueueBackend::subscribe(self, consumer, subscription, deadline))
    }

    fn unsubscribe<'a>(&'a self, consumer: &'a Namespace, deadline: Instant) -> Pending<'a, bool> {
        Box::pin(QueueBackend::unsubscribe(self, consumer, deadline))
    }

    fn publish(&self, message: Message, deadline: Instant) -> Pending<'_, Published> {
        Box::pin(QueueBackend::publish(self, message, deadline))
    }

    fn receive<'a>(
        &'a self,
        consumer: &'a Namespace,
        limit: usize,
        lease: Lease,
        until: Instant,
    ) -> Pending<'a, Received> {
        Box::pin(QueueBackend::receive(self, consumer, limit, lease, until))
    }

    fn interrupt(&self, consumer: &Namespace) -> bool {
        QueueBackend::interrupt(self, consumer)
    }

    fn renew<'a>(&'a self, consumer: &'a Namespace, deadline: Instant) -> Pending<'a, ()> {
        Box::pin(QueueBackend::renew(self, consumer, deadline))
    }

    fn settle<'a>(
        &'a self,
        consumer: &'a Namespace,
        receipt: &'a Receipt,
        settlement: Settlement,
        deadline: Instant,
    ) -> Pending<'a, SettlementOutcome> {
        Box::pin(QueueBackend::settle(self, consumer, receipt, settlement, deadline))
    }

    fn status<'a>(&'a self, consumer: &'a Namespace, deadline: Instant) -> Pending<'a, QueueStatus> {
        Box::pin(QueueBackend::status(self, consumer, deadline))
    }

    fn dead<'a>(
        &'a self,
        consumer: &'a Namespace,
        after: Option<&'a str>,
        limit: usize,
        deadline: Instant,
    ) -> Pending<'a, Vec<DeadMessage>> {
        Box::pin(QueueBackend::dead(self, consumer, after, limit, deadline))
    }

    fn dead_message<'a>(
        &'a self,
        consumer: &'a Namespace,
        place: &'a str,
        deadline: Instant,
    ) -> Pending<'a, Option<DeadMessage>> {
        Box::pin(QueueBackend::dead_message(self, consumer, place, deadline))
    }

    fn end_dead<'a>(
        &'a self,
        consumer: &'a Namespace,
        which: DeadSelection<'a>,
        afterlife: Afterlife,
        deadline: Instant,
    ) -> Pending<'a, u64> {
        Box::pin(QueueBackend::end_dead(self, consumer, which, afterlife, deadline))
    }
}
