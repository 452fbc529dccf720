//! Promise: a process that is killed loses no confirmed write, and no token is given out twice.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use lodge_conformance::soon;
use lodge_state::{
    Backend, Key, Lease, LockName, Locker, Namespace, Quota, Set, Sqlite, Store, SystemClock, Value, verify,
};
use tokio::task::JoinSet;

use crate::sqlite::options;

/// The directory of the child's database.
pub(crate) const DIRECTORY: &str = "LODGE_STATE_CRASH_DIRECTORY";
const TASKS: usize = 32;
const KILLS: usize = 100;

fn open(directory: &Path) -> Sqlite {
    Sqlite::open(options(directory, Arc::new(SystemClock::new()))).unwrap()
}

async fn store(sqlite: &Sqlite) -> Arc<dyn Store> {
    sqlite.open(&Namespace::new("service").unwrap(), Quota { keys: 1 << 20, bytes: 1 << 30 }, soon()).await.unwrap()
}

pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes()).and_then(|()| out.flush()).unwrap();
}

/// Writes until it is killed, and prints each confirmed write.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started and killed by the test below"]
async fn child() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let sqlite = open(&directory);
    let store = store(&sqlite).await;
    let locks = sqlite.locks(&Namespace::new("service").unwrap(), soon()).await.unwrap();
    let locker = Locker::new(locks, tokio::runtime::Handle::current());
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (store, locker) = (store.clone(), locker.clone());
        tasks.spawn(async move {
            let (counter, lock) = (format!("counter/{task}"), format!("lock/{task}"));
            loop {
                let count = store.increment(Key::new("b", &counter).unwrap(), 1, soon()).await.unwrap();
                say(&format!("+ {task} {count}\n"));
                let name = format!("log/{task}/{count}");
                let value = Value::new(name.clone()).unwrap();
                store.set(Key::new("b", &name).unwrap(), value, Set::default(), soon()).await.unwrap();
                say(&format!("= {task} {count}\n"));
                let old = format!("log/{task}/{}", count - 10);
                store.delete(Key::new("b", &old).unwrap(), soon()).await.unwrap();
                say(&format!("- {task} {}\n", count - 10));
                let lease = Lease::new(Duration::from_secs(60)).unwrap();
                let guard = locker.acquire(LockName::new(&lock).unwrap(), lease, soon(), soon()).await.unwrap();
                say(&format!("t {task} {}\n", guard.unwrap().token().number()));
            }
        });
    }
    // None of them ends but by a panic.
    tasks.join_next().await.unwrap().unwrap()
}

/// What the child has said of one task.
#[derive(Default)]
struct Confirmed {
    count: i64,
    /// Entries that must exist.
    set: BTreeSet<i64>,
    /// Entries that must not exist.
    deleted: BTreeSet<i64>,
    token: u64,
}

/// Runs the test `child` in a process of its own on the database in `directory`, kills it `pause` after it has said `first`,
/// and returns what it has said.
pub(crate) async fn kill(child: &str, directory: &Path, first: &str, pause: Duration) -> String {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([child, "--exact", "--ignored", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut said = String::new();
    while !said.contains(first) {
        assert!(out.read_line(&mut said).unwrap() > 0, "the child has ended: {said}");
    }
    // Read meanwhile: a full pipe would stop the child.
    let reader = std::thread::spawn(move || {
        out.read_to_string(&mut said).unwrap();
        said
    });
    tokio::time::sleep(pause).await;
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9), "the child has ended by itself");
    reader.join().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_loses_no_confirmed_write() {
    let directory = tempfile::tempdir().unwrap();
    let mut confirmed: BTreeMap<usize, Confirmed> = BTreeMap::new();
    let mut writes = 0;
    for round in 0..KILLS {
        let pause = Duration::from_micros((round as u64 * 7919) % 30_000);
        let said = kill("crash::child", directory.path(), "+ ", pause).await;
        writes += take(&said, &mut confirmed);
        check(directory.path(), &mut confirmed).await;
    }
    assert!(writes > KILLS * TASKS, "only {writes} writes");
}

/// Reads the lines of the child, and returns the number of confirmed writes.
fn take(said: &str, confirmed: &mut BTreeMap<usize, Confirmed>) -> usize {
    let mut writes = 0;
    // The last line may be cut off.
    for line in said.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let words: Vec<_> = line.split_whitespace().collect();
        // Lines of the test program itself.
        let [kind @ ("+" | "=" | "-" | "t"), task, number] = words[..] else { continue };
        let (Ok(task), Ok(number)) = (task.parse::<usize>(), number.parse::<i64>()) else { continue };
        let of = confirmed.entry(task).or_default();
        match kind {
            "+" => of.count = number,
            "=" => {
                of.set.insert(number);
                // Its deletion begins now, and may be done without being confirmed.
                of.set.remove(&(number - 10));
            }
            "-" => {
                of.deleted.insert(number);
            }
            _ => {
                let token = u64::try_from(number).unwrap();
                assert!(token > of.token, "token {token} of task {task} after {}", of.token);
                of.token = token;
            }
        }
        writes += usize::from(kind != "t");
    }
    writes
}

async fn check(directory: &Path, confirmed: &mut BTreeMap<usize, Confirmed>) {
    let sqlite = open(directory);
    let store = store(&sqlite).await;
    for (task, of) in confirmed {
        let name = format!("counter/{task}");
        let entry = store.get(Key::new("b", &name).unwrap(), soon()).await.unwrap().unwrap();
        let count = entry.value.to_number().unwrap();
        // At most one increment was done and not confirmed.
        assert!((of.count..=of.count + 1).contains(&count), "task {task}: {count}, but {} was confirmed", of.count);
        of.count = count;
        let recent = of.set.iter().rev().take(20).map(|number| (number, true));
        for (number, expected) in recent.chain(of.deleted.iter().rev().take(5).map(|number| (number, false))) {
            let name = format!("log/{task}/{number}");
            let exists = store.exists(Key::new("b", &name).unwrap(), soon()).await.unwrap();
            assert_eq!(exists, expected, "{name}");
        }
    }
    sqlite.close().await;
    verify(&directory.join("state.db")).unwrap();
}
