//! Which kinds of denied calls were logged already.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// What was logged already for a version of a service.
#[derive(Debug, Default)]
pub struct LoggedDenials(AtomicU8);

/// A kind of what is denied. Each is a bit.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// TCP sockets.
    Tcp = 1,
    /// UDP sockets.
    Udp = 2,
    /// The resolution of names.
    Names = 4,
    /// Files and directories.
    Files = 8,
}

impl LoggedDenials {
    /// Whether this is the first of its kind.
    pub(super) fn first(&self, kind: Kind) -> bool {
        let bit = kind as u8;
        // Read first: a guest may try for every request, on all cores.
        self.0.load(Relaxed) & bit == 0 && self.0.fetch_or(bit, Relaxed) & bit == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_first_once() {
        let denials = LoggedDenials::default();
        for kind in [Kind::Tcp, Kind::Udp, Kind::Names, Kind::Files] {
            assert!(denials.first(kind) && !denials.first(kind));
        }
    }
}
