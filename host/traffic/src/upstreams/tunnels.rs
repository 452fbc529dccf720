//! The number of tunnels of an upstream: connections that have switched protocols, such as WebSockets.
//!
//! A tunnel may stay open for days. So it takes no slot of the service or the host, and does not count as a connection
//! to its replica. `upstream.tunnels` is the bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::watch;

/// The tunnels of one upstream. Survives new manifests.
#[derive(Debug, Default)]
pub struct Tunnels {
    open: AtomicUsize,
    /// The number of tunnels of all upstreams.
    all: watch::Sender<usize>,
}

/// The right to open one tunnel. Taken before the request is sent to the replica.
#[derive(Debug)]
pub struct TunnelSlot(Arc<Tunnels>);

impl Tunnels {
    /// Creates the counter; tunnels are counted in `all` as well.
    pub fn new(all: &watch::Sender<usize>) -> Self {
        Self { open: AtomicUsize::new(0), all: all.clone() }
    }

    /// Takes a slot; `None` if `most` are taken.
    pub fn take(self: &Arc<Self>, most: usize) -> Option<TunnelSlot> {
        let one_more = |open: usize| (open < most).then_some(open.saturating_add(1));
        self.open.fetch_update(Relaxed, Relaxed, one_more).ok()?;
        self.all.send_modify(|all| *all = all.saturating_add(1));
        Some(TunnelSlot(Arc::clone(self)))
    }

    /// Returns the number of open tunnels and of requests that may become one.
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }
}

impl Drop for TunnelSlot {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
        self.0.all.send_modify(|all| *all = all.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnels_are_bounded_and_counted() {
        let (all, counted) = watch::channel(0);
        let [one, other] = [&all, &all].map(|all| Arc::new(Tunnels::new(all)));
        let (first, _second) = (one.take(2).unwrap(), one.take(2).unwrap());
        assert!(one.take(2).is_none());
        let third = other.take(1).unwrap();
        assert_eq!((one.open(), other.open(), *counted.borrow()), (2, 1, 3));
        // The bound is now below the number of open tunnels: no new one until enough have ended.
        assert!(one.take(1).is_none());
        drop(first);
        assert!(one.take(1).is_none() && one.take(2).is_some());
        drop(third);
        assert_eq!((one.open(), other.open(), *counted.borrow()), (1, 0, 1));
    }
}
