//! Promise: systemd knows when the host is ready, that it is alive, and when it stops; no client is refused while a host restarts
//! whose socket systemd has opened.

use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{PATIENCE, Process, cache, get, lodge, output, until, wasm};

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
    let starting =
        "EXTEND_TIMEOUT_USEC=30000000\nWATCHDOG=1\nSTATUS=reading and compiling files, 0 services and versions so far";
    assert_eq!(next(&socket), starting);
    let ready = tokio::task::block_in_place(|| {
        loop {
            let report = next(&socket);
            if report.starts_with("READY=1\n") {
                return report;
            }
            assert!(report.starts_with("EXTEND_TIMEOUT_USEC="), "{report}");
        }
    });
    assert_eq!(ready, "READY=1\nWATCHDOG=1\nSTATUS=serving 1 service or version");
    assert_eq!(get(process.admin, "/readyz").await.status, 200);
    tokio::task::block_in_place(|| (0..5).for_each(|_| assert!(next(&socket).contains("WATCHDOG=1"))));
    process.signal(rustix::process::Signal::TERM);
    tokio::task::block_in_place(|| while !next(&socket).starts_with("STOPPING=1\n") {});
    assert!(process.ended().await.success());
}

/// A host to which a socket is given as systemd does it.
fn activated(socket: &TcpListener, directory: &Path, listen: &str) -> Command {
    rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::empty()).unwrap();
    let directory = directory.display().to_string();
    let serve =
        lodge(&["serve", &directory, "--listen", listen, "--admin", "127.0.0.1:0", "--cache-directory", cache()]);
    let mut command = Command::new("bash");
    let script = format!("LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\" 3<&{}", socket.as_raw_fd());
    command.args(["-c", &script, "bash"]).arg(serve.get_program()).args(serve.get_args());
    command.current_dir(std::env::temp_dir());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_of_systemd_outlives_the_host() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(wasm("hello"), directory.path().join("hello.wasm")).unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let mut first = Process::of(activated(&socket, directory.path(), &address.to_string())).await;
    assert_eq!((first.address, &*get(address, "/hello").await.text()), (address, "Hello, World!"));
    first.signal(rustix::process::Signal::TERM);
    assert!(first.ended().await.success());
    // No host is there; the client waits.
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET /hello HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    // Its setting names another address, and says so.
    let other = format!("127.0.0.2:{}", address.port());
    let second = Process::of(activated(&socket, directory.path(), &other)).await;
    until("it says where it listens", || {
        second.log().contains(&format!("the setting is {other}, and the socket unit"))
    })
    .await;
    let mut response = String::new();
    tokio::time::timeout(PATIENCE, client.read_to_string(&mut response)).await.expect("a response").unwrap();
    assert!(response.starts_with("HTTP/1.1 200") && response.ends_with("Hello, World!"), "{response}");
}

/// The clients of a socket that nobody accepts from would wait for ever.
#[test]
fn a_socket_without_a_setting_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let (status, _, stderr) = output(&mut activated(&socket, directory.path(), "127.0.0.1:0"));
    let port = socket.local_addr().unwrap().port();
    assert_ne!(status, Some(0));
    assert!(stderr.contains(&format!("systemd: nothing listens on port {port}")), "{stderr}");
}
