//! The parts of a limit that the hosts of a cluster have together, and that each has by itself.

use super::super::Quota;

/// One part of so many of a rate is divided among the hosts.
const DIVIDED: u64 = 20;

/// The leads of all hosts together are one part of so many of a burst.
const LEADS: u32 = 4;

/// The rate and the burst of a limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    burst: u32,
    /// The whole limit.
    whole: Quota,
    /// The part of it that the server has.
    shared: Quota,
}

impl Terms {
    /// Returns the terms of a limit of `burst` requests.
    pub(super) fn new((whole, burst): (Quota, u32)) -> Self {
        let interval = whole.interval.saturating_mul(DIVIDED).div_ceil(DIVIDED - 1);
        Self { burst, whole, shared: Quota::new(interval, burst) }
    }

    /// The most requests at once.
    pub(super) fn burst(self) -> u32 {
        self.burst
    }

    /// The whole limit.
    pub(super) fn whole(self) -> Quota {
        self.whole
    }

    /// The part of the limit that the server has.
    pub(super) fn shared(self) -> Quota {
        self.shared
    }

    /// The most requests of a key that a host has admitted, or may admit, and that the server does not know of.
    pub(super) fn lead(self, hosts: u32) -> u32 {
        (self.burst / LEADS.saturating_mul(hosts)).max(1)
    }

    /// The part of the limit that each of so many hosts has for itself.
    pub(super) fn own(self, hosts: u32) -> Quota {
        Quota::new(self.whole.interval.saturating_mul(DIVIDED).saturating_mul(hosts.into()), self.lead(hosts))
    }

    /// The part of the limit that each of so many hosts has while the server is away.
    pub(super) fn share(self, hosts: u32) -> Quota {
        Quota::new(self.whole.interval.saturating_mul(hosts.into()), (self.burst / hosts.max(1)).max(1))
    }

    /// Returns when the whole limit would be full again if it has room for so many requests.
    pub(super) fn full(self, room: u64, at: u64) -> u64 {
        self.whole.after(at, u64::from(self.burst).saturating_sub(room))
    }
}
