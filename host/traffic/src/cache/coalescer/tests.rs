use super::*;

fn key(path: &str) -> CacheKey {
    CacheKey::new("users", &format!("http://h{path}").parse().unwrap())
}

fn join(coalescer: &Arc<Coalescer>, variant: u64, now: Instant) -> Option<FillGuard> {
    match coalescer.join(&key("/a"), variant, 2, now) {
        Joined::Fill(guard) => Some(guard),
        Joined::Wait(_) => None,
    }
}

#[tokio::test]
async fn one_request_fetches_and_the_others_wait() {
    let start = Instant::now();
    let coalescer = Coalescer::new();
    let guard = join(&coalescer, 1, start).unwrap();
    let waiter = wait(&coalescer, 1, start);
    assert!(join(&coalescer, 2, start).is_some(), "another variant does not wait");
    let mut waiting = Box::pin(waiter.turn());
    assert!(is_pending(&mut waiting));
    let mut stored = 0;
    guard.store(|_| {
        stored += 1;
        true
    });
    assert!(matches!(waiting.await, Turn::Look));
    assert_eq!((stored, coalescer.active_fills()), (1, 0));
}

/// When the request that fetches is refused, its client leaves, or it fails, one of the others takes over, in the order in which they came, and no other
/// is woken.
#[tokio::test]
async fn one_waiting_request_takes_over() {
    let (coalescer, start) = (Coalescer::new(), Instant::now());
    let lead = join(&coalescer, 1, start).unwrap();
    let waiters = [(); 4].map(|()| wait_for(&coalescer, 1, 9, start));
    let mut turns = waiters.each_ref().map(|waiter| Box::pin(waiter.turn()));
    turns.iter_mut().for_each(|turn| assert!(is_pending(turn)));
    drop(lead);
    let [first, second, third, fourth] = &mut turns;
    [&mut *second, third, fourth].into_iter().for_each(|turn| assert!(is_pending(turn)));
    let Turn::Lead(lead) = first.await else { panic!("it does not lead") };
    assert_eq!((coalescer.active_fills(), lead.is_joinable()), (1, true));
    drop(lead);
    let Turn::Lead(lead) = second.await else { panic!("it does not lead") };
    lead.hand_over();
    assert!(is_pending(fourth));
    let Turn::Lead(lead) = third.await else { panic!("it does not lead") };
    // A response without space ends it for all.
    lead.finish_unstored();
    assert!(matches!(fourth.await, Turn::Alone));
    assert_eq!(coalescer.active_fills(), 0);
    assert!(join(&coalescer, 1, start).unwrap().is_joinable(), "it is not remembered");
}

/// A waiting request whose client leaves when it is to take over does not keep the others from it.
#[tokio::test]
async fn the_turn_of_a_client_that_leaves_passes_on() {
    let (coalescer, start) = (Coalescer::new(), Instant::now());
    for left in 0..3 {
        let lead = join(&coalescer, 1, start).unwrap();
        let mut waiters: Vec<_> = (0..3).map(|_| wait_for(&coalescer, 1, 9, start)).collect();
        let mut turns: Vec<_> = waiters.iter().map(|waiter| Some(Box::pin(waiter.turn()))).collect();
        turns.iter_mut().flatten().for_each(|turn| assert!(is_pending(turn)));
        drop(lead);
        turns.iter_mut().take(left).for_each(|turn| *turn = None);
        let Turn::Lead(lead) = turns[left].take().unwrap().await else { panic!("{left}: it does not lead") };
        drop((lead, turns));
        // All leave while one of them is to take over.
        while waiters.pop().is_some() {}
        assert_eq!(coalescer.active_fills(), 0, "{left}");
    }
}

/// Those that wait for a response that was requested before an invalidation ask for a new one.
#[tokio::test]
async fn nobody_takes_over_an_invalidated_fill() {
    for is_late in [false, true] {
        let (coalescer, start) = (Coalescer::new(), Instant::now());
        let lead = join(&coalescer, 1, start).unwrap();
        let waiters = [(); 2].map(|()| wait_for(&coalescer, 1, 9, start));
        let turns = waiters.each_ref().map(|waiter| Box::pin(waiter.turn()));
        if is_late {
            drop(lead);
            coalescer.invalidate_key(&key("/a"), || ());
        } else {
            coalescer.invalidate_key(&key("/a"), || ());
            drop(lead);
        }
        for turn in turns {
            assert!(matches!(turn.await, Turn::Look), "{is_late}");
        }
        assert!(join(&coalescer, 1, start).unwrap().is_joinable());
        drop(waiters);
        assert_eq!(coalescer.active_fills(), 0);
    }
}

