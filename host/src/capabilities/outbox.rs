//! What a guest sends is run beside it: queued while its code runs, and given a first turn when that has stopped, by
//! whoever drives the guest.
//!
//! Not where it was sent: wasmtime cannot drive a Store inside of another's event loop, and a caller must not pay for the
//! CPU time of its callee. Nor by a task from the start: most callees need not wait for anything, and have answered before
//! a scheduler would have looked at them, or have woken another thread to do so. One that waits gets a task of its own, and
//! so do all but one of those that were sent together: callees of one guest work side by side.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};

use tokio::sync::oneshot;
use wasmtime_wasi_http::{Error, WasiBody};

use crate::base::lock::lock;

/// Calls that lead to calls which are run on one stack; what is deeper has a task from the start.
const NESTED: usize = 4;

/// What waits until the guest stops. It may drop what it has sent, so its handles are no bound; more have tasks at once.
const WAITING: usize = 64;

/// An answer to a guest, and what is left to do for it.
pub type SendResult = Result<(http::Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>), Error>;

/// A request of a guest on its way. Dropping it takes it back.
pub type SendFuture = Box<dyn Future<Output = SendResult> + Send>;

/// An answer that is whole as it is: nothing is left to do for it.
pub fn complete(response: http::Response<WasiBody>) -> SendResult {
    Ok((response, Box::new(std::future::ready(Ok(())))))
}

/// A request that is not sent.
pub fn refuse(why: Error) -> SendFuture {
    Box::new(std::future::ready(Err(why)))
}

/// What one guest has sent and nobody has run yet.
#[derive(Default)]
pub(super) struct Outbox(Mutex<VecDeque<Running>>);

/// Tells at its end whether somebody still waited for the answer.
type Running = Pin<Box<dyn Future<Output = bool> + Send>>;

impl Outbox {
    /// Has `sending`, for a guest that so many calls led to, run beside it. Whoever drops the answer takes it back.
    pub(super) fn push(&self, depth: usize, sending: SendFuture) -> impl Future<Output = SendResult> + Send + use<> {
        let (mut answer, answered) = oneshot::channel();
        let running = Box::pin(async move {
            let sent = tokio::select! {
                biased;
                () = answer.closed() => return false,
                sent = Box::into_pin(sending) => sent,
            };
            answer.send(sent).is_ok()
        });
        let mut waiting = lock(&self.0);
        if depth < NESTED && waiting.len() < WAITING {
            waiting.push_back(running);
        } else {
            drop(tokio::spawn(running));
        }
        // It ends without an answer only when the host does.
        async move { answered.await.unwrap_or(Err(Error::ConnectionTerminated)) }
    }

    /// Gives what the guest has sent its first turn. Whether something is answered already, and the guest can go on.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> bool {
        let mut waiting = lock(&self.0);
        let Some(mut last) = waiting.pop_back() else { return false };
        waiting.drain(..).for_each(|running| drop(tokio::spawn(running)));
        drop(waiting);
        match last.as_mut().poll(cx) {
            Poll::Ready(answered) => answered,
            Poll::Pending => {
                tokio::spawn(last);
                false
            }
        }
    }

    /// The guest has ended: what it has sent goes on as tasks, for as long as somebody holds the answers.
    pub(super) fn detach(&self) {
        lock(&self.0).drain(..).for_each(|running| drop(tokio::spawn(running)));
    }

    /// Nobody drives the guest any more.
    pub(super) fn clear(&self) {
        let dropped = std::mem::take(&mut *lock(&self.0));
        drop(dropped);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::time::Duration;

    use bytes::Bytes;
    use http_body_util::{BodyExt, Full};
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;
    use crate::capabilities::outbox::complete;

    fn answer() -> SendResult {
        complete(http::Response::new(
            Full::new(Bytes::from_static(b"here")).map_err(|never| match never {}).boxed_unsync(),
        ))
    }

    /// Runs what there is, with the waker of the test's own task.
    async fn run(outbox: &Outbox) -> bool {
        std::future::poll_fn(|cx| std::task::Poll::Ready(outbox.poll(cx))).await
    }

    #[tokio::test]
    async fn what_need_not_wait_has_no_task() {
        let outbox = Outbox::default();
        let asked = outbox.push(0, Box::new(async { answer() }));
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        assert!(run(&outbox).await);
        assert!(!run(&outbox).await, "it is run once");
        assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), tasks);
        assert!(asked.await.is_ok());
    }

    /// However much was sent together, this thread is kept for one of it only, and the rest is for whoever has time.
    #[tokio::test]
    async fn one_is_run_here_and_the_rest_elsewhere() {
        let (outbox, ran) = (Outbox::default(), Arc::<AtomicUsize>::default());
        let counts = || {
            let ran = Arc::clone(&ran);
            Box::new(async move {
                ran.fetch_add(1, Relaxed);
                answer()
            })
        };
        let asked: Vec<_> = (0..3 * WAITING).map(|_| outbox.push(0, counts())).collect();
        assert_eq!(lock(&outbox.0).len(), WAITING, "the rest has tasks");
        assert!(run(&outbox).await);
        assert_eq!(ran.load(Relaxed), 1);
        for asked in asked {
            assert!(asked.await.is_ok());
        }
        assert_eq!(ran.load(Relaxed), 3 * WAITING);
    }

    /// It would keep a guest that only sends from ever giving its thread back.
    #[tokio::test]
    async fn what_nobody_waits_for_lets_nobody_go_on() {
        let outbox = Outbox::default();
        drop(outbox.push(0, Box::new(async { answer() })));
        assert!(!run(&outbox).await);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_goes_on_side_by_side() {
        let (outbox, start) = (Outbox::default(), tokio::time::Instant::now());
        let waits = || async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            answer()
        };
        let asked = [outbox.push(0, Box::new(waits())), outbox.push(0, Box::new(waits()))];
        assert!(!run(&outbox).await);
        for asked in asked {
            assert!(asked.await.is_ok());
        }
        assert_eq!(start.elapsed(), Duration::from_secs(1));
    }

    #[tokio::test]
    async fn calls_within_calls_do_not_pile_up_on_one_stack() {
        let outbox = Outbox::default();
        let asked = outbox.push(NESTED, Box::new(async { answer() }));
        assert!(!run(&outbox).await, "it has a task already");
        assert!(asked.await.is_ok());
    }

    #[tokio::test]
    async fn it_ends_with_whoever_asked() {
        let outbox = Outbox::default();
        let (alive, mut gone) = oneshot::channel::<()>();
        let hangs = async move {
            let _alive = alive;
            std::future::pending().await
        };
        let asked = outbox.push(0, Box::new(hangs));
        assert!(!run(&outbox).await);
        tokio::task::yield_now().await;
        assert_eq!(gone.try_recv(), Err(TryRecvError::Empty));
        drop(asked);
        assert!(gone.await.is_err(), "its end is dropped");
    }
}
