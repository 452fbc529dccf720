use std::fs::{self, File};
use std::future::poll_fn;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use http::Request;

use super::super::root::Root;
use super::super::testing::{Site, read};
use super::super::{FilesError, WAITING};
use super::*;

/// Takes all places of those that wait for the disk.
async fn hang(site: &Site) -> tokio::sync::OwnedSemaphorePermit {
    Arc::clone(&site.files.disk.own).acquire_many_owned(WAITING as u32).await.unwrap()
}

fn get(path: &str) -> http::request::Parts {
    Request::get(path).body(()).unwrap().into_parts().0
}

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(20)
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// A large file is not in memory, and one that becomes shorter breaks off.
#[tokio::test]
async fn large_files_are_streamed() {
    let content: String = (0..200_000).map(|number| format!("{number:06}")).collect();
    let site = Site::new("").write("large", &content);
    let large = site.get("/large", &[]).await;
    assert!(large.text() == content && large.header("content-length") == "1200000");
    let part = site.get("/large", &[("range", "bytes=600-899999")]).await;
    assert!(part.text() == content[600..900_000]);
    let (_, body) = site.files.respond(&get("/large"), later()).await.unwrap();
    assert_eq!((body.size(), body.exact_size()), (None, 1_200_000));
    File::options().write(true).open(site.directory.path().join("site/large")).unwrap().set_len(100_000).unwrap();
    assert!(matches!(read(body).await, Err(FilesError::Changed)));
    // What does not fit into one read comes by several, wherever it is read.
    let root = Root::new(site.at(""), Box::new(|path| File::open(path).map_err(|error| error.to_string()))).unwrap();
    for access in [ReadFrom::Disk, ReadFrom::Memory] {
        let Ok(file) = root.current(access).and_then(|root| root.open(Path::new("large"), access)) else { continue };
        let Some(body) = FileBody::open(file, 5..99_999, &site.files.disk, access).unwrap() else { continue };
        assert!(read(body).await.unwrap() == content.as_bytes()[5..99_999]);
    }
}

/// More than the next piece in memory makes a slow client no faster.
#[tokio::test]
async fn a_slow_client_has_less_in_memory() {
    let kinds: [fn(&File) -> bool; 2] = [|_| true, |_| false];
    for is_local in kinds {
        let site = Site::on(is_local, |_| {}).write("large", &"a".repeat(1 << 20));
        let (_, mut body) = site.files.respond(&get("/large"), later()).await.unwrap();
        for (slow, piece) in [(true, MAX_CHUNK), (false, READ), (true, MAX_CHUNK)] {
            body.ready.clear();
            if slow {
                body.rest.as_mut().unwrap().last -= 2 * SLOW;
            }
            let sent = poll_fn(|cx| body.poll_frame(cx)).await.unwrap().unwrap();
            let held = sent.data_ref().unwrap().len() + body.ready.len();
            assert!(if slow { held == piece } else { held >= piece }, "{held}");
        }
    }
}

/// What is sent is one file: not a part of one and a part of another.
#[tokio::test]
async fn a_file_that_is_changed_while_it_is_sent_breaks_off() {
    let content = "a".repeat(1 << 20);
    let kinds: [fn(&File) -> bool; 2] = [|_| true, |_| false];
    for is_local in kinds {
        let site = Site::on(is_local, |_| {}).write("large", &content);
        let (_, body) = site.files.respond(&get("/large"), later()).await.unwrap();
        // In place, of the same size.
        let before = fs::metadata(site.at("large")).unwrap().mtime_nsec();
        fs::write(site.at("large"), "b".repeat(1 << 20)).unwrap();
        assert_ne!(fs::metadata(site.at("large")).unwrap().mtime_nsec(), before);
        assert!(matches!(read(body).await, Err(FilesError::Changed)));
        // A file that is replaced or deleted is sent to its end.
        let (_, body) = site.files.respond(&get("/large"), later()).await.unwrap();
        fs::write(site.at("new"), "c".repeat(1 << 20)).unwrap();
        fs::rename(site.at("new"), site.at("large")).unwrap();
        assert!(read(body).await.unwrap() == "b".repeat(1 << 20).as_bytes());
    }
}

