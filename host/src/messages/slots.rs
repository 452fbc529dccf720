//! The messages of a service that are processed at a time, whichever of its consumers has received them: an edit makes another one
//! while those of the former are not settled yet.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// The slots of one service.
pub(super) struct MessageSlots {
    free: Arc<Semaphore>,
    count: usize,
}

impl MessageSlots {
    /// Creates the slots of a service that has no consumer yet.
    pub(super) fn new(count: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(count)), count }
    }

    /// Returns the slots, which are `count` from now on. Of slots in use that are too many, each ends when it is free.
    pub(super) fn resized(&mut self, count: usize) -> Arc<Semaphore> {
        self.free.add_permits(count.saturating_sub(self.count));
        let excess = self.count.saturating_sub(count);
        self.count = count;
        let ended = self.free.forget_permits(excess);
        if let Ok(left @ 1..) = u32::try_from(excess.saturating_sub(ended)) {
            let free = Arc::clone(&self.free);
            tokio::spawn(async move {
                if let Ok(permits) = free.acquire_many_owned(left).await {
                    permits.forget();
                }
            });
        }
        Arc::clone(&self.free)
    }

    /// Whether a message has a slot.
    pub(super) fn are_used(&self) -> bool {
        self.free.available_permits() < self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn slots_in_use_count_for_those_after_an_edit() {
        // Time passes when every task waits.
        let settle = async || tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let mut slots = MessageSlots::new(3);
        let free = slots.resized(3);
        let mut held: Vec<_> = (0..3).map(|_| Arc::clone(&free).try_acquire_owned().unwrap()).collect();
        assert!(slots.are_used());
        assert_eq!(slots.resized(1).available_permits(), 0);
        settle().await;
        held.truncate(1);
        settle().await;
        assert_eq!(free.available_permits(), 0, "one is in use, and one is all");
        held.clear();
        settle().await;
        assert_eq!((free.available_permits(), slots.are_used()), (1, false));
        assert_eq!(slots.resized(4).available_permits(), 4);
        assert_eq!(slots.resized(2).available_permits(), 2);
        // Back and forth while they are in use.
        let held: Vec<_> = (0..2).map(|_| Arc::clone(&free).try_acquire_owned().unwrap()).collect();
        drop((slots.resized(1), slots.resized(2), slots.resized(1), slots.resized(3)));
        settle().await;
        assert_eq!(free.available_permits(), 1);
        drop(held);
        settle().await;
        assert_eq!(free.available_permits(), 3);
    }
}
