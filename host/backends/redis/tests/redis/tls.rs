//! TLS.

use lodge_conformance::soon;
use lodge_redis::{Redis, RedisSettings};
use lodge_remote::Tls;
use lodge_remote::testing::Authority;
use lodge_state::{Backend, Key, Namespace, Quota, Set, Value};
use tokio::runtime::Handle;

use crate::server;

#[tokio::test]
async fn certificates_are_verified() {
    let authority = Authority::new();
    let files = lodge_remote::testing::directory();
    authority.issue("127.0.0.1", files.path());
    let file = |name: &str| files.path().join(name).to_string_lossy().into_owned();
    let (certificate, key) = (file("server.crt"), file("server.key"));
    let options = ["--tls-cert-file", &certificate, "--tls-key-file", &key, "--tls-auth-clients", "no"];
    let Some(server) = server::start(&[&options[..], &["--tls-ca-cert-file", &certificate]].concat()) else { return };
    let open = async |url: &str, authority: Option<Vec<u8>>| {
        let tls = Tls { authorities: authority, identity: None };
        let redis = Redis::new(RedisSettings::new(url, &tls, 1).unwrap(), &Handle::current());
        let store = redis.open(&Namespace::new("tls").unwrap(), Quota::default(), soon()).await.unwrap();
        store
            .set(Key::new("b", "k").unwrap(), Value::number(1), Set::default(), soon())
            .await
            .map_err(|error| error.to_string())
    };
    let url = format!("rediss://127.0.0.1:{}", server.port());
    open(&url, Some(authority.pem())).await.unwrap();
    let error = open(&url, Some(Authority::new().pem())).await.unwrap_err();
    assert!(error.contains("its issuer is not trusted"), "{error}");
    let error = open(&url.replace("127.0.0.1", "localhost"), Some(authority.pem())).await.unwrap_err();
    assert!(error.contains("it is for another name"), "{error}");
    let error = open(&url.replace("rediss", "redis"), None).await.unwrap_err();
    assert!(error.contains("rediss://"), "{error}");
    let Some(plain) = server::start(&[]) else { return };
    let error = open(&format!("rediss://127.0.0.1:{}", plain.port()), Some(authority.pem())).await.unwrap_err();
    assert!(error.contains("TLS"), "{error}");
}
