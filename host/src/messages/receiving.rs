//! How a consumer waits: for messages, and for free slots. It ends at any time without losing what is on its way to it.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use lodge_state::messages::{MessageQueue, Received, Settlement};
use lodge_state::{Error, Lease, Namespace};

/// How long one attempt to receive waits for messages. After that the metrics are read.
const RECEIVE: Duration = Duration::from_secs(5);

/// The longest time that another operation on the queue may take. It is tried again.
pub(super) const OPERATION: Duration = Duration::from_secs(5);

/// The time that every message has at least for being given back.
const RELEASE: Duration = Duration::from_millis(100);

/// How often a consumer without a free slot says that it still receives.
const RENEWAL: Duration = Duration::from_secs(60);

/// How often receiving is interrupted that does not end.
const INTERRUPTION: Duration = Duration::from_millis(100);

/// Does `work`, unless the sender of `stop` is dropped before it is done: then `None`.
pub(super) async fn before<T>(stop: &watch::Receiver<()>, work: impl Future<Output = T>) -> Option<T> {
    let mut stop = stop.clone();
    tokio::select! {
        _ = stop.changed() => None,
        done = work => Some(done),
    }
}

/// Does `work`, and says meanwhile that this host receives: to others on the same server it would look absent.
pub(super) async fn renewing<T, R: Future<Output = Result<(), Error>>>(
    work: impl Future<Output = T>,
    mut renew: impl FnMut() -> R,
) -> Result<T, Error> {
    let mut work = std::pin::pin!(work);
    loop {
        match timeout(RENEWAL, &mut work).await {
            Ok(done) => return Ok(done),
            Err(_) => renew().await?,
        }
    }
}

/// Receives messages. At the end of `stop` it gives back what was on its way, and returns `None`: if receiving was just dropped,
/// these deliveries would count, and nobody would have the messages until their leases end.
pub(super) async fn take(
    queue: &dyn MessageQueue,
    consumer: &Namespace,
    (limit, lease): (usize, Lease),
    stop: &watch::Receiver<()>,
) -> Result<Option<Received>, Error> {
    let mut receiving = queue.receive(consumer, limit, lease, Instant::now() + RECEIVE);
    if let Some(received) = before(stop, &mut receiving).await {
        return received.map(Some);
    }
    let end = Instant::now() + OPERATION;
    while Instant::now() < end {
        let returns = queue.interrupt(consumer);
        match timeout(INTERRUPTION, &mut receiving).await {
            Ok(received) => return release(queue, consumer, received?).await.and(Ok(None)),
            Err(_) if returns => {}
            Err(_) => break,
        }
    }
    Ok(None)
}

