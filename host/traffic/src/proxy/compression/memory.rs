//! The memory of encoders: `listener.compression`, of which one client has a share.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use lodge_base::budget::{Budget, Reservation};
use lodge_base::lock::lock;
use lodge_manifest::compress::Coding;

use super::encoder::room;
use crate::admission::rate::key_of;

/// One client has at most one of so many parts, and at least one encoder: while it reads slowly, others have room.
const PARTS: usize = 4;

/// The memory of the encoders of all clients.
pub struct EncoderMemory {
    budget: Arc<Budget>,
    /// The most bytes of one client.
    share: usize,
    /// The bytes of the clients that have some: at most as many clients as there is memory for encoders.
    clients: Mutex<HashMap<u64, usize>>,
}

/// The memory of one encoder. Dropping it releases the memory.
pub struct EncoderRoom {
    memory: Arc<EncoderMemory>,
    client: u64,
    reservation: Reservation,
}

impl EncoderMemory {
    /// Creates the memory of `most` bytes.
    pub fn new(most: usize) -> Arc<Self> {
        let share = (most / PARTS).max(room(Coding::Brotli));
        Arc::new(Self { budget: Budget::new(most), share, clients: Mutex::default() })
    }

    /// Reserves `bytes` for a response to this client. Returns `None` if fewer are left, or the client would have more than its share.
    pub fn reserve(self: &Arc<Self>, client: IpAddr, bytes: usize) -> Option<EncoderRoom> {
        let client = key_of(client);
        let mut clients = lock(&self.clients);
        let has = clients.get(&client).copied().unwrap_or(0);
        let has = has.checked_add(bytes).filter(|has| *has <= self.share)?;
        let reservation = self.budget.reserve(bytes)?;
        clients.insert(client, has);
        drop(clients);
        Some(EncoderRoom { memory: Arc::clone(self), client, reservation })
    }

    /// Reserved bytes.
    pub fn used(&self) -> usize {
        self.budget.used()
    }
}

impl EncoderRoom {
    /// Releases all but `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        let less = self.reservation.bytes().saturating_sub(bytes);
        if less == 0 {
            return;
        }
        self.reservation.shrink(bytes);
        if let Entry::Occupied(mut has) = lock(&self.memory.clients).entry(self.client) {
            *has.get_mut() = has.get().saturating_sub(less);
            if *has.get() == 0 {
                has.remove();
            }
        }
    }
}

impl Drop for EncoderRoom {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_a_share() {
        const MIB: usize = 1 << 20;
        let memory = EncoderMemory::new(16 * MIB);
        let [one, two] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse::<IpAddr>().unwrap());
        let mut held: Vec<_> = std::iter::from_fn(|| memory.reserve(one, MIB)).collect();
        assert_eq!((held.len(), memory.used()), (4, 4 * MIB), "a quarter");
        assert!(memory.reserve(two, MIB).is_some(), "another client has room");
        held.iter_mut().for_each(|room| room.shrink(MIB / 4));
        assert_eq!(std::iter::from_fn(|| memory.reserve(one, MIB)).collect::<Vec<_>>().len(), 3);
        drop(held);
        assert!(memory.used() == 0 && lock(&memory.clients).is_empty());
        // A client has one network of IPv6 to itself.
        let [three, four] = ["2001:db8::1", "2001:db8::2"].map(|text| text.parse::<IpAddr>().unwrap());
        let _held = memory.reserve(three, 4 * MIB).unwrap();
        assert!(memory.reserve(four, 1).is_none());
        // On a small host there is room for one encoder of each coding.
        for coding in Coding::ALL {
            assert!(EncoderMemory::new(4 * MIB).reserve(one, room(coding)).is_some(), "{coding:?}");
        }
    }
}
