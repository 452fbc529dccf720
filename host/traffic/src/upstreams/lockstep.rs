//! Runs two threads in lockstep, for tests of races.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// Runs `act` for each step on two threads at the same moment. Returns how many of the two returned `true`, per step.
pub(super) fn lockstep<T: Sync>(steps: &[T], act: impl Fn(&T, usize) -> bool + Sync) -> Vec<usize> {
    let (arrived, did) = (AtomicUsize::new(0), steps.iter().map(|_| AtomicUsize::new(0)).collect::<Vec<_>>());
    let walk = |thread: usize| {
        for (n, (step, did)) in steps.iter().zip(&did).enumerate() {
            arrived.fetch_add(1, SeqCst);
            let mut spins = 0u32;
            while arrived.load(SeqCst) < 2 * (n + 1) {
                spins += 1;
                // The other thread may need this core to arrive.
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
