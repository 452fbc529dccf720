//! Turns of work in a poll: long work returns in between, so that others run.

use std::pin::pin;
use std::task::{Context, Poll};

/// Schedules the next poll of a task that has more to do; the caller returns [`Poll::Pending`] now.
///
/// This is the wake of tokio's `yield_now`, and not a bare one: a worker polls a task that wakes itself again before its sockets and
/// timers, at which it looks every 61 polls. So as many such tasks as workers would delay every request by 61 of their turns.
pub fn yield_turn<T>(cx: &mut Context<'_>) -> Poll<T> {
    // Its waker is with the scheduler now, so the future is not needed again.
    let _ = pin!(tokio::task::yield_now()).poll(cx);
    Poll::Pending
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;

    use super::*;

    /// The worker looks at its sockets between two turns of a task that has more to do.
    #[tokio::test]
    async fn sockets_are_polled_between_turns() {
        let (mut one, two) = UnixStream::pair().unwrap();
        let received = tokio::spawn(async move { one.read_u8().await.unwrap() });
        two.writable().await.unwrap();
        two.try_write(b"x").unwrap();
        // A task, since the future of the test is polled apart from them.
        let working = tokio::spawn(async move {
            let mut turns = 0;
            while !received.is_finished() {
                let mut yielded = false;
                poll_fn(|cx| if std::mem::replace(&mut yielded, true) { Poll::Ready(()) } else { yield_turn(cx) })
                    .await;
                turns += 1;
            }
            turns
        });
        let turns = working.await.unwrap();
        assert!(turns < 10, "{turns} turns");
    }
}
