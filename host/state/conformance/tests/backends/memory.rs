//! Memory: the conformance suite, and its bound.

use std::sync::Arc;

use lodge_conformance::{Fixture, Time, soon};
use lodge_state::{Error, Key, ManualClock, Memory, Quota, Set, Timestamp, Value};

async fn fixture() -> Fixture {
    let clock = Arc::new(ManualClock::new(Timestamp::new(1_000_000)));
    let backend = Arc::new(Memory::new(64 << 20, clock.clone()));
    Fixture { schedules: 1000, ..Fixture::new(backend, Time::Manual(clock)) }
}

lodge_conformance::conformance!(fixture);
lodge_conformance::conformance!(messages fixture);

#[tokio::test]
async fn all_namespaces_together_are_bounded() {
    let clock = Arc::new(ManualClock::new(Timestamp::new(0)));
    let mut fixture = fixture().await;
    fixture.backend = Arc::new(Memory::new(10_000, clock));
    let (one, other) = (fixture.store(Quota::default()).await, fixture.store(Quota::default()).await);
    let (a, b) = (Key::new("b", "a").unwrap(), Key::new("b", "b").unwrap());
    let value = |size| Value::new(vec![0; size]).unwrap();
    one.set(a, value(9000), Set::default(), soon()).await.unwrap();
    let full = other.set(b, value(9000), Set::default(), soon()).await;
    assert!(matches!(full, Err(Error::Unavailable { .. })), "{full:?}");
    other.set(b, value(100), Set::default(), soon()).await.unwrap();
    one.delete(a, soon()).await.unwrap();
    other.set(b, value(9000), Set::default(), soon()).await.unwrap();
}
