//! What operations of the embedded backends cost: CPU time of the whole process per operation, and operations per second.
//!
//! `cargo run --release -p lodge-state --example cost`

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement prints, and ends with the first error")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use lodge_state::{
    Backend, Durability, Key, Lease, LockName, Locker, Memory, Namespace, Options, Quota, Set, Sqlite, Store,
    SystemClock, Value,
};
use rustix::time::{ClockId, clock_gettime};

/// What one row of the table measures.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Get,
    GetCold,
    Set,
    Increment,
    IncrementOne,
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn soon() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(60)
}

async fn run(store: Arc<dyn Store>, operation: Operation, task: u64, count: u64) {
    let value = Value::new(vec![b'x'; 100]).unwrap();
    for number in 0..count {
        let name = match operation {
            Operation::IncrementOne => "one".to_owned(),
            Operation::GetCold => format!("cold/{}", (number * 7919 + task * 104_729) % 50_000),
            Operation::Increment => format!("count/{task}"),
            Operation::Get | Operation::Set => format!("key/{}", (number + task * 17) % 1000),
        };
        let key = Key::new("bucket", &name).unwrap();
        match operation {
            Operation::Get | Operation::GetCold => drop(store.get(key, soon()).await.unwrap()),
            Operation::Set => drop(store.set(key, value.clone(), Set::default(), soon()).await.unwrap()),
            Operation::Increment | Operation::IncrementOne => drop(store.increment(key, 1, soon()).await.unwrap()),
        }
    }
}

async fn measure(name: &str, store: &Arc<dyn Store>, operation: Operation, tasks: u64, count: u64) {
    let began = (Instant::now(), cpu());
    let running: Vec<_> =
        (0..tasks).map(|task| tokio::spawn(run(store.clone(), operation, task, count / tasks))).collect();
    for task in running {
        task.await.unwrap();
    }
    let (wall, cpu) = (began.0.elapsed().as_secs_f64(), (cpu() - began.1).as_secs_f64());
    let (cpu, rate) = (cpu * 1e6 / count as f64, count as f64 / wall);
    println!("{name:18} {:14} {tasks:3} tasks {cpu:8.2} us CPU {rate:10.0}/s", format!("{operation:?}"));
}

async fn table(name: &str, backend: &dyn Backend, writes: u64) {
    let namespace = Namespace::new("service").unwrap();
    let quota = Quota { keys: 1 << 20, bytes: 1 << 30 };
    let store = backend.open(&namespace, quota, soon()).await.unwrap();
    for number in 0..200 {
        let names: Vec<_> = (0..250).map(|key| format!("cold/{}", number * 250 + key)).collect();
        let value = Value::new(vec![b'x'; 1000]).unwrap();
        let entries = names.iter().map(|name| (Key::new("bucket", name).unwrap(), value.clone())).collect();
        store.set_many(entries, soon()).await.unwrap();
    }
    run(store.clone(), Operation::Set, 0, 1000).await;
    for tasks in [1, 64] {
        measure(name, &store, Operation::Get, tasks, 1_000_000).await;
        measure(name, &store, Operation::GetCold, tasks, 100_000).await;
        measure(name, &store, Operation::Set, tasks, writes * if tasks == 1 { 1 } else { 10 }).await;
        measure(name, &store, Operation::Increment, tasks, writes * if tasks == 1 { 1 } else { 10 }).await;
        measure(name, &store, Operation::IncrementOne, tasks, writes * if tasks == 1 { 1 } else { 10 }).await;
    }
    let locker = Locker::new(backend.locks(&namespace, soon()).await.unwrap(), tokio::runtime::Handle::current());
    let began = cpu();
    for _ in 0..20_000 {
        let lease = Lease::new(Duration::from_secs(10)).unwrap();
        let guard = locker.acquire(LockName::new("lock").unwrap(), lease, soon(), soon()).await.unwrap().unwrap();
        guard.release(soon()).await.unwrap();
    }
    println!("{name:18} acquire and release: {:.2} us CPU", (cpu() - began).as_secs_f64() * 1e6 / 20_000.0);
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    table("memory", &Memory::new(1 << 30, Arc::new(SystemClock::new())), 20_000).await;
    for (name, durability) in [("sqlite, process", Durability::Process), ("sqlite, power", Durability::Power)] {
        // In the directory of the build: the one for temporary files may be in memory.
        let directory = tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
        let path = directory.path().join("state.db");
        let options = Options { path, durability, readers: 2, recent: 16 << 20, clock: Arc::new(SystemClock::new()) };
        let sqlite = Sqlite::open(options).unwrap();
        table(name, &sqlite, 10_000).await;
        sqlite.close().await;
    }
}
