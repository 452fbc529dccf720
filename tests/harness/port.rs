//! Ports for servers that are started again, or are not there yet.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// Returns a free port of this machine for a server that binds it later, or again after a restart. It is not among those that the
/// kernel gives to connections and to listeners at port 0, as far as its settings are the usual ones: so nothing takes it meanwhile.
pub(crate) fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const PORTS: u16 = 12_000;
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    // Another process with tests begins elsewhere, also if it was started at the same time.
    let own = u16::try_from(u64::from(std::process::id()) * 389 % u64::from(PORTS)).unwrap();
    for _ in 0..PORTS {
        let offset = (u32::from(own) + u32::from(TAKEN.fetch_add(1, Ordering::Relaxed))) % u32::from(PORTS);
        let port = FIRST + u16::try_from(offset).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}
