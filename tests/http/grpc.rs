//! Promise: standard gRPC clients and servers (Debian's python3-grpcio) work through the host: unary calls, streams in
//! both directions, and statuses.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::harness::{Connection, Leashed, host, output, root, within};

fn script(name: &str) -> PathBuf {
    root().join("tests/http/grpc").join(name)
}

/// A Python with gRPC. Debian's packages belong to Debian's Python, which may not be the first in PATH.
fn python() -> Option<&'static str> {
    let has =
        |python: &&str| Command::new(python).args(["-c", "import grpc"]).output().is_ok_and(|it| it.status.success());
    let found = ["python3", "/usr/bin/python3"].into_iter().find(has);
    assert!(found.is_some() || std::env::var_os("CI").is_none(), "CI has no python3-grpcio");
    if found.is_none() {
        eprintln!("skipped: needs a Python with gRPC, e.g. `apt-get install python3-grpcio`");
    }
    found
}

/// Runs the client against this address. Its own timeouts end it.
async fn calls(python: &'static str, address: std::net::SocketAddr) {
    let client = move || output(Command::new(python).arg(script("client.py")).arg(address.to_string()));
    let (code, stdout, stderr) = within(tokio::task::spawn_blocking(client)).await.unwrap();
    assert_eq!((code, stdout.trim()), (Some(0), "every call was answered"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standard_client_calls_a_guest() {
    let Some(python) = python() else { return };
    let host = host(&["grpc"]).manifest("grpc", "routes = [\"/lodge.Echo\"]").start().await;
    calls(python, host.address).await;
}

/// A standard client and a standard server, with Lodge between them and HTTP/2 on both sides.
#[tokio::test(flavor = "multi_thread")]
async fn a_standard_client_calls_a_standard_server() {
    let Some(python) = python() else { return };
    let server = Command::new(python).arg(script("server.py")).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut server = Leashed(server.expect("Python starts"));
    let mut port = String::new();
    BufReader::new(server.0.stdout.take().expect("piped")).read_line(&mut port).expect("a line");
    let manifest = format!(
        "routes = [\"/lodge.Echo\"]\n[upstream]\nreplicas = [\"http://127.0.0.1:{}\"]\nprotocol = \"h2c\"",
        port.trim()
    );
    let host = host(&[]).manifest("echo", &manifest).start().await;
    calls(python, host.address).await;
}

/// A guest writes many small parts at once and ends. All of them arrive, including those that are read together with
/// its end. (tokio limits how many messages a task receives in one poll, and the guest's end can be the last of them.)
#[tokio::test(flavor = "multi_thread")]
async fn many_small_parts_arrive() {
    let host = host(&["grpc"]).manifest("grpc", "routes = [\"/lodge.Echo\"]").start().await;
    for mut client in [Connection::http1(host.address).await, Connection::http2(host.address).await] {
        for messages in 1..=150_usize {
            let text = messages.to_string();
            let asked = format!("\0\0\0\0{}{text}", char::from(u8::try_from(text.len()).unwrap()));
            let response = within(client.ask(http::Method::POST, "/lodge.Echo/Count", &[], &asked)).await;
            let prefixes = response.body.windows(4).filter(|bytes| *bytes == [0; 4]).count();
            assert!(!response.broken && prefixes == messages, "{messages} messages: {response:?}");
        }
    }
}
