//! When the host itself is saturated, who matters least is turned away first.
//!
//! The host is *busy* when most sandboxes are at work, or a timer of the runtime is late; then requests of low priority
//! are turned away. It is *swamped* when all are at work and half of the host's queue is full; then those of normal
//! priority are, if anybody has a high one: else there is nobody to make room for. Each state ends at a lower mark than
//! it begins at, so that it does not flap.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::time::Duration;

use super::Concurrency;
use crate::manifest::policies::Priority;

/// How the host does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// There is room.
    #[default]
    Calm,
    /// There is little.
    Busy,
    /// There is none, and many wait.
    Swamped,
}

/// The marks, in percent: (where a state begins, where it ends).
const TAKEN: (usize, usize) = (90, 75);
const QUEUED: (usize, usize) = (50, 25);
const LATE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(20));

/// Who decides.
#[derive(Debug)]
pub struct Shedding {
    slots: Arc<Concurrency>,
    size: usize,
    level: AtomicU8,
    late: AtomicBool,
    /// Somebody has a high priority.
    reserved: AtomicBool,
}

/// What a level is made of.
#[derive(Clone, Copy, Debug)]
struct Load {
    taken: usize,
    size: usize,
    queued: usize,
    queue: usize,
    late: bool,
}

impl Shedding {
    /// Looks at these slots of the host.
    pub fn new(slots: Arc<Concurrency>) -> Self {
        let size = slots.size();
        let (level, late, reserved) = (AtomicU8::new(0), AtomicBool::new(false), AtomicBool::new(false));
        Self { slots, size, level, late, reserved }
    }

    /// Whether a request of this priority is turned away now. Costs one load where no priority is said anywhere.
    pub fn sheds(&self, priority: Priority) -> bool {
        match priority {
            Priority::Low => self.level() >= Level::Busy,
            Priority::Normal => self.reserved.load(Relaxed) && self.level() >= Level::Swamped,
            Priority::High => false,
        }
    }

    /// How the host does.
    pub fn level(&self) -> Level {
        let (taken, size) = (self.size.saturating_sub(self.slots.free()), self.size);
        let (queued, queue, late) = (self.slots.queued(), self.slots.queue(), self.late.load(Relaxed));
        let was = Level::read(self.level.load(Relaxed));
        let is = was.next(Load { taken, size, queued, queue, late });
        if is != was {
            self.level.store(is as u8, Relaxed);
        }
        is
    }

    /// A timer of the runtime was so late. Told every now and then, so that a level ends also while nobody asks.
    pub fn record_lag(&self, lag: Duration) {
        let (begins, ends) = LATE;
        let was = self.late.load(Relaxed);
        self.late.store(lag >= if was { ends } else { begins }, Relaxed);
        self.level();
    }

    /// Whether somebody that is served has a high priority.
    pub fn set_reserved(&self, reserved: bool) {
        self.reserved.store(reserved, Relaxed);
    }
}

impl Level {
    fn read(level: u8) -> Self {
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
        // Where nobody may wait, all that is left to see is that all slots are taken.
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
        let check = |was: Level, taken, queued, late, expected: Level| {
            let is = was.next(Load { taken, size: 100, queued, queue: 40, late });
            assert_eq!(is, expected, "{was:?} with {taken} taken, {queued} queued");
        };
        use Level::{Busy, Calm, Swamped};
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

    /// The least go first; the normal go only for the high; and who is late has to be early again.
    #[tokio::test]
    async fn the_least_go_first() {
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
