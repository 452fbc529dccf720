//! What single operations and batches do.

use crate::{Fixture, key, soon, value};
use lodge_state::Error;
use lodge_state::Key;
use lodge_state::Version;
use lodge_state::limits::{MAX_BATCH, MAX_BATCH_BYTES, MAX_BUCKET, MAX_KEY, MAX_VALUE, Quota};
use lodge_state::{Batch, Set, Swap};
use lodge_state::{Change, Condition, Write};
use lodge_state::{Expiry, Value};

/// Get, set, exists, delete, increment and compare-and-swap do what they say, for names and values of all kinds.
pub async fn operations(fixture: &Fixture) {
    let store = fixture.store(Quota::default()).await;
    let set = Set::default();
    let a = key("a");
    assert_eq!(store.get(a, soon()).await, Ok(None));
    assert_eq!(store.exists(a, soon()).await, Ok(false));
    assert_eq!(store.delete(a, soon()).await, Ok(false));

    let first = store.set(a, value("1"), set, soon()).await.unwrap();
    let entry = store.get(a, soon()).await.unwrap().unwrap();
    assert_eq!((entry.value, entry.version, entry.expires), (value("1"), first, None));
    let second = store.set(a, value("1"), set, soon()).await.unwrap();
    assert_ne!(first, second, "a write of the same value makes a new version");
    let absent = Set { if_absent: true, ..set };
    assert_eq!(store.set(a, value("2"), absent, soon()).await, Err(Error::Conflict));
    assert_eq!(store.get(a, soon()).await.unwrap().unwrap().version, second, "a conflict writes nothing");

    assert_eq!(store.increment(a, 41, soon()).await, Ok(42));
    assert_eq!(store.get(a, soon()).await.unwrap().unwrap().value, value("42"));
    assert_eq!(store.increment(a, i64::MAX, soon()).await, Err(Error::Overflow));
    assert_eq!(store.increment(a, -50, soon()).await, Ok(-8));
    assert_eq!(store.increment(a, i64::MIN, soon()).await, Err(Error::Overflow));
    assert_eq!(store.increment(key("new"), i64::MIN, soon()).await, Ok(i64::MIN));
    for text in ["x", "", "-", "+1", "01", "-0", "-01", " 1", "1 ", "1.0", "1e3", "9223372036854775808"] {
        store.set(key("text"), value(text), set, soon()).await.unwrap();
        assert_eq!(store.increment(key("text"), 1, soon()).await, Err(Error::NotANumber), "{text:?}");
        assert_eq!(store.get(key("text"), soon()).await.unwrap().unwrap().value, value(text), "it was changed");
    }

    assert_eq!(store.delete(a, soon()).await, Ok(true));
    assert_eq!(store.get(a, soon()).await, Ok(None));
    let third = store.set(a, value("1"), absent, soon()).await.unwrap();
    assert!(third != first && third != second, "versions do not repeat after a deletion");

    let long = "k".repeat(MAX_KEY);
    let bucket = "b".repeat(MAX_BUCKET);
    let names = [
        ("b", "*"),
        ("b", ">"),
        ("b", "a b"),
        ("b", "a.b"),
        ("b", "a\0b"),
        ("b", "/"),
        ("b", "ä€😀"),
        ("b", "%_\\'\""),
    ];
    let all = names.into_iter().chain([("b:c", "d"), ("b", "c:d"), ("B", "C:D"), (bucket.as_str(), long.as_str())]);
    let all: Vec<_> = all.map(|(bucket, name)| Key::new(bucket, name).unwrap()).collect();
    for key in &all {
        store.set(*key, value(key.name()), set, soon()).await.unwrap();
    }
    for key in &all {
        assert_eq!(store.get(*key, soon()).await.unwrap().unwrap().value, value(key.name()), "{key:?}");
    }
    for bytes in [vec![], vec![0, 255, 10, 13, 0], vec![7; MAX_VALUE]] {
        let value = Value::new(bytes).unwrap();
        store.set(a, value.clone(), set, soon()).await.unwrap();
        assert_eq!(store.get(a, soon()).await.unwrap().unwrap().value, value);
    }
    conditions(fixture).await;
}

