//! Load shedding: when the host is saturated, requests of low priority are refused first.
//!
//! The host is *busy* when most instance slots are in use, or when a timer of the runtime is late; then requests of low
//! priority are refused. It is *swamped* when all slots are in use and half of the host's queue is full; then requests
//! of normal priority are refused too, if any service has high priority: otherwise there is nothing to make room for.
//! Each level ends at a lower threshold than it begins at, so that it does not flap.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::time::Duration;

use super::Concurrency;
use lodge_manifest::policies::Priority;

/// The load of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LoadLevel {
    /// Slots are free.
    #[default]
    Calm,
    /// Few slots are free, or timers are late.
    Busy,
    /// No slot is free, and many requests wait.
    Swamped,
}

/// Thresholds (start of a level, end of it): `TAKEN` and `QUEUED` in percent, `LATE` for the lag of a timer.
const TAKEN: (usize, usize) = (90, 75);
const QUEUED: (usize, usize) = (50, 25);
const LATE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(20));

/// The load shedder of a host.
#[derive(Debug)]
pub struct Shedding {
    slots: Arc<Concurrency>,
    size: usize,
    level: AtomicU8,
    late: AtomicBool,
    /// A service has high priority.
    reserved: AtomicBool,
}

/// The measurements that decide the level.
#[derive(Clone, Copy, Debug)]
struct Load {
    taken: usize,
    size: usize,
    queued: usize,
    queue: usize,
    late: bool,
}

impl Shedding {
    /// Returns a load shedder that watches these slots of the host.
    pub fn new(slots: Arc<Concurrency>) -> Self {
        let size = slots.size();
        let (level, late, reserved) = (AtomicU8::new(0), AtomicBool::new(false), AtomicBool::new(false));
        Self { slots, size, level, late, reserved }
    }

    /// Whether a request of this priority is refused now. Costs one atomic load while no service sets a priority.
    pub fn sheds(&self, priority: Priority) -> bool {
        match priority {
            Priority::Low => self.level() >= LoadLevel::Busy,
            Priority::Normal => self.reserved.load(Relaxed) && self.level() >= LoadLevel::Swamped,
            Priority::High => false,
        }
    }

    /// Returns the load of the host.
    pub fn level(&self) -> LoadLevel {
        let (taken, size) = (self.size.saturating_sub(self.slots.free()), self.size);
        let (queued, queue, late) = (self.slots.queued(), self.slots.queue(), self.late.load(Relaxed));
        let was = LoadLevel::from_u8(self.level.load(Relaxed));
        let is = was.next(Load { taken, size, queued, queue, late });
        if is != was {
            self.level.store(is as u8, Relaxed);
        }
        is
    }

    /// Records the lag of a timer of the runtime. Called periodically, so that a level also ends while no requests
    /// arrive.
    pub fn record_lag(&self, lag: Duration) {
        let (begins, ends) = LATE;
        let was = self.late.load(Relaxed);
        self.late.store(lag >= if was { ends } else { begins }, Relaxed);
        self.level();
    }

    /// Sets whether any active service has high priority.
    pub fn set_reserved(&self, reserved: bool) {
        self.reserved.store(reserved, Relaxed);
    }
}

impl LoadLevel {
    fn from_u8(level: u8) -> Self {
        match level {
            0 => Self::Calm,
            1 => Self::Busy,
            _ => Self::Swamped,
        }
    }

    fn next(self, load: Load) -> Self {
        let over = |part: usize, whole: usize, (begins, ends): (usize, usize), is: bool| {
            part * 100 >= whole * if is { ends } else { begins }
        };
        let Load { taken, size, queued, queue, late } = load;
        // With a queue of length zero, only the slots decide.
        if taken >= size && over(queued, queue, QUEUED, self == Self::Swamped) {
            Self::Swamped
        } else if late || over(taken, size, TAKEN, self >= Self::Busy) {
            Self::Busy
        } else {
            Self::Calm
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_do_not_flap() {
        let check = |was: LoadLevel, taken, queued, late, expected: LoadLevel| {
            let is = was.next(Load { taken, size: 100, queued, queue: 40, late });
            assert_eq!(is, expected, "{was:?} with {taken} taken, {queued} queued");
        };
        use LoadLevel::{Busy, Calm, Swamped};
        check(Calm, 89, 0, false, Calm);
        check(Calm, 90, 0, false, Busy);
        check(Busy, 75, 0, false, Busy);
        check(Busy, 74, 0, false, Calm);
        check(Calm, 0, 0, true, Busy);
        check(Busy, 100, 19, false, Busy);
        check(Busy, 100, 20, false, Swamped);
        check(Swamped, 100, 10, false, Swamped);
        check(Swamped, 100, 9, false, Busy);
        check(Swamped, 99, 20, false, Busy);
        check(Swamped, 10, 0, false, Calm);
    }

    /// Low priority is refused first; normal priority only for the sake of high; lag has to fall below the lower
    /// threshold.
    #[tokio::test]
    async fn low_priority_is_shed_first() {
        let slots = Arc::new(Concurrency::new(2, 0, Duration::ZERO));
        let shedding = Shedding::new(Arc::clone(&slots));
        let shed = || [Priority::Low, Priority::Normal, Priority::High].map(|priority| shedding.sheds(priority));
        assert_eq!(shed(), [false, false, false]);
        let taken = (slots.acquire().await.unwrap(), slots.acquire().await.unwrap());
        assert_eq!(shed(), [true, false, false]);
        shedding.set_reserved(true);
        assert_eq!(shed(), [true, true, false]);
        drop(taken);
        assert_eq!(shed(), [false, false, false]);
        let late = |ms| shedding.record_lag(Duration::from_millis(ms));
        late(99);
        assert_eq!(shed(), [false, false, false]);
        late(100);
        assert_eq!(shed(), [true, false, false]);
        late(20);
        assert_eq!(shed(), [true, false, false]);
        late(19);
        assert_eq!(shed(), [false, false, false]);
    }
}
