//! Places for those that compile. The smallest component goes first: one that takes a minute would keep a hundred waiting.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use lodge_base::lock::lock;

/// A number of places, and who waits for one.
pub(crate) struct Lane(Mutex<State>);

struct State {
    free: usize,
    /// Waits so far, which breaks ties.
    number: u64,
    waiting: BTreeMap<(u64, u64), oneshot::Sender<Place>>,
}

/// A wait for a place. Dropped, it leaves the queue; a place that was given to it in the meantime goes to the next.
struct Waiting<'a> {
    lane: &'a Lane,
    key: (u64, u64),
    place: oneshot::Receiver<Place>,
}

/// A place in a lane, which is free again when this is dropped.
pub(crate) struct Place(Option<Arc<Lane>>);

impl Lane {
    /// A lane with so many places.
    pub(crate) fn new(places: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { free: places, number: 0, waiting: BTreeMap::new() })))
    }

    /// A place, when there is one and nothing smaller waits for it. The queue holds no more than the futures of this that
    /// exist: dropping one takes it out.
    pub(crate) async fn place(self: &Arc<Self>, size: u64) -> Place {
        let mut waiting = {
            let mut state = lock(&self.0);
            if state.free > 0 {
                state.free -= 1;
                return Place(Some(Arc::clone(self)));
            }
            let (sender, place) = oneshot::channel();
            state.number += 1;
            let key = (size, state.number);
            state.waiting.insert(key, sender);
            Waiting { lane: self, key, place }
        };
        match (&mut waiting.place).await {
            Ok(place) => place,
            // A sender is only dropped after it was used.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // In a statement of its own: the receiver, and a place in it, are dropped after the lock.
        lock(&self.lane.0).waiting.remove(&self.key);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(lane) = self.0.take() else { return };
        loop {
            let mut state = lock(&lane.0);
            let Some((_, next)) = state.waiting.pop_first() else {
                state.free += 1;
                return;
            };
            // Unlocked: a place that nobody takes any more is dropped here.
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

    /// Whatever waits when a place is free: the smallest goes first, and of two of one size the one that came first.
    /// Those that gave up, before or after the place was theirs, keep nobody waiting.
    #[tokio::test]
    async fn the_smallest_first() {
        let lane = Lane::new(1);
        let held = lane.place(1).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = tokio::task::JoinSet::new();
        for (number, size) in [30, 10, 20, 10, 5].into_iter().enumerate() {
            let (lane, order) = (Arc::clone(&lane), Arc::clone(&order));
            let task = tasks.spawn(async move {
                let place = lane.place(size).await;
                lock(&order).push((size, number));
                tokio::task::yield_now().await;
                drop(place);
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
        // Given to somebody who is gone by then.
        let held = lane.place(1).await;
        let mut waiting = Box::pin(lane.place(2));
        assert!(futures_poll(waiting.as_mut()).await.is_pending());
        drop(held);
        drop(waiting);
        drop(lane.place(3).await);
        assert_eq!(lock(&lane.0).free, 1);
    }

    /// However often a component that waits is replaced or removed, the queue holds those that still wait.
    #[tokio::test]
    async fn who_gives_up_leaves_the_queue() {
        let lane = Lane::new(1);
        let held = lane.place(1).await;
        let mut last = Box::pin(lane.place(9));
        assert!(futures_poll(last.as_mut()).await.is_pending());
        for size in 0..100 {
            let mut waiting = Box::pin(lane.place(size));
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
