//! Promise: guests that compute for long leave a worker to other requests, and every service gets its share of CPU
//! time.

use std::time::{Duration, Instant};

use crate::harness::{TestHost, host};

const WHILE: Duration = Duration::from_secs(2);

/// Sends this many requests to a service that never responds. Dropping the result ends them.
fn ask(host: &TestHost, name: &'static str, requests: usize) -> tokio::task::JoinSet<()> {
    let address = host.address;
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..requests {
        asked.spawn(async move {
            let _ = crate::harness::get(address, &format!("/{name}")).await;
        });
    }
    asked
}

/// The CPU seconds that these services have used.
fn cpu<const N: usize>(host: &TestHost, names: [&str; N]) -> [f64; N] {
    let snapshot = host.current.snapshot();
    names.map(|name| {
        snapshot
            .targets
            .iter()
            .find(|target| &*target.deployment().name == name)
            .unwrap()
            .backend
            .deployment
            .cpu()
            .as_secs_f64()
    })
}

/// A service with few requests gets as much CPU time as one with many, and a service with three times the weight three
/// times as much.
#[tokio::test(flavor = "multi_thread")]
async fn services_get_their_shares() {
    let setup = host(&["hello"]).named("spin", "one").named("spin", "many").named("spin", "heavy");
    let setup = setup.manifest("heavy", "cpu_weight = 300").alone();
    let host = setup.set("limits.cpu", "50s").set("limits.wall", "50s").start().await;
    let cores = std::thread::available_parallelism().unwrap().get();
    let turns = (cores - 1).max(1);
    let _asked = [ask(&host, "one", turns), ask(&host, "many", 16 * turns), ask(&host, "heavy", 4 * turns)];
    // The first ticks are not scheduled; what follows counts.
    tokio::time::sleep(WHILE / 2).await;
    let began = Instant::now();
    let before = cpu(&host, ["one", "many", "heavy"]);
    tokio::time::sleep(WHILE).await;
    let after = cpu(&host, ["one", "many", "heavy"]);
    // On a loaded machine the wait takes longer than requested.
    let elapsed = began.elapsed();
    let [one, many, heavy] = [0, 1, 2].map(|n| after[n] - before[n]);
    for part in [one, heavy / 3.0] {
        assert!((0.7..1.4).contains(&(part / many)), "one {one} s, many {many} s, heavy {heavy} s");
    }
    // All cores but one run long-running guests, so they cannot have used more than that.
    let used = one + many + heavy;
    assert!(used < 1.2 * turns as f64 * elapsed.as_secs_f64(), "{used} s on {cores} cores");
    assert_eq!(host.get("/hello").await.status, 200);
}
