//! Graceful shutdown: a stop signal to every task, and a wait for the last task to finish.
//!
//! The host holds the [`Shutdown`]. A task that the host waits for holds a [`DrainGuard`]; the drain is complete when
//! the last guard is dropped, so there is no counter to keep correct. A task that needs only the signal holds a
//! [`StopSignal`].

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::sync::{mpsc, watch};

/// A guard of a task: carries the stop signal and delays the end of the drain until it is dropped.
#[derive(Clone, Debug)]
pub struct DrainGuard {
    signal: StopSignal,
    _alive: mpsc::Sender<Infallible>,
}

/// The stop signal. Holding it does not delay the drain.
#[derive(Clone, Debug)]
pub struct StopSignal {
    /// Read for every request: an atomic load, where the channel would take a lock.
    stopping: Arc<AtomicBool>,
    changed: watch::Receiver<bool>,
}

/// The host's end: stops the tasks and waits for them.
#[derive(Debug)]
pub struct Shutdown {
    stopping: Arc<AtomicBool>,
    tell: watch::Sender<bool>,
    alive: mpsc::Receiver<Infallible>,
}

/// Creates both ends.
pub fn channel() -> (Shutdown, DrainGuard) {
    let (tell, changed) = watch::channel(false);
    let stopping = Arc::new(AtomicBool::new(false));
    let signal = StopSignal { stopping: Arc::clone(&stopping), changed };
    let (held, alive) = mpsc::channel(1);
    (Shutdown { stopping, tell, alive }, DrainGuard { signal, _alive: held })
}

impl DrainGuard {
    /// The stop signal of this guard.
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
        // An error means that the sender is gone, so the host has stopped.
        let _ = self.changed.wait_for(|stopping| *stopping).await;
    }
}

impl Shutdown {
    /// Sends the stop signal.
    pub fn stop(&self) {
        self.stopping.store(true, Relaxed);
        self.tell.send_replace(true);
    }

    /// Waits until every [`DrainGuard`] is dropped.
    pub async fn done(&mut self) {
        // Nothing is ever sent, so this returns when the last sender is dropped.
        let _ = self.alive.recv().await;
    }
}
