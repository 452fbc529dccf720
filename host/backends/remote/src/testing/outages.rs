//! What every backend of a server promises when the server fails: operations end by their deadline with an error of the
//! interface, nothing that was confirmed is lost, and the backend recovers by itself.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lodge_state::{
    Attempt, Backend, Error, Expiry, Holder, Key, Lease, LockName, Locks, Namespace, Quota, Set, Store, Token, Value,
};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::testing::TestServer;

/// Tasks at a time.
const TASKS: usize = 64;
/// The time of an operation.
const DEADLINE: Duration = Duration::from_millis(400);
/// How much later than its deadline an operation may end on a loaded machine.
const LATE: Duration = Duration::from_millis(1000);
/// How long a backend may take to find a server that is back: the longest pause, a connection that takes its time, and a
/// loaded machine.
const RECOVERY: Duration = Duration::from_secs(20);

/// One outage at a time: the tasks of several make a machine too busy to keep deadlines.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Tasks that use a store without a pause, and remember what was confirmed.
struct Workload {
    counts: Vec<Counts>,
    stop: AtomicBool,
}

/// What one task has seen.
#[derive(Debug, Default)]
struct Counts {
    /// Increments that were confirmed, and those whose result is unknown.
    confirmed: AtomicU64,
    unknown: AtomicU64,
    /// The last value that was confirmed, and those whose result is unknown: they may be written later.
    set: AtomicU64,
    late: Mutex<HashSet<u64>>,
    /// Reads and writes that succeeded.
    succeeded: AtomicU64,
    failed: AtomicU64,
}

fn names(task: usize) -> (String, String) {
    (format!("count-{task}"), format!("value-{task}"))
}

fn key(name: &str) -> Key<'_> {
    Key::new("outage", name).unwrap()
}

fn at(after: Duration) -> Instant {
    Instant::now() + after
}

/// Waits for an operation, and checks that it ends by its deadline, with a result or an error of outages.
async fn timely<T>(operation: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let began = Instant::now();
    let result = operation.await;
    assert!(began.elapsed() < DEADLINE + LATE, "took {:?}", began.elapsed());
    if let Err(error) = &result {
        assert!(matches!(error, Error::Timeout | Error::Unavailable { .. }), "{error}");
        let text = error.to_string();
        assert!(!text.contains("127.0.0.1") && !text.contains("hunter2"), "{text}");
    }
    result
}

impl Counts {
    /// Checks that a value that was read is the last one that was confirmed, or was written late.
    fn check(&self, found: u64) {
        let confirmed = self.set.load(Ordering::Relaxed);
        let late = self.late.lock().unwrap().contains(&found);
        assert!(found == confirmed || late, "{found} was read after {confirmed} was confirmed");
    }
}

impl Workload {
    /// No operations yet.
    fn new() -> Arc<Workload> {
        Arc::new(Workload { counts: (0..TASKS).map(|_| Counts::default()).collect(), stop: AtomicBool::new(false) })
    }

