use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, Request, StatusCode};

use super::*;
use crate::service::Services;
use lodge_base::config;
use lodge_base::cpu::scheduler::CpuScheduler;
use lodge_manifest::Manifest;
use lodge_manifest::digest::Digest;
use lodge_manifest::spec::GuestSpec;

/// A directory `site` beside a secret, and a service of it.
struct Site {
    directory: tempfile::TempDir,
    files: Arc<StaticFiles>,
}

/// What a client sees: status, headers and body.
#[derive(Debug)]
struct Reply(StatusCode, HeaderMap, Vec<u8>);

impl Reply {
    fn header(&self, name: &str) -> &str {
        self.1.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.2).into_owned()
    }
}

impl Site {
    fn new(keys: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("site")).unwrap();
        fs::write(directory.path().join("secret"), "secret").unwrap();
        let limits = config::resolve(&[]).unwrap().config.limits;
        let text = format!("[files]\nroot = 'site'\n{keys}");
        let manifest = Manifest::read("site", &text, &limits, 1 << 30).unwrap();
        let spec = Arc::clone(manifest.files.as_ref().unwrap());
        let (name, path, digest) = ("site".to_owned(), "site.toml".into(), Digest::of(b""));
        let file = GuestSpec { name, path, content: None, digest, size: 0, manifest };
        let deployment = Arc::new(Deployment::new(file, &Services::new(CpuScheduler::new(1))));
        let open = |path: &Path| File::open(path).map_err(|error| error.to_string());
        let root = Root::new(directory.path().join("site"), Box::new(open)).unwrap();
        let site = Self { files: Arc::new(StaticFiles::new(deployment, spec, root)), directory };
        site.write("a.txt", "0123456789").write("index.html", "home").write("docs/index.html", "docs")
    }

    /// Writes a file with an old time.
    fn write(self, path: &str, content: &str) -> Self {
        self.put(path, content, 1_700_000_000);
        self
    }

    fn put(&self, path: &str, content: &str, seconds: u64) {
        let path = self.directory.path().join("site").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }

    /// Sends a request, and one more that finds nothing in memory: both have the same response.
    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Result<Reply, FilesError> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let head = request.body(()).unwrap().into_parts().0;
        let deadline = Instant::now() + Duration::from_secs(60);
        let (sent, body) = self.files.respond(&head, deadline).await?;
        if let Some(path) = FilePath::read(head.uri.path()) {
            let (again, _) = self.files.look_up(&head, &path, ReadFrom::Disk)?.unwrap();
            assert_eq!((again.status, &again.headers), (sent.status, &sent.headers), "from the disk");
        }
        Ok(Reply(sent.status, sent.headers, read(body).await?))
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        self.ask("GET", path, headers).await.unwrap_or_else(|error| panic!("{path} {headers:?}: {error:?}"))
    }

    async fn problem(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> FilesError {
        self.ask(method, path, headers).await.unwrap_err()
    }
}

async fn read(mut body: FileBody) -> Result<Vec<u8>, FilesError> {
    let (mut bytes, announced) = (Vec::new(), body.exact_size());
    while let Some(frame) = std::future::poll_fn(|cx| body.poll_frame(cx)).await {
        bytes.extend_from_slice(frame?.data_ref().unwrap());
    }
    assert_eq!(bytes.len() as u64, announced);
    Ok(bytes)
}

