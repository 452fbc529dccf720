//! What the tests of this module share.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use http::{HeaderMap, Request, StatusCode};

use super::*;
use crate::service::Services;
use lodge_base::config;
use lodge_base::cpu::scheduler::CpuScheduler;
use lodge_manifest::Manifest;
use lodge_manifest::digest::Digest;
use lodge_manifest::spec::GuestSpec;

/// A directory `site` beside a secret, and a service of it.
pub(super) struct Site {
    pub(super) directory: tempfile::TempDir,
    pub(super) files: Arc<StaticFiles>,
}

/// What a client sees: status, headers and body.
#[derive(Debug)]
pub(super) struct Reply(pub(super) StatusCode, pub(super) HeaderMap, pub(super) Vec<u8>);

impl Reply {
    pub(super) fn header(&self, name: &str) -> &str {
        self.1.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.2).into_owned()
    }
}

impl Site {
    /// A site whose files changed an hour ago.
    pub(super) fn new(keys: &str) -> Self {
        Self::with(keys, |files| files.clock = || SystemTime::now() + Duration::from_secs(3_600))
    }

    /// A site on a file system that is local, or is not.
    pub(super) fn on(is_local: fn(&File) -> bool, change: impl FnOnce(&mut StaticFiles)) -> Self {
        Self::with("", |files| {
            let open = |path: &Path| File::open(path).map_err(|error| error.to_string());
            files.root = Root::on(files.root.path().to_owned(), Box::new(open), is_local).unwrap();
            change(files);
        })
    }

    /// A site with changes to its backend.
    pub(super) fn with(keys: &str, change: impl FnOnce(&mut StaticFiles)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("site")).unwrap();
        fs::write(directory.path().join("secret"), "secret").unwrap();
        let limits = config::resolve(&[]).unwrap().config.limits;
        let text = format!("[files]\nroot = 'site'\n{keys}");
        let manifest = Manifest::read("site", &text, &limits, 1 << 30).unwrap();
        let spec = Arc::clone(manifest.files.as_ref().unwrap());
        let (name, path, digest) = ("site".to_owned(), "site.toml".into(), Digest::of(b""));
        let file = GuestSpec { name, path, content: None, digest, size: 0, middleware: Vec::new(), manifest };
        let deployment = Arc::new(Deployment::new(file, &Services::new(CpuScheduler::new(1))));
        let open = |path: &Path| File::open(path).map_err(|error| error.to_string());
        let mut root = Root::new(directory.path().join("site"), Box::new(open)).unwrap();
        root.recent = Duration::ZERO;
        let mut files = StaticFiles::new(deployment, spec, root, Arc::new(Semaphore::new(HOST_WAITING)));
        change(&mut files);
        let site = Self { files: Arc::new(files), directory };
        site.write("a.txt", "0123456789").write("index.html", "home").write("docs/index.html", "docs")
    }

    /// Writes a file with an old time.
    pub(super) fn write(self, path: &str, content: &str) -> Self {
        self.put(path, content, 1_700_000_000);
        self
    }

    pub(super) fn put(&self, path: &str, content: &str, seconds: u64) {
        let path = self.directory.path().join("site").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }

    /// Sends a request, and one more that finds nothing in memory: both have the same response.
    pub(super) async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Result<Reply, FilesError> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let head = request.body(()).unwrap().into_parts().0;
        let deadline = Instant::now() + Duration::from_secs(60);
        let (sent, body) = self.files.respond(&head, deadline).await?;
        let path = FilePath::read(head.uri.path());
        let (again, _) = self.files.look_up(&head, path.as_ref(), ReadFrom::Disk)?.unwrap();
        assert_eq!((again.status, &again.headers), (sent.status, &sent.headers), "from the disk");
        Ok(Reply(sent.status, sent.headers, read(body).await?))
    }

    pub(super) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        self.ask("GET", path, headers).await.unwrap_or_else(|error| panic!("{path} {headers:?}: {error:?}"))
    }

    /// Where a file is.
    pub(super) fn at(&self, path: &str) -> std::path::PathBuf {
        self.directory.path().join("site").join(path)
    }

    /// The file of a path, as one of both kinds of lookups finds it.
    pub(super) fn look_up(
        &self,
        method: &str,
        path: &str,
        access: ReadFrom,
    ) -> Result<Option<(http::response::Parts, FileBody)>, FilesError> {
        let head = Request::builder().method(method).uri(path).body(()).unwrap().into_parts().0;
        self.files.look_up(&head, FilePath::read(path).as_ref(), access)
    }

    pub(super) async fn problem(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> FilesError {
        self.ask(method, path, headers).await.unwrap_err()
    }
}

pub(super) async fn read(mut body: FileBody) -> Result<Vec<u8>, FilesError> {
    let (mut bytes, announced) = (Vec::new(), body.exact_size());
    while let Some(frame) = std::future::poll_fn(|cx| body.poll_frame(cx)).await {
        bytes.extend_from_slice(frame?.data_ref().unwrap());
    }
    assert_eq!(bytes.len() as u64, announced);
    Ok(bytes)
}
