//! Promise: systemd knows when the host is ready, that it is alive, and when it stops.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use crate::harness::{PATIENCE, Process, get, wasm};

/// Returns the next report.
fn next(socket: &UnixDatagram) -> String {
    let mut bytes = [0; 1024];
    let length = socket.recv(&mut bytes).expect("a report");
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_kept_informed() {
    let (directory, run) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::copy(wasm("hello"), directory.path().join("hello.wasm")).unwrap();
    let at = run.path().join("notify");
    let socket = UnixDatagram::bind(&at).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut process = Process::serve_supervised(directory.path(), &at).await;
    // Alive, and not ready before its directory was read.
    assert_eq!(next(&socket), "WATCHDOG=1");
    let ready = tokio::task::block_in_place(|| {
        loop {
            let report = next(&socket);
            if report.starts_with("READY=1\n") {
                return report;
            }
            assert_eq!(report, "WATCHDOG=1");
        }
    });
    assert_eq!(ready, "READY=1\nWATCHDOG=1\nSTATUS=serving 1 services and versions");
    assert_eq!(get(process.admin, "/readyz").await.status, 200);
    // Five more signs of life take four pauses of half the time that systemd allows.
    let start = Instant::now();
    tokio::task::block_in_place(|| (0..5).for_each(|_| assert!(next(&socket).contains("WATCHDOG=1"))));
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    process.signal(rustix::process::Signal::TERM);
    tokio::task::block_in_place(|| while !next(&socket).starts_with("STOPPING=1\n") {});
    assert!(process.ended().await.success());
}
