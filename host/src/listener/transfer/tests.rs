use std::task::{Context, Waker};

use lodge_traffic::proxy::frames::WAITING;

use super::*;

const IDLE: Duration = Duration::from_secs(60);

fn second(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A list with one transfer, and the time of its begin.
fn one() -> (Transfers, Arc<Transfer>, Instant) {
    let (mut transfers, transfer) = (Transfers::default(), Arc::<Transfer>::default());
    transfers.add(&transfer);
    (transfers, transfer, Instant::now())
}

fn chunk(transfer: &Arc<Transfer>, bytes: usize) -> Chunk {
    Chunk::new(Bytes::from(vec![0; bytes]), Some(transfer))
}

#[test]
fn no_progress_is_stuck() {
    let (mut transfers, transfer, start) = one();
    let held = chunk(&transfer, 100);
    for at in 0..60 {
        assert_eq!(transfers.check(start + second(at), IDLE), Stalled::default(), "{at}");
    }
    assert!(transfers.check(start + IDLE, IDLE).stuck);
    drop(held);
    assert_eq!(transfers.check(start + IDLE * 3, IDLE), Stalled::default(), "nothing is left to take");
}

/// A byte a second is not progress. Everything that there is, or [`PROGRESS`] bytes, is.
#[test]
fn progress_is_everything_or_enough() {
    for (taken, size, stuck) in [(1, PROGRESS * 2, true), (PROGRESS / 60 + 1, PROGRESS * 9, false), (10, 10, false)] {
        let (mut transfers, transfer, start) = one();
        let mut held = chunk(&transfer, size);
        let mut found = false;
        for at in 0..150 {
            held.advance(taken);
            if held.remaining() == 0 {
                held = chunk(&transfer, size);
            }
            found |= transfers.check(start + second(at), IDLE).stuck;
        }
        assert_eq!(found, stuck, "{taken} of {size} a second");
    }
}

/// A client is not stalled while the service sends nothing.
#[test]
fn silent_service_is_not_a_stall() {
    let (mut transfers, transfer, start) = one();
    let mut held = chunk(&transfer, 10);
    transfers.check(start, IDLE);
    held.advance(10);
    assert_eq!(transfers.check(start + IDLE * 5, IDLE), Stalled::default());
    assert!(!transfers.is_empty(), "it is still on its way");
    drop((held, transfer));
    transfers.check(start + IDLE * 6, IDLE);
    assert!(transfers.is_empty() && transfers.next_check(IDLE, Instant::now).is_none());
}

#[tokio::test]
async fn task_of_stalled_stream_is_aborted_once() {
    let (mut transfers, transfer, start) = one();
    let task = tokio::spawn(std::future::pending::<()>());
    transfer.set_task(task.abort_handle());
    let _held = chunk(&transfer, 1);
    transfers.check(start, IDLE);
    assert_eq!(transfers.check(start + IDLE, IDLE), Stalled { reset: 1, ..Stalled::default() });
    assert!(task.await.unwrap_err().is_cancelled());
    // The bytes that h2 still has end with the connection.
    assert!(transfers.check(start + IDLE * 2, IDLE).stuck);
}

/// However small its frames are, few of a response wait to be written.
#[test]
fn tiny_frames_are_counted() {
    let (_, transfer, _) = one();
    let mut cx = Context::from_waker(Waker::noop());
    let mut held = Vec::new();
    while transfer.frames.poll_open(&mut cx).is_ready() {
        held.push(chunk(&transfer, 1));
        assert!(held.len() <= WAITING);
    }
    held.iter_mut().for_each(|chunk| chunk.advance(1));
    drop(held);
    assert!(transfer.frames.poll_open(&mut cx).is_ready());
}

/// Transfers that have ended leave the list.
#[test]
fn ended_transfers_are_removed() {
    let mut transfers = Transfers::default();
    let running: Vec<_> = (0..10).map(|_| Arc::<Transfer>::default()).collect();
    running.iter().for_each(|transfer| transfers.add(transfer));
    for _ in 0..10_000 {
        transfers.add(&Arc::default());
    }
    assert!(transfers.entries.capacity() <= 64, "{}", transfers.entries.capacity());
    let left = transfers.entries.iter().filter(|entry| entry.transfer.strong_count() > 0).count();
    assert_eq!(left, 10);
}
