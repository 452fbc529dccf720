use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::time::Duration;

use http::StatusCode;

use super::testing::Site;
use super::*;

#[tokio::test]
async fn files_have_types_and_validators() {
    let site = Site::new("cache_control = 'max-age=60'");
    let file = site.get("/a.txt", &[]).await;
    assert_eq!((file.0, file.text().as_str()), (StatusCode::OK, "0123456789"));
    for (name, value) in [
        ("content-type", "text/plain; charset=utf-8"),
        ("content-length", "10"),
        ("accept-ranges", "bytes"),
        ("cache-control", "max-age=60"),
        ("vary", "accept-encoding"),
        ("content-encoding", ""),
    ] {
        assert_eq!(file.header(name), value, "{name}");
    }
    let head = site.ask("HEAD", "/a.txt", &[]).await.unwrap();
    assert_eq!((head.0, head.2.len(), &head.1), (StatusCode::OK, 0, &file.1));
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "X"] {
        assert!(matches!(site.problem(method, "/a.txt", &[]).await, FilesError::Method), "{method}");
    }
    assert!(file.header("etag").starts_with('"') && !file.header("last-modified").is_empty(), "{file:?}");
    // A change is seen by the next request.
    fs::write(site.directory.path().join("site/a.txt"), "abc").unwrap();
    let changed = site.get("/a.txt", &[("if-none-match", file.header("etag"))]).await;
    assert_eq!((changed.0, changed.text().as_str()), (StatusCode::OK, "abc"));
    fs::remove_file(site.directory.path().join("site/a.txt")).unwrap();
    assert!(matches!(site.problem("GET", "/a.txt", &[]).await, FilesError::NotFound));
}

/// Programs set the time of a file, and some set the same for every content.
#[tokio::test]
async fn no_change_is_missed_by_conditions() {
    let site = Site::new("");
    for seconds in [0, 1, 499_162_500, 946_684_800, 1_700_000_000, 4_000_000_000] {
        site.put("a.txt", "one", seconds);
        let (path, one) = (site.at("a.txt"), site.get("/a.txt", &[]).await);
        let time = |path: &Path| (fs::metadata(path).unwrap().ctime(), fs::metadata(path).unwrap().ctime_nsec());
        let before = time(&path);
        while time(&path) == before {
            site.put("a.txt", "two", seconds);
        }
        let two = site.get("/a.txt", &[("if-none-match", one.header("etag"))]).await;
        assert_eq!((two.0, two.text().as_str()), (StatusCode::OK, "two"), "{seconds}");
        assert_ne!(one.header("etag"), two.header("etag"));
        // The date of another file, which was there before or after this one.
        for other in ["Tue, 14 Nov 2023 22:13:20 GMT", "Sun, 06 Nov 2094 08:49:37 GMT"] {
            assert_eq!(site.get("/a.txt", &[("if-modified-since", other)]).await.0, StatusCode::OK);
        }
        let known = site.get("/a.txt", &[("if-modified-since", two.header("last-modified"))]).await;
        assert_eq!(known.0, StatusCode::NOT_MODIFIED);
    }
    // A further change may leave the same time: there is nothing to compare.
    let fresh = Site::with("", |_| {});
    let file = fresh.get("/a.txt", &[("if-modified-since", "Sun, 06 Nov 2094 08:49:37 GMT")]).await;
    assert_eq!((file.0, file.header("etag"), file.header("last-modified")), (StatusCode::OK, "", ""));
    assert_eq!(fresh.get("/a.txt", &[("range", "bytes=0-1"), ("if-range", "\"x\"")]).await.0, StatusCode::OK);
}

