//! What validation uses of the host: memory for bodies, and threads for those that take long.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::{ExpectedBody, ValidationFault};
use crate::admission::client_memory::ClientMemory;
use crate::admission::rate::key_of;
use lodge_base::slots::Slots;

/// One client has at least room for a body of the usual size.
const LEAST_SHARE: usize = 1 << 20;

/// What a client may have also when the memory is almost full.
const LITTLE: usize = 256 << 10;

/// The most long checks that wait or run, and the most of them of one client: the threads take them in turn.
const CHECKS: usize = 64;
const CHECKS_OF_CLIENT: usize = 4;

/// What validation uses of the host.
pub struct ValidationRoom {
    /// The memory for bodies, until they are read: `listener.validation`.
    pub memory: Arc<ClientMemory>,
    /// The threads that check bodies for long: one for two threads of requests, so that these have time as well.
    threads: Arc<Semaphore>,
    /// The long checks, by the keys of the clients.
    checks: Arc<Slots<u64>>,
}

impl ValidationRoom {
    /// Returns room for bodies of `memory` bytes.
    pub fn new(memory: usize) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).div_ceil(2);
        Self {
            memory: ClientMemory::new(memory, LEAST_SHARE, LITTLE),
            threads: Arc::new(Semaphore::new(threads)),
            checks: Slots::new(CHECKS, CHECKS_OF_CLIENT),
        }
    }

    /// Checks a body of a client that may take long, on a thread of its own. Waits until there is one.
    ///
    /// # Errors
    /// If the body is not valid, or too many wait: 64, or four of this client.
    pub async fn check(
        &self,
        expected: &ExpectedBody,
        body: &bytes::Bytes,
        client: IpAddr,
    ) -> Result<(), ValidationFault> {
        let unavailable = ValidationFault::Unavailable;
        let slot = self.checks.take(vec![key_of(client)]).ok_or(ValidationFault::Unavailable)?;
        let Ok(thread) = Arc::clone(&self.threads).acquire_owned().await else { return Err(unavailable) };
        let (expected, body) = (expected.clone(), body.clone());
        let checking = spawn_blocking(move || {
            let result = expected.check(&body);
            // Not earlier, if the request is cancelled: the thread is busy until now.
            drop((thread, slot));
            result
        });
        checking.await.unwrap_or(Err(unavailable))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use super::*;
    use crate::validation::BodyContent;

    /// A body that is never valid.
    fn expected() -> ExpectedBody {
        ExpectedBody { content: BodyContent::Refused(ValidationFault::Coding), required: true, size: 1 << 20 }
    }

    async fn polled<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
        poll_fn(|context| Poll::Ready(std::pin::Pin::new(&mut *future).poll(context))).await
    }

    /// A client whose bodies take long leaves turns to others, also while it waits.
    #[tokio::test]
    async fn a_client_has_few_long_checks() {
        let (room, check, body) = (ValidationRoom::new(4 << 20), expected(), bytes::Bytes::from_static(b"1"));
        let threads = Arc::clone(&room.threads);
        let all = threads.available_permits();
        let busy = threads.try_acquire_many_owned(u32::try_from(all).unwrap()).unwrap();
        let address = |last: usize| IpAddr::from([192, 0, 2, u8::try_from(last).unwrap()]);
        let mut waiting = Vec::new();
        for number in 0..CHECKS {
            let mut checking = Box::pin(room.check(&check, &body, address(number / CHECKS_OF_CLIENT)));
            assert!(polled(&mut checking).await.is_pending(), "{number}");
            waiting.push(checking);
            if number + 1 == CHECKS_OF_CLIENT {
                let more = polled(&mut Box::pin(room.check(&check, &body, address(0)))).await;
                assert_eq!(more, Poll::Ready(Err(ValidationFault::Unavailable)), "a fifth of one client");
            }
        }
        let more = polled(&mut Box::pin(room.check(&check, &body, address(200)))).await;
        assert_eq!(more, Poll::Ready(Err(ValidationFault::Unavailable)), "a bound for all");
        // Those that go away leave their slots.
        waiting.pop();
        let mut other = Box::pin(room.check(&check, &body, address(200)));
        assert!(polled(&mut other).await.is_pending());
        drop((waiting, busy));
        assert_eq!(other.await, Err(ValidationFault::Coding), "it has its turn");
        assert_eq!(room.threads.available_permits(), all);
    }
}
