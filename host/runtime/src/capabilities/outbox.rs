//! The outgoing requests of a guest. They are queued while guest code runs, and polled for the first time by the task
//! that drives the guest, when guest code has stopped.
//!
//! They cannot run where they are sent: wasmtime cannot drive a Store inside another Store's event loop, and a caller
//! must not be charged for its callee's CPU time. They do not get a task at once either: most callees respond without
//! waiting, before a scheduler would have run them or woken another thread for them. A request that has to wait gets a
//! task of its own. So do all but one of several requests that were sent together, so that they run concurrently.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};

use tokio::sync::oneshot;
use wasmtime_wasi_http::{Error, WasiBody};

use lodge_base::lock::lock;

/// The depth of nested calls that may run on one stack. Deeper calls get a task at once.
const MAX_NESTED: usize = 4;

/// The most requests that are queued until guest code stops; further ones get a task at once. The limit of handles does
/// not bound them, because a guest can drop the handle of a request that it sent.
const MAX_QUEUED: usize = 64;

/// The response to a guest's request, and a future for the rest of the exchange.
pub type SendResult = Result<(http::Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>), Error>;

/// An outgoing request in progress. Dropping it cancels it.
pub type SendFuture = Box<dyn Future<Output = SendResult> + Send>;

/// Returns a result whose exchange is complete.
pub fn complete(response: http::Response<WasiBody>) -> SendResult {
    Ok((response, Box::new(std::future::ready(Ok(())))))
}

/// Returns a future for a request that is not sent because of `why`.
pub fn refuse(why: Error) -> SendFuture {
    Box::new(std::future::ready(Err(why)))
}

/// The requests that a guest sent and that were not polled yet.
#[derive(Default)]
pub(super) struct Outbox(Mutex<VecDeque<SendTask>>);

/// A request in progress. Its output says whether the response was still wanted.
type SendTask = Pin<Box<dyn Future<Output = bool> + Send>>;

impl Outbox {
    /// Queues a request of a guest to which `depth` calls led, or spawns it. Dropping the returned future cancels it.
    pub(super) fn push(&self, depth: usize, sending: SendFuture) -> impl Future<Output = SendResult> + Send + use<> {
        let (mut sender, receiver) = oneshot::channel();
        let running = Box::pin(async move {
            let sent = tokio::select! {
                biased;
                () = sender.closed() => return false,
                sent = Box::into_pin(sending) => sent,
            };
            sender.send(sent).is_ok()
        });
        let mut waiting = lock(&self.0);
        if depth < MAX_NESTED && waiting.len() < MAX_QUEUED {
            waiting.push_back(running);
        } else {
            drop(tokio::spawn(running));
        }
        // The sender is dropped without a response only when the host ends.
        async move { receiver.await.unwrap_or(Err(Error::ConnectionTerminated)) }
    }

    /// Polls the newest request and spawns the others. Returns whether a response arrived for which the guest waits.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> bool {
        let mut waiting = lock(&self.0);
        let Some(mut last) = waiting.pop_back() else { return false };
        waiting.drain(..).for_each(|running| drop(tokio::spawn(running)));
        drop(waiting);
        match last.as_mut().poll(cx) {
            Poll::Ready(result) => result,
            Poll::Pending => {
                tokio::spawn(last);
                false
            }
        }
    }

    /// Spawns all queued requests, after the guest has ended. They go on while their responses are wanted.
    pub(super) fn detach(&self) {
        lock(&self.0).drain(..).for_each(|running| drop(tokio::spawn(running)));
    }

    /// Drops all queued requests.
    pub(super) fn clear(&self) {
        let dropped = std::mem::take(&mut *lock(&self.0));
        drop(dropped);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use bytes::Bytes;
    use http_body_util::{BodyExt, Full};
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;
    use crate::capabilities::outbox::complete;

    fn response() -> SendResult {
        complete(http::Response::new(
            Full::new(Bytes::from_static(b"here")).map_err(|never| match never {}).boxed_unsync(),
        ))
    }

    /// Polls the outbox with the waker of the test's own task.
    async fn run(outbox: &Outbox) -> bool {
        std::future::poll_fn(|cx| std::task::Poll::Ready(outbox.poll(cx))).await
    }

    #[tokio::test]
    async fn a_request_that_completes_at_once_has_no_task() {
        let outbox = Outbox::default();
        let pending = outbox.push(0, Box::new(async { response() }));
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        assert!(run(&outbox).await);
        assert!(!run(&outbox).await, "a request is polled here once");
        assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), tasks);
        assert!(pending.await.is_ok());
    }

    /// This thread runs one of many requests that were sent together; the others are spawned.
    #[tokio::test]
    async fn one_request_runs_here_and_the_others_in_tasks() {
        let (outbox, ran) = (Outbox::default(), Arc::<AtomicUsize>::default());
        let counts = || {
            let ran = Arc::clone(&ran);
            Box::new(async move {
                ran.fetch_add(1, Relaxed);
                response()
            })
        };
        let pending: Vec<_> = (0..3 * MAX_QUEUED).map(|_| outbox.push(0, counts())).collect();
        assert_eq!(lock(&outbox.0).len(), MAX_QUEUED, "the rest was spawned");
        assert!(run(&outbox).await);
        assert_eq!(ran.load(Relaxed), 1);
        for pending in pending {
            assert!(pending.await.is_ok());
        }
        assert_eq!(ran.load(Relaxed), 3 * MAX_QUEUED);
    }

    /// Otherwise a guest that only sends would never yield its thread.
    #[tokio::test]
    async fn an_unwanted_response_does_not_resume_the_guest() {
        let outbox = Outbox::default();
        drop(outbox.push(0, Box::new(async { response() })));
        assert!(!run(&outbox).await);
    }

    /// Each of the two requests waits until the other one runs as well.
    #[tokio::test]
    async fn waiting_requests_run_concurrently() {
        let (outbox, both) = (Outbox::default(), Arc::new(tokio::sync::Barrier::new(2)));
        let waits = || {
            let both = Arc::clone(&both);
            Box::new(async move {
                both.wait().await;
                response()
            })
        };
        let pending = [outbox.push(0, waits()), outbox.push(0, waits())];
        assert!(!run(&outbox).await);
        for pending in pending {
            assert!(pending.await.is_ok());
        }
    }

    #[tokio::test]
    async fn deeply_nested_calls_get_a_task() {
        let outbox = Outbox::default();
        let pending = outbox.push(MAX_NESTED, Box::new(async { response() }));
        assert!(!run(&outbox).await, "the request was spawned already");
        assert!(pending.await.is_ok());
    }

    #[tokio::test]
    async fn dropping_the_response_cancels_the_request() {
        let outbox = Outbox::default();
        let (alive, mut gone) = oneshot::channel::<()>();
        let hangs = async move {
            let _alive = alive;
            std::future::pending().await
        };
        let pending = outbox.push(0, Box::new(hangs));
        assert!(!run(&outbox).await);
        tokio::task::yield_now().await;
        assert_eq!(gone.try_recv(), Err(TryRecvError::Empty));
        drop(pending);
        assert!(gone.await.is_err(), "the future is dropped");
    }
}
