//! Objects: what every backend for them promises.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lodge_state::Namespace;
use lodge_state::blobs::{
    BlobBackend, BlobError, BlobQuota, BlobReader, BlobStore, BlobUsage, BlobWriter, MAX_CONTAINER_NAME,
    MAX_CONTAINERS, MAX_OBJECT_NAME,
};

use crate::soon;

/// A backend for objects under test.
#[derive(Clone)]
pub struct BlobFixture {
    /// The backend. It may contain anything of other services.
    pub backend: Arc<dyn BlobBackend>,
    /// The backend of another host on the same server, for one that hosts can share.
    pub other_host: Option<Arc<dyn BlobBackend>>,
    /// Bytes of a name that is not too long, if it has letters only.
    pub long_name: usize,
    /// Whether a reader has the object that it opened to its end, whatever happens to it.
    pub keeps_what_is_open: bool,
    /// What must exist as long as the backend, such as its directory.
    pub keeps: Option<Arc<dyn Any + Send + Sync>>,
}

impl fmt::Debug for BlobFixture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobFixture").field("long_name", &self.long_name).finish_non_exhaustive()
    }
}

type Space = Arc<dyn BlobStore>;

const QUOTA: BlobQuota = BlobQuota { objects: 200, bytes: 64 << 20 };
const ALL: (u64, u64) = (0, u64::MAX);

impl BlobFixture {
    /// The objects of a service that no other test has, with the container `c`.
    async fn space(&self, quota: BlobQuota) -> (Namespace, Space) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("service-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let service = Namespace::new(&name).unwrap();
        let space = self.backend.open(&service, quota).await.unwrap();
        space.create_container("c", soon()).await.unwrap();
        (service, space)
    }
}

fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8).collect()
}

async fn write(upload: &dyn BlobWriter, bytes: &[u8]) -> Result<(), BlobError> {
    for piece in bytes.chunks(lodge_state::blobs::PIECE) {
        if let Some(writing) = upload.write(piece)? {
            writing.await.unwrap()?;
        }
    }
    Ok(())
}

async fn put(space: &Space, name: (&str, &str), bytes: &[u8]) -> Result<u64, BlobError> {
    let upload = space.write(Some(name), soon()).await?;
    write(&*upload, bytes).await?;
    upload.publish(name, soon()).await
}

async fn rest(mut object: Box<dyn BlobReader>) -> Result<Vec<u8>, BlobError> {
    let (left, mut bytes) = (object.left(), Vec::new());
    while let Some(reading) = object.read() {
        bytes.extend(reading.await.unwrap()?);
    }
    assert_eq!(left, bytes.len() as u64);
    Ok(bytes)
}

async fn range(space: &Space, name: (&str, &str), of: (u64, u64)) -> Result<Vec<u8>, BlobError> {
    rest(space.read(name, of, soon()).await?).await
}

async fn get(space: &Space, object: &str) -> Result<Vec<u8>, BlobError> {
    range(space, ("c", object), ALL).await
}

async fn names(space: &Space, container: &str, page: usize) -> Vec<String> {
    let mut listing = space.list(container, soon()).await.unwrap();
    let mut all = Vec::new();
    loop {
        let (names, ended) = listing.next(page, soon()).await.unwrap();
        assert!(names.len() <= page);
        all.extend(names);
        if ended {
            all.sort();
            return all;
        }
    }
}