#[tokio::test]
async fn conditions_and_ranges() {
    const BEFORE: &str = "Tue, 14 Nov 2023 22:13:19 GMT";
    let site = Site::new("");
    let file = site.get("/a.txt", &[]).await;
    let (tag, time) = (file.header("etag"), file.header("last-modified"));
    let weak = format!("W/{tag}");
    let check = async |headers: &[(&str, &str)], status: u16, body: &str| {
        for method in ["GET", "HEAD"] {
            let found =
                site.ask(method, "/a.txt", headers).await.unwrap_or_else(|error| panic!("{headers:?}: {error:?}"));
            let partial = status == 206 && method == "HEAD";
            assert_eq!(found.0, if partial { 200 } else { status }, "{method} {headers:?}");
            assert_eq!(found.text(), if method == "HEAD" { "" } else { body }, "{method} {headers:?}");
            let length = if partial { "10".to_owned() } else { body.len().to_string() };
            assert_eq!(
                found.header("content-length"),
                if status == 304 { "" } else { &length },
                "{method} {headers:?}"
            );
            assert_eq!(found.header("etag"), tag);
            assert_eq!(found.header("content-range").is_empty(), found.0 != 206);
        }
    };
    let all = "0123456789";
    check(&[("if-none-match", tag)], 304, "").await;
    check(&[("if-none-match", &weak)], 304, "").await;
    check(&[("if-none-match", "\"x\", W/\"y\"")], 200, all).await;
    check(&[("if-none-match", "*")], 304, "").await;
    check(&[("if-modified-since", time)], 304, "").await;
    check(&[("if-modified-since", BEFORE)], 200, all).await;
    check(&[("if-modified-since", "yesterday")], 200, all).await;
    // RFC 9110, 13.2.2: the tag decides.
    check(&[("if-none-match", "\"x\""), ("if-modified-since", time)], 200, all).await;
    check(&[("if-none-match", tag), ("if-modified-since", BEFORE)], 304, "").await;
    check(&[("if-none-match", tag), ("range", "bytes=0-1")], 304, "").await;
    check(&[("if-match", tag)], 200, all).await;
    check(&[("if-match", "*")], 200, all).await;
    check(&[("if-unmodified-since", time)], 200, all).await;
    check(&[("range", "bytes=2-4")], 206, "234").await;
    check(&[("range", "bytes=8-99")], 206, "89").await;
    check(&[("range", "bytes=-2")], 206, "89").await;
    check(&[("range", "bytes=0-")], 206, all).await;
    check(&[("range", "bytes=0-1,3-4")], 200, all).await;
    check(&[("range", "bytes=0-1"), ("range", "bytes=3-4")], 200, all).await;
    check(&[("range", "bytes=2-4"), ("if-range", tag)], 206, "234").await;
    check(&[("range", "bytes=2-4"), ("if-range", time)], 206, "234").await;
    for other in [weak.as_str(), "\"x\"", BEFORE, "Wed, 15 Nov 2023 22:13:20 GMT", "*"] {
        check(&[("range", "bytes=2-4"), ("if-range", other)], 200, all).await;
        check(&[("range", "bytes=99-"), ("if-range", other)], 200, all).await;
    }
    let part = site.get("/a.txt", &[("range", "bytes=2-4")]).await;
    assert_eq!((part.header("content-range"), part.header("content-length")), ("bytes 2-4/10", "3"));
    assert!(matches!(site.problem("GET", "/a.txt", &[("range", "bytes=10-")]).await, FilesError::Range(10)));
    for headers in [("if-match", "\"x\""), ("if-match", weak.as_str()), ("if-unmodified-since", BEFORE)] {
        assert!(matches!(site.problem("GET", "/a.txt", &[headers]).await, FilesError::Precondition), "{headers:?}");
    }
}

#[tokio::test]
async fn compressed_files_are_for_those_who_accept_them() {
    let site =
        Site::new("").write("a.js", "plain").write("a.js.gz", "gzip").write("a.js.br", "br").write("a.js.zst", "zst");
    site.put("b.js", "plain", 1_700_000_001);
    site.put("b.js.gz", "stale", 1_700_000_000);
    let check = async |path: &str, accept: &str, expected: (&str, &str)| {
        let file = site.get(path, &[("accept-encoding", accept)]).await;
        assert_eq!((file.text().as_str(), file.header("content-encoding")), expected, "{path} {accept}");
        assert_eq!(file.header("vary"), "accept-encoding");
        file
    };
    let plain = check("/a.js", "identity", ("plain", "")).await;
    let gzip = check("/a.js", "gzip", ("gzip", "gzip")).await;
    assert_eq!(gzip.header("content-type"), "text/javascript; charset=utf-8");
    assert_ne!(plain.header("etag"), gzip.header("etag"));
    check("/a.js", "gzip, br, zstd", ("br", "br")).await;
    check("/a.js", "gzip;q=0.8, br;q=0.5, zstd;q=0.7", ("gzip", "gzip")).await;
    check("/a.js", "br;q=0, zstd", ("zst", "zstd")).await;
    check("/b.js", "gzip", ("plain", "")).await;
    check("/a.txt", "gzip, br", ("0123456789", "")).await;
    assert_eq!(site.get("/a.js", &[("accept-encoding", "gzip"), ("range", "bytes=1-2")]).await.text(), "zi");
    // Of the same time and size.
    fs::hard_link(site.at("b.js"), site.at("c.js")).unwrap();
    fs::hard_link(site.at("b.js"), site.at("c.js.br")).unwrap();
    fs::hard_link(site.at("b.js"), site.at("c.js.gz")).unwrap();
    let mut tags = Vec::new();
    for accept in ["identity", "br", "gzip"] {
        tags.push(site.get("/c.js", &[("accept-encoding", accept)]).await.header("etag").to_owned());
    }
    assert!(tags[0] != tags[1] && tags[1] != tags[2] && tags[0] != tags[2], "{tags:?}");
    // Off.
    let off = Site::new("precompressed = false").write("a.js", "plain").write("a.js.gz", "gzip");
    let file = off.get("/a.js", &[("accept-encoding", "gzip")]).await;
    assert_eq!((file.text().as_str(), file.header("vary")), ("plain", ""));
}

