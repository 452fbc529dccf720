//! The places of parts in memory while large objects are written.
//!
//! A service gets a further place only while more places are free than it has. So those that have many leave room for others. An
//! upload whose client is slow keeps its place as long as nobody else waits for one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Parts of objects of a service that are in memory, if that is no more than half of those of the host.
const PARTS: usize = 8;

/// The places of a host.
#[derive(Debug)]
pub(crate) struct HostPlaces {
    number: usize,
    state: Mutex<PlacesState>,
    freed: Notify,
}

#[derive(Debug)]
struct PlacesState {
    free: usize,
    /// Uploads that wait.
    waiting: usize,
}

/// The places of a service.
#[derive(Debug)]
pub(crate) struct ServicePlaces {
    host: Arc<HostPlaces>,
    most: usize,
    /// Changed while the state of the host is locked.
    state: Mutex<ServiceState>,
}

#[derive(Debug, Default)]
struct ServiceState {
    held: usize,
    /// Uploads that wait.
    waiting: usize,
}

/// A place. Dropping it frees it.
#[derive(Debug)]
pub(crate) struct PartPlace(Arc<ServicePlaces>);

/// An upload that waits, until this is dropped.
struct Waiting<'a>(&'a ServicePlaces);

impl HostPlaces {
    pub(crate) fn new(number: usize) -> Arc<Self> {
        let state = PlacesState { free: number, waiting: 0 };
        Arc::new(Self { number, state: Mutex::new(state), freed: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, PlacesState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The places of one more service.
    pub(crate) fn service(self: &Arc<Self>) -> Arc<ServicePlaces> {
        let most = PARTS.min(self.number / 2);
        Arc::new(ServicePlaces { host: Arc::clone(self), most, state: Mutex::default() })
    }
}

impl ServicePlaces {
    fn state(&self) -> MutexGuard<'_, ServiceState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether others wait for a place of this service: uploads of its own, or more of the host than can have one.
    pub(crate) fn are_short(&self) -> bool {
        let host = self.host.state();
        host.waiting > host.free || self.state().waiting > 0
    }

    fn try_acquire(self: &Arc<Self>) -> Option<PartPlace> {
        let (mut host, mut own) = (self.host.state(), self.state());
        if own.held >= self.most || host.free <= own.held {
            return None;
        }
        host.free = host.free.saturating_sub(1);
        own.held = own.held.saturating_add(1);
        drop((host, own));
        Some(PartPlace(Arc::clone(self)))
    }

    /// Waits for a place.
    pub(crate) async fn acquire(self: &Arc<Self>) -> PartPlace {
        let mut waiting = None;
        loop {
            let mut freed = std::pin::pin!(self.host.freed.notified());
            // What is freed from now on is not missed.
            freed.as_mut().enable();
            if let Some(place) = self.try_acquire() {
                return place;
            }
            waiting.get_or_insert_with(|| Waiting::begin(self));
            freed.await;
        }
    }
}

impl<'a> Waiting<'a> {
    fn begin(service: &'a ServicePlaces) -> Self {
        let (mut host, mut own) = (service.host.state(), service.state());
        host.waiting = host.waiting.saturating_add(1);
        own.waiting = own.waiting.saturating_add(1);
        drop((host, own));
        Self(service)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let (mut host, mut own) = (self.0.host.state(), self.0.state());
        host.waiting = host.waiting.saturating_sub(1);
        own.waiting = own.waiting.saturating_sub(1);
    }
}

impl Drop for PartPlace {
    fn drop(&mut self) {
        let (mut host, mut own) = (self.0.host.state(), self.0.state());
        host.free = host.free.saturating_add(1);
        own.held = own.held.saturating_sub(1);
        drop((host, own));
        self.0.host.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(service: &Arc<ServicePlaces>) -> Vec<PartPlace> {
        std::iter::from_fn(|| service.try_acquire()).collect()
    }

    #[test]
    fn those_who_have_many_leave_room_for_others() {
        let host = HostPlaces::new(32);
        let services: Vec<_> = (0..8).map(|_| host.service()).collect();
        let held: Vec<_> = services.iter().map(all).collect();
        let numbers: Vec<_> = held.iter().map(Vec::len).collect();
        assert_eq!(numbers, [8, 8, 8, 4, 2, 1, 1, 0]);
        drop(held);
        assert_eq!(host.state().free, 32);
        // On the smallest host, a third service has one beside two.
        let host = HostPlaces::new(4);
        let services: Vec<_> = (0..3).map(|_| host.service()).collect();
        let held: Vec<_> = services.iter().map(all).collect();
        assert_eq!(held.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 1]);
    }

    #[tokio::test]
    async fn a_place_that_is_freed_is_taken() {
        let host = HostPlaces::new(4);
        let (one, other) = (host.service(), host.service());
        let held = all(&one);
        let greedy = tokio::spawn({
            let one = Arc::clone(&one);
            async move { one.acquire().await }
        });
        while !one.are_short() {
            tokio::task::yield_now().await;
        }
        assert!(!other.are_short() && !greedy.is_finished(), "others have room");
        drop(other.acquire().await);
        drop(held);
        drop(greedy.await.unwrap());
        assert!(!one.are_short());
        let state = host.state();
        assert_eq!((state.free, state.waiting), (4, 0));
    }
}
