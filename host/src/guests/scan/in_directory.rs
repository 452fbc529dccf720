//! Services whose component is a file in the directory.

use std::path::Path;

use super::file::is_absent;
use super::scanner::{Look, Scanner, pinned};
use lodge_manifest::Manifest;
use lodge_manifest::component::ComponentSource;
use lodge_manifest::refusal::{Refusal, file_name};
use lodge_manifest::spec::{GuestSpec, split};

impl Scanner {
    /// The files of a service whose component is `component`, or another one that its manifest names.
    pub(super) fn in_directory(
        &mut self,
        (name, component): (&str, &Path),
        read: &Manifest,
        look: &mut Look<'_>,
        touched: &mut bool,
        settled: &mut bool,
    ) -> Result<GuestSpec, Refusal> {
        let ((service, _), manifest) = (split(name), component.with_extension("toml"));
        let of = match &read.component {
            Some(ComponentSource::File(name)) => Some(component.with_file_name(name)),
            _ => None,
        };
        let path = of.as_deref().unwrap_or(component);
        let before = self.middleware(read, (service, &manifest), look, touched);
        let found = match of.as_deref().filter(|path| is_absent(path)) {
            Some(missing) => Err(self.not_there(missing, &manifest)),
            None => self.component(path, (service, &file_name(path)), look, touched, settled),
        };
        let ((digest, admitted), size) = found?;
        let (middleware, unchanged) = before?;
        *settled &= unchanged;
        let admitted = admitted.and_then(|()| pinned(read, digest, &file_name(path)));
        // It may be good for another service, whose file is not to blame.
        admitted.map_err(|why| why.of(digest)).map_err(|why| match &of {
            Some(of) => {
                let reason = format!("component {}: {}", file_name(of), why.reason);
                Refusal { file: file_name(&manifest), reason, ..why }
            }
            None => why,
        })?;
        let (name, path, manifest) = (name.to_owned(), path.to_owned(), read.clone());
        Ok(GuestSpec { name, path, content: None, digest, size, middleware, manifest })
    }

    /// The refusal of a manifest whose component does not exist.
    fn not_there(&self, component: &Path, manifest: &Path) -> Refusal {
        let line = lodge_manifest::position(self.text(manifest), "component");
        let (directory, name) = (self.path.display(), file_name(component));
        let reason = format!("{line}component: there is no {name} in {directory}");
        Refusal::new(&file_name(manifest), reason, "put it there, or name another")
    }
}
