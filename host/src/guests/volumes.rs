//! Directories of the host that guests or clients see: opens them when a version is deployed.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::Semaphore;

use lodge_base::config::Config;
use lodge_base::config::state::StatePath;
use lodge_base::files::{is_inside, leads_through};
use lodge_base::lock::lock;
use lodge_manifest::refusal::{Refusal, file_name};
use lodge_manifest::spec::{GuestSpec, split};
use lodge_runtime::capabilities::volumes::GrantedVolumes;
use lodge_runtime::code_cache;
use lodge_traffic::error_pages::PageSources;
use lodge_traffic::static_files::Root;

/// The longest time that opening a directory may take: a file system can hang.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// How many directories are opened at a time. An attempt that hangs never ends.
const OPENED_AT_ONCE: usize = 64;

/// What no volume may contain: with it, one service could read what belongs to others, or grant itself anything.
#[derive(Clone)]
pub struct Volumes {
    /// Directories that a volume may be below, but not contain: that of manifests, and the one in which state is that ends with
    /// the host.
    parents: Vec<PathBuf>,
    /// Files and directories that a volume may neither contain nor be in.
    own: Vec<PathBuf>,
    /// Files that the settings name, and directories of them. A volume contains neither them nor a link that leads to them.
    named: Vec<PathBuf>,
    written: Arc<Mutex<Vec<WrittenDirectory>>>,
    attempts: Attempts,
}

/// A directory that guests of this service or version may write to, for as long as they may.
type WrittenDirectory = (String, Weak<Path>);

/// Attempts to open directories, on threads that may wait for the disk: one at a time for each path, for which all others wait that
/// need it, so that a file system that hangs does not take another thread whenever a version is tried again.
#[derive(Clone)]
struct Attempts {
    paths: Arc<Mutex<HashMap<PathBuf, Arc<Semaphore>>>>,
    all: Arc<Semaphore>,
    timeout: Duration,
}

impl Volumes {
    /// Creates the rules of a host.
    pub fn new(config: &Config) -> Self {
        let mut own = vec![config.guests.join(".lodge")];
        let mut parents = vec![config.guests.clone()];
        match &config.state.path {
            StatePath::At(path) => {
                let beside = |name| path.parent().unwrap_or(Path::new(".")).join(name);
                own.extend([path.clone(), beside("sqlite"), beside("blobs"), beside("acme")]);
            }
            StatePath::Memory => parents.push(std::env::temp_dir()),
            StatePath::Beside => {}
        }
        own.extend(code_cache::places(config).map(|(_, path)| path));
        let named = config.files().map(Path::to_owned).collect();
        Self { parents, own, named, written: Arc::default(), attempts: Attempts::new(OPEN_TIMEOUT) }
    }

    /// Opens the directories that a manifest grants; `None` if it grants none. Guests write no page: neither one of their own service nor,
    /// of those in use, one of another.
    ///
    /// # Errors
    /// If one does not exist, or must not be granted. It is tried again.
    pub async fn open(&self, spec: &GuestSpec, pages: &PageSources) -> Result<Option<Arc<GrantedVolumes>>, Refusal> {
        if spec.manifest.volumes.is_empty() {
            return Ok(None);
        }
        let (directory, manifest) = (spec.path.with_file_name(""), spec.path.with_extension("toml"));
        let remedy = "the service starts as soon as all of its volumes are directories that it may have";
        let refused = |why: String| Refusal::new(&file_name(&manifest), why, remedy).passing();
        let mut opened = Vec::new();
        for (at, volume) in spec.manifest.volumes.clone() {
            let rules = self.clone();
            let (open, path) = (move |path: &Path| rules.directory(path), directory.join(&volume.path));
            let (file, real) = self.attempts.open("volumes", path.clone(), open).await.map_err(refused)?;
            let written = volume.write.then(|| self.add_written(spec, real));
            if let Some(written) = written.clone() {
                // Known before the pages are looked at: of a page and a volume that are opened together, one finds the other.
                let mut pages = pages.used_beside(split(&spec.name).0);
                pages.extend(spec.manifest.pages.iter().map(|page| directory.join(page)));
                let holds_none = move |_: &Path| match pages.iter().find(|page| leads_through(page, &written)) {
                    Some(page) => {
                        Err(format!("guests may write to it, and it contains {}, an error page", page.display()))
                    }
                    None => Ok(()),
                };
                self.attempts.open("volumes", path, holds_none).await.map_err(refused)?;
            }
            opened.push((file, at, written));
        }
        Ok(Some(Arc::new(GrantedVolumes::new(opened))))
    }

