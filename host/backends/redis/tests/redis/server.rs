//! Redis as a process.

use std::path::Path;

use lodge_redis::{Redis, RedisSettings};
use lodge_remote::Tls;
use lodge_remote::testing::{ServerProgram, TestServer, find};
use tokio::runtime::Handle;

const REDIS: ServerProgram =
    ServerProgram { name: "redis-server", folders: &["/usr/bin", "/usr/local/bin"], package: "redis-server" };

/// Starts a server that keeps everything that it confirms, with more options; `None` if there is none. With `everysec` it would
/// confirm writes before it has given them to the system, while the disk is busy.
pub(crate) fn start(options: &[&str]) -> Option<TestServer> {
    let program = find(REDIS)?.to_string_lossy().into_owned();
    let options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
    let command = move |directory: &Path, port: u16| {
        let directory = directory.to_string_lossy().into_owned();
        let mut command = vec![program.clone(), "--bind".into(), "127.0.0.1".into(), "--dir".into(), directory.clone()];
        command.extend(["--save", "", "--appendonly", "yes", "--appendfsync", "always"].map(str::to_owned));
        command.extend(options.iter().map(|option| option.replace("DIRECTORY", &directory)));
        let port_option =
            if options.iter().any(|option| option == "--tls-cert-file") { "--tls-port" } else { "--port" };
        if port_option == "--tls-port" {
            command.extend(["--port", "0"].map(str::to_owned));
        }
        command.extend([port_option.to_owned(), port.to_string()]);
        command
    };
    Some(TestServer::start(None, &[], "Ready to accept connections", command))
}

/// A backend on `server`.
pub(crate) fn connect(server: &TestServer) -> Redis {
    connect_at(server.port())
}

/// A backend on the server at a port of this machine.
pub(crate) fn connect_at(port: u16) -> Redis {
    let url = format!("redis://127.0.0.1:{port}");
    Redis::new(RedisSettings::new(&url, &Tls::default(), 2).unwrap(), &Handle::current())
}
