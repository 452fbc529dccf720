//! TLS.

use lodge_remote::Tls;
use lodge_remote::testing::Authority;
use lodge_s3::{S3, S3Settings};
use lodge_state::Namespace;
use lodge_state::blobs::BlobBackend;

use crate::server::{self, QUOTA};

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_verified() {
    let authority = Authority::new();
    let files = lodge_remote::testing::directory();
    authority.issue("127.0.0.1", files.path());
    let file = |name: &str| files.path().join(name).to_string_lossy().into_owned();
    let (certificate, private) =
        (format!("-s3.cert.file={}", file("server.crt")), format!("-s3.key.file={}", file("server.key")));
    let Some(server) = server::start(&[&certificate, &private]) else { return };
    let open = async |url: &str, authority: &Authority| {
        let tls = Tls { authorities: Some(authority.pem()), identity: None };
        let backend = S3::new(&S3Settings::new(url, &tls, server::key(), 8).unwrap());
        let opened = backend.open(&Namespace::new("tls").unwrap(), QUOTA).await;
        opened.map(drop).map_err(|error| error.to_string())
    };
    let url = server::url(&server).replace("http://", "https://");
    // The bucket is not there; that is said by a server that is trusted.
    let end = lodge_conformance::soon();
    while let Err(error) = open(&url, &authority).await {
        if error.contains("no such bucket") {
            break;
        }
        assert!(tokio::time::Instant::now() < end, "{error}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let error = open(&url, &Authority::new()).await.unwrap_err();
    assert!(error.contains("its issuer is not trusted"), "{error}");
    let error = open(&url.replace("127.0.0.1", "localhost"), &authority).await.unwrap_err();
    assert!(error.contains("it is for another name"), "{error}");
    let Some(plain) = server::start(&[]) else { return };
    let error = open(&server::url(&plain).replace("http://", "https://"), &authority).await.unwrap_err();
    assert!(error.contains("TLS"), "{error}");
}