    /// Notes that guests of a service may write to the directory with this path, for as long as the value lives.
    fn add_written(&self, spec: &GuestSpec, path: PathBuf) -> Arc<Path> {
        let path: Arc<Path> = path.into();
        let mut all = lock(&self.written);
        all.retain(|(_, written)| written.strong_count() > 0);
        all.push((spec.name.clone(), Arc::downgrade(&path)));
        path
    }

    /// Checks that no guest of another service, or of a version of this one, may write the pages of this service. What its own guests may
    /// write is checked where their volumes are opened.
    ///
    /// # Errors
    /// One line about the first page.
    pub async fn check_pages(&self, spec: &GuestSpec) -> Result<(), String> {
        let ((service, label), directory) = (split(&spec.name), spec.path.with_file_name(""));
        // One edit of a service's manifest may move a page to where its guests wrote until then. The service waits for its versions. If
        // these waited for it too, neither would ever follow.
        let is_own = |of: &str| *of == *spec.name || (label.is_some() && split(of).0 == service);
        for page in &spec.manifest.pages {
            let written: Vec<_> = {
                let all = lock(&self.written);
                let others = all.iter().filter(|(of, _)| !is_own(of));
                others.filter_map(|(of, written)| Some((of.clone(), written.upgrade()?))).collect()
            };
            let is_free = move |page: &Path| match written.iter().find(|(_, written)| leads_through(page, written)) {
                Some((of, written)) => {
                    Err(format!("guests of {of} may write to {}, in which it is", written.display()))
                }
                None => Ok(()),
            };
            self.attempts.open("errors.pages", directory.join(page), is_free).await?;
        }
        Ok(())
    }

    /// Opens the directory whose files clients may read.
    ///
    /// # Errors
    /// If it does not exist, or must not be served. It is tried again.
    pub async fn root(&self, spec: &GuestSpec, root: &Path) -> Result<Root, Refusal> {
        let rules = self.clone();
        let directory = move |path: &Path| rules.directory(path).map(|(file, _)| file);
        let open = |path: &Path| Root::new(path.to_owned(), Box::new(directory));
        let remedy = "the service starts as soon as this is a directory that it may serve";
        let refused = |why: String| Refusal::new(&file_name(&spec.path), why, remedy).passing();
        self.attempts.open("files.root", spec.path.with_file_name("").join(root), open).await.map_err(refused)
    }

    /// Opens a directory, and returns its path without links. Waits for the disk.
    fn directory(&self, path: &Path) -> Result<(File, PathBuf), String> {
        let open = |path: &Path| -> io::Result<(PathBuf, File)> {
            let real = path.canonicalize()?;
            let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::NOFOLLOW;
            let file = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(&real)?;
            Ok((real, file))
        };
        let (real, file) = open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => "there is no such directory".to_owned(),
            io::ErrorKind::NotADirectory => "it is not a directory".to_owned(),
            _ => format!("it cannot be opened: {error}"),
        })?;
        if self.parents.iter().any(|parent| is_inside(parent, &real)) {
            return Err(
                "it contains the directory of manifests, in which a service could grant anything, or of temporary state".into()
            );
        }
        if self.own.iter().any(|own| is_inside(own, &real) || is_inside(&real, own)) {
            return Err("it contains the state or the machine code of other services, or is a part of them".into());
        }
        if let Some(file) = self.named.iter().find(|file| leads_through(file, &real) || is_inside(&real, file)) {
            let file = file.display();
            return Err(format!("it contains {file}, which the settings of the host name, or a link to it"));
        }
        Ok((file, real))
    }
}

impl Attempts {
    fn new(timeout: Duration) -> Self {
        Self { paths: Arc::default(), all: Arc::new(Semaphore::new(OPENED_AT_ONCE)), timeout }
    }

