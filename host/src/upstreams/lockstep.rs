//! Two threads that do each step at the same moment, for tests of what must not happen twice.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// Has two threads do each of the steps at once, and counts how often each step did it.
pub(super) fn lockstep<T: Sync>(steps: &[T], act: impl Fn(&T, usize) -> bool + Sync) -> Vec<usize> {
    let (arrived, did) = (AtomicUsize::new(0), steps.iter().map(|_| AtomicUsize::new(0)).collect::<Vec<_>>());
    let walk = |thread: usize| {
        for (n, (step, did)) in steps.iter().zip(&did).enumerate() {
            arrived.fetch_add(1, SeqCst);
            let mut spins = 0u32;
            while arrived.load(SeqCst) < 2 * (n + 1) {
                spins += 1;
                // The other one may need this core to arrive at all.
                if spins.is_multiple_of(1000) { std::thread::yield_now() } else { std::hint::spin_loop() }
            }
            did.fetch_add(usize::from(act(step, thread)), SeqCst);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| walk(0));
        walk(1);
    });
    did.into_iter().map(AtomicUsize::into_inner).collect()
}
