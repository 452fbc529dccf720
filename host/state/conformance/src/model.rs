//! Random operations, compared with a model that is simple enough to be right.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use crate::{Fixture, Time, soon};
use lodge_state::Key;
use lodge_state::limits::{Quota, Usage};
use lodge_state::{Batch, Listing, Store};
use lodge_state::{Change, Condition, Write};
use lodge_state::{Entry, Expiry, Ttl, Value, Version};
use lodge_state::{Error, Resource};

const QUOTA: Quota = Quota { keys: 4, bytes: 60 };
const BUCKETS: [&str; 2] = ["b", "bucket"];
const NAMES: [&str; 4] = ["a", "ab", "b", "*"];
const VALUES: [&str; 7] = ["", "0", "7", "9223372036854775807", "-1", "text", "a longer text, of 30 bytes now"];

#[derive(Clone, Debug)]
enum StoreStep {
    Get(usize),
    GetMany(Vec<usize>),
    Write(Random),
    WriteMany(Vec<Random>),
    List(usize, usize, usize),
    Advance(u64),
}

/// A write of a key. Conditions refer to the entry that the model has.
#[derive(Clone, Debug)]
struct Random {
    key: usize,
    condition: usize,
    change: usize,
    value: usize,
    expiry: usize,
}

/// The model: live entries, with what was written last, and the version that the backend gave it.
#[derive(Default)]
struct Model {
    entries: BTreeMap<usize, (String, Option<u64>, Option<Version>)>,
    now: u64,
}

fn key(index: usize) -> Key<'static> {
    Key::new(BUCKETS[index / NAMES.len()], NAMES[index % NAMES.len()]).unwrap()
}

fn value(text: &str) -> Value {
    Value::new(text.to_owned()).unwrap()
}

fn steps(manual: bool) -> impl Strategy<Value = Vec<StoreStep>> {
    let keys = BUCKETS.len() * NAMES.len();
    let random = (0..keys, 0..8usize, 0..6usize, 0..VALUES.len(), 0..6usize)
        .prop_map(|(key, condition, change, value, expiry)| Random { key, condition, change, value, expiry });
    let step = prop_oneof![
        3 => (0..keys).prop_map(StoreStep::Get),
        1 => prop::collection::vec(0..keys, 0..6).prop_map(StoreStep::GetMany),
        8 => random.clone().prop_map(StoreStep::Write),
        2 => prop::collection::vec(random, 0..5).prop_map(StoreStep::WriteMany),
        2 => (0..BUCKETS.len(), 0..4usize, 1..4usize).prop_map(|(bucket, prefix, limit)| StoreStep::List(bucket, prefix, limit)),
        2 => (0..30u64).prop_map(move |by| StoreStep::Advance(if manual { by } else { 0 })),
    ];
    prop::collection::vec(step, 1..60)
}

impl Model {
    fn usage(&self) -> Usage {
        let bytes = self.entries.iter().map(|(index, (text, ..))| key(*index).size() + text.len() as u64).sum();
        Usage { keys: self.entries.len() as u64, bytes }
    }

    /// The write that `random` stands for, and whether its condition is true.
    fn write(&self, random: &Random, manual: bool) -> (Write<'static>, bool) {
        let current = self.entries.get(&random.key);
        let version = current.and_then(|(_, _, version)| *version).unwrap_or(Version::new(1));
        let text = current.map_or("7", |(text, ..)| text);
        let (condition, holds) = match random.condition {
            0..=3 => (Condition::Always, true),
            4 => (Condition::Absent, current.is_none()),
            5 => (Condition::Version(version), current.is_some()),
            6 => (
                Condition::Value(value(VALUES[random.value])),
                current.is_some_and(|(text, ..)| text == VALUES[random.value]),
            ),
            _ => (Condition::Both(version, value(text)), current.is_some()),
        };
        let ttl = Expiry::After(Ttl::new(Duration::from_millis(10 * random.expiry as u64 + 10)).unwrap());
        let expiry = match random.expiry {
            0 | 1 => Expiry::Never,
            2 | 3 => Expiry::Keep,
            _ if manual => ttl,
            _ => Expiry::Never,
        };
        let change = match random.change {
            0..=2 => Change::Put(value(VALUES[random.value]), expiry),
            3 | 4 => Change::Add([1, -3, i64::MAX, 0, i64::MIN, 9, 2][random.value]),
            _ => Change::Remove,
        };
        (Write { key: key(random.key), condition, change }, holds)
    }