    /// Opens what a key of a manifest names.
    async fn open<T: Send + 'static>(
        &self,
        key: &str,
        path: PathBuf,
        open: impl FnOnce(&Path) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let shown = path.display().to_string();
        let one = {
            let mut paths = lock(&self.paths);
            paths.retain(|_, attempt| Arc::strong_count(attempt) > 1);
            Arc::clone(paths.entry(path.clone()).or_insert_with(|| Arc::new(Semaphore::new(1))))
        };
        let attempt = async {
            let slots = (one.acquire_owned().await.ok()?, Arc::clone(&self.all).acquire_owned().await.ok()?);
            let work = move || {
                let opened = open(&path);
                drop(slots);
                opened
            };
            tokio::task::spawn_blocking(work).await.ok()
        };
        let late = || Err(format!("opening it took longer than {}", humantime::format_duration(self.timeout)));
        let opened = tokio::time::timeout(self.timeout, attempt).await.ok().flatten().unwrap_or_else(late);
        opened.map_err(|why| format!("{key}: {shown}: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::sync::mpsc::sync_channel;

    use lodge_base::config::{self, Origin};
    use lodge_manifest::Manifest;
    use lodge_manifest::digest::Digest;

    use super::*;

    /// With one of these files, a service could grant itself anything, or read secrets of the host.
    #[test]
    fn no_volume_has_a_file_that_the_settings_name() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["guests", "keys", "links", "tls/inner", "authorities", "shared", "settings/deep", "pages", "free"]
        {
            fs::create_dir_all(at(name)).unwrap();
        }
        symlink("../keys/release.pub", at("links/current")).unwrap();
        let texts = [
            ("guests", "guests"),
            ("trust.keys", "links/current"),
            ("tls.certificates", "tls"),
            ("tls.client_ca", "authorities/ca.pem"),
            ("shared_config", "shared/values.toml"),
        ];
        let mut source: config::Source =
            texts.map(|(name, path)| (name.to_owned(), at(path).display().to_string())).into();
        source.insert("errors.pages".into(), format!("404={}", at("pages/404.html").display()));
        source.insert("tls.listen".into(), "127.0.0.1:8443".into());
        let mut config = config::resolve(&[(Origin::Flag, source)]).unwrap().config;
        config.program.file = Some(at("settings/deep/lodge.toml"));
        let rules = Volumes::new(&config);
        for granted in
            ["keys", "links", "tls", "tls/inner", "authorities", "shared", "settings", "settings/deep", "pages"]
        {
            let refused = rules.directory(&at(granted)).unwrap_err();
            assert!(refused.contains("which the settings of the host name"), "{granted}: {refused}");
        }
        assert!(rules.directory(&at("free")).is_ok());
    }

    fn spec(directory: &Path, name: &str, manifest: &str) -> GuestSpec {
        let limits = config::resolve(&[]).unwrap().config.limits;
        let manifest = Manifest::read(name, manifest, &limits, 1 << 30).unwrap();
        let (path, digest) = (directory.join(format!("{name}.wasm")), Digest::of(b""));
        GuestSpec { name: name.into(), path, content: None, digest, size: 1, middleware: Vec::new(), manifest }
    }

    fn volume(path: &str, write: bool) -> String {
        format!("[volumes]\n'/x' = {{ path = '{path}', write = {write} }}")
    }

    /// A directory of manifests with a page in `vol`, and with directories and links beside it.
    fn with_pages() -> (tempfile::TempDir, PathBuf, Volumes) {
        let directory = tempfile::tempdir().unwrap();
        let guests = directory.path().join("guests");
        for name in ["vol/deep", "beside", "outer/inner"] {
            fs::create_dir_all(guests.join(name)).unwrap();
        }
        for page in ["vol/404.html", "beside/page.html", "outer/inner/page.html"] {
            fs::write(guests.join(page), "page").unwrap();
        }
        symlink("vol", guests.join("link")).unwrap();
        symlink("vol/404.html", guests.join("linked.html")).unwrap();
        // As a guest could write it.
        symlink("../beside", guests.join("vol/away")).unwrap();
        let source = config::Source::from([("guests".to_owned(), guests.display().to_string())]);
        let rules = Volumes::new(&config::resolve(&[(Origin::Flag, source)]).unwrap().config);
        (directory, guests, rules)
    }

    /// A page is no file that a guest of the service can write, however the manifest and links lead there.
    #[tokio::test]
    async fn guests_write_no_page_of_their_service() {
        let (_directory, guests, rules) = with_pages();
        let absolute = guests.join("vol").display().to_string();
        let open = async |page: &str, path: &str, write: bool| {
            let text = format!("errors.pages = {{ 404 = '{page}' }}\n{}", volume(path, write));
            rules
                .open(&spec(&guests, "users", &text), &PageSources::default())
                .await
                .map(|_| ())
                .map_err(|refusal| refusal.reason)
        };
        for path in ["vol", "./vol", "vol/", "vol/../vol", "beside/../vol", "link", &absolute] {
            for page in ["vol/404.html", "link/404.html", "linked.html", "vol/away/page.html"] {
                let problem = open(page, path, true).await.unwrap_err();
                let expected = format!("it contains {}, an error page", guests.join(page).display());
                assert!(problem.starts_with("volumes: ") && problem.contains(&expected), "{page} {path}: {problem}");
                assert_eq!(open(page, path, false).await, Ok(()), "{page} {path}");
            }
        }
        assert!(open("outer/inner/page.html", "outer", true).await.is_err());
        for (page, path) in [("vol/404.html", "vol/deep"), ("vol/404.html", "beside"), ("beside/page.html", "vol")] {
            assert_eq!(open(page, path, true).await, Ok(()), "{page} {path}");
        }
    }

    /// Nor one of another service, whichever of both is deployed first. A new version may have other volumes and pages than the one before.
    #[tokio::test]
    async fn guests_write_no_page_of_another_service() {
        let (_directory, guests, rules) = with_pages();
        let sources = PageSources::default();
        let with_page = spec(&guests, "paged", "errors.pages = { 404 = 'linked.html' }");
        let writer = spec(&guests, "writer@2", &volume("vol", true));
        let pages = sources.open_service(&with_page.manifest, "paged", &guests).await.unwrap();
        let problem = rules.open(&writer, &sources).await.map(|_| ()).unwrap_err().reason;
        assert!(problem.contains("guests may write to it, and it contains"), "{problem}");
        assert_eq!(rules.check_pages(&with_page).await, Ok(()), "a refused service writes nothing");
        // The next version of the service with the page has none, and writes there.
        let next = spec(&guests, "paged", &volume("vol", true));
        drop(rules.open(&next, &sources).await.unwrap());
        drop(pages);
        let granted = rules.open(&writer, &sources).await.unwrap();
        let problem = rules.check_pages(&with_page).await.unwrap_err();
        let expected = format!(
            "guests of writer@2 may write to {}, in which it is",
            guests.join("vol").canonicalize().unwrap().display()
        );
        assert!(problem.starts_with("errors.pages: ") && problem.contains(&expected), "{problem}");
        drop(granted);
        assert_eq!(rules.check_pages(&with_page).await, Ok(()));
    }

    /// Nor does a version one of its service, though the service stays served as it was before.
    #[tokio::test]
    async fn versions_write_no_page_of_their_service() {
        let ((_directory, guests, rules), pages) = (with_pages(), PageSources::default());
        let service = spec(&guests, "users", "routes = [{ path = '/b', errors.pages = { 404 = 'vol/404.html' } }]");
        let manifest = service.manifest.version(&volume("vol", true), 1 << 30).unwrap();
        let version = GuestSpec { name: "users@2".into(), manifest, ..service.clone() };
        assert!(rules.open(&version, &pages).await.is_err());
        let before = spec(&guests, "users@2", &volume("vol", true));
        let granted = rules.open(&before, &pages).await.unwrap();
        assert!(rules.check_pages(&service).await.unwrap_err().contains("guests of users@2 may write to"));
        assert_eq!(rules.check_pages(&version).await, Ok(()), "it replaces the one that could");
        drop(granted);
        assert_eq!(rules.check_pages(&service).await, Ok(()));
    }

    /// A directory that hangs has one thread, however often it is tried; others are opened meanwhile.
    #[tokio::test]
    async fn a_directory_that_hangs_is_tried_once() {
        let (attempts, begun) = (Attempts::new(Duration::from_millis(20)), Arc::new(AtomicUsize::new(0)));
        let (release, held) = sync_channel::<()>(0);
        let mut held = Some(held);
        for _ in 0..5 {
            let (begun, held) = (Arc::clone(&begun), held.take());
            let hangs = move |_: &Path| {
                begun.fetch_add(1, Relaxed);
                held.iter().for_each(|held| assert!(held.recv().is_err()));
                Ok(())
            };
            let found = attempts.open("volumes", "/hung".into(), hangs).await;
            assert_eq!(found.unwrap_err(), "volumes: /hung: opening it took longer than 20ms");
        }
        let patient = Attempts { timeout: Duration::from_secs(60), ..attempts };
        assert_eq!(patient.open("volumes", "/other".into(), |_| Ok(1)).await, Ok(1));
        drop(release);
        assert_eq!(patient.open("volumes", "/hung".into(), |_| Ok(2)).await, Ok(2));
        assert_eq!(begun.load(Relaxed), 1);
        let last = || patient.open("volumes", "/last".into(), |_| Err::<(), _>("no".into()));
        assert_eq!(last().await.unwrap_err(), "volumes: /last: no");
        // The thread that hung gives its place back a moment after the next one has it.
        for _ in 0..1000 {
            if lock(&patient.paths).len() == 1 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            assert!(last().await.is_err());
        }
        panic!("what is not being opened is not forgotten");
    }
}
