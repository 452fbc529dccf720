//! Permits for compilations. The smallest component goes first, so that a large one does not delay many small ones.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use lodge_base::lock::lock;

/// A number of permits, and the queue for them.
pub(crate) struct Lane(Mutex<LaneState>);

struct LaneState {
    free: usize,
    /// The number of waits so far, which orders waits of equal size.
    number: u64,
    waiting: BTreeMap<(u64, u64), oneshot::Sender<LanePermit>>,
}

/// A wait for a permit. Dropping it leaves the queue; a permit that it was given meanwhile goes to the next.
struct PermitWait<'a> {
    lane: &'a Lane,
    key: (u64, u64),
    permit: oneshot::Receiver<LanePermit>,
}

/// A permit in a lane. Dropping it frees the permit.
pub(crate) struct LanePermit(Option<Arc<Lane>>);

impl Lane {
    /// Creates a lane with this many permits.
    pub(crate) fn new(permits: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(LaneState { free: permits, number: 0, waiting: BTreeMap::new() })))
    }

    /// Waits for a permit. Smaller components go first. Dropping the future leaves the queue.
    pub(crate) async fn permit(self: &Arc<Self>, size: u64) -> LanePermit {
        let mut waiting = {
            let mut state = lock(&self.0);
            if state.free > 0 {
                state.free -= 1;
                return LanePermit(Some(Arc::clone(self)));
            }
            let (sender, permit) = oneshot::channel();
            state.number += 1;
            let key = (size, state.number);
            state.waiting.insert(key, sender);
            PermitWait { lane: self, key, permit }
        };
        match (&mut waiting.permit).await {
            Ok(permit) => permit,
            // The sender is only dropped after it was used.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for PermitWait<'_> {
    fn drop(&mut self) {
        // A statement of its own, so that the receiver and a permit in it are dropped after the lock.
        lock(&self.lane.0).waiting.remove(&self.key);
    }
}

impl Drop for LanePermit {
    fn drop(&mut self) {
        let Some(lane) = self.0.take() else { return };
        loop {
            let mut state = lock(&lane.0);
            let Some((_, next)) = state.waiting.pop_first() else {
                state.free += 1;
                return;
            };
            // After unlocking: a permit that no wait takes is dropped here.
            drop(state);
            match next.send(Self(Some(Arc::clone(&lane)))) {
                Ok(()) => return,
                Err(mut refused) => refused.0 = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When a permit becomes free, the smallest component goes first, and of two with one size the one that came first.
    /// Cancelled waits, before or after they were given a permit, delay no other.
    #[tokio::test]
    async fn the_smallest_component_goes_first() {
        let lane = Lane::new(1);
        let held = lane.permit(1).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = tokio::task::JoinSet::new();
        for (number, size) in [30, 10, 20, 10, 5].into_iter().enumerate() {
            let (lane, order) = (Arc::clone(&lane), Arc::clone(&order));
            let task = tasks.spawn(async move {
                let permit = lane.permit(size).await;
                lock(&order).push((size, number));
                tokio::task::yield_now().await;
                drop(permit);
            });
            tokio::task::yield_now().await;
            if size == 5 {
                task.abort();
            }
        }
        tokio::task::yield_now().await;
        drop(held);
        while tasks.join_next().await.is_some() {}
        assert_eq!(*lock(&order), [(10, 1), (10, 3), (20, 2), (30, 0)]);
        assert_eq!(lock(&lane.0).free, 1);
        // This permit was given to a wait that is dropped by then.
        let held = lane.permit(1).await;
        let mut waiting = Box::pin(lane.permit(2));
        assert!(futures_poll(waiting.as_mut()).await.is_pending());
        drop(held);
        drop(waiting);
        drop(lane.permit(3).await);
        assert_eq!(lock(&lane.0).free, 1);
    }

    /// The queue contains only components that still wait, however often they are replaced or removed.
    #[tokio::test]
    async fn a_cancelled_wait_leaves_the_queue() {
        let lane = Lane::new(1);
        let held = lane.permit(1).await;
        let mut last = Box::pin(lane.permit(9));
        assert!(futures_poll(last.as_mut()).await.is_pending());
        for size in 0..100 {
            let mut waiting = Box::pin(lane.permit(size));
            assert!(futures_poll(waiting.as_mut()).await.is_pending());
            assert_eq!(lock(&lane.0).waiting.len(), 2);
        }
        assert_eq!(lock(&lane.0).waiting.len(), 1);
        drop(held);
        drop(last.await);
        let state = lock(&lane.0);
        assert_eq!((state.free, state.waiting.len()), (1, 0));
    }

    async fn futures_poll<F: Future + ?Sized>(mut future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
        std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx))).await
    }
}