    /// The text and expiry after a change, or the error.
    fn changed(&self, index: usize, change: &Change) -> Result<Option<(String, Option<u64>)>, Error> {
        let current = self.entries.get(&index);
        let kept = current.and_then(|(_, expires, _)| *expires);
        match change {
            Change::Put(value, expiry) => {
                let expires = match expiry {
                    Expiry::Never => None,
                    Expiry::After(ttl) => Some(self.now + ttl.duration().as_millis() as u64),
                    Expiry::Keep => kept,
                };
                Ok(Some((String::from_utf8(value.as_slice().to_vec()).unwrap(), expires)))
            }
            Change::Add(delta) => {
                let text = current.map_or("0", |(text, ..)| text);
                let number: i64 = text.parse().map_err(|_| Error::NotANumber)?;
                Ok(Some((number.checked_add(*delta).ok_or(Error::Overflow)?.to_string(), kept)))
            }
            Change::Remove => Ok(None),
        }
    }

    /// The error of a write that would exceed the quota.
    fn refused(&self, index: usize, after: Option<&String>) -> Option<Resource> {
        let (used, size) = (self.usage(), |text: &String| key(index).size() + text.len() as u64);
        let before = self.entries.get(&index).map(|(text, ..)| size(text));
        let keys = used.keys + u64::from(after.is_some()) - u64::from(before.is_some());
        let bytes = used.bytes + after.map_or(0, size) - before.unwrap_or(0);
        if keys > used.keys && keys > QUOTA.keys {
            return Some(Resource::Keys);
        }
        (bytes > used.bytes && bytes > QUOTA.bytes).then_some(Resource::Bytes)
    }
}

/// Runs random schedules of all operations, with expiry and quotas, and compares every result with a model.
pub async fn behaves_like_the_model(fixture: &Fixture) {
    let manual = matches!(fixture.time, Time::Manual(_));
    let mut config = Config::with_cases(fixture.schedules);
    config.failure_persistence = None;
    let result = TestRunner::new(config).run(&steps(manual), |steps| crate::wait(schedule(fixture, manual, steps)));
    if let Err(error) = result {
        panic!("{error}");
    }
}

async fn schedule(fixture: &Fixture, manual: bool, steps: Vec<StoreStep>) -> Result<(), TestCaseError> {
    let quota = if fixture.exact_quotas { QUOTA } else { Quota::default() };
    let store = fixture.store(quota).await;
    let mut model = Model::default();
    for step in steps {
        match &step {
            StoreStep::Get(index) => {
                let entry = store.get(key(*index), soon()).await.unwrap();
                same(&model, *index, entry)?;
            }
            StoreStep::GetMany(indexes) => {
                let keys = indexes.iter().map(|index| key(*index)).collect();
                let entries = store.get_many(Batch::new(keys).unwrap(), soon()).await.unwrap();
                prop_assert_eq!(entries.len(), indexes.len());
                for (index, entry) in indexes.iter().zip(entries) {
                    same(&model, *index, entry)?;
                }
            }
            StoreStep::Write(random) => write(fixture, &*store, &mut model, random, manual).await?,
            StoreStep::WriteMany(all) => write_many(fixture, &*store, &mut model, all, manual).await?,
            StoreStep::List(bucket, prefix, limit) => {
                list(&*store, &model, *bucket, ["", "a", "ab", "*"][*prefix], *limit).await?
            }
            StoreStep::Advance(by) => {
                fixture.pass(Duration::from_millis(*by)).await;
                model.now += by;
                let now = model.now;
                model.entries.retain(|_, (_, expires, _)| expires.is_none_or(|expires| expires > now));
            }
        }
    }
    Ok(())
}

fn same(model: &Model, index: usize, entry: Option<Entry>) -> Result<(), TestCaseError> {
    let expected = model.entries.get(&index);
    prop_assert_eq!(entry.is_some(), expected.is_some(), "{:?} exists", key(index));
    if let (Some(entry), Some((text, expires, version))) = (entry, expected) {
        prop_assert_eq!(entry.value, value(text));
        prop_assert_eq!(entry.expires.is_some(), expires.is_some());
        // Not known after a batch.
        prop_assert!(version.is_none_or(|version| version == entry.version), "version of {:?}", key(index));
    }
    Ok(())
}

