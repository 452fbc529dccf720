//! Tests of what hosts leave that have ended in the middle of something: it is not counted, does not come back, and is removed.

use std::sync::Arc;
use std::time::Duration;

use lodge_state::Namespace;
use lodge_state::blobs::{BlobBackend, BlobUsage, MAX_NAMES};
use tokio::time::Instant;

use crate::S3;
use crate::server::{self, QUOTA, get, put};
use crate::space::S3Space;

fn service() -> Namespace {
    Namespace::new("left").unwrap()
}

fn inside(backend: &S3) -> Arc<S3Space> {
    Arc::clone(&backend.opening(&service(), QUOTA).unwrap().space)
}

async fn keys(space: &S3Space, prefix: &str) -> usize {
    space.lane.page(prefix, None, MAX_NAMES, super::deadline()).await.unwrap().objects.len()
}

/// Waits until there are so many keys.
async fn becomes(space: &S3Space, prefix: &str, number: usize) {
    let end = Instant::now() + Duration::from_secs(60);
    while keys(space, prefix).await != number {
        assert!(Instant::now() < end, "there are {} keys below {prefix}", keys(space, prefix).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_host_removes_what_an_ended_one_has_left() {
    let Some(server) = server::started().await else { return };
    let ended = server::connect(&server);
    let store = server::space(&ended, "left").await;
    for at in 0..20 {
        put(&store, ("c", &format!("o{at}")), b"content").await.unwrap();
    }
    store.create_container("live", super::deadline()).await.unwrap();
    put(&store, ("live", "o"), b"live").await.unwrap();
    let space = inside(&ended);
    // The host ends after it has deleted the record of a container, before its objects.
    space.delete_record("c", super::deadline()).await.unwrap();
    assert_eq!(keys(&space, &space.keys.all_objects()).await, 21);
    let next = server::connect(&server);
    let store = next.open(&service(), QUOTA).await.unwrap();
    assert_eq!(store.usage(), BlobUsage { containers: 1, objects: 1, bytes: 4 });
    becomes(&space, &space.keys.all_objects(), 1).await;
    assert_eq!(get(&store, ("live", "o")).await.unwrap(), b"live");
    assert_eq!(store.usage(), BlobUsage { containers: 1, objects: 1, bytes: 4 });
}

/// A host that goes on removes it as well, when it is told to.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_host_removes_what_an_ended_one_has_left() {
    let Some(server) = server::started().await else { return };
    let (ended, running) = (server::connect(&server), server::connect(&server));
    let left = server::space(&ended, "left").await;
    let own = running.open(&service(), QUOTA).await.unwrap();
    put(&left, ("c", "o"), b"content").await.unwrap();
    own.create_container("live", super::deadline()).await.unwrap();
    put(&own, ("live", "o"), b"live").await.unwrap();
    let space = inside(&ended);
    space.delete_record("c", super::deadline()).await.unwrap();
    own.sweep().await.unwrap();
    becomes(&space, &space.keys.all_objects(), 1).await;
    assert_eq!(get(&own, ("live", "o")).await.unwrap(), b"live");
}

/// Another host creates a container and stores an object while this one counts, which is past the records of containers already.
#[tokio::test(flavor = "multi_thread")]
async fn a_starting_host_leaves_what_another_one_stores_meanwhile() {
    let Some(server) = server::started().await else { return };
    let other = server::connect(&server);
    let store = server::space(&other, "left").await;
    put(&store, ("c", "o"), b"before").await.unwrap();
    let starting = inside(&server::connect(&server));
    let (mut found, old) = (super::CountedKeys::default(), super::abandoned());
    let mut listing = super::KeyListing::new(starting.keys.root().to_owned());
    let first = listing.next(&starting.lane, 1).await.unwrap().unwrap();
    first.into_iter().for_each(|object| found.add(&starting, object, &old));
    assert_eq!((found.containers, found.by_id.len()), (1, 0), "the page has the record only");
    store.create_container("a", super::deadline()).await.unwrap();
    put(&store, ("a", "o"), b"meanwhile").await.unwrap();
    // What has another form is nobody's.
    let foreign = format!("{}foreign/o", starting.keys.all_objects());
    let always = crate::operations::WriteCondition::Always;
    starting.lane.put(&foreign, ("x".into(), None), always, super::deadline()).await.unwrap();
    while let Some(page) = listing.next(&starting.lane, 1).await.unwrap() {
        page.into_iter().for_each(|object| found.add(&starting, object, &old));
    }
    assert_eq!((found.containers, found.by_id.len()), (1, 2), "the record is not in the pages, its object is");
    assert_eq!(starting.dead(&found).await.unwrap(), Vec::<String>::new());
}

/// A request that has found a container writes after another one has emptied it: nobody can see the object.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_beside_a_clear_is_removed_and_not_counted() {
    let Some(server) = server::started().await else { return };
    let (backend, other) = (server::connect(&server), server::connect(&server));
    let store = server::space(&backend, "left").await;
    let space = inside(&backend);
    let elsewhere = other.open(&service(), QUOTA).await.unwrap();
    let always = || crate::operations::WriteCondition::Always;
    let mut late = Vec::new();
    for name in ["cleared", "deleted"] {
        store.create_container(name, super::deadline()).await.unwrap();
        let id = space.find(name, super::deadline()).await.unwrap().id;
        if name == "cleared" {
            store.clear(name, super::deadline()).await.unwrap();
        } else {
            store.delete_container(name, super::deadline()).await.unwrap();
        }
        // The host removes what it finds in the background, before this is written.
        becomes_idle(&space).await;
        let key = space.keys.object(&id, "late").unwrap();
        space.lane.put(&key, (vec![0; 50_000].into(), None), always(), super::deadline()).await.unwrap();
        late.push(space.keys.objects(&id));
    }
    // What another host stores meanwhile stays.
    elsewhere.create_container("live", super::deadline()).await.unwrap();
    put(&elsewhere, ("live", "o"), b"live").await.unwrap();
    let end = Instant::now() + Duration::from_secs(120);
    let expected = BlobUsage { containers: 3, objects: 2, bytes: 5 };
    while keys(&space, &late[0]).await + keys(&space, &late[1]).await > 0 || store.usage() != expected {
        assert!(Instant::now() < end, "{:?}", store.usage());
        space.account.doubt();
        put(&store, ("c", "o"), b"x").await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(get(&elsewhere, ("live", "o")).await.unwrap(), b"live");
}

async fn becomes_idle(space: &S3Space) {
    while !super::lock(&space.removing).is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Parts and objects without a name are removed when their request ends, and later if the host has ended before that.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_stays_of_what_is_not_finished() {
    let Some(server) = server::started().await else { return };
    let backend = server::connect(&server);
    let store = server::space(&backend, "left").await;
    let space = inside(&backend);
    let parts = async || space.lane.old_parts(space.keys.root(), "9999", super::deadline()).await.unwrap();
    let large = vec![7; 6 << 20];
    for name in [Some(("c", "o")), None] {
        let upload = store.write(name, super::deadline()).await.unwrap();
        for piece in large.chunks(64 << 10) {
            if let Some(writing) = upload.write(piece).unwrap() {
                writing.await.unwrap().unwrap();
            }
        }
        assert_eq!(parts().await.len(), 1);
        drop(upload);
        let end = Instant::now() + Duration::from_secs(60);
        while !parts().await.is_empty() {
            assert!(Instant::now() < end, "parts stay");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert_eq!(keys(&space, space.keys.root()).await, 1, "the record of the container");
    // As a host leaves them that was killed: they are not old, so another host leaves them alone.
    let key = format!("{}0123456789abcdef", space.keys.unnamed());
    space.lane.begin_parts(&key, super::deadline()).await.unwrap();
    put(&store, ("c", "o"), b"x").await.unwrap();
    let next = server::connect(&server).open(&service(), QUOTA).await.unwrap();
    assert_eq!(next.usage(), BlobUsage { containers: 1, objects: 1, bytes: 1 });
    let left = parts().await;
    assert_eq!(left.len(), 1);
    space.lane.abort_parts(&left[0], super::deadline()).await.unwrap();
    assert!(parts().await.is_empty());
}

/// The server does not know the parts: they may have been joined by an attempt whose response was lost.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_whose_parts_are_gone_may_be_stored() {
    let Some(server) = server::started().await else { return };
    let backend = server::connect(&server);
    let store = server::space(&backend, "left").await;
    let space = inside(&backend);
    let upload = store.write(Some(("c", "o")), super::deadline()).await.unwrap();
    // All of it is sent before it is published.
    for piece in vec![7; crate::upload::PART].chunks(64 << 10) {
        if let Some(writing) = upload.write(piece).unwrap() {
            writing.await.unwrap().unwrap();
        }
    }
    let joined = space.lane.old_parts(space.keys.root(), "9999", super::deadline()).await.unwrap();
    assert!(joined.len() == 1 && !space.account.is_in_doubt());
    space.lane.abort_parts(&joined[0], super::deadline()).await.unwrap();
    let error = upload.publish(("c", "o"), super::deadline()).await.unwrap_err().to_string();
    assert!(error.contains("it may have been stored; read it to find out"), "{error}");
    assert!(space.account.is_in_doubt());
}