    /// Runs until it is stopped.
    async fn run(self: Arc<Self>, store: Arc<dyn Store>, task: usize) {
        let (counts, (count, value)) = (&self.counts[task], names(task));
        let mut number = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let result = timely(store.increment(key(&count), 1, at(DEADLINE))).await;
            let which = if result.is_ok() { &counts.confirmed } else { &counts.unknown };
            which.fetch_add(1, Ordering::Relaxed);
            number += 1;
            let written = timely(store.set(key(&value), Value::number(number), Set::default(), at(DEADLINE))).await;
            if written.is_ok() {
                counts.set.store(number as u64, Ordering::Relaxed);
            } else {
                counts.late.lock().unwrap().insert(number as u64);
            }
            if let Ok(found) = timely(store.get(key(&value), at(DEADLINE))).await {
                counts.check(found.map_or(0, |entry| entry.value.to_number().unwrap()) as u64);
            }
            let which = if result.is_ok() && written.is_ok() { &counts.succeeded } else { &counts.failed };
            which.fetch_add(1, Ordering::Relaxed);
            if result.is_err() {
                // Errors may come at once.
                sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// Starts all tasks.
    fn start(self: &Arc<Self>, store: &Arc<dyn Store>) -> Vec<JoinHandle<()>> {
        (0..TASKS).map(|task| tokio::spawn(self.clone().run(store.clone(), task))).collect()
    }

    /// Waits until every task has succeeded again.
    async fn progress(&self, tasks: &[JoinHandle<()>]) {
        let seen: Vec<_> = self.counts.iter().map(|counts| counts.succeeded.load(Ordering::Relaxed)).collect();
        let until = at(RECOVERY);
        let progressed = |(counts, seen): (&Counts, &u64)| counts.succeeded.load(Ordering::Relaxed) > *seen;
        while !self.counts.iter().zip(&seen).all(progressed) {
            assert!(!tasks.iter().any(JoinHandle::is_finished), "a task has failed; its panic is above");
            assert!(Instant::now() < until, "no recovery within {RECOVERY:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops all tasks, and checks that everything that was confirmed is there.
    async fn finish(&self, tasks: Vec<JoinHandle<()>>, store: &Arc<dyn Store>) {
        self.stop.store(true, Ordering::Relaxed);
        for task in tasks {
            task.await.unwrap();
        }
        // Writes that were sent before a timeout may still be applied.
        sleep(Duration::from_millis(500)).await;
        for (task, counts) in self.counts.iter().enumerate() {
            let (count, value) = names(task);
            let read = async |name: &str| {
                let found = store.get(key(name), at(Duration::from_secs(10))).await.unwrap();
                found.map_or(0, |entry| entry.value.to_number().unwrap()) as u64
            };
            let (confirmed, unknown) =
                (counts.confirmed.load(Ordering::Relaxed), counts.unknown.load(Ordering::Relaxed));
            let found = read(&count).await;
            assert!(found >= confirmed, "task {task}: {found} of {confirmed} confirmed increments");
            assert!(
                found <= confirmed + unknown,
                "task {task}: {found} increments, but {confirmed} and {unknown} were sent"
            );
            counts.check(read(&value).await);
        }
    }

    fn failed(&self) -> u64 {
        self.counts.iter().map(|counts| counts.failed.load(Ordering::Relaxed)).sum()
    }
}

async fn opened(backend: &Arc<dyn Backend>) -> (Arc<dyn Store>, Arc<dyn Locks>) {
    let name = format!("outage-{:08x}", Holder::random().unwrap().bits() as u32);
    let namespace = Namespace::new(&name).unwrap();
    let until = at(Duration::from_secs(30));
    (backend.open(&namespace, Quota::default(), until).await.unwrap(), backend.locks(&namespace, until).await.unwrap())
}

fn lease(seconds: u64) -> Lease {
    Lease::new(Duration::from_secs(seconds)).unwrap()
}

async fn acquire(locks: &dyn Locks, holder: Holder) -> Result<Token, Error> {
    let name = LockName::new("l").unwrap();
    match locks.attempt(name, holder, lease(3600), at(Duration::from_secs(10))).await? {
        Attempt::Acquired(token) => Ok(token),
        Attempt::Busy { .. } => panic!("two holders"),
    }
}

/// The server is gone for a while: every operation fails in time, without one connection too many; then all is there again.
pub async fn outage(mut server: TestServer, backend: Arc<dyn Backend>) {
    let _alone = ALONE.lock().await;
    let (store, locks) = opened(&backend).await;
    let workload = Workload::new();
    let tasks = workload.start(&store);
    workload.progress(&tasks).await;
    let holder = Holder::random().unwrap();
    let token = acquire(&*locks, holder).await.unwrap();

    server.kill();
    sleep(Duration::from_secs(2)).await;
    // All kinds of operations, not only those of the tasks.
    for _ in 0..20 {
        let name = LockName::new("other").unwrap();
        timely(locks.attempt(name, Holder::random().unwrap(), lease(60), at(DEADLINE))).await.unwrap_err();
        timely(store.usage(at(DEADLINE))).await.unwrap_err();
        let error = timely(store.exists(key("x"), at(DEADLINE))).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "an outage that is known is no timeout: {error}");
        sleep(Duration::from_millis(20)).await;
    }
    let failed = workload.failed();
    assert!(failed > 0, "there was no outage");

    server.restart();
    workload.progress(&tasks).await;
    workload.finish(tasks, &store).await;
    assert_eq!(acquire(&*locks, holder).await, Ok(token), "the lock is still held, with its token");
}

/// The server does not respond for a while: every operation ends at its deadline, and what waits is bounded.
pub async fn slowness(server: TestServer, backend: Arc<dyn Backend>) {
    let _alone = ALONE.lock().await;
    let (store, _) = opened(&backend).await;
    let workload = Workload::new();
    let tasks = workload.start(&store);
    workload.progress(&tasks).await;

    server.pause();
    let began = Instant::now();
    let mut timeouts = 0;
    while began.elapsed() < Duration::from_secs(9) {
        let result = timely(store.exists(key("x"), at(DEADLINE))).await;
        let error = result.expect_err("a stopped server responds");
        timeouts += usize::from(error == Error::Timeout);
        sleep(Duration::from_millis(50)).await;
    }
    assert!(timeouts > 0, "the server was not slow, but gone");
    server.resume();
    workload.progress(&tasks).await;
    workload.finish(tasks, &store).await;

    // A short pause costs time, and nothing else.
    server.pause();
    let slow = tokio::spawn({
        let store = store.clone();
        async move { store.set(key("slow"), Value::number(1), Set::default(), at(Duration::from_secs(10))).await }
    });
    sleep(Duration::from_millis(500)).await;
    if slow.is_finished() {
        panic!("a stopped server has responded: {:?}", slow.await);
    }
    server.resume();
    slow.await.unwrap().unwrap();
}

/// The server is killed and started again, several times, while 64 tasks write.
pub async fn restarts(mut server: TestServer, backend: Arc<dyn Backend>) {
    let _alone = ALONE.lock().await;
    let (store, locks) = opened(&backend).await;
    let workload = Workload::new();
    let tasks = workload.start(&store);
    let mut last = None;
    for _ in 0..3 {
        workload.progress(&tasks).await;
        let holder = Holder::random().unwrap();
        let token = acquire(&*locks, holder).await.unwrap();
        assert!(last < Some(token), "tokens grow over restarts");
        last = Some(token);
        let name = LockName::new("l").unwrap();
        assert_eq!(locks.release(name, holder, at(Duration::from_secs(10))).await, Ok(true));
        server.kill();
        server.restart();
    }
    workload.progress(&tasks).await;
    workload.finish(tasks, &store).await;
    // Versions do not repeat over restarts: an entry that was deleted and written anew has another one.
    let put =
        || store.set(key("versions"), Value::number(1), Set { expiry: Expiry::Never, if_absent: true }, at(RECOVERY));
    let first = put().await.unwrap();
    assert_eq!(store.delete(key("versions"), at(RECOVERY)).await, Ok(true));
    server.kill();
    server.restart();
    let second = loop {
        match put().await {
            Ok(version) => break version,
            Err(Error::Unavailable { .. }) => sleep(Duration::from_millis(50)).await,
            Err(error) => panic!("{error}"),
        }
    };
    assert_ne!(first, second);
}

/// 64 tasks retry without a pause while the server is gone and comes back: the backend opens a bounded number of connections.
pub async fn storm(mut server: TestServer, backend: Arc<dyn Backend>) {
    const MOST: usize = 16;
    let _alone = ALONE.lock().await;
    let (store, _) = opened(&backend).await;
    let mut most = server.connections();
    for _ in 0..3 {
        server.kill();
        let retry = |task: usize| {
            let store = store.clone();
            tokio::spawn(async move {
                let (count, _) = names(task);
                let until = at(RECOVERY);
                while let Err(error) = timely(store.increment(key(&count), 1, at(DEADLINE))).await {
                    assert!(Instant::now() < until, "no recovery within {RECOVERY:?}: {error}");
                    tokio::task::yield_now().await;
                }
            })
        };
        let tasks: Vec<_> = (0..TASKS).map(retry).collect();
        sleep(Duration::from_millis(700)).await;
        server.restart();
        while !tasks.iter().all(JoinHandle::is_finished) {
            most = most.max(server.connections());
            sleep(Duration::from_millis(5)).await;
        }
        for task in tasks {
            task.await.unwrap();
        }
    }
    most = most.max(server.connections());
    assert!((1..=MOST).contains(&most), "{most} connections");
}