async fn write(
    fixture: &Fixture,
    store: &dyn Store,
    model: &mut Model,
    random: &Random,
    manual: bool,
) -> Result<(), TestCaseError> {
    // The model may not know the version that a batch has written.
    if let Some((_, _, version @ None)) = model.entries.get_mut(&random.key) {
        *version = store.get(key(random.key), soon()).await.unwrap().map(|entry| entry.version);
    }
    let (write, holds) = model.write(random, manual);
    let change = write.change.clone();
    let result = store.write(write, soon()).await;
    if !holds {
        let outcome = result.unwrap();
        prop_assert!(!outcome.applied);
        return same(model, random.key, outcome.after);
    }
    let after = match model.changed(random.key, &change) {
        Err(error) => {
            prop_assert_eq!(result, Err(error));
            return Ok(());
        }
        Ok(after) => after,
    };
    let refused = model.refused(random.key, after.as_ref().map(|(text, _)| text)).filter(|_| fixture.exact_quotas);
    if let Some(expected) = refused {
        prop_assert!(
            matches!(&result, Err(Error::QuotaExceeded { resource, .. }) if *resource == expected),
            "{:?} instead of a refusal",
            result
        );
        return Ok(());
    }
    let outcome = result.unwrap();
    prop_assert!(outcome.applied);
    prop_assert_eq!(outcome.removed, matches!(change, Change::Remove) && model.entries.contains_key(&random.key));
    prop_assert_eq!(outcome.after.is_some(), after.is_some());
    match (after, outcome.after) {
        (Some((text, expires)), Some(entry)) => {
            prop_assert_eq!(&entry.value, &value(&text));
            let old = model.entries.insert(random.key, (text, expires, Some(entry.version)));
            prop_assert!(
                old.is_none_or(|(_, _, version)| version != Some(entry.version)),
                "the version has not changed"
            );
        }
        _ => drop(model.entries.remove(&random.key)),
    }
    if fixture.exact_quotas && random.value == 0 {
        let usage = store.usage(soon()).await.unwrap();
        let expected = model.usage();
        // Entries that have expired may still be counted.
        prop_assert!(usage.keys >= expected.keys && usage.bytes >= expected.bytes, "{usage:?} instead of {expected:?}");
    }
    Ok(())
}

/// Batches that change each key at most once and stay within the quota; their errors are tested one by one.
async fn write_many(
    fixture: &Fixture,
    store: &dyn Store,
    model: &mut Model,
    all: &[Random],
    manual: bool,
) -> Result<(), TestCaseError> {
    let (mut writes, mut expected) = (Vec::new(), Vec::new());
    for random in all {
        let (write, holds) = model.write(random, manual);
        if matches!(write.condition, Condition::Version(_) | Condition::Both(..)) {
            continue;
        }
        if holds {
            let Ok(after) = model.changed(random.key, &write.change) else { continue };
            if fixture.exact_quotas && model.refused(random.key, after.as_ref().map(|(text, _)| text)).is_some() {
                continue;
            }
            match after {
                Some((text, expires)) => drop(model.entries.insert(random.key, (text, expires, None))),
                None => drop(model.entries.remove(&random.key)),
            }
        }
        expected.push(holds);
        writes.push(write);
    }
    let outcomes = store.write_many(Batch::new(writes).unwrap(), soon()).await.unwrap();
    prop_assert_eq!(outcomes.into_iter().map(|outcome| outcome.applied).collect::<Vec<_>>(), expected);
    Ok(())
}

async fn list(
    store: &dyn Store,
    model: &Model,
    bucket: usize,
    prefix: &str,
    limit: usize,
) -> Result<(), TestCaseError> {
    let (mut keys, mut cursor) = (Vec::new(), None);
    loop {
        let listing = Listing::new(BUCKETS[bucket], prefix, limit).unwrap();
        let page = store.list(cursor.as_ref().map_or(listing, |cursor| listing.at(cursor)), soon()).await.unwrap();
        prop_assert!(page.keys.len() <= limit);
        keys.extend(page.keys);
        prop_assert!(keys.len() <= NAMES.len(), "a listing with more keys than there are: {keys:?}");
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    keys.sort();
    let named = model.entries.keys().map(|index| key(*index));
    let mut expected: Vec<_> =
        named.filter(|key| key.bucket() == BUCKETS[bucket] && key.name().starts_with(prefix)).collect();
    expected.sort();
    prop_assert_eq!(keys, expected.iter().map(|key| key.name()).collect::<Vec<_>>());
    Ok(())
}
