//! Memory of which one client has a share, such as that of encoders or of bodies that are validated.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use super::rate::key_of;
use lodge_base::budget::{Budget, Reservation};
use lodge_base::lock::lock;

/// One client has at most one of so many parts: while it is slow, others have room.
const PARTS: usize = 4;

/// The last of so many parts is for clients that have little: several that have much leave room for others.
const LAST: usize = 4;

/// Memory for all clients.
pub struct ClientMemory {
    budget: Arc<Budget>,
    /// The most bytes of one client.
    share: usize,
    /// The most bytes of a client for which the last part is kept.
    little: usize,
    /// The most bytes of all clients, when one of them gets more than `little`.
    most_of_large: usize,
    /// The bytes of the clients that have some.
    clients: Mutex<HashMap<u64, usize>>,
}

/// A part of the memory. Dropping it releases the memory.
pub struct ClientRoom {
    memory: Arc<ClientMemory>,
    client: u64,
    reservation: Reservation,
}

impl ClientMemory {
    /// Creates the memory of `most` bytes, of which one client has at least `share`. The last quarter is kept for clients that
    /// have at most `little`, as far as one with a whole share has room beside it.
    pub fn new(most: usize, share: usize, little: usize) -> Arc<Self> {
        let share = (most / PARTS).max(share);
        let most_of_large = (most - most / LAST).max(share);
        Arc::new(Self { budget: Budget::new(most), share, little, most_of_large, clients: Mutex::default() })
    }

    /// Returns the bytes that a client of `has` bytes has with so many more; `None` if that is more than it may have now.
    fn with_more(&self, has: usize, bytes: usize) -> Option<usize> {
        let has = has.checked_add(bytes).filter(|has| *has <= self.share)?;
        let all = self.budget.used().saturating_add(bytes);
        (has <= self.little || all <= self.most_of_large).then_some(has)
    }

    /// Reserves `bytes` for this client. Returns `None` if fewer are left, or the client would have more than its share.
    pub fn reserve(self: &Arc<Self>, client: IpAddr, bytes: usize) -> Option<ClientRoom> {
        let client = key_of(client);
        let mut clients = lock(&self.clients);
        let has = clients.get(&client).copied().unwrap_or(0);
        let has = self.with_more(has, bytes)?;
        let reservation = self.budget.reserve(bytes)?;
        // Room that was never used leaves nothing behind.
        if has > 0 {
            clients.insert(client, has);
        }
        drop(clients);
        Some(ClientRoom { memory: Arc::clone(self), client, reservation })
    }

    /// Reserved bytes.
    pub fn used(&self) -> usize {
        self.budget.used()
    }
}

impl ClientRoom {
    /// Reserves so many more bytes. Returns false, and reserves nothing, if fewer are left, or the client would have more than its
    /// share.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let mut clients = lock(&self.memory.clients);
        let has = clients.get(&self.client).copied().unwrap_or(0);
        let Some(has) = self.memory.with_more(has, bytes) else { return false };
        let grown = self.reservation.grow(bytes);
        if grown && has > 0 {
            clients.insert(self.client, has);
        }
        grown
    }

    /// Returns the reserved bytes.
    pub fn bytes(&self) -> usize {
        self.reservation.bytes()
    }

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

impl Drop for ClientRoom {
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
        let memory = ClientMemory::new(16 * MIB, MIB, usize::MAX);
        let [one, two] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse::<IpAddr>().unwrap());
        let mut held: Vec<_> = std::iter::from_fn(|| memory.reserve(one, MIB)).collect();
        assert_eq!((held.len(), memory.used()), (4, 4 * MIB), "a quarter");
        assert!(!held[0].grow(1) && held[0].bytes() == MIB, "a part grows within the share");
        assert!(memory.reserve(two, MIB).is_some(), "another client has room");
        held.iter_mut().for_each(|room| room.shrink(MIB / 4));
        assert!(held[0].grow(MIB / 4) && memory.used() == MIB + MIB / 4);
        held[0].shrink(MIB / 4);
        assert_eq!(std::iter::from_fn(|| memory.reserve(one, MIB)).collect::<Vec<_>>().len(), 3);
        drop(held);
        assert!(memory.used() == 0 && lock(&memory.clients).is_empty());
        // A client has one network of IPv6 to itself.
        let [three, four] = ["2001:db8::1", "2001:db8::2"].map(|text| text.parse::<IpAddr>().unwrap());
        drop(memory.reserve(one, 0).unwrap());
        let mut room = memory.reserve(three, 0).unwrap();
        assert!(lock(&memory.clients).is_empty(), "what has no bytes has no entry");
        assert!(room.grow(4 * MIB));
        assert!(memory.reserve(four, 1).is_none());
        // What all have is a bound as well.
        let small = ClientMemory::new(MIB, 4 * MIB, usize::MAX);
        assert!(small.reserve(one, 2 * MIB).is_none() && small.reserve(one, MIB).is_some());
    }

    #[test]
    fn the_last_part_is_for_clients_that_have_little() {
        const KIB: usize = 1 << 10;
        let memory = ClientMemory::new(64 * KIB, KIB, KIB);
        let address = |last: u8| IpAddr::from([192, 0, 2, last]);
        let mut held: Vec<_> = (0..3).map(|last| memory.reserve(address(last), 16 * KIB).unwrap()).collect();
        assert!(memory.reserve(address(3), KIB + 1).is_none());
        held.extend((3..19).map(|last| memory.reserve(address(last), KIB).unwrap()));
        assert!(memory.reserve(address(19), 1).is_none(), "full");
        held.truncate(4);
        assert!(!held[3].grow(1), "no longer one that has little");
        held.remove(0);
        assert!(held[2].grow(1));
        // On a small host, one client still has its share.
        assert!(ClientMemory::new(KIB, KIB, KIB / 4).reserve(address(0), KIB).is_some());
    }
}
