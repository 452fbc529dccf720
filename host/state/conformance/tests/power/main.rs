//! Promise: with `Durability::Power`, a power cut loses no confirmed write; with `Durability::Process` it loses some of the
//! last ones, and damages nothing.
//!
//! The power is cut by a file system between SQLite and the real one: see [`disk`].

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panics"
)]

mod disk;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lodge_conformance::soon;
use lodge_state::{
    Backend, Durability, Holder, Key, Lease, LockName, Namespace, Options, Quota, Set, Sqlite, SystemClock, Value,
    verify,
};

use crate::disk::Disk;

const TASKS: usize = 32;

fn open(directory: &Path, durability: Durability) -> Sqlite {
    let path = directory.join("state.db");
    Sqlite::open(Options { path, durability, readers: 1, recent: 1 << 20, clock: Arc::new(SystemClock::new()) })
        .unwrap()
}

/// What was confirmed: the count of every task's counter, and the last token.
#[derive(Clone, Default)]
struct Confirmed {
    counts: BTreeMap<usize, i64>,
    token: u64,
}

/// Writes until the power is cut, a few milliseconds later. Then the files are what the disk has. Returns what was confirmed.
async fn cut(disk: Disk, from: &Path, to: &Path, durability: Durability, round: u64) -> Confirmed {
    let sqlite = Arc::new(open(from, durability));
    let namespace = Namespace::new("service").unwrap();
    let store = sqlite.open(&namespace, Quota::default(), soon()).await.unwrap();
    let locks = sqlite.locks(&namespace, soon()).await.unwrap();
    let confirmed = Arc::new(Mutex::new(Confirmed::default()));
    let mut tasks = Vec::new();
    for task in 0..TASKS {
        let (store, locks, confirmed) = (store.clone(), locks.clone(), confirmed.clone());
        tasks.push(tokio::spawn(async move {
            let (counter, copy) = (format!("counter/{task}"), format!("copy/{task}"));
            loop {
                let Ok(count) = store.increment(Key::new("b", &counter).unwrap(), 1, soon()).await else { break };
                confirmed.lock().unwrap().counts.insert(task, count);
                let value = Value::new(format!("{count:0width$}", width = 1 + task * 200)).unwrap();
                let _ = store.set(Key::new("b", &copy).unwrap(), value, Set::default(), soon()).await;
                let lease = Lease::new(Duration::from_secs(1)).unwrap();
                let attempt =
                    locks.attempt(LockName::new(&copy).unwrap(), Holder::random().unwrap(), lease, soon()).await;
                if let Ok(lodge_state::Attempt::Acquired(token)) = attempt {
                    let mut confirmed = confirmed.lock().unwrap();
                    confirmed.token = confirmed.token.max(token.number());
                }
            }
        }));
    }
    tokio::time::sleep(Duration::from_micros(2000 + (round * 7919) % 30_000)).await;
    // First what was confirmed, then what is on the disk: in between, more may be confirmed, but nothing less is on the disk.
    let before = confirmed.lock().unwrap().clone();
    disk.cut(from, to, round);
    sqlite.close().await;
    for task in tasks {
        task.await.unwrap();
    }
    before
}

/// Counts of tasks that were confirmed and are not in the database.
async fn lost(directory: &Path, durability: Durability, confirmed: &Confirmed) -> usize {
    let sqlite = open(directory, durability);
    let namespace = Namespace::new("service").unwrap();
    let store = sqlite.open(&namespace, Quota::default(), soon()).await.unwrap();
    let mut lost = 0;
    for (task, count) in &confirmed.counts {
        let name = format!("counter/{task}");
        let entry = store.get(Key::new("b", &name).unwrap(), soon()).await.unwrap();
        lost += usize::from(entry.map_or(0, |entry| entry.value.to_number().unwrap()) < *count);
    }
    // Tokens grow whatever was lost.
    let locks = sqlite.locks(&namespace, soon()).await.unwrap();
    let lease = Lease::new(Duration::from_secs(1)).unwrap();
    let attempt = locks.attempt(LockName::new("l").unwrap(), Holder::random().unwrap(), lease, soon()).await;
    let Ok(lodge_state::Attempt::Acquired(token)) = attempt else { panic!("{attempt:?}") };
    assert!(token.number() > confirmed.token, "{token:?} after {}", confirmed.token);
    sqlite.close().await;
    lost
}

/// Cuts the power again and again, always going on with what is left, and returns how many counts were lost, and the writes.
async fn cuts(disk: Disk, durability: Durability, rounds: u64) -> (usize, i64) {
    let (mut losses, mut writes) = (0, 0);
    let mut from = tempfile::tempdir().unwrap();
    for round in 0..rounds {
        let to = tempfile::tempdir().unwrap();
        let confirmed = cut(disk, from.path(), to.path(), durability, round).await;
        verify(&to.path().join("state.db")).unwrap();
        losses += lost(to.path(), durability, &confirmed).await;
        // Counters go on, but a short round confirms only some of them.
        writes = writes.max(confirmed.counts.values().sum());
        from = to;
    }
    (losses, writes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_loses_nothing_that_was_promised() {
    let disk = Disk::install();
    let (losses, writes) = cuts(disk, Durability::Power, 60).await;
    assert_eq!(losses, 0);
    assert!(writes > 10 * TASKS as i64, "only {writes} writes");
    // The same with less: the disk would show a loss.
    let (losses, _) = cuts(disk, Durability::Process, 20).await;
    assert!(losses > 0, "this test cannot find a lost write");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_fails_writes_and_nothing_else() {
    let disk = Disk::install();
    let directory = tempfile::tempdir().unwrap();
    for durability in [Durability::Process, Durability::Power] {
        let sqlite = open(directory.path(), durability);
        let store = sqlite.open(&Namespace::new("service").unwrap(), Quota::default(), soon()).await.unwrap();
        let names: Vec<_> = (0..100).map(|number| format!("key-{number}")).collect();
        let write = async |text: &str| {
            let value = Value::new(text.repeat(3000)).unwrap();
            let writes =
                names.iter().map(|name| store.set(Key::new("b", name).unwrap(), value.clone(), Set::default(), soon()));
            let mut results = Vec::new();
            for write in writes {
                results.push(write.await);
            }
            results
        };
        assert!(write("a").await.iter().all(Result::is_ok));
        let usage = store.usage(soon()).await;
        disk.fill(directory.path(), true);
        for result in write("b").await {
            assert!(result.as_ref().is_err_and(|error| error.to_string().contains("the disk is full")), "{result:?}");
        }
        // A write that needs several steps: none of them stays.
        let many = names.iter().map(|name| (Key::new("b", name).unwrap(), Value::number(1))).collect();
        assert!(store.set_many(many, soon()).await.is_err());
        for name in &names {
            let entry = store.get(Key::new("b", name).unwrap(), soon()).await.unwrap().unwrap();
            assert_eq!(entry.value, Value::new("a".repeat(3000)).unwrap());
        }
        assert_eq!(store.usage(soon()).await, usage);
        disk.fill(directory.path(), false);
        assert!(write("c").await.iter().all(Result::is_ok));
        sqlite.close().await;
        verify(&directory.path().join("state.db")).unwrap();
    }
}