#[test]
fn the_number_of_waiting_requests_is_bounded() {
    let start = Instant::now();
    let coalescer = Coalescer::new();
    let _lead = join(&coalescer, 1, start).unwrap();
    let [one, _two] = [(); 2].map(|()| wait(&coalescer, 1, start));
    assert!(join(&coalescer, 1, start).is_some());
    // Those that wait no more do not count.
    drop(one);
    let _three = wait(&coalescer, 1, start);
    assert!(join(&coalescer, 1, start).is_some());
}

#[test]
fn requests_do_not_wait_for_uncacheable_responses() {
    let start = Instant::now();
    let coalescer = Coalescer::new();
    join(&coalescer, 1, start).unwrap().finish_uncacheable_at(start);
    let alone: Vec<_> = (0..3).map(|_| join(&coalescer, 1, start).unwrap()).collect();
    assert_eq!((alone.len(), coalescer.active_fills()), (3, 3));
    drop(alone);
    // A stored response ends the period, and so does time.
    join(&coalescer, 1, start).unwrap().store(|_| true);
    let _lead = join(&coalescer, 1, start).unwrap();
    assert!(join(&coalescer, 1, start).is_none());
    // A response without space in the store does not.
    join(&coalescer, 3, start).unwrap().store(|_| false);
    assert!((0..2).all(|_| join(&coalescer, 3, start).is_some()));
    join(&coalescer, 2, start).unwrap().finish_uncacheable_at(start);
    let _lead = join(&coalescer, 2, start + UNCACHEABLE_FOR).unwrap();
    assert!(join(&coalescer, 2, start + UNCACHEABLE_FOR).is_none());
}

#[test]
fn a_response_requested_before_a_purge_is_not_stored() {
    let start = Instant::now();
    let coalescer = Coalescer::new();
    let (late, other) = (join(&coalescer, 1, start).unwrap(), guard(&coalescer, "/b", 2));
    coalescer.invalidate_key(&key("/a"), || ());
    let fresh = join(&coalescer, 1, start).expect("requests do not join an invalidated fill");
    let mut stored = Vec::new();
    for (guard, name) in [(late, "late"), (fresh, "fresh"), (other, "other")] {
        guard.store(|_| {
            stored.push(name);
            true
        });
    }
    assert_eq!(stored, ["fresh", "other"]);
    let invalidated = join(&coalescer, 1, start).unwrap();
    coalescer.invalidate(|key| key.service() == "users", || ());
    invalidated.store(|_| panic!("an invalidated response was stored"));
}

/// A fill that others have waited for too long can no longer be joined.
#[test]
fn no_request_waits_twice_for_a_stuck_fill() {
    let (coalescer, start) = (Coalescer::new(), Instant::now());
    let _stuck = join(&coalescer, 1, start).unwrap();
    let waiters = [(); 2].map(|()| wait(&coalescer, 1, start));
    let instead = coalescer.replace(&waiters[0]);
    assert!(instead.is_joinable());
    let new = wait(&coalescer, 1, start);
    assert!(!Arc::ptr_eq(&new.fill, &waiters[0].fill));
    // A second request that has waited for the same fill finds the new one, and does not wait again.
    assert!(!coalescer.replace(&waiters[1]).is_joinable());
    assert!(Arc::ptr_eq(&wait(&coalescer, 1, start).fill, &new.fill));
}

fn guard(coalescer: &Arc<Coalescer>, path: &str, variant: u64) -> FillGuard {
    let Joined::Fill(guard) = coalescer.join(&key(path), variant, 0, Instant::now()) else { panic!("it waits") };
    guard
}

/// A request that waits, of two at most.
fn wait(coalescer: &Arc<Coalescer>, variant: u64, now: Instant) -> Waiter {
    wait_for(coalescer, variant, 2, now)
}

fn wait_for(coalescer: &Arc<Coalescer>, variant: u64, most: usize, now: Instant) -> Waiter {
    match coalescer.join(&key("/a"), variant, most, now) {
        Joined::Wait(waiter) => waiter,
        Joined::Fill(_) => panic!("it does not wait"),
    }
}

fn is_pending(future: &mut (impl Future + Unpin)) -> bool {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    std::pin::Pin::new(future).poll(&mut cx).is_pending()
}