/// Waits until what goes on in the background has given everything back.
async fn settled(space: &Space, usage: BlobUsage) {
    let end = soon();
    while space.usage() != usage {
        assert!(tokio::time::Instant::now() < end, "{:?} is not {usage:?}", space.usage());
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

fn usage(containers: u64, objects: u64, bytes: u64) -> BlobUsage {
    BlobUsage { containers, objects, bytes }
}

/// Objects are written in pieces and read by range.
pub async fn objects_in_pieces(fixture: &BlobFixture) {
    let (_, space) = fixture.space(QUOTA).await;
    let bytes = content(300_000);
    let upload = space.write(None, soon()).await.unwrap();
    for piece in bytes.chunks(999) {
        write(&*upload, piece).await.unwrap();
    }
    // It is no object yet.
    assert_eq!(get(&space, "o").await, Err(BlobError::NoObject));
    assert_eq!(upload.publish(("c", "o"), soon()).await, Ok(300_000));
    assert_eq!(get(&space, "o").await.unwrap(), bytes);
    assert_eq!(space.info(("c", "o"), soon()).await.unwrap().bytes, 300_000);
    for (start, end, expected) in [
        (0, 0, &bytes[..1]),
        (65_535, 65_536, &bytes[65_535..65_537]),
        (299_999, u64::MAX, &bytes[299_999..]),
        (299_990, 400_000, &bytes[299_990..]),
        (300_000, 300_000, &[]),
        (u64::MAX, u64::MAX, &[]),
    ] {
        assert_eq!(range(&space, ("c", "o"), (start, end)).await.unwrap(), expected, "{start} to {end}");
    }
    assert!(matches!(range(&space, ("c", "o"), (2, 1)).await, Err(BlobError::Invalid { .. })));
    assert_eq!(range(&space, ("c", "absent"), (u64::MAX, u64::MAX)).await, Err(BlobError::NoObject));
    // An upload ends with its object.
    assert!(matches!(upload.write(b"more"), Err(BlobError::Invalid { .. })));
    assert!(matches!(upload.publish(("c", "p"), soon()).await, Err(BlobError::Invalid { .. })));
    assert_eq!(put(&space, ("c", "empty"), b"").await, Ok(0));
    assert_eq!(get(&space, "empty").await.unwrap(), b"");
    assert_eq!(range(&space, ("c", "empty"), (0, 0)).await.unwrap(), b"");
    settled(&space, usage(1, 2, 300_000)).await;
}

/// Objects that are larger than what a backend sends at a time, whether their names and containers are known at the beginning or at
/// the end only.
pub async fn large_objects(fixture: &BlobFixture) {
    let (_, space) = fixture.space(QUOTA).await;
    space.create_container("d", soon()).await.unwrap();
    let bytes = content((11 << 20) + 7);
    for (name, is_known) in [(("c", "o"), true), (("c", "late"), false), (("e", "made"), true), (("c", "o"), true)] {
        let upload = space.write(Some(name).filter(|_| is_known), soon()).await.unwrap();
        write(&*upload, &bytes).await.unwrap();
        if name.0 == "e" {
            // Its container comes after its first parts.
            space.create_container("e", soon()).await.unwrap();
        }
        assert_eq!(upload.publish(name, soon()).await, Ok(bytes.len() as u64), "{name:?}");
        assert!(range(&space, name, ALL).await.unwrap() == bytes, "{name:?}");
        let some = (5 << 20) - 3;
        assert_eq!(range(&space, name, (some, some + 9)).await.unwrap(), &bytes[some as usize..some as usize + 10]);
    }
    settled(&space, usage(3, 3, 3 * bytes.len() as u64)).await;
    assert_eq!(names(&space, "c", 10).await, ["late", "o"]);
    // Of a size that is a multiple of every part.
    let even = content(10 << 20);
    put(&space, ("c", "o"), &even).await.unwrap();
    assert!(get(&space, "o").await.unwrap() == even);
    // A container that is emptied meanwhile has the object in the end.
    let upload = space.write(Some(("c", "late")), soon()).await.unwrap();
    write(&*upload, &bytes).await.unwrap();
    space.clear("c", soon()).await.unwrap();
    settled(&space, usage(3, 1, 2 * bytes.len() as u64)).await;
    assert_eq!(upload.publish(("c", "late"), soon()).await, Ok(bytes.len() as u64));
    assert_eq!(names(&space, "c", 10).await, ["late"]);
    assert!(get(&space, "late").await.unwrap() == bytes);
}

/// What is not published never was.
pub async fn unpublished_objects(fixture: &BlobFixture) {
    let (_, space) = fixture.space(QUOTA).await;
    put(&space, ("c", "o"), b"before").await.unwrap();
    for bytes in [0, 4, 200_000, 11 << 20] {
        let upload = space.write(Some(("c", "o")), soon()).await.unwrap();
        write(&*upload, &content(bytes)).await.unwrap();
        drop(upload);
        settled(&space, usage(1, 1, 6)).await;
        assert_eq!(put(&space, ("absent", "o"), &content(bytes)).await, Err(BlobError::NoContainer));
        settled(&space, usage(1, 1, 6)).await;
    }
    assert_eq!(get(&space, "o").await.unwrap(), b"before");
    assert_eq!(names(&space, "c", 10).await, ["o"]);
}

/// Containers and objects have any names, and none leads to what another service has.
pub async fn blob_names(fixture: &BlobFixture) {
    let ((_, space), (_, other)) = (fixture.space(QUOTA).await, fixture.space(QUOTA).await);
    for container in ["C", "..", ".", "../c", "a/b", "\0", "%63", "~63", "é", &"K".repeat(MAX_CONTAINER_NAME)] {
        space.create_container(container, soon()).await.unwrap();
        assert_eq!(space.create_container(container, soon()).await, Err(BlobError::ContainerExists));
        assert_eq!(other.container(container, soon()).await, Ok(None));
    }
    let mut all: Vec<String> =
        ["o", "O", "..", "../..", "/etc/passwd", "a", "a/b", "a//b", "a/", "\0", "\n", "é", "e\u{301}"]
            .into_iter()
            .chain([".lock", "x+", "%6f", "~6f", " ", "a b", "<&>\"'", "photo.jpg"])
            .map(Into::into)
            .collect();
    all.extend(["x".repeat(fixture.long_name), "x".repeat(200), "x".repeat(201)]);
    for name in &all {
        put(&space, ("c", name), name.as_bytes()).await.unwrap();
    }
    for name in &all {
        assert_eq!(get(&space, name).await.unwrap(), name.as_bytes());
        assert_eq!(get(&other, name).await, Err(BlobError::NoObject));
        assert!(space.check_name(("c", name)).is_ok());
    }
    all.sort();
    for page in [1, 3, 1000] {
        assert_eq!(names(&space, "c", page).await, all);
    }
    space.delete("c", &all, soon()).await.unwrap();
    assert!(names(&space, "c", 7).await.is_empty());
    for name in ["", &"x".repeat(MAX_OBJECT_NAME + 1)] {
        assert!(space.check_name(("c", name)).is_err());
        assert!(put(&space, ("c", name), b"").await.is_err());
    }
    assert!(space.create_container(&"x".repeat(MAX_CONTAINER_NAME + 1), soon()).await.is_err());
    settled(&space, usage(11, 0, 0)).await;
}

/// Objects are copied and moved.
pub async fn copies_and_moves(fixture: &BlobFixture) {
    let (_, space) = fixture.space(QUOTA).await;
    space.create_container("d", soon()).await.unwrap();
    let long = "x".repeat(500);
    put(&space, ("c", "o"), b"content").await.unwrap();
    put(&space, ("d", "p"), b"more content").await.unwrap();
    for _ in 0..2 {
        space.copy(("c", "o"), ("d", "p"), soon()).await.unwrap();
        settled(&space, usage(2, 2, 14)).await;
    }
    space.copy(("c", "o"), ("c", "o"), soon()).await.unwrap();
    space.rename(("c", "o"), ("c", "o"), soon()).await.unwrap();
    space.rename(("d", "p"), ("c", "o"), soon()).await.unwrap();
    settled(&space, usage(2, 1, 7)).await;
    space.rename(("c", "o"), ("c", &long), soon()).await.unwrap();
    assert_eq!(get(&space, &long).await.unwrap(), b"content");
    assert_eq!(get(&space, "o").await, Err(BlobError::NoObject));
    space.rename(("c", &long), ("c", "q"), soon()).await.unwrap();
    settled(&space, usage(2, 1, 7)).await;
    for (from, to, error) in [
        (("c", "o"), ("c", "r"), BlobError::NoObject),
        (("x", "o"), ("c", "r"), BlobError::NoContainer),
        (("c", "q"), ("x", "r"), BlobError::NoContainer),
    ] {
        assert_eq!(space.copy(from, to, soon()).await, Err(error.clone()));
        assert_eq!(space.rename(from, to, soon()).await, Err(error));
    }
    settled(&space, usage(2, 1, 7)).await;
    assert_eq!(get(&space, "q").await.unwrap(), b"content");
    assert_eq!(names(&space, "d", 10).await, Vec::<String>::new());
}

/// Containers are emptied and deleted with all of their objects.
pub async fn containers_and_objects(fixture: &BlobFixture) {
    let (_, space) = fixture.space(QUOTA).await;
    for object in ["o", "p", &"x".repeat(500)] {
        put(&space, ("c", object), b"content").await.unwrap();
    }
    let created = space.container("c", soon()).await.unwrap().unwrap();
    let upload = space.write(None, soon()).await.unwrap();
    write(&*upload, b"late").await.unwrap();
    space.clear("c", soon()).await.unwrap();
    assert!(names(&space, "c", 10).await.is_empty());
    assert_eq!(get(&space, "o").await, Err(BlobError::NoObject));
    assert!(space.container("c", soon()).await.unwrap().unwrap() >= created);
    settled(&space, usage(1, 0, 4)).await;
    assert_eq!(upload.publish(("c", "late"), soon()).await, Ok(4));
    space.delete("c", &["late".into(), "absent".into()], soon()).await.unwrap();
    put(&space, ("c", "o"), b"again").await.unwrap();
    space.delete_container("c", soon()).await.unwrap();
    settled(&space, BlobUsage::default()).await;
    assert_eq!(space.container("c", soon()).await, Ok(None));
    for result in [
        space.delete_container("c", soon()).await,
        space.clear("c", soon()).await,
        space.delete("c", &["o".into()], soon()).await,
        space.list("c", soon()).await.map(drop),
        space.info(("c", "o"), soon()).await.map(drop),
        space.read(("c", "o"), ALL, soon()).await.map(drop),
    ] {
        assert_eq!(result, Err(BlobError::NoContainer));
    }
    // What was in it does not come back.
    space.create_container("c", soon()).await.unwrap();
    assert_eq!(get(&space, "o").await, Err(BlobError::NoObject));
}

/// Quotas hold, also for what is being written.
pub async fn blob_quotas(fixture: &BlobFixture) {
    let small = BlobQuota { objects: 2, bytes: 200_000 };
    let (service, space) = fixture.space(small).await;
    let first = space.write(None, soon()).await.unwrap();
    write(&*first, &[1; 150_000]).await.unwrap();
    let full = BlobError::Full { resource: "bytes", limit: 200_000 };
    // The bytes of one that is not published yet count.
    let second = space.write(None, soon()).await.unwrap();
    assert_eq!(second.write(&[2; 50_001]).err(), Some(full.clone()));
    // One that has failed is not published, not even what fits.
    assert_eq!(second.write(b"x").err(), Some(full.clone()));
    assert_eq!(second.publish(("c", "o"), soon()).await, Err(full.clone()));
    first.publish(("c", "o"), soon()).await.unwrap();
    settled(&space, usage(1, 1, 150_000)).await;
    assert_eq!(space.copy(("c", "o"), ("c", "p"), soon()).await, Err(full));
    put(&space, ("c", "p"), &[3; 50_000]).await.unwrap();
    let full = BlobError::Full { resource: "objects", limit: 2 };
    assert_eq!(put(&space, ("c", "q"), b"").await, Err(full.clone()));
    // Replacing needs no place, and moving neither.
    put(&space, ("c", "p"), b"").await.unwrap();
    space.rename(("c", "p"), ("c", "q"), soon()).await.unwrap();
    settled(&space, usage(1, 2, 150_000)).await;
    // A lower quota removes nothing, and holds for all.
    let same = fixture.backend.open(&service, BlobQuota { objects: 1, bytes: 10 }).await.unwrap();
    assert_eq!(get(&space, "o").await.unwrap().len(), 150_000);
    assert!(put(&space, ("c", "q"), b"x").await.is_err());
    same.delete("c", &["o".into()], soon()).await.unwrap();
    put(&space, ("c", "q"), b"x").await.unwrap();
    settled(&space, usage(1, 1, 1)).await;
    for number in 1..MAX_CONTAINERS {
        space.create_container(&number.to_string(), soon()).await.unwrap();
    }
    assert!(matches!(space.create_container("more", soon()).await, Err(BlobError::Full { .. })));
}

/// A reader never has parts of two objects: it has the one that it opened, or an error.
pub async fn readers_never_mix(fixture: &BlobFixture) {
    let (_, space) = fixture.space(QUOTA).await;
    let (old, new) = (content(3 << 20), vec![b'n'; 3 << 20]);
    for deletes in [false, true] {
        put(&space, ("c", "o"), &old).await.unwrap();
        let mut object = space.read(("c", "o"), ALL, soon()).await.unwrap();
        let mut bytes = object.read().unwrap().await.unwrap().unwrap().to_vec();
        if deletes {
            space.delete("c", &["o".into()], soon()).await.unwrap();
        } else {
            put(&space, ("c", "o"), &new).await.unwrap();
        }
        match rest(object).await {
            Ok(rest) => {
                bytes.extend(rest);
                assert!(bytes == old);
            }
            Err(error) => assert!(!fixture.keeps_what_is_open, "{error}"),
        }
        let now = get(&space, "o").await;
        assert!(if deletes { now == Err(BlobError::NoObject) } else { now.unwrap() == new });
    }
}

/// What one host has confirmed is there for another at once.
pub async fn hosts_share_objects(fixture: &BlobFixture) {
    let Some(other_host) = &fixture.other_host else { return };
    let (service, space) = fixture.space(QUOTA).await;
    let other = other_host.open(&service, QUOTA).await.unwrap();
    assert_eq!(other.usage(), usage(1, 0, 0));
    assert_eq!(other.create_container("c", soon()).await, Err(BlobError::ContainerExists));
    let large = content(6 << 20);
    for (one, another) in [(&space, &other), (&other, &space)] {
        put(one, ("c", "o"), b"small").await.unwrap();
        assert_eq!(get(another, "o").await.unwrap(), b"small");
        put(one, ("c", "o"), &large).await.unwrap();
        assert!(get(another, "o").await.unwrap() == large);
        one.clear("c", soon()).await.unwrap();
        assert!(names(another, "c", 10).await.is_empty());
        one.delete_container("c", soon()).await.unwrap();
        assert_eq!(put(another, ("c", "o"), b"x").await, Err(BlobError::NoContainer));
        // One of two at the same time creates it.
        let both = tokio::join!(one.create_container("c", soon()), another.create_container("c", soon()));
        assert!(both.0.is_ok() != both.1.is_ok(), "{both:?}");
        put(one, ("c", "o"), b"new").await.unwrap();
        assert_eq!(get(another, "o").await.unwrap(), b"new");
    }
}
