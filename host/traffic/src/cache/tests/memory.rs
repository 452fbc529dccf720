//! The memory of all responses stays within the bound.

use proptest::prelude::*;

use super::*;

/// An operation on a cache.
#[derive(Clone, Debug)]
enum Step {
    /// A response of this size is stored at this path.
    Keep(usize, usize),
    /// A response begins, and is not complete yet.
    Begin(usize, usize),
    /// A response that has begun is completed or dropped.
    End(bool),
    /// A slow client holds the stored response of this path.
    Hold(usize),
    /// The slow clients are done.
    Release,
    /// An operator purges the service.
    Purge,
}

fn step() -> impl Strategy<Value = Step> {
    let (path, size) = (0_usize..40, 0_usize..12_000);
    prop_oneof![
        6 => (path.clone(), size.clone()).prop_map(|(path, size)| Step::Keep(path, size)),
        2 => (path.clone(), size).prop_map(|(path, size)| Step::Begin(path, size)),
        2 => any::<bool>().prop_map(Step::End),
        2 => path.prop_map(Step::Hold),
        1 => Just(Step::Release),
        1 => Just(Step::Purge),
    ]
}

proptest! {
    /// All responses together are within the bound after every step, and all reservations are released in the end.
    #[test]
    fn memory_is_bounded(steps in prop::collection::vec(step(), 1..200)) {
        const MEMORY: usize = 64 << 10;
        let cache = Cache::new(MEMORY, 10 << 10);
        let (it, none) = (edition("users", "1"), HeaderMap::new());
        let begin = |path: usize, size: usize| {
            let mut recorder = cache.recorder(&it, &format!("/{path}"), &none, &[])?;
            // The second frame makes the buffer grow.
            for size in [size, 1] {
                recorder.frame(&Frame::data(Bytes::from(vec![0; size])));
            }
            Some(recorder)
        };
        let (mut open, mut held) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Keep(path, size) => begin(path, size).iter_mut().for_each(Recorder::end),
                Step::Begin(path, size) => open.extend(begin(path, size)),
                Step::End(well) => open.pop().into_iter().filter(|_| well).for_each(|mut recorder| recorder.end()),
                Step::Hold(path) => {
                    let variants = cache.cache.store.get(&Cache::key(&format!("/{path}")));
                    let give = |stored: &Arc<StoredResponse>| {
                        stored.response(&Conditions::default(), false, CacheStatus::Collapsed, SystemTime::now())
                    };
                    held.extend(variants.iter().flat_map(|variants| variants.iter()).map(give));
                }
                Step::Release => held.clear(),
                Step::Purge => drop(cache.cache.purge("users", "/")),
            }
            let (used, stored) = (cache.cache.budget.used(), cache.cache.store.bytes());
            prop_assert!(used <= MEMORY && stored <= MEMORY / 4 * 3, "{used} {stored}");
            let counted = usize::try_from(cache.service.metrics.cached.bytes()).unwrap();
            let allocated: usize = open.iter().map(Recorder::allocated).sum();
            prop_assert!(counted + allocated <= used, "{counted} {allocated} {used}");
        }
        drop((open, held));
        cache.cache.purge("users", "/");
        prop_assert_eq!((cache.cache.budget.used(), cache.entries(), cache.cache.coalescer.active_fills()), (0, 0, 0));
    }
}
