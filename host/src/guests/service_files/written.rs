//! The manifests of versions that Lodge writes. Every other one is that of an operator, also one of these that was edited.

use super::{FileError, ServiceFiles};
use lodge_manifest::percent::Percent;

/// The manifest of a version that is about to be removed.
pub(super) const DISABLED: &str = "# Written by `lodge rollback`, which removes this version.\nenabled = false\n";

/// Returns the manifest of a canary of the service `name`.
pub fn canary_manifest(name: &str, percent: Percent) -> String {
    format!(
        "# Written by `lodge deploy`. `lodge promote {name}` gives this version all \
         requests, `lodge rollback {name}` removes it.\n\
         percent = \"{percent}\"\n\n[rollback]\n"
    )
}

/// Whether this is all that Lodge would have written.
fn is_written(name: &str, text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let share = text.lines().find_map(|line| line.strip_prefix("percent = \"")?.strip_suffix('"'));
    let share = share.and_then(|share| Percent::parse(share).ok());
    text == DISABLED || share.is_some_and(|share| text == canary_manifest(name, share))
}

impl ServiceFiles<'_> {
    /// Checks that a version has no manifest but one that Lodge wrote: what an operator wrote is not to be changed or removed.
    ///
    /// # Errors
    /// If it has another one, or that cannot be read.
    pub fn check_written(&self, label: &str) -> Result<(), FileError> {
        let path = self.manifest_of(label);
        match self.content_of(&path)? {
            Some(text) if !is_written(self.name, &text) => Err(FileError::new(format!(
                "{} was written by an operator, and a key for deploying changes and removes no such manifest; nothing was changed; \
                 use another label, or the token `admin_token`",
                path.display()
            ))),
            _ => Ok(()),
        }
    }
}
