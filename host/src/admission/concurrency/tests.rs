use super::*;

fn concurrency(slots: usize, queue: usize) -> Arc<Concurrency> {
    Arc::new(Concurrency::new(slots, queue, Duration::from_secs(5)))
}

/// The second request waits for the first, the third finds the queue full, and a released slot goes to the waiting
/// request.
#[tokio::test(start_paused = true)]
async fn one_place_one_waiting() {
    let door = concurrency(1, 1);
    let first = door.acquire().await.unwrap();
    let second = tokio::spawn({
        let door = Arc::clone(&door);
        async move { door.acquire().await }
    });
    tokio::task::yield_now().await;
    assert_eq!(door.acquire().await.unwrap_err(), Refusal::QueueFull);
    drop(first);
    assert!(second.await.unwrap().is_ok());
}

/// No request waits longer than the bound, and one that gave up leaves the queue.
#[tokio::test(start_paused = true)]
async fn a_wait_ends() {
    let door = concurrency(1, 1);
    let first = door.acquire().await.unwrap();
    let start = tokio::time::Instant::now();
    assert_eq!(door.acquire().await.unwrap_err(), Refusal::QueueTimeout);
    assert_eq!(start.elapsed(), Duration::from_secs(5));
    assert_eq!(door.acquire().await.unwrap_err(), Refusal::QueueTimeout);
    drop(first);
    assert!(door.acquire().await.is_ok());
}

/// Every slot is released, whatever the order of arrivals, ends and timeouts.
#[tokio::test(start_paused = true)]
async fn places_come_back() {
    let door = concurrency(3, 10);
    for round in 0..50u64 {
        let tasks: Vec<_> = (0..20u64)
            .map(|guest| {
                let door = Arc::clone(&door);
                tokio::spawn(async move {
                    let slot = tokio::time::timeout(Duration::from_millis((round * guest) % 40), door.acquire()).await;
                    tokio::time::sleep(Duration::from_millis((round + guest) % 30)).await;
                    drop(slot);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!((door.taken(), door.free(), door.queued()), (0, 3, 0));
    }
}

/// Shrinking keeps slots in use and grants none after them. Growing adds slots at once, also for waiting requests.
#[tokio::test(start_paused = true)]
async fn places_come_and_go() {
    let door = concurrency(3, 10);
    let mut inside = vec![door.acquire().await.unwrap(), door.acquire().await.unwrap(), door.acquire().await.unwrap()];
    door.resize(1);
    assert_eq!((door.size(), door.taken()), (1, 3));
    inside.truncate(1);
    assert_eq!((door.taken(), door.free()), (1, 0));
    let waiting = tokio::spawn({
        let door = Arc::clone(&door);
        async move { door.acquire().await }
    });
    tokio::task::yield_now().await;
    assert_eq!(door.queued(), 1);
    door.resize(2);
    assert!(waiting.await.unwrap().is_ok(), "there is a new one");
    drop(inside);
    assert_eq!((door.taken(), door.free()), (0, 2));
    door.set_queue(0, Duration::ZERO);
    let _both = (door.acquire().await.unwrap(), door.acquire().await.unwrap());
    assert_eq!(door.acquire().await.unwrap_err(), Refusal::QueueFull);
}

/// The number of slots is right after resizes that run while threads take and release slots.
#[test]
fn no_place_is_lost_or_found() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build().unwrap();
    let door = concurrency(8, 1_000);
    runtime.block_on(async {
        let guests: Vec<_> = (0..16)
            .map(|_| {
                let door = Arc::clone(&door);
                tokio::spawn(async move {
                    for _ in 0..2_000 {
                        let slot = door.acquire().await.unwrap();
                        tokio::task::yield_now().await;
                        drop(slot);
                    }
                })
            })
            .collect();
        for size in (0..2_000_usize).map(|n| 1 + n * 7 % 11) {
            door.resize(size);
            tokio::task::yield_now().await;
        }
        for guest in guests {
            guest.await.unwrap();
        }
    });
    door.resize(5);
    assert_eq!((door.size(), door.taken(), door.free()), (5, 0, 5));
}
