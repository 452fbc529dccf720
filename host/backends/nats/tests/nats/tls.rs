//! TLS.

use lodge_conformance::soon;
use lodge_nats::{Nats, NatsSettings};
use lodge_remote::Tls;
use lodge_remote::testing::Authority;
use lodge_state::{Backend, Namespace, Quota};
use tokio::runtime::Handle;

use crate::server;

#[tokio::test]
async fn certificates_are_verified() {
    let authority = Authority::new();
    let files = lodge_remote::testing::directory();
    authority.issue("127.0.0.1", files.path());
    let folder = files.path().display();
    let tls = format!("tls {{ cert_file: \"{folder}/server.crt\", key_file: \"{folder}/server.key\" }}");
    let Some(server) = server::start(&tls) else { return };
    let open = async |url: &str, authority: Option<Vec<u8>>| {
        let tls = Tls { authorities: authority, identity: None };
        let nats = Nats::new(NatsSettings::new(url, &tls, None, 1).unwrap(), &Handle::current());
        let opened = nats.open(&Namespace::new("tls").unwrap(), Quota::default(), soon()).await;
        opened.map(drop).map_err(|error| error.to_string())
    };
    let url = format!("tls://127.0.0.1:{}", server.port());
    open(&url, Some(authority.pem())).await.unwrap();
    // A server that demands TLS gets it.
    open(&url.replace("tls:", "nats:"), Some(authority.pem())).await.unwrap();
    let error = open(&url, Some(Authority::new().pem())).await.unwrap_err();
    assert!(error.contains("the issuer of its certificate is not trusted"), "{error}");
    let error = open(&url.replace("127.0.0.1", "localhost"), Some(authority.pem())).await.unwrap_err();
    assert!(error.contains("its certificate is for another name"), "{error}");
    let Some(plain) = server::start("") else { return };
    let error = open(&format!("tls://127.0.0.1:{}", plain.port()), Some(authority.pem())).await.unwrap_err();
    assert!(error.contains("TLS"), "{error}");
}