async fn conditions(fixture: &Fixture) {
    let store = fixture.store(Quota::default()).await;
    let a = key("a");
    let swap = |condition, change| store.compare_and_swap(a, condition, change, soon());
    let put = |text| Change::Put(value(text), Expiry::Never);
    let unknown = Version::new(0);

    assert_eq!(swap(Condition::Version(unknown), put("x")).await, Ok(Swap::Stale(None)));
    assert_eq!(swap(Condition::Value(value("")), put("x")).await, Ok(Swap::Stale(None)));
    let Ok(Swap::Done(Some(first))) = swap(Condition::Absent, put("1")).await else { panic!("not created") };
    let entry = store.get(a, soon()).await.unwrap();
    assert_eq!(swap(Condition::Absent, put("2")).await, Ok(Swap::Stale(entry.clone())));
    assert_eq!(swap(Condition::Version(unknown), Change::Remove).await, Ok(Swap::Stale(entry.clone())));
    assert_eq!(swap(Condition::Both(first, value("0")), put("2")).await, Ok(Swap::Stale(entry.clone())));
    assert_eq!(swap(Condition::Both(unknown, value("1")), put("2")).await, Ok(Swap::Stale(entry)));
    let Ok(Swap::Done(Some(second))) = swap(Condition::Version(first), put("2")).await else { panic!("not swapped") };
    let entry = store.get(a, soon()).await.unwrap();
    assert_eq!(entry.as_ref().unwrap().version, second);
    assert_eq!(swap(Condition::Version(first), put("3")).await, Ok(Swap::Stale(entry)));
    let Ok(Swap::Done(Some(third))) = swap(Condition::Value(value("2")), put("1")).await else { panic!("not swapped") };
    assert!(
        matches!(swap(Condition::Version(first), put("x")).await, Ok(Swap::Stale(_))),
        "the value is back, not the version"
    );
    let Ok(Swap::Done(Some(fourth))) = swap(Condition::Both(third, value("1")), Change::Add(2)).await else {
        panic!("not added")
    };
    assert_eq!(store.get(a, soon()).await.unwrap().unwrap().value, value("3"));
    assert_eq!(swap(Condition::Version(third), Change::Remove).await.unwrap(), {
        let entry = store.get(a, soon()).await.unwrap();
        Swap::Stale(entry)
    });
    assert_eq!(swap(Condition::Version(fourth), Change::Remove).await, Ok(Swap::Done(None)));
    assert_eq!(store.get(a, soon()).await, Ok(None));
}

/// Batches read and write all of their keys, in their order.
pub async fn batches(fixture: &Fixture) {
    let store = fixture.store(Quota::default()).await;
    let names: Vec<_> = (0..MAX_BATCH).map(|number| format!("key-{number}")).collect();
    let keys: Vec<_> = names.iter().map(|name| key(name)).collect();
    store.set_many(keys.iter().map(|key| (*key, value(key.name()))).collect(), soon()).await.unwrap();
    let asked = vec![keys[3], key("none"), keys[1], keys[3]];
    let entries = store.get_many(Batch::new(asked).unwrap(), soon()).await.unwrap();
    let values: Vec<_> = entries.into_iter().map(|entry| entry.map(|entry| entry.value)).collect();
    assert_eq!(values, [Some(value("key-3")), None, Some(value("key-1")), Some(value("key-3"))]);
    assert_eq!(
        store.get_many(Batch::new(keys.clone()).unwrap(), soon()).await.unwrap().iter().flatten().count(),
        MAX_BATCH
    );

    let write = |key, condition, change| Write { key, condition, change };
    let writes = vec![
        write(keys[0], Condition::Absent, Change::Remove),
        write(key("n"), Condition::Always, Change::Add(2)),
        write(key("n"), Condition::Value(value("2")), Change::Add(3)),
        write(keys[1], Condition::Always, Change::Remove),
    ];
    let outcomes = store.write_many(Batch::new(writes).unwrap(), soon()).await.unwrap();
    assert_eq!(outcomes.iter().map(|outcome| outcome.applied).collect::<Vec<_>>(), [false, true, true, true]);
    assert_eq!(store.get(key("n"), soon()).await.unwrap().unwrap().value, value("5"));
    assert_eq!(store.delete_many(&keys, soon()).await, Ok(MAX_BATCH - 1));
    assert_eq!(store.get_many(Batch::new(keys).unwrap(), soon()).await.unwrap().iter().flatten().count(), 0);
    assert_eq!(store.get_many(Batch::new(vec![]).unwrap(), soon()).await, Ok(vec![]));
    assert_eq!(store.write_many(Batch::new(vec![]).unwrap(), soon()).await, Ok(vec![]));

    let large = Value::new(vec![1; MAX_BATCH_BYTES / 2]).unwrap();
    for name in ["x", "y", "z"] {
        store.set(key(name), large.clone(), Set::default(), soon()).await.unwrap();
    }
    let read = |names: &[&'static str]| Batch::new(names.iter().map(|name| key(name)).collect()).unwrap();
    assert_eq!(store.get_many(read(&["x", "y"]), soon()).await.unwrap().len(), 2);
    let too_large = store.get_many(read(&["x", "y", "z"]), soon()).await;
    assert!(matches!(too_large, Err(Error::TooLarge { .. })), "{too_large:?}");
}

/// A namespace sees nothing of another one, whatever the names are.
pub async fn isolation(fixture: &Fixture) {
    let (one, other) = (fixture.store(Quota::default()).await, fixture.store(Quota::default()).await);
    one.set(key("a"), value("one"), Set::default(), soon()).await.unwrap();
    assert_eq!(other.get(key("a"), soon()).await, Ok(None));
    other.set(key("a"), value("other"), Set { if_absent: true, ..Set::default() }, soon()).await.unwrap();
    assert_eq!(one.get(key("a"), soon()).await.unwrap().unwrap().value, value("one"));
    assert_eq!(other.increment(key("n"), 1, soon()).await, Ok(1));
    assert_eq!(one.increment(key("n"), 1, soon()).await, Ok(1));
    assert_eq!(other.delete(key("a"), soon()).await, Ok(true));
    assert!(one.exists(key("a"), soon()).await.unwrap());

    // The same namespace again, through another store.
    let namespace = fixture.namespace();
    let first = fixture.backend.open(&namespace, Quota::default(), soon()).await.unwrap();
    let second = fixture.backend.open(&namespace, Quota::default(), soon()).await.unwrap();
    first.set(key("a"), value("1"), Set::default(), soon()).await.unwrap();
    assert!(second.exists(key("a"), soon()).await.unwrap());
}
