//! Components in front of that of a service.

use std::path::Path;

use super::file::is_absent;
use super::scanner::{Look, Scanner};
use lodge_manifest::Manifest;
use lodge_manifest::refusal::{Refusal, file_name};
use lodge_manifest::spec::Middleware;

impl Scanner {
    /// The components in front of that of a service, and whether they have settled. Each needs a signature as the component does.
    pub(super) fn middleware(
        &mut self,
        manifest: &Manifest,
        (service, file): (&str, &Path),
        look: &mut Look<'_>,
        touched: &mut bool,
    ) -> Result<(Vec<Middleware>, bool), Refusal> {
        let (mut all, mut settled) = (Vec::new(), true);
        for name in &manifest.middleware {
            let (path, mut is_touched, mut is_settled) = (file.with_file_name(name), false, true);
            if is_absent(&path) {
                let reason = format!("middleware {name}: there is no such file");
                return Err(Refusal::new(&file_name(file), reason, "put it there, or name another"));
            }
            let found = self.component(&path, (service, name), look, &mut is_touched, &mut is_settled);
            // Not with the digest, which is none of the service's component.
            let refused = |why: Refusal| {
                let reason = format!("middleware {name}: {}", why.reason);
                Refusal { file: file_name(file), reason, digest: None, ..why }
            };
            let ((digest, admitted), size) = found.map_err(refused)?;
            admitted.map_err(refused)?;
            (*touched, settled) = (*touched | is_touched, settled & is_settled);
            all.push(Middleware { path, digest, size });
        }
        Ok((all, settled))
    }
}
