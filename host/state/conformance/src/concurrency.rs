//! Linearizability: concurrent operations have results that some order of them explains, in which an operation that ended
//! before another began comes first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Fixture, key, soon};
use lodge_state::limits::Quota;
use lodge_state::{Change, Condition};
use lodge_state::{Expiry, Value, Version};
use lodge_state::{Set, Store, Swap};

/// Tasks at a time.
const TASKS: u64 = 64;
/// Operations of each.
const OPERATIONS: u64 = 20;

/// A clock that orders the beginnings and ends of operations.
#[derive(Default)]
struct EventClock(AtomicU64);

impl EventClock {
    fn tick(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

/// When an operation began and ended, and where its result puts it in the order of all.
#[derive(Clone, Copy, Debug)]
struct HistoryEvent {
    began: u64,
    ended: u64,
    place: u64,
}

/// Checks that `events`, sorted by place, do not contradict time: none began after a later one had ended.
fn check_order(mut events: Vec<HistoryEvent>) {
    // Reads of one value are in the order of time.
    events.sort_by_key(|event| (event.place, event.began));
    let mut latest = 0;
    for event in events {
        latest = latest.max(event.began);
        assert!(event.ended > latest, "{event:?} ended before one began that it comes after");
    }
}

async fn tasks<T: Send + 'static, F: Future<Output = T> + Send + 'static>(task: impl Fn(u64) -> F) -> Vec<T> {
    let running: Vec<_> = (0..TASKS).map(|number| tokio::spawn(task(number))).collect();
    let mut results = Vec::new();
    for task in running {
        results.push(task.await.unwrap());
    }
    results
}

/// Increments of 64 tasks return each sum once, in an order that fits time; and reads fit in.
pub async fn increments_are_linearizable(fixture: &Fixture) {
    let store = fixture.store(Quota::default()).await;
    let ticks = Arc::new(EventClock::default());
    let events = tasks(|number| {
        let (store, ticks) = (store.clone(), ticks.clone());
        async move {
            let mut events = Vec::new();
            for _ in 0..OPERATIONS {
                let began = ticks.tick();
                // Increments are at odd places, and reads of their sums right after.
                let place = if number % 4 == 0 {
                    let entry = store.get(key("n"), soon()).await.unwrap();
                    2 * entry.map_or(0, |entry| entry.value.to_number().unwrap()) as u64
                } else {
                    2 * store.increment(key("n"), 1, soon()).await.unwrap() as u64 - 1
                };
                events.push(HistoryEvent { began, ended: ticks.tick(), place });
            }
            events
        }
    })
    .await;
    let events: Vec<_> = events.into_iter().flatten().collect();
    let mut sums: Vec<_> = events.iter().map(|event| event.place).filter(|place| place % 2 == 1).collect();
    sums.sort_unstable();
    let expected: Vec<_> = (0..TASKS * 3 / 4 * OPERATIONS).map(|number| 2 * number + 1).collect();
    assert_eq!(sums, expected, "each sum once");
    check_order(events);
}

/// Swaps of 64 tasks: exactly one succeeds on each version, all others see an entry that was current meanwhile.
pub async fn compare_and_swap_is_linearizable(fixture: &Fixture) {
    let store = fixture.store(Quota::default()).await;
    store.set(key("c"), Value::number(0), Set::default(), soon()).await.unwrap();
    let ticks = Arc::new(EventClock::default());
    let events = tasks(|number| swaps(store.clone(), ticks.clone(), number)).await;
    let events: Vec<Swapped> = events.into_iter().flatten().collect();

    // Each success names the version before and after: together they are one chain.
    let done: BTreeMap<u64, u64> =
        events.iter().filter_map(|event| event.written.map(|after| (event.seen, after))).collect();
    let successes = events.iter().filter(|event| event.written.is_some()).count();
    assert_eq!(done.len(), successes, "two swaps succeeded on one version");
    let after: std::collections::BTreeSet<_> = done.values().collect();
    let mut version = *done.keys().find(|version| !after.contains(version)).unwrap();
    let mut places = BTreeMap::from([(version, 0)]);
    while let Some(next) = done.get(&version) {
        version = *next;
        places.insert(version, 2 * places.len() as u64);
    }
    assert_eq!(places.len(), successes + 1, "the versions are no chain");
    let last = store.get(key("c"), soon()).await.unwrap().unwrap();
    assert_eq!((last.version.number(), last.value.to_number()), (version, Ok(successes as i64)));

    // A success is at its version, and what only saw one right after it.
    let place = |event: &Swapped| match event.written {
        Some(written) => places[&written],
        None => places[&event.seen] + 1,
    };
    check_order(events.iter().map(|event| HistoryEvent { place: place(event), ..event.event }).collect());
}

/// A read or a swap: the version that it saw, and the one that it wrote.
struct Swapped {
    event: HistoryEvent,
    seen: u64,
    written: Option<u64>,
}

async fn swaps(store: Arc<dyn Store>, ticks: Arc<EventClock>, number: u64) -> Vec<Swapped> {
    let mut events = Vec::new();
    let mut record = |began, seen: Version, written: Option<Version>| {
        let event = HistoryEvent { began, ended: ticks.tick(), place: 0 };
        events.push(Swapped { event, seen: seen.number(), written: written.map(Version::number) });
    };
    for _ in 0..OPERATIONS {
        let began = ticks.tick();
        let mut current = store.get(key("c"), soon()).await.unwrap().unwrap();
        record(began, current.version, None);
        // Half of the tasks only read, so that the others succeed at times.
        if number.is_multiple_of(2) {
            continue;
        }
        loop {
            let next = Value::number(current.value.to_number().unwrap() + 1);
            let began = ticks.tick();
            let put = Change::Put(next, Expiry::Never);
            match store.compare_and_swap(key("c"), Condition::Version(current.version), put, soon()).await.unwrap() {
                Swap::Done(written) => {
                    record(began, current.version, Some(written.unwrap()));
                    break;
                }
                Swap::Stale(entry) => current = entry.unwrap(),
            }
            record(began, current.version, None);
        }
    }
    events
}
