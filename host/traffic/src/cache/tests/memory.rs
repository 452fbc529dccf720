//! Memory: whatever happens, all responses together are within the bound.

use proptest::prelude::*;

use super::*;

/// What can happen to a cache.
#[derive(Clone, Debug)]
enum Step {
    /// An answer of this size is kept at this path.
    Keep(usize, usize),
    /// One begins and has not ended yet.
    Begin(usize, usize),
    /// One of those ends so.
    End(bool),
    /// A slow client has what is kept here, whatever becomes of that.
    Hold(usize),
    /// Slow clients are done.
    Release,
    /// An operator purges.
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
    /// At every moment all answers together are within the bound, and in the end nothing of it is lost.
    #[test]
    fn memory_is_bounded(steps in prop::collection::vec(step(), 1..200)) {
        const MEMORY: usize = 64 << 10;
        let cache = Cache::new(MEMORY, 10 << 10);
        let (it, none) = (edition("users", "1"), HeaderMap::new());
        let begin = |path: usize, size: usize| {
            let mut recorder = cache.recorder(&it, &format!("/{path}"), &none, &[])?;
            // The second has the buffer grow.
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
                    let variants = cache.responses.store.get(&Cache::key(&format!("/{path}")));
                    let give = |kept: &Arc<Kept>| {
                        kept.give::<Body>(&Conditions::default(), false, CacheStatus::Collapsed, SystemTime::now())
                    };
                    held.extend(variants.iter().flat_map(|variants| variants.iter()).map(give));
                }
                Step::Release => held.clear(),
                Step::Purge => drop(cache.responses.purge("users", "/")),
            }
            let (used, kept) = (cache.responses.budget.used(), cache.responses.store.bytes());
            prop_assert!(used <= MEMORY && kept <= MEMORY / 4 * 3, "{used} {kept}");
            let counted = usize::try_from(cache.service.figures.cached.bytes()).unwrap();
            let allocated: usize = open.iter().map(Recorder::allocated).sum();
            prop_assert!(counted + allocated <= used, "{counted} {allocated} {used}");
        }
        drop((open, held));
        cache.responses.purge("users", "/");
        prop_assert_eq!((cache.responses.budget.used(), cache.entries(), cache.responses.flights.flying()), (0, 0, 0));
    }
}
