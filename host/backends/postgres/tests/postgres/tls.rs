//! TLS.

use std::os::unix::fs::{PermissionsExt, chown};

use lodge_conformance::soon;
use lodge_postgres::{Postgres, PostgresSettings};
use lodge_remote::Tls;
use lodge_remote::testing::{Authority, TestServer};
use lodge_state::{Backend, Namespace, Quota};
use tokio::runtime::Handle;

use crate::server;

/// Opens a namespace over TLS.
async fn open(server: &TestServer, host: &str, authority: Vec<u8>) -> Result<(), String> {
    let url = format!("postgres://me:hunter2@{host}:{}/postgres", server.port());
    let tls = Tls { authorities: Some(authority), identity: None };
    let postgres = Postgres::new(PostgresSettings::new(&url, &tls, 1).unwrap(), &Handle::current());
    let opened = postgres.open(&Namespace::new("tls").unwrap(), Quota::default(), soon()).await;
    opened.map(drop).map_err(|error| error.to_string())
}

#[tokio::test]
async fn certificates_are_verified() {
    let authority = Authority::new();
    let Some(mut server) = server::start(&[]) else { return };
    let error = open(&server, "127.0.0.1", authority.pem()).await.unwrap_err();
    assert!(error.contains("it has no TLS") && error.contains("sslmode=disable"), "{error}");

    let data = server.directory().join("data");
    authority.issue("127.0.0.1", &data);
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&data).unwrap());
    for file in ["server.crt", "server.key"] {
        let file = data.join(file);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        chown(&file, Some(owner), None).unwrap();
    }
    std::fs::write(data.join("postgresql.auto.conf"), "ssl = on\n").unwrap();
    server.kill();
    server.restart();
    open(&server, "127.0.0.1", authority.pem()).await.unwrap();
    let error = open(&server, "127.0.0.1", Authority::new().pem()).await.unwrap_err();
    assert!(error.contains("its issuer is not trusted"), "{error}");
    let error = open(&server, "localhost", authority.pem()).await.unwrap_err();
    assert!(error.contains("it is for another name"), "{error}");
}