#[tokio::test]
async fn directories_applications_and_missing_files() {
    let site = Site::new("");
    assert_eq!(site.get("/", &[]).await.text(), "home");
    assert_eq!(site.get("/docs/", &[]).await.text(), "docs");
    let moved = site.get("/docs?x=%2F", &[]).await;
    assert_eq!((moved.0.as_u16(), moved.header("location")), (301, "./docs/?x=%2F"));
    site.put("a:b/index.html", "", 1);
    assert_eq!(site.get("/a:b", &[]).await.header("location"), "./a:b/");
    site.put("empty/a.txt", "", 1);
    for path in ["/empty", "/empty/", "/docs/index.html/", "/a.txt/", "/none", "/none/", "/a.txt/x", "/A.TXT"] {
        assert!(matches!(site.problem("GET", path, &[]).await, FilesError::NotFound), "{path}");
    }
    assert_eq!(site.get("/empty/a.txt", &[]).await.header("content-length"), "0");
    let long = format!("/{}", "x".repeat(300));
    assert!(matches!(site.problem("GET", &long, &[]).await, FilesError::NotFound));
    let deep = "/x".repeat(3_000);
    assert!(matches!(site.problem("GET", &deep, &[]).await, FilesError::NotFound));
    // The page of an application in the browser has many paths.
    let site = Site::new("fallback = 'index.html'\nnot_found = 'docs/index.html'\ncache_control = 'max-age=60'");
    for path in ["/users/7", "/users/", "/x", "/docs/x"] {
        let page = site.get(path, &[]).await;
        assert_eq!(
            (page.0.as_u16(), page.text().as_str(), page.header("content-type")),
            (200, "home", "text/html; charset=utf-8")
        );
        assert_eq!(page.header("cache-control"), "no-cache", "there may be a file later");
    }
    // Neither has a path that no file can have the page of the application.
    for path in ["/.env", "/a//b", "/a%2Fb", "/.git/config", "/x.js"] {
        let page = site.get(path, &[]).await;
        assert_eq!((page.0.as_u16(), page.text().as_str()), (404, "docs"), "{path}");
        assert_eq!(page.header("cache-control"), "no-cache");
    }
    assert_eq!(site.get("/docs", &[]).await.header("cache-control"), "no-cache", "a redirect");
    assert_eq!(site.get("/index.html", &[]).await.header("cache-control"), "max-age=60");
    let missing = site.get("/app.123.js", &[("range", "bytes=0-0"), ("if-none-match", "*")]).await;
    assert_eq!((missing.0.as_u16(), missing.text().as_str(), missing.header("etag")), (404, "docs", ""));
}

