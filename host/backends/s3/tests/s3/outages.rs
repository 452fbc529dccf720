//! Outages: operations end at their deadlines with an error, and are done again when the server is back.

use std::sync::Arc;
use std::time::Duration;

use lodge_conformance::soon;
use lodge_remote::Tls;
use lodge_s3::{AccessKey, KeySource, S3, S3Settings};
use lodge_state::Namespace;
use lodge_state::blobs::{BlobBackend, BlobError, BlobStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::server::{self, QUOTA, get, put, put_until};

fn short() -> Instant {
    Instant::now() + Duration::from_millis(300)
}

fn is_outage(error: &BlobError) -> bool {
    matches!(error, BlobError::Timeout | BlobError::Unavailable(_))
}

/// All operations fail in time.
async fn all_fail(space: &Arc<dyn BlobStore>) {
    let errors = [
        space.create_container("d", short()).await.err(),
        space.container("c", short()).await.err(),
        space.clear("c", short()).await.err(),
        space.info(("c", "o"), short()).await.err(),
        space.delete("c", &["o".into()], short()).await.err(),
        space.copy(("c", "o"), ("c", "p"), short()).await.err(),
        space.rename(("c", "o"), ("c", "p"), short()).await.err(),
        space.read(("c", "o"), (0, 9), short()).await.err(),
        space.list("c", short()).await.err(),
        put_until(space, ("c", "o"), b"new", short()).await.err(),
    ];
    for (at, error) in errors.into_iter().enumerate() {
        let error = error.unwrap_or_else(|| panic!("operation {at} succeeds"));
        assert!(is_outage(&error), "operation {at}: {error}");
    }
}

/// Waits until an operation succeeds again.
async fn again(space: &Arc<dyn BlobStore>) {
    let end = Instant::now() + Duration::from_secs(120);
    while let Err(error) = put(space, ("c", "again"), b"again").await {
        assert!(is_outage(&error) && Instant::now() < end, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_ends_by_itself() {
    let Some(mut server) = server::started().await else { return };
    let backend = server::connect(&server);
    let space = server::space(&backend, "outage").await;
    let large: Vec<u8> = (0..6_000_000_u32).map(|at| (at % 251) as u8).collect();
    put(&space, ("c", "o"), &large).await.unwrap();
    // A reader that is interrupted goes on when the server is back.
    let mut object = space.read(("c", "o"), (0, u64::MAX), soon()).await.unwrap();
    let mut read = object.read().unwrap().await.unwrap().unwrap().to_vec();
    // More than what is on its way when the server ends.
    let (old, new) = (vec![b'o'; 32 << 20], vec![b'n'; 32 << 20]);
    put(&space, ("c", "replaced"), &old).await.unwrap();
    let mut replaced = space.read(("c", "replaced"), (0, u64::MAX), soon()).await.unwrap();
    assert!(replaced.read().unwrap().await.unwrap().is_ok());
    server.kill();
    all_fail(&space).await;
    let refused = space.info(("c", "o"), short()).await.unwrap_err().to_string();
    assert!(refused.contains("connection refused: start the server"), "{refused}");
    // A service that is opened meanwhile is refused, and tried again.
    let name = Namespace::new("other").unwrap();
    let opened = backend.open(&name, QUOTA).await.map(drop);
    assert!(opened.as_ref().is_err_and(is_outage), "{opened:?}");
    server.restart();
    again(&space).await;
    backend.open(&name, QUOTA).await.unwrap();
    assert!(get(&space, ("c", "o")).await.unwrap() == large);
    while let Some(reading) = object.read() {
        read.extend(reading.await.unwrap().unwrap());
    }
    assert!(read == large);
    // One whose object is another now does not go on in that.
    put(&space, ("c", "replaced"), &new).await.unwrap();
    let failure = loop {
        match replaced.read().expect("the server had sent it all").await.unwrap() {
            Ok(piece) => assert!(piece.iter().all(|byte| *byte == b'o'), "parts of two objects"),
            Err(error) => break error,
        }
    };
    assert!(failure.to_string().contains("was replaced or deleted while it was read"), "{failure}");
}

/// A server that accepts connections and does not respond.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_delays_nothing_beyond_the_deadline() {
    let Some(server) = server::started().await else { return };
    let backend = server::connect(&server);
    let space = server::space(&backend, "silence").await;
    put(&space, ("c", "o"), b"before").await.unwrap();
    server.pause();
    all_fail(&space).await;
    server.resume();
    again(&space).await;
    // What had no response may have been done or not; it is whole in any case.
    match get(&space, ("c", "o")).await {
        Ok(content) => assert!([&b"before"[..], b"new"].contains(&&*content), "{content:?}"),
        Err(error) => assert_eq!(error, BlobError::NoObject),
    }
}

/// What the operator has to correct is in the error, and no secret.
#[tokio::test(flavor = "multi_thread")]
async fn errors_say_what_to_correct() {
    let Some(server) = server::started().await else { return };
    let open = async |url: &str, key: KeySource| {
        let backend = S3::new(&S3Settings::new(url, &Tls::default(), key, 8).unwrap());
        let space = backend.open(&Namespace::new("errors").unwrap(), QUOTA).await;
        space.map(drop).unwrap_err().to_string()
    };
    let url = server::url(&server);
    for (id, secret) in [("lodge-key", "canary"), ("nobody", "canary")] {
        let error = open(&url, KeySource::Fixed(AccessKey::new(id, secret, None))).await;
        assert!(error.contains("the server has refused the key (") && !error.contains("canary"), "{error}");
    }
    let error = open(&url.replace("lodge-test", "no-such-bucket"), server::key()).await;
    assert!(error.contains("there is no such bucket: create it"), "{error}");
    // A key in a file may come later, and another one holds when the file has it.
    let directory = lodge_remote::testing::directory();
    let path = directory.path().join("credentials");
    let error = open(&url, KeySource::File(path.clone())).await;
    assert!(error.contains("state.blobs_credentials") && error.contains("cannot be read"), "{error}");
    let settings = S3Settings::new(&url, &Tls::default(), KeySource::File(path.clone()), 8).unwrap();
    let backend = S3::new(&settings);
    std::fs::write(&path, "[default]\naws_access_key_id = lodge-key\naws_secret_access_key = lodge-secret\n").unwrap();
    let space = server::space(&backend, "file").await;
    put(&space, ("c", "o"), b"x").await.unwrap();
}

/// A server whose listings have no end: the host does not follow them for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_without_an_end_is_an_error() {
    let listener = tokio::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("s3://lodge-test?endpoint=http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        for page in 0_u64.. {
            let Ok((mut client, _)) = listener.accept().await else { return };
            let list = format!(
                "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>{page}</NextContinuationToken>\
                 </ListBucketResult>"
            );
            let length = list.len();
            let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{list}");
            // The request is complete in one packet.
            let _ = client.read(&mut [0; 4096]).await;
            let _ = client.write_all(response.as_bytes()).await;
        }
    });
    let backend = S3::new(&S3Settings::new(&url, &Tls::default(), server::key(), 8).unwrap());
    let name = Namespace::new("endless").unwrap();
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        let error = backend.open(&name, QUOTA).await.map(drop).unwrap_err().to_string();
        if error.contains("a listing goes on without keys") {
            return;
        }
        // On a busy machine, the service is told that before.
        assert!(error.contains("still being counted") && Instant::now() < end, "{error}");
    }
}
