//! Promise: a move makes no second object of one, whatever runs at the same time, and one that has begun goes on until one name is left.

use std::sync::Arc;
use std::time::Duration;

use lodge_conformance::soon;
use lodge_state::Namespace;
use lodge_state::blobs::{BlobBackend, BlobError, BlobQuota, BlobStore, BlobUsage};
use tokio::time::Instant;

use crate::lost::LossyProxy;
use crate::server::{self, get, put};

async fn names(space: &Arc<dyn BlobStore>) -> Vec<String> {
    space.list("c", soon()).await.unwrap().next(1_000, soon()).await.unwrap().0
}

async fn moves(spaces: &[&Arc<dyn BlobStore>], number: usize) -> Vec<Result<(), BlobError>> {
    let start = |at: usize| {
        let space = Arc::clone(spaces[at % spaces.len()]);
        tokio::spawn(async move { space.rename(("c", "o"), ("c", &format!("o{at}")), soon()).await })
    };
    let mut results = Vec::new();
    for moving in (0..number).map(start).collect::<Vec<_>>() {
        results.push(moving.await.unwrap());
    }
    results
}

#[tokio::test(flavor = "multi_thread")]
async fn one_object_is_moved_once() {
    let Some(server) = server::started().await else { return };
    let (one, other) = (server::connect(&server), server::connect(&server));
    let (service, quota) = (Namespace::new("moves").unwrap(), BlobQuota { objects: 1, bytes: 100_000 });
    let space = one.open(&service, quota).await.unwrap();
    space.create_container("c", soon()).await.unwrap();
    // The quota is used up, and a move needs no more.
    put(&space, ("c", "o"), &[7; 100_000]).await.unwrap();
    let results = moves(&[&space], 8).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
    assert!(results.iter().flat_map(|result| result.as_ref().err()).all(|error| *error == BlobError::NoObject));
    assert_eq!(names(&space).await.len(), 1);
    assert_eq!(space.usage(), BlobUsage { containers: 1, objects: 1, bytes: 100_000 });
    // Each host moves it once at most; none removes the last one.
    let name = names(&space).await.remove(0);
    space.rename(("c", &name), ("c", "o"), soon()).await.unwrap();
    let elsewhere = other.open(&service, quota).await.unwrap();
    moves(&[&space, &elsewhere], 8).await;
    let left = names(&space).await;
    assert!((1..=2).contains(&left.len()), "{left:?}");
    assert_eq!(get(&space, ("c", &left[0])).await.unwrap(), [7; 100_000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn moves_that_exchange_names_lose_nothing() {
    let Some(server) = server::started().await else { return };
    let backend = server::connect(&server);
    let space = server::space(&backend, "exchange").await;
    for round in 0..10 {
        put(&space, ("c", "a"), b"same").await.unwrap();
        put(&space, ("c", "b"), b"same").await.unwrap();
        tokio::join!(async { space.rename(("c", "a"), ("c", "b"), soon()).await }, async {
            space.rename(("c", "b"), ("c", "a"), soon()).await
        },)
        .0
        .unwrap();
        assert_eq!(names(&space).await.len(), 1, "round {round}");
    }
}

/// The time of the caller ends while the server copies.
#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_is_late_leaves_one_name() {
    let Some(server) = server::started().await else { return };
    let proxy = LossyProxy::start(&server).await;
    let backend = proxy.backend(&server);
    let space = server::space(&backend, "late").await;
    put(&space, ("c", "o"), b"content").await.unwrap();
    let held = proxy.hold(["PUT ", "x-amz-copy-source"]);
    while !proxy.has_lost() {
        let late = space.rename(("c", "o"), ("c", "moved"), Instant::now() + Duration::from_secs(2)).await;
        assert_eq!(late, Err(BlobError::Timeout));
    }
    held.notify_one();
    let end = Instant::now() + Duration::from_secs(60);
    while names(&space).await != ["moved"] {
        assert!(Instant::now() < end, "{:?}", names(&space).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(get(&space, ("c", "moved")).await.unwrap(), b"content");
}
