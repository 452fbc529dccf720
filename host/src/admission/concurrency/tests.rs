use super::*;

fn concurrency(places: usize, queue: usize) -> Arc<Concurrency> {
    Arc::new(Concurrency::new(places, queue, Duration::from_secs(5)))
}

/// The second waits for the first, the third finds the queue full, and a place given back goes to who waited.
#[tokio::test(start_paused = true)]
async fn one_place_one_waiting() {
    let door = concurrency(1, 1);
    let first = door.enter().await.unwrap();
    let second = tokio::spawn({
        let door = Arc::clone(&door);
        async move { door.enter().await }
    });
    tokio::task::yield_now().await;
    assert_eq!(door.enter().await.unwrap_err(), Refusal::QueueFull);
    drop(first);
    assert!(second.await.unwrap().is_ok());
}

/// Nobody waits longer than the bound, and who gave up leaves the queue.
#[tokio::test(start_paused = true)]
async fn a_wait_ends() {
    let door = concurrency(1, 1);
    let first = door.enter().await.unwrap();
    let start = tokio::time::Instant::now();
    assert_eq!(door.enter().await.unwrap_err(), Refusal::QueueTimeout);
    assert_eq!(start.elapsed(), Duration::from_secs(5));
    assert_eq!(door.enter().await.unwrap_err(), Refusal::QueueTimeout);
    drop(first);
    assert!(door.enter().await.is_ok());
}

/// Whatever the order of coming, going and giving up, every place comes back.
#[tokio::test(start_paused = true)]
async fn places_come_back() {
    let door = concurrency(3, 10);
    for round in 0..50u64 {
        let tasks: Vec<_> = (0..20u64)
            .map(|guest| {
                let door = Arc::clone(&door);
                tokio::spawn(async move {
                    let place = tokio::time::timeout(Duration::from_millis((round * guest) % 40), door.enter()).await;
                    tokio::time::sleep(Duration::from_millis((round + guest) % 30)).await;
                    drop(place);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!((door.places.available_permits(), door.queue.available_permits()), (3, 10));
    }
}
