//! Tests of objects without guests.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::key::Namespace;
use crate::sqlite::Durability;

struct Host {
    directory: tempfile::TempDir,
    blobs: BlobDirectory,
}

const QUOTA: BlobQuota = BlobQuota { objects: 100, bytes: 1 << 20 };

fn at(directory: &Path) -> BlobDirectory {
    BlobDirectory::new(BlobOptions { directory: directory.join("blobs"), durability: Durability::Power })
}

fn host() -> Host {
    let directory = tempfile::tempdir().unwrap();
    Host { blobs: at(directory.path()), directory }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

impl Host {
    async fn space(&self, service: &str, quota: BlobQuota) -> Arc<BlobSpace> {
        self.blobs.open(&Namespace::new(service).unwrap(), quota).await.unwrap()
    }

    /// All files below the directory, by their paths in it.
    fn files(&self) -> Vec<String> {
        fn walk(directory: &Path, into: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { walk(&path, into) } else { into.push(path) }
            }
        }
        let (root, mut paths) = (self.directory.path().join("blobs"), Vec::new());
        walk(&root, &mut paths);
        let name = |path: PathBuf| path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        let mut names: Vec<_> = paths.into_iter().map(name).filter(|name| name != ".lock").collect();
        names.sort();
        names
    }
}

async fn upload(space: &Arc<BlobSpace>, pieces: &[&[u8]]) -> Result<BlobUpload, BlobError> {
    let upload = BlobUpload::begin(space, soon()).await?;
    for piece in pieces {
        if let Some(writing) = upload.write(piece)? {
            writing.await.unwrap()?;
        }
    }
    Ok(upload)
}

async fn put(space: &Arc<BlobSpace>, container: &str, object: &str, bytes: &[u8]) -> Result<u64, BlobError> {
    upload(space, &[bytes]).await?.publish((container, object), soon()).await
}

async fn range(space: &Arc<BlobSpace>, object: &str, of: (u64, u64)) -> Result<Vec<u8>, BlobError> {
    let mut object = BlobObject::open(space, ("c", object), of, soon()).await?;
    let (left, mut bytes) = (object.left(), Vec::new());
    while let Some(reading) = object.read() {
        bytes.extend(reading.await.unwrap()?);
    }
    assert_eq!(left, bytes.len() as u64);
    Ok(bytes)
}

async fn get(space: &Arc<BlobSpace>, object: &str) -> Result<Vec<u8>, BlobError> {
    range(space, object, (0, u64::MAX)).await
}

