//! Expiry and quotas.

use std::time::Duration;

use crate::{Fixture, key, soon, value};
use lodge_state::limits::{Quota, Usage};
use lodge_state::{Change, Condition};
use lodge_state::{Error, Resource};
use lodge_state::{Expiry, Ttl, Value};
use lodge_state::{Listing, Page, Set, Swap};

fn after(duration: Duration) -> Set {
    Set { expiry: Expiry::After(Ttl::new(duration).unwrap()), if_absent: false }
}

/// Entries exist until they expire, and for no operation after that.
pub async fn expiry(fixture: &Fixture) {
    let store = fixture.store(Quota::default()).await;
    let (short, long) = (after(fixture.short()), after(Duration::from_secs(3600)));
    for name in ["a", "b", "c", "d", "e", "n"] {
        store.set(key(name), value("1"), short, soon()).await.unwrap();
    }
    assert!(store.get(key("a"), soon()).await.unwrap().unwrap().expires.is_some());
    // These outlive it: longer, for ever, and for ever by a swap.
    store.set(key("b"), value("2"), long, soon()).await.unwrap();
    store.set(key("c"), value("2"), Set::default(), soon()).await.unwrap();
    let put = |expiry| Change::Put(value("2"), expiry);
    let swap = |name, change| store.compare_and_swap(key(name), Condition::Value(value("1")), change, soon());
    assert!(matches!(swap("d", put(Expiry::Never)).await, Ok(Swap::Done(_))));
    // These do not: the expiry stays.
    assert!(matches!(swap("e", put(Expiry::Keep)).await, Ok(Swap::Done(_))));
    assert_eq!(store.increment(key("n"), 1, soon()).await, Ok(2));

    fixture.pass(fixture.short()).await;
    for (name, exists) in [("a", false), ("b", true), ("c", true), ("d", true), ("e", false), ("n", false)] {
        assert_eq!(store.exists(key(name), soon()).await, Ok(exists), "{name}");
    }
    let listing = Listing::new("bucket", "", 100).unwrap();
    let Page { mut keys, .. } = store.list(listing, soon()).await.unwrap();
    keys.sort();
    assert_eq!(keys, ["b", "c", "d"]);
    assert_eq!(store.delete(key("a"), soon()).await, Ok(false));
    assert_eq!(store.increment(key("n"), 1, soon()).await, Ok(1), "counts from 0 again");
    let absent = Set { if_absent: true, ..Set::default() };
    store.set(key("e"), value("3"), absent, soon()).await.unwrap();
    assert_eq!(swap("a", put(Expiry::Keep)).await, Ok(Swap::Stale(None)));
    fixture.pass(fixture.short()).await;
    assert!(store.exists(key("e"), soon()).await.unwrap(), "a new entry does not inherit an old expiry");
}

/// Quotas are exact, shrink and grow with what is stored, and count nothing that has expired.
pub async fn quotas(fixture: &Fixture) {
    let quota = Quota { keys: 3, bytes: 100 };
    let namespace = fixture.namespace();
    let store = fixture.backend.open(&namespace, quota, soon()).await.unwrap();
    let set = |name: &'static str, size: usize| {
        store.set(key(name), Value::new(vec![b'1'; size]).unwrap(), Set::default(), soon())
    };
    let refused =
        |resource| move |error: &Error| matches!(error, Error::QuotaExceeded { resource: r, .. } if *r == resource);
    set("a", 1).await.unwrap();
    set("b", 1).await.unwrap();
    store.increment(key("c"), 1, soon()).await.unwrap();
    assert!(set("d", 1).await.is_err_and(|error| refused(Resource::Keys)(&error)));
    assert!(store.increment(key("d"), 1, soon()).await.is_err_and(|error| refused(Resource::Keys)(&error)));
    assert_eq!(store.get(key("d"), soon()).await, Ok(None), "a refused write writes nothing");
    assert_eq!(store.delete(key("b"), soon()).await, Ok(true));
    set("d", 1).await.unwrap();
    if !fixture.exact_quotas {
        return;
    }
    // A key is "bucket" and one letter; three of them, with a value of one byte each, are 24 bytes.
    assert_eq!(store.usage(soon()).await, Ok(Usage { keys: 3, bytes: 24 }));
    set("a", 77).await.unwrap();
    let error = set("a", 78).await.unwrap_err();
    assert_eq!(error, Error::QuotaExceeded { resource: Resource::Bytes, used: 100, limit: 100 });
    assert_eq!(store.get(key("a"), soon()).await.unwrap().unwrap().value.size(), 77);
    set("a", 76).await.unwrap();
    assert_eq!(store.increment(key("c"), 9, soon()).await, Ok(10));
    assert_eq!(store.usage(soon()).await, Ok(Usage { keys: 3, bytes: 100 }));
    assert_eq!(store.increment(key("c"), -5, soon()).await, Ok(5));
    assert_eq!(store.usage(soon()).await, Ok(Usage { keys: 3, bytes: 99 }));

    // A lowered quota lets everything shrink, and nothing grow.
    let lower = Quota { keys: 1, bytes: 10 };
    let same = fixture.backend.open(&namespace, lower, soon()).await.unwrap();
    set("a", 50).await.unwrap();
    assert!(set("a", 51).await.is_err_and(|error| refused(Resource::Bytes)(&error)));
    assert_eq!(same.delete_many(&["a", "b", "c", "d"].map(key), soon()).await, Ok(3));
    assert_eq!(store.usage(soon()).await, Ok(Usage::default()));

    // What has expired makes room.
    let store = fixture.store(Quota { keys: 300, bytes: 1 << 20 }).await;
    for name in 0..300 {
        store.set(key(&name.to_string()), value("1"), after(fixture.short()), soon()).await.unwrap();
    }
    let full = store.set(key("more"), value("1"), Set::default(), soon()).await;
    assert!(full.is_err_and(|error| refused(Resource::Keys)(&error)));
    fixture.pass(fixture.short()).await;
    for name in 0..300 {
        store.set(key(&format!("new-{name}")), value("1"), Set::default(), soon()).await.unwrap();
    }
}
