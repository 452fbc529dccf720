//! Promise: a quota that seems to be used up is counted again, so that what other hosts have deleted can be used; what one object
//! has freed is given back once; and neither a service nor slow clients have all memory of the host.

use std::sync::Arc;
use std::time::Duration;

use lodge_conformance::soon;
use lodge_remote::Tls;
use lodge_s3::{S3, S3Settings};
use lodge_state::Namespace;
use lodge_state::blobs::{BlobBackend, BlobQuota, BlobUsage};
use tokio::time::Instant;

use crate::server::{self, QUOTA, get, put};

/// Another host counts what there is, and knows of changes by a count that it makes when its quota seems to be used up.
#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_counted_again_when_it_seems_to_be_used_up() {
    let Some(server) = server::started().await else { return };
    let (one, other) = (server::connect(&server), server::connect(&server));
    let (service, quota) = (Namespace::new("quota").unwrap(), BlobQuota { objects: 2, bytes: 100_000 });
    let space = one.open(&service, quota).await.unwrap();
    space.create_container("c", soon()).await.unwrap();
    put(&space, ("c", "a"), &[0; 60_000]).await.unwrap();
    put(&space, ("c", "b"), b"x").await.unwrap();
    let elsewhere = other.open(&service, quota).await.unwrap();
    assert_eq!(elsewhere.usage(), BlobUsage { containers: 1, objects: 2, bytes: 60_001 });
    assert!(put(&elsewhere, ("c", "new"), b"x").await.is_err());
    assert!(put(&elsewhere, ("c", "b"), &[0; 50_000]).await.is_err());
    space.delete("c", &["a".into()], soon()).await.unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while put(&elsewhere, ("c", "new"), &[0; 50_000]).await.is_err() {
        assert!(Instant::now() < end, "the other host does not count again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(elsewhere.usage(), BlobUsage { containers: 1, objects: 2, bytes: 50_001 });
}

#[tokio::test(flavor = "multi_thread")]
async fn one_object_is_given_back_once() {
    let Some(server) = server::started().await else { return };
    let backend = server::connect(&server);
    let space = server::space(&backend, "once").await;
    for name in ["a", "b", "kept", "kept2"] {
        put(&space, ("c", name), &[0; 50_000]).await.unwrap();
    }
    space.delete("c", &vec!["a".into(); 100], soon()).await.unwrap();
    assert_eq!(space.usage(), BlobUsage { containers: 1, objects: 3, bytes: 150_000 });
    // Requests that replace or delete one object at the same time.
    let change = |at: usize| {
        let space = Arc::clone(&space);
        tokio::spawn(async move {
            if at.is_multiple_of(4) {
                space.delete("c", &["b".into()], soon()).await.unwrap();
            } else {
                put(&space, ("c", "b"), b"x").await.unwrap();
            }
        })
    };
    for changing in (0..16).map(change).collect::<Vec<_>>() {
        changing.await.unwrap();
    }
    let usage = space.usage();
    assert!(usage.objects >= 2 && usage.bytes >= 100_000, "{usage:?}");
    let end = Instant::now() + Duration::from_secs(240);
    while space.usage() != (BlobUsage { containers: 1, objects: 3, bytes: 100_001 }) {
        assert!(Instant::now() < end, "it is not counted again: {:?}", space.usage());
        put(&space, ("c", "b"), b"x").await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Uploads of one service wait for their guests with all the memory that they can have.
#[tokio::test(flavor = "multi_thread")]
async fn no_service_has_all_memory() {
    let Some(server) = server::started().await else { return };
    let backend = S3::new(&S3Settings::new(&server::url(&server), &Tls::default(), server::key(), 4).unwrap());
    let greedy = backend.open(&Namespace::new("greedy").unwrap(), QUOTA).await.unwrap();
    let mut uploads = Vec::new();
    for _ in 0..6 {
        let upload = greedy.write(None, soon()).await.unwrap();
        let mut waiting = None;
        while waiting.is_none() {
            waiting = upload.write(&[0; 64 << 10]).unwrap();
        }
        uploads.push((upload, waiting));
    }
    let end = Instant::now() + Duration::from_secs(60);
    while uploads.iter().filter(|(_, waiting)| waiting.as_ref().is_some_and(|task| task.is_finished())).count() < 2 {
        assert!(Instant::now() < end, "no upload gets memory");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let modest = server::space(&backend, "modest").await;
    let large = vec![7; 6 << 20];
    put(&modest, ("c", "o"), &large).await.unwrap();
    assert!(get(&modest, ("c", "o")).await.unwrap() == large);
}

/// Uploads of several services have all memory, and their guests write no more.
#[tokio::test(flavor = "multi_thread")]
async fn slow_uploads_give_their_memory_to_others() {
    let Some(server) = server::started().await else { return };
    let backend = S3::new(&S3Settings::new(&server::url(&server), &Tls::default(), server::key(), 4).unwrap());
    let mut uploads = Vec::new();
    for service in ["one", "two", "three"] {
        let space = server::space(&backend, service).await;
        for name in ["a", "b"] {
            let upload = space.write(Some(("c", name)), soon()).await.unwrap();
            let writing = upload.write(&[0; 64 << 10]).unwrap().unwrap();
            uploads.push((upload, name, writing));
        }
    }
    let modest = server::space(&backend, "modest").await;
    let large = vec![7; 6 << 20];
    put(&modest, ("c", "o"), &large).await.unwrap();
    assert!(get(&modest, ("c", "o")).await.unwrap() == large);
    let mut slow = 0;
    for (upload, name, writing) in uploads {
        if writing.is_finished()
            && let Err(error) = upload.write(b"more")
        {
            assert!(error.to_string().contains("too slowly"), "{error}");
            assert_eq!(upload.publish(("c", name), soon()).await, Err(error), "it is no object");
            slow += 1;
        }
    }
    assert!(slow > 0);
}