async fn names(space: &Arc<BlobSpace>, page: usize) -> Vec<String> {
    let mut listing = BlobNames::open(space, "c", soon()).await.unwrap();
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

async fn with_container() -> (Host, Arc<BlobSpace>) {
    let host = host();
    let space = host.space("users", QUOTA).await;
    space.create_container("c", soon()).await.unwrap();
    (host, space)
}

/// Waits until threads that nobody waits for have given everything back.
async fn settled(space: &Arc<BlobSpace>, usage: BlobUsage) {
    let end = soon();
    while space.usage() != usage {
        assert!(Instant::now() < end, "{:?} is not {usage:?}", space.usage());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn usage(objects: u64, bytes: u64) -> BlobUsage {
    BlobUsage { containers: 1, objects, bytes }
}

#[tokio::test]
async fn what_is_not_published_never_was() {
    let (host, space) = with_container().await;
    put(&space, "c", "o", b"before").await.unwrap();
    for pieces in [vec![], vec![&b"half"[..]], vec![&[7; 200_000][..]]] {
        let upload = upload(&space, &pieces).await.unwrap();
        assert!(host.files().iter().any(|file| file.starts_with(".temporary/")));
        drop(upload);
        settled(&space, usage(1, 6)).await;
    }
    assert_eq!(put(&space, "absent", "o", b"x").await, Err(BlobError::NoContainer));
    settled(&space, usage(1, 6)).await;
    assert_eq!(get(&space, "o").await.unwrap(), b"before");
    assert_eq!(host.files(), ["users/c/o"]);
}

/// A reader has the object that it opened, whatever happens to the name.
#[tokio::test]
async fn readers_keep_what_they_opened() {
    let (_host, space) = with_container().await;
    let read = async |mut object: BlobObject| object.read().unwrap().await.unwrap().unwrap();
    let open = async || BlobObject::open(&space, ("c", "o"), (0, u64::MAX), soon()).await.unwrap();
    put(&space, "c", "o", b"first").await.unwrap();
    let first = open().await;
    put(&space, "c", "o", b"second!").await.unwrap();
    let second = open().await;
    space.delete("c", &["o".into()], soon()).await.unwrap();
    assert_eq!((&*read(first).await, &*read(second).await), (&b"first"[..], &b"second!"[..]));
    assert_eq!(space.usage(), usage(0, 0));
}

#[tokio::test]
async fn no_name_leads_elsewhere() {
    let host = host();
    let (space, other) = (host.space("users", QUOTA).await, host.space("user", QUOTA).await);
    for container in ["c", "C", "..", ".", "../c", "a/b", "\0", "%63", "é", &"K".repeat(MAX_CONTAINER_NAME)] {
        space.create_container(container, soon()).await.unwrap();
        assert_eq!(space.create_container(container, soon()).await, Err(BlobError::ContainerExists));
        assert_eq!(other.container(container, soon()).await, Ok(None));
    }
    let long = ["x".repeat(MAX_OBJECT_NAME), "X".repeat(MAX_OBJECT_NAME), "x".repeat(200), "x".repeat(201)];
    let mut all: Vec<String> =
        ["o", "O", "..", "../..", "/etc/passwd", "a/b", "a//b", "\0", "\n", "é", "e\u{301}", ".lock", "x+", "%6f", " "]
            .map(Into::into)
            .into();
    all.extend(long);
    for name in &all {
        put(&space, "c", name, name.as_bytes()).await.unwrap();
    }
    for name in &all {
        assert_eq!(get(&space, name).await.unwrap(), name.as_bytes());
        assert_eq!(get(&other, name).await, Err(BlobError::NoContainer));
    }
    assert!(host.files().iter().all(|file| file.starts_with("users/c/")), "{:?}", host.files());
    all.sort();
    assert_eq!(names(&space, 1).await, all);
    assert_eq!(names(&space, 1000).await, all);
    // What somebody else has put there is no object.
    fs::write(host.directory.path().join("blobs/users/c/Foreign"), b"").unwrap();
    assert_eq!(names(&space, 7).await, all);
    space.delete("c", &all, soon()).await.unwrap();
    assert_eq!(host.files(), ["users/c/Foreign"]);
    assert!(names(&space, 7).await.is_empty());
    for name in ["", &"x".repeat(MAX_OBJECT_NAME + 1)] {
        assert!(put(&space, "c", name, b"").await.is_err());
    }
    assert!(space.create_container(&"x".repeat(MAX_CONTAINER_NAME + 1), soon()).await.is_err());
}

#[tokio::test]
async fn objects_are_copied_and_moved() {
    let (host, space) = with_container().await;
    space.create_container("d", soon()).await.unwrap();
    let two = |objects, bytes| BlobUsage { containers: 2, ..usage(objects, bytes) };
    let long = "L".repeat(500);
    put(&space, "c", "o", b"content").await.unwrap();
    put(&space, "d", "p", b"more content").await.unwrap();
    for _ in 0..2 {
        space.copy(("c", "o"), ("d", "p"), soon()).await.unwrap();
        settled(&space, two(2, 14)).await;
    }
    space.copy(("c", "o"), ("c", "o"), soon()).await.unwrap();
    space.rename(("c", "o"), ("c", "o"), soon()).await.unwrap();
    // Both are links to one file.
    space.rename(("d", "p"), ("c", "o"), soon()).await.unwrap();
    assert_eq!((space.usage(), host.files()), (two(1, 7), vec!["users/c/o".to_owned()]));
    space.rename(("c", "o"), ("c", &long), soon()).await.unwrap();
    assert_eq!(get(&space, &long).await.unwrap(), b"content");
    space.rename(("c", &long), ("c", "q"), soon()).await.unwrap();
    assert_eq!((host.files(), space.usage()), (vec!["users/c/q".to_owned()], two(1, 7)));
    assert_eq!(fs::read_dir(host.directory.path().join("blobs/users/c")).unwrap().count(), 1);
    for (from, to, error) in [
        (("c", "o"), ("c", "r"), BlobError::NoObject),
        (("x", "o"), ("c", "r"), BlobError::NoContainer),
        (("c", "q"), ("x", "r"), BlobError::NoContainer),
    ] {
        assert_eq!(space.copy(from, to, soon()).await, Err(error.clone()));
        assert_eq!(space.rename(from, to, soon()).await, Err(error));
    }
    settled(&space, two(1, 7)).await;
    assert_eq!(get(&space, "q").await.unwrap(), b"content");
}

#[tokio::test]
async fn containers_go_with_their_objects() {
    let (host, space) = with_container().await;
    for object in ["o", "p", &"L".repeat(500)] {
        put(&space, "c", object, b"content").await.unwrap();
    }
    assert!(space.container("c", soon()).await.unwrap().is_some());
    let upload = upload(&space, &[b"late"]).await.unwrap();
    space.clear("c", soon()).await.unwrap();
    settled(&space, usage(0, 4)).await;
    assert_eq!(upload.publish(("c", "late"), soon()).await, Ok(4));
    space.delete_container("c", soon()).await.unwrap();
    assert_eq!((space.usage(), host.files()), (BlobUsage::default(), vec![]));
    assert_eq!(space.container("c", soon()).await, Ok(None));
    for result in [
        space.delete_container("c", soon()).await,
        space.clear("c", soon()).await,
        space.delete("c", &["o".into()], soon()).await,
        BlobNames::open(&space, "c", soon()).await.map(drop),
        space.info(("c", "o"), soon()).await.map(drop),
    ] {
        assert_eq!(result, Err(BlobError::NoContainer));
    }
}

#[tokio::test]
async fn quotas_hold_for_uploads_too() {
    let host = host();
    let small = BlobQuota { objects: 2, bytes: 200_000 };
    let space = host.space("users", small).await;
    space.create_container("c", soon()).await.unwrap();
    let first = upload(&space, &[&[1; 150_000]]).await.unwrap();
    let full = BlobError::Full { resource: "bytes", limit: 200_000 };
    // The bytes of one that is not published yet count.
    let second = BlobUpload::begin(&space, soon()).await.unwrap();
    assert_eq!(second.write(&[2; 50_001]).err(), Some(full.clone()));
    // One that has failed is not published, not even what fits.
    assert_eq!(second.write(b"x").err(), Some(full.clone()));
    assert_eq!(second.publish(("c", "o"), soon()).await, Err(full.clone()));
    first.publish(("c", "o"), soon()).await.unwrap();
    settled(&space, usage(1, 150_000)).await;
    assert_eq!(space.copy(("c", "o"), ("c", "p"), soon()).await, Err(full));
    put(&space, "c", "p", &[3; 50_000]).await.unwrap();
    let full = BlobError::Full { resource: "objects", limit: 2 };
    assert_eq!(put(&space, "c", "q", b"").await, Err(full.clone()));
    // Replacing needs no place.
    put(&space, "c", "p", b"").await.unwrap();
    settled(&space, usage(2, 150_000)).await;
    // A lower quota removes nothing, and holds for all.
    let same = host.space("users", BlobQuota { objects: 1, bytes: 10 }).await;
    assert_eq!(get(&space, "o").await.unwrap().len(), 150_000);
    assert!(put(&space, "c", "p", b"x").await.is_err());
    same.delete("c", &["o".into()], soon()).await.unwrap();
    put(&space, "c", "p", b"x").await.unwrap();
    settled(&space, usage(1, 1)).await;
    for number in 1..MAX_CONTAINERS {
        space.create_container(&number.to_string(), soon()).await.unwrap();
    }
    assert!(matches!(space.create_container("more", soon()).await, Err(BlobError::Full { .. })));
}

#[tokio::test]
async fn a_start_counts_what_is_there_and_removes_what_is_not_finished() {
    let (Host { directory, blobs }, space) = with_container().await;
    put(&space, "c", "o", b"content").await.unwrap();
    put(&space, "c", &"L".repeat(500), b"long").await.unwrap();
    // Another process is refused, and leaves the temporary files alone.
    let upload = upload(&space, &[&[7; 100_000]]).await.unwrap();
    let name = Namespace::new("users").unwrap();
    let used = at(directory.path()).open(&name, QUOTA).await;
    assert!(used.is_err_and(|error| error.to_string().contains("another process")));
    // As after a kill.
    let left = directory.path().join("blobs/.temporary/left");
    std::mem::forget(upload);
    fs::create_dir(&left).unwrap();
    fs::write(left.join("o"), b"a container that was being deleted").unwrap();
    drop((space, blobs));
    let host = Host { blobs: at(directory.path()), directory };
    let space = host.space("users", QUOTA).await;
    assert_eq!(space.usage(), usage(2, 11));
    assert_eq!(host.files().iter().filter(|file| file.starts_with('.')).count(), 0, "{:?}", host.files());
    assert_eq!(get(&space, "o").await.unwrap(), b"content");
}

#[tokio::test]
async fn open_objects_are_bounded() {
    let (_host, space) = with_container().await;
    put(&space, "c", "o", b"content").await.unwrap();
    let open = async |deadline| BlobObject::open(&space, ("c", "o"), (0, 0), deadline).await;
    let mut objects = Vec::new();
    for _ in 0..MAX_OPEN {
        objects.push(open(soon()).await.unwrap());
    }
    assert_eq!(open(Instant::now()).await.err(), Some(BlobError::Timeout));
    objects.pop();
    assert!(open(soon()).await.is_ok());
}

/// Concurrent changes leave the account as it is after a start.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_account_is_exact() {
    let (Host { directory, blobs }, space) = with_container().await;
    let work = |seed: u64| {
        let space = Arc::clone(&space);
        tokio::spawn(async move {
            let long = "L".repeat(300);
            for round in 0..40_u64 {
                let mixed = (seed * 31 + round * 17) % 7;
                let (one, other) = (format!("{long}{}", mixed % 3), format!("{}", (mixed + 1) % 3));
                let _ = match mixed {
                    0 | 1 => put(&space, "c", &one, &[0; 100][..(10 * mixed + seed) as usize]).await.map(drop),
                    2 => put(&space, "c", &other, b"other").await.map(drop),
                    3 => space.delete("c", &[one, other], soon()).await,
                    4 => space.copy(("c", &one), ("c", &other), soon()).await,
                    5 => space.rename(("c", &other), ("c", &one), soon()).await,
                    _ => upload(&space, &[&[0; 70_000]]).await.map(drop),
                };
            }
        })
    };
    for task in (0..8).map(work).collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let counted = usage::BlobUsage::count(&directory.path().join("blobs/users")).unwrap();
    settled(&space, BlobUsage { containers: 1, ..counted }).await;
    drop((space, blobs));
}
