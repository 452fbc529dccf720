//! Services whose manifest names a component in a registry: they are what the content store has.

use std::path::Path;

use super::FileState;
use super::scanner::{Look, Scanner, pinned};
use crate::registry::follow::Pulled;
use lodge_manifest::Manifest;
use lodge_manifest::reference::Reference;
use lodge_manifest::refusal::{Refusal, file_name};
use lodge_manifest::spec::{GuestSpec, split};

impl Scanner {
    /// The state of a service with a component in a registry, and a problem of the registry that leaves the service as it is.
    pub(super) fn in_registry(
        &mut self,
        name: &str,
        manifest: &Path,
        reference: &Reference,
        read: &Manifest,
        look: &mut Look<'_>,
    ) -> (FileState, Option<Refusal>) {
        let file = file_name(manifest);
        let refusal = |why: &str, remedy: &str| {
            Refusal::new(&file, format!("component {reference} cannot be pulled: {why}"), remedy)
        };
        let Some(pulls) = self.pulls.clone() else {
            // Commands that pull nothing only need the manifest.
            let (name, path) = (name.to_owned(), manifest.to_owned());
            let (digest, size) = self.of_text(manifest);
            return (
                FileState::Ready(GuestSpec {
                    name,
                    path,
                    content: None,
                    digest,
                    size,
                    middleware: Vec::new(),
                    manifest: read.clone(),
                }),
                None,
            );
        };
        let (path, expected, problem) = match pulls.component(reference) {
            Pulled::Coming => return (FileState::Pulling, None),
            Pulled::Failed(why) => {
                let remedy = "see docs/registry.md; the service starts as soon as a pull succeeds";
                return (FileState::Refused(refusal(&why, remedy)), None);
            }
            Pulled::Here(path, digest, problem) => (path, digest, problem),
        };
        let trouble = problem
            .map(|why| refusal(&why, "the component that was pulled last stays in service, and the pull is repeated"));
        let (service, _) = split(name);
        let signed = format!("{}.wasm", reference.name());
        let admitted = |admitted: Result<(), Refusal>| {
            let remedy = "sign it, as with `lodge sign`, and push it again with the signature beside it";
            admitted.map_err(|refusal| Refusal::new(&file, refusal.reason, remedy))
        };
        // The store has complete files only.
        let (mut touched, mut settled) = (false, true);
        let middleware = match self.middleware(read, (service, manifest), look, &mut touched) {
            Ok((middleware, _)) => middleware,
            Err(refusal) => return (FileState::Refused(refusal), trouble),
        };
        let state = match self.component(&path, (service, &signed), look, &mut touched, &mut settled) {
            Ok(((digest, _), _)) if digest != expected => {
                pulls.discard(reference, expected);
                FileState::Pulling
            }
            Ok(((digest, verdict), size)) => match admitted(verdict).and_then(|()| pinned(read, digest, &file)) {
                Ok(()) => FileState::Ready(GuestSpec {
                    name: name.to_owned(),
                    path: manifest.to_owned(),
                    content: Some(path),
                    digest,
                    size,
                    middleware,
                    manifest: read.clone(),
                }),
                Err(refusal) => FileState::Refused(refusal),
            },
            Err(refusal) => FileState::Refused(Refusal { file, ..refusal }),
        };
        (state, trouble)
    }
}