/// Gives messages back. One that fails keeps none of the others.
async fn release(queue: &dyn MessageQueue, consumer: &Namespace, received: Received) -> Result<(), Error> {
    let deadline = Instant::now() + OPERATION;
    let mut failed = Ok(());
    for delivery in received.deliveries {
        // Also after the first that takes all of the time the others get some.
        let deadline = deadline.max(Instant::now() + RELEASE);
        let released = Settlement::Release(Duration::ZERO);
        failed = failed.and(queue.settle(consumer, &delivery.receipt, released, deadline).await.map(drop));
    }
    failed
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use lodge_state::Pending;
    use lodge_state::messages::{
        Afterlife, DeadMessage, DeadSelection, Delivery, Headers, Message, MessageBody, MessageId, Published,
        QueueStatus, Receipt, SettlementOutcome, Subject, Subscription,
    };
    use tokio::sync::Semaphore;

    use super::*;

    fn receipts() -> [Receipt; 3] {
        ["1", "2", "3"].map(Receipt::new)
    }

    /// A queue with messages that are on their way when receiving is interrupted. The first cannot be settled.
    struct SlowQueue {
        interrupted: Semaphore,
        settled: Mutex<Vec<(Receipt, Settlement)>>,
    }

    fn unused<'a, T: Send + 'a>() -> Pending<'a, T> {
        Box::pin(std::future::ready(Err(Error::Timeout)))
    }

    impl MessageQueue for SlowQueue {
        fn subscribe<'a>(&'a self, _: &'a Namespace, _: Subscription, _: Instant) -> Pending<'a, ()> {
            unused()
        }

        fn unsubscribe<'a>(&'a self, _: &'a Namespace, _: Instant) -> Pending<'a, bool> {
            unused()
        }

        fn publish(&self, _: Message, _: Instant) -> Pending<'_, Published> {
            unused()
        }

        fn receive<'a>(&'a self, _: &'a Namespace, _: usize, _: Lease, _: Instant) -> Pending<'a, Received> {
            Box::pin(async {
                self.interrupted.acquire().await.unwrap().forget();
                tokio::time::sleep(INTERRUPTION * 3).await;
                let (headers, body) = (Headers::default(), MessageBody::default());
                let message = Message { subject: Subject::new("a").unwrap(), reply_to: None, headers, body };
                let (id, age, origin) = (MessageId::new("1"), Duration::ZERO, None);
                let delivery = |receipt: &Receipt| {
                    let (message, id, receipt) = (message.clone(), id.clone(), receipt.clone());
                    Delivery { message, id, receipt, attempt: 1, age, origin: origin.clone() }
                };
                Ok(Received { deliveries: receipts().iter().map(delivery).collect(), ..Received::default() })
            })
        }

        fn interrupt(&self, _: &Namespace) -> bool {
            self.interrupted.add_permits(1);
            true
        }

        fn settle<'a>(
            &'a self,
            _: &'a Namespace,
            receipt: &'a Receipt,
            settlement: Settlement,
            _: Instant,
        ) -> Pending<'a, SettlementOutcome> {
            let mut settled = self.settled.lock().unwrap();
            settled.push((receipt.clone(), settlement));
            Box::pin(std::future::ready(match settled.len() {
                1 => Err(Error::unavailable("the first fails")),
                _ => Ok(SettlementOutcome::Done),
            }))
        }

        fn status<'a>(&'a self, _: &'a Namespace, _: Instant) -> Pending<'a, QueueStatus> {
            unused()
        }

        fn dead<'a>(
            &'a self,
            _: &'a Namespace,
            _: Option<&'a str>,
            _: usize,
            _: Instant,
        ) -> Pending<'a, Vec<DeadMessage>> {
            unused()
        }

        fn dead_message<'a>(&'a self, _: &'a Namespace, _: &'a str, _: Instant) -> Pending<'a, Option<DeadMessage>> {
            unused()
        }

        fn end_dead<'a>(
            &'a self,
            _: &'a Namespace,
            _: DeadSelection<'a>,
            _: Afterlife,
            _: Instant,
        ) -> Pending<'a, u64> {
            unused()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_consumer_that_stops_gives_back_what_was_on_its_way() {
        let queue = SlowQueue { interrupted: Semaphore::new(0), settled: Mutex::default() };
        let (stop, stopped) = watch::channel(());
        let (consumer, lease) = (Namespace::new("mail").unwrap(), Lease::new(Duration::from_secs(60)).unwrap());
        let (taken, ()) = tokio::join!(take(&queue, &consumer, (8, lease), &stopped), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(stop);
        });
        assert_eq!(taken, Err(Error::unavailable("the first fails")));
        let released = receipts().map(|receipt| (receipt, Settlement::Release(Duration::ZERO)));
        assert_eq!(*queue.settled.lock().unwrap(), released);
    }

    #[tokio::test(start_paused = true)]
    async fn a_consumer_without_free_slots_is_not_absent() {
        let (slots, mut renewed) = (Arc::new(Semaphore::new(1)), 0);
        let busy = Arc::clone(&slots).acquire_owned().await.unwrap();
        tokio::spawn(async move {
            tokio::time::sleep(RENEWAL * 10 + RENEWAL / 2).await;
            drop(busy);
        });
        let renew = || {
            renewed += 1;
            std::future::ready(Ok(()))
        };
        drop(renewing(slots.acquire_owned(), renew).await.unwrap().unwrap());
        assert_eq!(renewed, 10);
    }
}
