//! Directories of the host that guests or clients see: opens them when a version is deployed.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lodge_base::config::Config;
use lodge_base::config::state::StatePath;
use lodge_base::files::{is_inside, leads_through};
use lodge_manifest::refusal::{Refusal, file_name};
use lodge_manifest::spec::GuestSpec;
use lodge_manifest::volumes::Volume;
use lodge_runtime::capabilities::volumes::GrantedVolumes;
use lodge_runtime::code_cache;
use lodge_traffic::static_files::Root;

/// The longest time that opening the volumes of a version may take: a file system can hang.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

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
}

impl Volumes {
    /// Creates the rules of a host.
    pub fn new(config: &Config) -> Self {
        let mut own = vec![config.guests.join(".lodge")];
        let mut parents = vec![config.guests.clone()];
        match &config.state.path {
            StatePath::At(path) => {
                let beside = |name| path.parent().unwrap_or(Path::new(".")).join(name);
                own.extend([path.clone(), beside("sqlite"), beside("blobs")]);
            }
            StatePath::Memory => parents.push(std::env::temp_dir()),
            StatePath::Beside => {}
        }
        own.extend(code_cache::places(config).map(|(_, path)| path));
        let named = config.files().map(Path::to_owned).collect();
        Self { parents, own, named }
    }

    /// Opens the directories that a manifest grants; `None` if it grants none.
    ///
    /// # Errors
    /// If one does not exist, or must not be granted. It is tried again.
    pub async fn open(&self, spec: &GuestSpec) -> Result<Option<Arc<GrantedVolumes>>, Refusal> {
        if spec.manifest.volumes.is_empty() {
            return Ok(None);
        }
        let (rules, volumes, manifest) =
            (self.clone(), spec.manifest.volumes.clone(), spec.path.with_extension("toml"));
        let directory = spec.path.with_file_name("");
        let open = move || {
            let open = |(at, volume): (String, Volume)| {
                let path = directory.join(&volume.path);
                let opened = rules.directory(&path).map_err(|why| format!("volumes: {}: {why}", path.display()))?;
                Ok((opened, at, volume.write))
            };
            volumes.into_iter().map(open).collect::<Result<Vec<_>, String>>()
        };
        let remedy = "the service starts as soon as all of its volumes are directories that it may have";
        let refused = |why: String| Refusal::new(&file_name(&manifest), why, remedy).passing();
        Ok(Some(Arc::new(GrantedVolumes::new(within(open, "volumes").await.map_err(refused)?))))
    }

    /// Opens the directory whose files clients may read.
    ///
    /// # Errors
    /// If it does not exist, or must not be served. It is tried again.
    pub async fn root(&self, spec: &GuestSpec, root: &Path) -> Result<Root, Refusal> {
        let (rules, path) = (self.clone(), spec.path.with_file_name("").join(root));
        let open = move || {
            let shown = path.display().to_string();
            let open = Box::new(move |path: &Path| rules.directory(path));
            Root::new(path, open).map_err(|why| format!("files.root: {shown}: {why}"))
        };
        let remedy = "the service starts as soon as this is a directory that it may serve";
        let refused = |why: String| Refusal::new(&file_name(&spec.path), why, remedy).passing();
        within(open, "files.root").await.map_err(refused)
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

/// Opens what a key of a manifest names, on a thread that may wait for the disk.
async fn within<T: Send + 'static>(
    open: impl FnOnce() -> Result<T, String> + Send + 'static,
    key: &str,
) -> Result<T, String> {
    match tokio::time::timeout(OPEN_TIMEOUT, tokio::task::spawn_blocking(open)).await {
        Ok(Ok(opened)) => opened,
        _ => Err(format!("{key}: opening it took longer than {} s", OPEN_TIMEOUT.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

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
}