/// No link, FIFO or socket leads out of the directory, or keeps a request waiting.
#[tokio::test]
async fn nothing_leads_out_of_the_directory() {
    let site = Site::new("");
    let (outside, inside) = (site.directory.path(), site.directory.path().join("site"));
    symlink(outside.join("secret"), inside.join("absolute")).unwrap();
    symlink("../secret", inside.join("relative")).unwrap();
    symlink("../../../../../../../../../etc/passwd", inside.join("passwd")).unwrap();
    symlink("..", inside.join("up")).unwrap();
    symlink("/", inside.join("root")).unwrap();
    symlink("/proc/self/root", inside.join("magic")).unwrap();
    symlink("loop", inside.join("loop")).unwrap();
    symlink("a.txt", inside.join("within")).unwrap();
    symlink("docs/../a.txt", inside.join("around")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, inside.join("fifo"), 0o600.into()).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(inside.join("socket")).unwrap();
    for path in [
        "/absolute",
        "/relative",
        "/passwd",
        "/up/secret",
        "/root/etc/passwd",
        "/magic/etc/passwd",
        "/loop",
        "/fifo",
        "/socket",
    ] {
        assert!(matches!(site.problem("GET", path, &[]).await, FilesError::NotFound), "{path}");
        // Neither if the kernel has to look for it, nor if it has it in memory.
        let found = site.look_up("GET", path, ReadFrom::Disk);
        assert!(matches!(found, Err(FilesError::NotFound)), "{path}");
        let _ = fs::metadata(inside.join(path.trim_start_matches('/')));
        let found = site.look_up("GET", path, ReadFrom::Memory);
        assert!(matches!(found, Ok(None) | Err(FilesError::NotFound)), "{path}");
    }
    for path in ["/within", "/around"] {
        assert_eq!(site.get(path, &[]).await.text(), "0123456789", "{path}");
    }
}

/// A file that the host may not read is none, and no failure of the service.
#[test]
fn a_file_without_permission_is_absent() {
    use std::os::unix::fs::PermissionsExt;
    let site = Site::new("").write("locked", "secret").write("shut/a.txt", "secret");
    let modes = [(site.directory.path().to_owned(), 0o755), (site.at("locked"), 0), (site.at("shut"), 0)];
    for (path, mode) in modes {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The superuser may read everything. Only this thread is another user.
            let _ = rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65_534));
            for path in ["/locked", "/shut/a.txt"] {
                assert!(matches!(site.look_up("GET", path, ReadFrom::Disk), Err(FilesError::NotFound)), "{path}");
            }
            assert!(site.look_up("GET", "/a.txt", ReadFrom::Disk).unwrap().is_some());
        });
    });
    assert!(site.files.warned.load(Relaxed));
    fs::set_permissions(site.at("shut"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn a_directory_may_be_replaced() {
    let site = Site::new("");
    let (now, old) = (site.directory.path().join("site"), site.directory.path().join("old"));
    fs::rename(&now, &old).unwrap();
    assert!(matches!(site.problem("GET", "/a.txt", &[]).await, FilesError::NoRoot(_)));
    fs::create_dir(&now).unwrap();
    fs::write(now.join("b.txt"), "new").unwrap();
    assert_eq!(site.get("/b.txt", &[]).await.text(), "new");
    assert!(matches!(site.problem("GET", "/a.txt", &[]).await, FilesError::NotFound));
    // As a link that is switched.
    fs::remove_dir_all(&now).unwrap();
    symlink(&old, &now).unwrap();
    assert_eq!(site.get("/a.txt", &[]).await.text(), "0123456789");
}

/// While the old directory is in use for a moment, a file that is missing there is looked for in the new one: a tool may have begun
/// to delete the old one, or the file may be new.
#[test]
fn a_directory_of_a_moment_ago_loses_no_file() {
    let site = Site::with("fallback = 'index.html'", |files| files.root.recent = Duration::MAX);
    // The kernel may give up a lookup in memory while others change directories; then the disk is asked, as for a request.
    let size = |path: &str| {
        let found = (0..1_000).find_map(|_| site.look_up("HEAD", path, ReadFrom::Memory).unwrap());
        found.unwrap().0.headers["content-length"].clone()
    };
    let (now, old) = (site.directory.path().join("site"), site.directory.path().join("old"));
    assert_eq!(size("/a.txt"), "10");
    fs::rename(&now, &old).unwrap();
    fs::create_dir(&now).unwrap();
    for name in ["a.txt", "b.txt", "index.html"] {
        fs::write(now.join(name), "new").unwrap();
    }
    assert_eq!(size("/a.txt"), "10", "the old directory was not in use any more");
    assert!(
        matches!(site.look_up("HEAD", "/b.txt", ReadFrom::Disk), Ok(Some((head, _))) if head.headers["content-length"] == "3")
    );
    assert_eq!(size("/a.txt"), "3", "the new directory was found, and is not in use");
    fs::rename(&now, site.directory.path().join("older")).unwrap();
    fs::rename(&old, &now).unwrap();
    // What is sent in place of a missing file is never that of the old directory.
    assert!(
        !matches!(site.look_up("HEAD", "/missing", ReadFrom::Memory), Ok(Some((head, _))) if head.headers["content-length"] == "3")
    );
}