#[tokio::test]
async fn files_have_types_and_validators() {
    let site = Site::new("cache_control = 'max-age=60'");
    let file = site.get("/a.txt", &[]).await;
    assert_eq!((file.0, file.text().as_str()), (StatusCode::OK, "0123456789"));
    for (name, value) in [
        ("content-type", "text/plain; charset=utf-8"),
        ("content-length", "10"),
        ("etag", "\"17979cfe362a0000-a\""),
        ("last-modified", "Tue, 14 Nov 2023 22:13:20 GMT"),
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
    // A change is seen by the next request, and its tag is weak while a second one could have the same.
    fs::write(site.directory.path().join("site/a.txt"), "abc").unwrap();
    let changed = site.get("/a.txt", &[("if-none-match", file.header("etag"))]).await;
    assert_eq!((changed.0, changed.text().as_str()), (StatusCode::OK, "abc"));
    assert!(changed.header("etag").starts_with("W/\""), "{changed:?}");
    site.put("a.txt", "abc", 4_000_000_000);
    let future = site.get("/a.txt", &[]).await;
    assert_eq!((future.header("last-modified"), &future.header("etag")[..3]), ("", "W/\""), "a time to come");
    site.put("a.txt", "abc", 1);
    let unreal = site.get("/a.txt", &[]).await;
    assert_eq!(unreal.header("last-modified"), "", "the time of a reproducible build");
    assert_ne!(unreal.header("etag"), "\"3b9aca00-3\"", "the same for every content");
    fs::remove_file(site.directory.path().join("site/a.txt")).unwrap();
    assert!(matches!(site.problem("GET", "/a.txt", &[]).await, FilesError::NotFound));
}

#[tokio::test]
async fn conditions_and_ranges() {
    const TAG: &str = "\"17979cfe362a0000-a\"";
    const TIME: &str = "Tue, 14 Nov 2023 22:13:20 GMT";
    const BEFORE: &str = "Tue, 14 Nov 2023 22:13:19 GMT";
    let site = Site::new("");
    let weak = format!("W/{TAG}");
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
            assert_eq!(found.header("etag"), TAG);
            assert_eq!(found.header("content-range").is_empty(), found.0 != 206);
        }
    };
    let all = "0123456789";
    check(&[("if-none-match", TAG)], 304, "").await;
    check(&[("if-none-match", &weak)], 304, "").await;
    check(&[("if-none-match", "\"x\", W/\"y\"")], 200, all).await;
    check(&[("if-none-match", "*")], 304, "").await;
    check(&[("if-modified-since", TIME)], 304, "").await;
    check(&[("if-modified-since", BEFORE)], 200, all).await;
    check(&[("if-modified-since", "yesterday")], 200, all).await;
    // RFC 9110, 13.2.2: the tag decides.
    check(&[("if-none-match", "\"x\""), ("if-modified-since", TIME)], 200, all).await;
    check(&[("if-none-match", TAG), ("if-modified-since", BEFORE)], 304, "").await;
    check(&[("if-none-match", TAG), ("range", "bytes=0-1")], 304, "").await;
    check(&[("if-match", TAG)], 200, all).await;
    check(&[("if-match", "*")], 200, all).await;
    check(&[("if-unmodified-since", TIME)], 200, all).await;
    check(&[("range", "bytes=2-4")], 206, "234").await;
    check(&[("range", "bytes=8-99")], 206, "89").await;
    check(&[("range", "bytes=-2")], 206, "89").await;
    check(&[("range", "bytes=0-")], 206, all).await;
    check(&[("range", "bytes=0-1,3-4")], 200, all).await;
    check(&[("range", "bytes=0-1"), ("range", "bytes=3-4")], 200, all).await;
    check(&[("range", "bytes=2-4"), ("if-range", TAG)], 206, "234").await;
    check(&[("range", "bytes=2-4"), ("if-range", TIME)], 206, "234").await;
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
    let site = Site::new("fallback = 'index.html'\nnot_found = 'docs/index.html'");
    for path in ["/users/7", "/users/", "/x", "/docs/x"] {
        let page = site.get(path, &[]).await;
        assert_eq!(
            (page.0.as_u16(), page.text().as_str(), page.header("content-type")),
            (200, "home", "text/html; charset=utf-8")
        );
    }
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
        let (head, file) = (Request::get(path).body(()).unwrap().into_parts().0, FilePath::read(path).unwrap());
        let found = site.files.look_up(&head, &file, ReadFrom::Disk);
        assert!(matches!(found, Err(FilesError::NotFound)), "{path}");
        let _ = fs::metadata(inside.join(&file.path));
        let found = site.files.look_up(&head, &file, ReadFrom::Memory);
        assert!(matches!(found, Ok(None) | Err(FilesError::NotFound)), "{path}");
    }
    for path in ["/within", "/around"] {
        assert_eq!(site.get(path, &[]).await.text(), "0123456789", "{path}");
    }
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

/// A large file is not in memory, and one that becomes shorter breaks off.
#[tokio::test]
async fn large_files_are_streamed() {
    let content: String = (0..200_000).map(|number| format!("{number:06}")).collect();
    let site = Site::new("").write("large", &content);
    let large = site.get("/large", &[]).await;
    assert!(large.text() == content && large.header("content-length") == "1200000");
    let part = site.get("/large", &[("range", "bytes=600-899999")]).await;
    assert!(part.text() == content[600..900_000]);
    let head = Request::get("/large").body(()).unwrap().into_parts().0;
    let deadline = Instant::now() + Duration::from_secs(60);
    let (_, body) = site.files.respond(&head, deadline).await.unwrap();
    assert_eq!((body.size(), body.exact_size()), (None, 1_200_000));
    File::options().write(true).open(site.directory.path().join("site/large")).unwrap().set_len(100_000).unwrap();
    assert!(matches!(read(body).await, Err(FilesError::Unreadable(_))));
    // What does not fit into one read comes by several, wherever it is read.
    let file = File::open(site.directory.path().join("site/large")).unwrap();
    let body = FileBody::open(file, 5..99_999, &Arc::new(Semaphore::new(1)), ReadFrom::Disk).unwrap().unwrap();
    assert!(read(body).await.unwrap() == content.as_bytes()[5..99_999]);
}

#[tokio::test]
async fn a_disk_that_hangs_is_not_waited_for() {
    let site = Site::new("");
    // All of its threads wait.
    let _held = Arc::clone(&site.files.disk).acquire_many_owned(WAITING as u32).await.unwrap();
    let path = site.directory.path().join("site");
    fs::rename(&path, site.directory.path().join("old")).unwrap();
    let head = Request::get("/a.txt").body(()).unwrap().into_parts().0;
    let found = site.files.respond(&head, Instant::now() + Duration::from_millis(20)).await;
    assert!(matches!(found, Err(FilesError::Late)));
}
