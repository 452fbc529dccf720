//! "Stop" and "all done": one channel each way.
//!
//! Who works holds a [`DrainGuard`]; the host holds the [`Shutdown`]. Stopping is telling them all; done is when the last
//! `DrainGuard` is dropped. There is no counter to get wrong. Who only wants to know holds a [`StopSignal`].

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::sync::{mpsc, watch};

/// The end of who works: knows of the stop, and is waited for.
#[derive(Clone, Debug)]
pub struct DrainGuard {
    signal: StopSignal,
    _alive: mpsc::Sender<Infallible>,
}

/// Knows of the stop, and is not waited for.
#[derive(Clone, Debug)]
pub struct StopSignal {
    /// What every request looks at: a load, where the channel would be a lock.
    stopping: Arc<AtomicBool>,
    changed: watch::Receiver<bool>,
}

/// The host's end.
#[derive(Debug)]
pub struct Shutdown {
    stopping: Arc<AtomicBool>,
    tell: watch::Sender<bool>,
    alive: mpsc::Receiver<Infallible>,
}

/// Both ends.
pub fn channel() -> (Shutdown, DrainGuard) {
    let (tell, changed) = watch::channel(false);
    let stopping = Arc::new(AtomicBool::new(false));
    let signal = StopSignal { stopping: Arc::clone(&stopping), changed };
    let (held, alive) = mpsc::channel(1);
    (Shutdown { stopping, tell, alive }, DrainGuard { signal, _alive: held })
}

impl DrainGuard {
    /// The part that is not waited for.
    pub fn stop_signal(&self) -> &StopSignal {
        &self.signal
    }
}

impl StopSignal {
    /// Whether the host is stopping.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    /// Waits until the host is stopping.
    pub async fn stopping(mut self) {
        // A host that is gone is stopping, too.
        let _ = self.changed.wait_for(|stopping| *stopping).await;
    }
}

impl Shutdown {
    /// Tells everyone to stop.
    pub fn stop(&self) {
        self.stopping.store(true, Relaxed);
        self.tell.send_replace(true);
    }

    /// Waits until every [`DrainGuard`] is dropped.
    pub async fn done(&mut self) {
        // Nothing can be sent, so this ends when the last sender is gone.
        let _ = self.alive.recv().await;
    }
}
