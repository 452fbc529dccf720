//! Directories of the host that guests or clients see: opens them when a version is deployed.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;

use lodge_base::config::Config;
use lodge_base::config::state::StatePath;
use lodge_base::files::{is_inside, leads_through};
use lodge_base::lock::lock;
use lodge_manifest::refusal::{Refusal, file_name};
use lodge_manifest::spec::GuestSpec;
use lodge_runtime::capabilities::volumes::GrantedVolumes;
use lodge_runtime::code_cache;
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
    attempts: Attempts,
}

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
        Self { parents, own, named, attempts: Attempts::new(OPEN_TIMEOUT) }
    }

    /// Opens the directories that a manifest grants; `None` if it grants none.
    ///
    /// # Errors
    /// If one does not exist, or must not be granted. It is tried again.
    pub async fn open(&self, spec: &GuestSpec) -> Result<Option<Arc<GrantedVolumes>>, Refusal> {
        if spec.manifest.volumes.is_empty() {
            return Ok(None);
        }
        let (directory, manifest) = (spec.path.with_file_name(""), spec.path.with_extension("toml"));
        let remedy = "the service starts as soon as all of its volumes are directories that it may have";
        let refused = |why: String| Refusal::new(&file_name(&manifest), why, remedy).passing();
        let mut opened = Vec::new();
        for (at, volume) in spec.manifest.volumes.clone() {
            let rules = self.clone();
            let open = move |path: &Path| rules.directory(path);
            let file = self.attempts.open("volumes", directory.join(&volume.path), open).await.map_err(refused)?;
            opened.push((file, at, volume.write));
        }
        Ok(Some(Arc::new(GrantedVolumes::new(opened))))
    }

    /// Opens the directory whose files clients may read.
    ///
    /// # Errors
    /// If it does not exist, or must not be served. It is tried again.
    pub async fn root(&self, spec: &GuestSpec, root: &Path) -> Result<Root, Refusal> {
        let rules = self.clone();
        let open = |path: &Path| Root::new(path.to_owned(), Box::new(move |path: &Path| rules.directory(path)));
        let remedy = "the service starts as soon as this is a directory that it may serve";
        let refused = |why: String| Refusal::new(&file_name(&spec.path), why, remedy).passing();
        self.attempts.open("files.root", spec.path.with_file_name("").join(root), open).await.map_err(refused)
    }

    /// Opens a directory. Waits for the disk.
    fn directory(&self, path: &Path) -> Result<File, String> {
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
        Ok(file)
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

    use super::*;

    /// With one of these files, a service could grant itself anything, or read secrets of the host.
    #[test]
    fn no_volume_has_a_file_that_the_settings_name() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["guests", "keys", "links", "tls/inner", "authorities", "shared", "settings/deep", "free"] {
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
        source.insert("tls.listen".into(), "127.0.0.1:8443".into());
        let mut config = config::resolve(&[(Origin::Flag, source)]).unwrap().config;
        config.program.file = Some(at("settings/deep/lodge.toml"));
        let rules = Volumes::new(&config);
        for granted in ["keys", "links", "tls", "tls/inner", "authorities", "shared", "settings", "settings/deep"] {
            let refused = rules.directory(&at(granted)).unwrap_err();
            assert!(refused.contains("which the settings of the host name"), "{granted}: {refused}");
        }
        assert!(rules.directory(&at("free")).is_ok());
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
