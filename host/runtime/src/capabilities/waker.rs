//! The waker of a guest, which wakes the task that polls the guest only while that task waits.
//!
//! A guest of 0.3 wakes itself while it is polled: the host reads a frame of its response, and the part of the guest that
//! writes the next one is woken. A task that is woken while it runs is queued and polled once more, and an idle worker is
//! woken to do that. Most guests have ended by then.

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use lodge_base::lock::lock;

/// Wakes the task that waits for a guest.
#[derive(Default)]
pub struct GuestWaker(Mutex<Task>);

/// The task that polls a guest.
enum Task {
    /// It polls the guest now, or will do so without being woken. `woken` says that the guest can go on.
    Runs { woken: bool },
    /// It waits for the guest.
    Waits(Waker),
}

impl Default for Task {
    fn default() -> Self {
        Self::Runs { woken: false }
    }
}

impl GuestWaker {
    /// Polls a part of the guest. When it is pending, the task is woken as soon as the guest can go on. When it is ready,
    /// the caller polls again if more is wanted of the guest.
    pub fn poll<T>(self: &Arc<Self>, cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        let earlier = std::mem::replace(&mut *lock(&self.0), Task::Runs { woken: false });
        drop(earlier);
        let waker = Waker::from(Arc::clone(self));
        let polled = poll(&mut Context::from_waker(&waker));
        if polled.is_pending() {
            let mut task = lock(&self.0);
            match *task {
                Task::Runs { woken: true } => cx.waker().wake_by_ref(),
                _ => *task = Task::Waits(cx.waker().clone()),
            }
        }
        polled
    }
}

impl Wake for GuestWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let task = std::mem::replace(&mut *lock(&self.0), Task::Runs { woken: true });
        if let Task::Waits(waker) = task {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    /// Polls with a task whose wakes are counted. Returns the waker that the guest saw, and that count.
    fn polled(guest: &Arc<GuestWaker>, polled: Poll<()>, wakes: usize) -> (Waker, Arc<Count>) {
        let count = Arc::<Count>::default();
        let mut seen = None;
        let result = guest.poll(&mut Context::from_waker(&Waker::from(Arc::clone(&count))), |cx| {
            (0..wakes).for_each(|_| cx.waker().wake_by_ref());
            seen = Some(cx.waker().clone());
            polled
        });
        assert_eq!(result, polled);
        (seen.unwrap(), count)
    }

    #[test]
    fn a_guest_that_wakes_itself_and_ends_wakes_no_task() {
        let guest = Arc::<GuestWaker>::default();
        let (waker, count) = polled(&guest, Poll::Ready(()), 3);
        waker.wake();
        assert_eq!(count.0.load(Relaxed), 0);
    }

    #[test]
    fn a_task_that_waits_is_woken_once() {
        let guest = Arc::<GuestWaker>::default();
        let (_, count) = polled(&guest, Poll::Pending, 3);
        assert_eq!(count.0.load(Relaxed), 1, "the guest can go on");
        let (waker, count) = polled(&guest, Poll::Pending, 0);
        assert_eq!(count.0.load(Relaxed), 0);
        waker.wake_by_ref();
        waker.wake_by_ref();
        assert_eq!(count.0.load(Relaxed), 1);
        // The task that polled last is woken.
        let (_, earlier) = polled(&guest, Poll::Pending, 0);
        let (_, count) = polled(&guest, Poll::Pending, 0);
        waker.wake();
        assert_eq!([&earlier, &count].map(|count| count.0.load(Relaxed)), [0, 1]);
    }
}
