//! The work of the leader: what one host of a cluster does for all, and what does no harm if two do it. It has no fencing token, since
//! servers of objects know none.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::Cluster;
use crate::guests::snapshot::Current;

/// The pause between two rounds of work.
const PAUSE: Duration = Duration::from_secs(6 * 60 * 60);

impl Cluster {
    /// Removes, while this host leads, what hosts that have ended have left in the objects of the services that it has. Hosts that start
    /// do so as well, but those of a cluster may run for long. Never returns.
    pub async fn sweep_objects(self: Arc<Self>, current: Current) {
        loop {
            sleep(PAUSE).await;
            let targets = current.snapshot().targets.clone();
            // Versions have the objects of their service.
            let guests =
                targets.iter().filter(|target| target.of.is_none()).filter_map(|target| target.backend.guest());
            let sweeps = guests.filter_map(|guest| guest.blobs()).map(|blobs| async {
                if let Err(error) = blobs.space.sweep().await {
                    tracing::warn!(
                        "what ended hosts have left in the objects of {} stays: {error}",
                        blobs.service.name
                    );
                }
            });
            self.while_leading(sweeps).await;
        }
    }

    /// Does one after another, as long as this host leads.
    async fn while_leading<W: Future<Output = ()>>(&self, work: impl Iterator<Item = W>) {
        for work in work {
            if self.leader.token().is_none() {
                return;
            }
            work.await;
        }
    }

    /// Whether this host does the work of the leader now.
    #[cfg(test)]
    pub(super) async fn works(&self) -> usize {
        let done = std::cell::Cell::new(0);
        self.while_leading((0..3).map(|_| async { done.set(done.get() + 1) })).await;
        done.get()
    }
}
