//! PostgreSQL as a process.

use std::path::Path;

use lodge_postgres::{Postgres, PostgresSettings};
use lodge_remote::Tls;
use lodge_remote::testing::{ServerProgram, TestServer, find};
use tokio::runtime::Handle;

const POSTGRES: ServerProgram =
    ServerProgram { name: "postgres", folders: &["/usr/lib/postgresql/*/bin"], package: "postgresql" };

/// Starts a server with the user `me`, whose password is `hunter2`, and more settings; `None` if there is none.
///
/// Without fsync it still keeps what it confirms when it is killed: the system has the files.
pub(crate) fn start(settings: &[&str]) -> Option<TestServer> {
    let program = find(POSTGRES)?.canonicalize().unwrap();
    let initdb = program.parent().unwrap().join("initdb").to_string_lossy().into_owned();
    let initialize = format!(
        "echo hunter2 >password && '{initdb}' -D data -U me --pwfile password --auth scram-sha-256 --no-sync && rm password"
    );
    let prepare = ["/bin/sh".to_owned(), "-c".to_owned(), initialize];
    let settings: Vec<_> = settings.iter().map(|setting| (*setting).to_owned()).collect();
    let command = move |directory: &Path, port: u16| {
        let directory = directory.to_string_lossy().into_owned();
        let mut command = vec![program.to_string_lossy().into_owned(), "-D".into(), format!("{directory}/data")];
        let fixed = [
            format!("port={port}"),
            "listen_addresses=127.0.0.1".into(),
            format!("unix_socket_directories={directory}"),
            "fsync=off".into(),
            "max_wal_size=64MB".into(),
        ];
        for setting in fixed.into_iter().chain(settings.clone()) {
            command.extend(["-c".into(), setting]);
        }
        command
    };
    Some(TestServer::start(Some("postgres"), &prepare, "ready to accept connections", command))
}

/// The URL of `server`.
pub(crate) fn url(server: &TestServer) -> String {
    url_at(server.port(), "me:hunter2")
}

fn url_at(port: u16, login: &str) -> String {
    format!("postgres://{login}@127.0.0.1:{port}/postgres?sslmode=disable")
}

/// A backend on `server`.
pub(crate) fn connect(server: &TestServer) -> Postgres {
    connect_at(server.port())
}

/// A backend on the server at a port of this machine.
pub(crate) fn connect_at(port: u16) -> Postgres {
    connect_as(port, "me:hunter2")
}

/// The same as another user.
pub(crate) fn connect_as(port: u16, login: &str) -> Postgres {
    let settings = PostgresSettings::new(&url_at(port, login), &Tls::default(), 4).unwrap();
    Postgres::new(settings, &Handle::current())
}

/// Another client of `server`.
pub(crate) async fn other(server: &TestServer) -> tokio_postgres::Client {
    let text = format!("host=127.0.0.1 port={} user=me password=hunter2 dbname=postgres", server.port());
    let (client, connection) = tokio_postgres::connect(&text, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
