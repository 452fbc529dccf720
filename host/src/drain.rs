//! "Stop" and "all done": one channel each way.
//!
//! Who works holds a [`Drain`]; the host holds the [`Stopper`]. Stopping is telling them all; done is when the last
//! `Drain` is dropped. There is no counter to get wrong. Who only wants to know holds a [`Told`].

use std::convert::Infallible;

use tokio::sync::{mpsc, watch};

/// The end of who works: knows of the stop, and is waited for.
#[derive(Clone, Debug)]
pub struct Drain {
    told: Told,
    _alive: mpsc::Sender<Infallible>,
}

/// Knows of the stop, and is not waited for.
#[derive(Clone, Debug)]
pub struct Told(watch::Receiver<bool>);

/// The host's end.
#[derive(Debug)]
pub struct Stopper {
    tell: watch::Sender<bool>,
    alive: mpsc::Receiver<Infallible>,
}

/// Both ends.
pub fn channel() -> (Stopper, Drain) {
    let (tell, told) = watch::channel(false);
    let (held, alive) = mpsc::channel(1);
    (Stopper { tell, alive }, Drain { told: Told(told), _alive: held })
}

impl Drain {
    /// The part that is not waited for.
    pub fn told(&self) -> &Told {
        &self.told
    }
}

impl Told {
    /// Whether the host is stopping.
    pub fn is_stopping(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until the host is stopping.
    pub async fn stopping(mut self) {
        // A host that is gone is stopping, too.
        let _ = self.0.wait_for(|stopping| *stopping).await;
    }
}

impl Stopper {
    /// Tells everyone to stop.
    pub fn stop(&self) {
        self.tell.send_replace(true);
    }

    /// Waits until every [`Drain`] is dropped.
    pub async fn done(&mut self) {
        // Nothing can be sent, so this ends when the last sender is gone.
        let _ = self.alive.recv().await;
    }
}
