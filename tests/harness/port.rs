//! Ports for servers that are started again, or are not there yet.

use std::fs::File;
use std::net::TcpListener;
use std::sync::Mutex;

/// Returns a free port of this machine for a server that binds it later, or again after a restart. It is not among those that the
/// kernel gives to connections and to listeners at port 0, as far as its settings are the usual ones: so nothing takes it meanwhile.
/// Nor does another process with tests, which may look for one before this one's server listens: a lock on a file with the number of
/// the port is held until this process ends.
pub(crate) fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const PORTS: u16 = 12_000;
    static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());
    let locks = std::env::temp_dir().join(format!("lodge-test-ports-{}", rustix::process::getuid().as_raw()));
    std::fs::create_dir_all(&locks).expect("a directory for locks");
    let mut held = HELD.lock().expect("no panic with the lock");
    // Another process most likely begins elsewhere.
    let begin = u16::try_from(u64::from(std::process::id()) * 389 % u64::from(PORTS)).expect("below the divisor");
    let all = (begin..PORTS).chain(0..begin).map(|offset| FIRST + offset);
    let lock = |port: u16| {
        let file = File::create(locks.join(port.to_string())).ok()?;
        file.try_lock().ok().map(|()| (port, file))
    };
    let mut free = all.filter_map(lock).filter(|(port, _)| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    let (port, file) = free.next().expect("a free port");
    drop(free);
    held.push(file);
    port
}
