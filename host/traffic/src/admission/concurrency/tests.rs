use super::*;

/// Requests wait for an hour, which no test here does.
fn concurrency(slots: usize, queue: usize) -> Arc<Concurrency> {
    Arc::new(Concurrency::new(slots, queue, Duration::from_secs(3600)))
}

/// The second request waits for the first, the third finds the queue full, and a released slot goes to the waiting
/// request.
#[tokio::test]
async fn one_slot_and_one_queued() {
    let pool = concurrency(1, 1);
    let first = pool.acquire().await.unwrap();
    let second = tokio::spawn({
        let pool = Arc::clone(&pool);
        async move { pool.acquire().await }
    });
    tokio::task::yield_now().await;
    assert_eq!(pool.acquire().await.unwrap_err(), Refusal::QueueFull);
    drop(first);
    assert!(second.await.unwrap().is_ok());
}

/// No request waits longer than the bound, and one that gave up leaves the queue.
#[tokio::test]
async fn a_wait_is_bounded() {
    let wait = Duration::from_millis(20);
    let pool = Arc::new(Concurrency::new(1, 1, wait));
    let first = pool.acquire().await.unwrap();
    let start = Instant::now();
    assert_eq!(pool.acquire().await.unwrap_err(), Refusal::QueueTimeout);
    assert!(start.elapsed() >= wait);
    assert_eq!(pool.acquire().await.unwrap_err(), Refusal::QueueTimeout);
    drop(first);
    assert!(pool.acquire().await.is_ok());
}

/// Lets other tasks run `times` times.
async fn yields(times: u64) {
    for _ in 0..times {
        tokio::task::yield_now().await;
    }
}

/// Every slot is released, whatever the order of arrivals, ends and requests that give up.
#[tokio::test]
async fn slots_are_returned() {
    let pool = concurrency(3, 10);
    for round in 0..50u64 {
        let tasks: Vec<_> = (0..20u64)
            .map(|guest| {
                let pool = Arc::clone(&pool);
                tokio::spawn(async move {
                    let slot = tokio::select! {
                        biased;
                        slot = pool.acquire() => slot.ok(),
                        () = yields((round * guest) % 40) => None,
                    };
                    yields((round + guest) % 30).await;
                    drop(slot);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!((pool.taken(), pool.free(), pool.queued()), (0, 3, 0));
    }
}

/// Shrinking keeps slots in use and grants none after them. Growing adds slots at once, also for waiting requests.
#[tokio::test]
async fn the_number_of_slots_can_change() {
    let pool = concurrency(3, 10);
    let mut inside = vec![pool.acquire().await.unwrap(), pool.acquire().await.unwrap(), pool.acquire().await.unwrap()];
    pool.resize(1);
    assert_eq!((pool.size(), pool.taken()), (1, 3));
    inside.truncate(1);
    assert_eq!((pool.taken(), pool.free()), (1, 0));
    let waiting = tokio::spawn({
        let pool = Arc::clone(&pool);
        async move { pool.acquire().await }
    });
    tokio::task::yield_now().await;
    assert_eq!(pool.queued(), 1);
    pool.resize(2);
    assert!(waiting.await.unwrap().is_ok(), "the pool has a new slot");
    drop(inside);
    assert_eq!((pool.taken(), pool.free()), (0, 2));
    pool.set_queue(0, Duration::ZERO);
    let _both = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
    assert_eq!(pool.acquire().await.unwrap_err(), Refusal::QueueFull);
}

/// The number of slots is right after resizes that run while threads take and release slots.
#[test]
fn slots_are_conserved() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build().unwrap();
    let pool = concurrency(8, 1_000);
    runtime.block_on(async {
        let guests: Vec<_> = (0..16)
            .map(|_| {
                let pool = Arc::clone(&pool);
                tokio::spawn(async move {
                    for _ in 0..2_000 {
                        let slot = pool.acquire().await.unwrap();
                        tokio::task::yield_now().await;
                        drop(slot);
                    }
                })
            })
            .collect();
        for size in (0..2_000_usize).map(|n| 1 + n * 7 % 11) {
            pool.resize(size);
            tokio::task::yield_now().await;
        }
        for guest in guests {
            guest.await.unwrap();
        }
    });
    pool.resize(5);
    assert_eq!((pool.size(), pool.taken(), pool.free()), (5, 0, 5));
}
