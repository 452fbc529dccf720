//! What validation uses of the host: memory for bodies, and threads for those that take long.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::{BodyCheck, BodyFault};
use crate::admission::client_memory::ClientMemory;

/// One client has at least room for a body of the usual size.
const LEAST_SHARE: usize = 1 << 20;

/// What validation uses of the host.
pub struct ValidationRoom {
    /// The memory for bodies, until they are read: `listener.validation`.
    pub memory: Arc<ClientMemory>,
    /// The threads that check bodies for long: one for two threads of requests, so that these have time as well.
    threads: Arc<Semaphore>,
}

impl ValidationRoom {
    /// Returns room for bodies of `memory` bytes.
    pub fn new(memory: usize) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).div_ceil(2);
        Self { memory: ClientMemory::new(memory, LEAST_SHARE), threads: Arc::new(Semaphore::new(threads)) }
    }

    /// Checks a body that may take long, on a thread of its own. Waits until there is one.
    ///
    /// # Errors
    /// If the body is not valid.
    pub async fn check(&self, check: &Arc<BodyCheck>, body: &bytes::Bytes) -> Result<(), BodyFault> {
        let Ok(thread) = Arc::clone(&self.threads).acquire_owned().await else { return Err(BodyFault::Unavailable) };
        let (check, body) = (Arc::clone(check), body.clone());
        let checking = spawn_blocking(move || {
            let result = check.check(&body);
            drop(thread);
            result
        });
        checking.await.unwrap_or(Err(BodyFault::Unavailable))
    }
}