#[tokio::test]
async fn a_disk_that_hangs_is_not_waited_for() {
    let site = Site::new("");
    let _held = hang(&site).await;
    fs::rename(site.at(""), site.directory.path().join("old")).unwrap();
    assert!(matches!(site.files.respond(&get("/a.txt"), soon()).await, Err(FilesError::Late)));
}

/// One read of a body takes as long as a request at most, since its response has no deadline.
#[tokio::test]
async fn a_read_that_hangs_ends_the_response() {
    let site = Site::on(|_| false, |files| files.disk.patience = Duration::from_millis(20))
        .write("large", &"a".repeat(1 << 20));
    let (_, body) = site.files.respond(&get("/large"), later()).await.unwrap();
    let held = hang(&site).await;
    assert!(matches!(read(body).await, Err(FilesError::Late)));
    drop(held);
    assert_eq!(site.get("/a.txt", &[]).await.text(), "0123456789");
}

/// All directories of a host together wait for the disk within a bound, beside that of each.
#[tokio::test]
async fn the_host_has_a_bound_for_all_directories() {
    let site = Site::on(|_| false, |files| files.disk.host = Arc::new(Semaphore::new(0)));
    assert!(matches!(site.files.respond(&get("/a.txt"), soon()).await, Err(FilesError::Late)));
    site.files.disk.host.add_permits(1);
    assert_eq!(site.get("/a.txt", &[]).await.text(), "0123456789");
}

/// A file system that may ask a server is only used on threads that may wait, also for what the kernel has in memory; on a local one
/// that needs none.
#[tokio::test]
async fn only_local_file_systems_are_used_without_threads() {
    let large = "a".repeat(1 << 20);
    let site = Site::on(|_| false, |_| {}).write("large", &large);
    assert_eq!(site.get("/a.txt", &[]).await.text(), "0123456789");
    let (_, mut body) = site.files.respond(&get("/large"), later()).await.unwrap();
    assert!(!site.files.root.is_fast(false));
    for path in ["/a.txt", "/none"] {
        assert!(matches!(site.look_up("HEAD", path, ReadFrom::Memory), Ok(None)), "{path}");
    }
    let held = hang(&site).await;
    for path in ["/a.txt", "/none"] {
        assert!(matches!(site.files.respond(&get(path), soon()).await, Err(FilesError::Late)), "{path}");
    }
    body.ready.clear();
    let next = tokio::time::timeout(Duration::from_millis(20), poll_fn(|cx| body.poll_frame(cx))).await;
    assert!(next.is_err(), "a read without a thread");
    drop(held);
    assert_eq!(body.exact_size() as usize + THREAD_READ, large.len());

    let local = Site::on(|_| true, |_| {});
    assert_eq!(local.get("/a.txt", &[]).await.text(), "0123456789");
    assert!(matches!(local.problem("GET", "/none", &[]).await, FilesError::NotFound));
    let _held = hang(&local).await;
    // The kernel may give up a lookup in memory while others change directories.
    let found = (0..1_000).find_map(|_| local.look_up("HEAD", "/a.txt", ReadFrom::Memory).unwrap());
    assert_eq!(found.unwrap().0.headers["content-length"], "10");
    let found = (0..1_000).find_map(|_| match local.look_up("HEAD", "/none", ReadFrom::Memory) {
        Ok(found) => found.map(|_| false),
        Err(error) => Some(matches!(error, FilesError::NotFound)),
    });
    assert!(found.unwrap());
    // A file system that cannot tell what it has in memory is asked once.
    let cannot_tell = (0..1_000).all(|_| local.look_up("GET", "/a.txt", ReadFrom::Memory).unwrap().is_none());
    assert_eq!(local.files.root.is_fast(true), !cannot_tell);
}
