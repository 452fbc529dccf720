//! `lodge dev`: builds the guests whose sources are in a directory, and builds them again when their sources change.
//!
//! The host sees components come and go, and hears of builds that run or fail only to show them. A build that fails leaves
//! the component of the last one that did not.

mod build;
mod tee;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::notice;
use crate::base::files;
use crate::guests::builds::Builds;
use crate::guests::scan::MANIFEST;
use crate::guests::watch::Watch;
use crate::manifest;

/// Where sources are not: what builds make, and what tools keep.
const NOT_SOURCES: [&str; 3] = ["target", "node_modules", "__pycache__"];

/// Between two looks at the sources when there are no events.
const POLL: Duration = Duration::from_secs(1);

/// The guests of a directory that have sources.
pub(super) struct Projects {
    directory: PathBuf,
    /// By directory of the sources.
    known: BTreeMap<PathBuf, Project>,
    /// What the host shows of them.
    builds: Arc<Builds>,
}

struct Project {
    recipe: Recipe,
    /// Sources outside of its own directory, as the last build told.
    outside: Vec<PathBuf>,
    /// What the sources were when the last build began.
    built: Sources,
}

#[derive(Clone, PartialEq)]
enum Recipe {
    Cargo,
    Command { command: String, component: PathBuf },
}

impl Recipe {
    /// The service that this makes of the sources there: of a crate, as cargo names its library.
    fn service(&self, source: &Path) -> String {
        match self {
            Self::Cargo => {
                let manifest = fs::read_to_string(source.join("Cargo.toml")).unwrap_or_default();
                let table: toml::Table = manifest.parse().unwrap_or_default();
                let name = |section: &str| table.get(section)?.get("name")?.as_str().map(str::to_owned);
                let directory = || source.file_name().unwrap_or_default().to_string_lossy().into_owned();
                name("lib").or_else(|| name("package")).unwrap_or_else(directory).replace('-', "_")
            }
            Self::Command { component, .. } => component.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        }
    }
}

/// Every source file with its time and size.
type Sources = BTreeMap<PathBuf, (SystemTime, u64)>;

impl Projects {
    /// The projects below `directory`, none of them built yet. The host knows of them before its first look at the
    /// directory, so that it is not ready before they are built.
    pub(super) fn new(directory: &Path, builds: Arc<Builds>) -> Self {
        let projects = Self { directory: directory.to_owned(), known: BTreeMap::new(), builds };
        // The first build reports what is wrong with the directory.
        projects.announce(&find(directory).unwrap_or_default());
        projects
    }

    /// Tells the host which builds are due: those that wait for their turn are not missing.
    fn announce(&self, found: &BTreeMap<PathBuf, Recipe>) {
        for (source, recipe) in found {
            if self.known.get(source).is_none_or(|project| project.recipe != *recipe) {
                self.builds.begins(&recipe.service(source));
            }
        }
    }

    /// Builds what is new or has changed. Says what fails, and goes on with the others.
    ///
    /// # Errors
    /// When the directory cannot be read.
    async fn build(&mut self) -> Result<(), String> {
        let found = find(&self.directory)?;
        for (source, project) in self.known.extract_if(.., |source, _| !found.contains_key(source)) {
            self.builds.forget(&project.recipe.service(&source));
        }
        self.announce(&found);
        for (source, recipe) in found {
            let before = self.known.get(&source);
            let outside = before.map_or_else(Vec::new, |project| project.outside.clone());
            let built = sources(&source, &outside);
            if before.is_some_and(|project| project.recipe == recipe && project.built == built) {
                continue;
            }
            let service = recipe.service(&source);
            self.builds.begins(&service);
            let result = match &recipe {
                Recipe::Cargo => build::with_cargo(&source, &self.directory).await,
                Recipe::Command { command, component } => {
                    build::with_command(command, &source, component).await.map(|()| Vec::new())
                }
            };
            match &result {
                Ok(_) => self.builds.made(&service),
                Err(failed) => {
                    notice(&failed.message);
                    self.builds.failed(&service, &failed.summary, &failed.output);
                }
            }
            let (built, outside) = match result {
                Ok(now) if now != outside => (with_files(built, &now), now),
                Ok(now) => (built, now),
                Err(_) => (built, outside),
            };
            self.known.insert(source, Project { recipe, outside, built });
        }
        Ok(())
    }

    /// Builds what is there, and goes on building what changes, for ever.
    pub(super) async fn keep_building(mut self) {
        let mut watch = Watch::new(&self.directory, POLL).recursive();
        let mut first = true;
        loop {
            watch.arm();
            if let Err(problem) = self.build().await {
                notice(&problem);
            }
            if std::mem::take(&mut first) && self.known.is_empty() {
                notice(&format!("{} holds no sources; serving what is there", self.directory.display()));
            }
            watch.tick().await;
        }
    }
}

/// The sources in `directory`: crates, and what a manifest's `[build]` names.
fn find(directory: &Path) -> Result<BTreeMap<PathBuf, Recipe>, String> {
    let unreadable = |error| format!("{} cannot be read: {error}", directory.display());
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.join("Cargo.toml").is_file() {
            found.insert(path, Recipe::Cargo);
        } else if path.extension().is_some_and(|extension| extension == "toml")
            && path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b"."))
            && let Some(build) = files::read_text(&path, MANIFEST).ok().and_then(|text| manifest::build(&text))
        {
            let component = path.with_extension("wasm");
            found.insert(directory.join(build.directory), Recipe::Command { command: build.command, component });
        }
    }
    Ok(found)
}

fn sources(directory: &Path, outside: &[PathBuf]) -> Sources {
    fn walk(directory: &Path, into: &mut Sources) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let hidden = name.as_encoded_bytes().starts_with(b".") || NOT_SOURCES.iter().any(|other| name == **other);
            let Ok(metadata) = entry.metadata() else { continue };
            if hidden || entry.path().extension().is_some_and(|extension| extension == "wasm") {
                continue;
            }
            if metadata.is_dir() {
                walk(&entry.path(), into);
            } else {
                into.insert(entry.path(), (metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), metadata.len()));
            }
        }
    }
    let mut found = Sources::new();
    walk(directory, &mut found);
    with_files(found, outside)
}

fn with_files(mut sources: Sources, more: &[PathBuf]) -> Sources {
    for file in more {
        if let Ok(metadata) = fs::metadata(file) {
            let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            sources.insert(file.clone(), (modified, metadata.len()));
        }
    }
    sources
}
