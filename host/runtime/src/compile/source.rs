//! The file of a component.

use std::io::ErrorKind;

use lodge_base::files;
use lodge_manifest::digest::Digest;
use lodge_manifest::refusal::{Refusal, file_name, unreadable};
use lodge_manifest::spec::GuestSpec;

/// Reads a component that is unchanged since the scan. Blocking.
///
/// # Errors
/// When it was changed or removed since. The next scan finds that.
pub(super) fn read(spec: &GuestSpec) -> Result<Vec<u8>, Refusal> {
    let file = file_name(&spec.path);
    let bytes = files::read(spec.component(), spec.size).map_err(|error| match error.kind() {
        ErrorKind::FileTooLarge => changed(&file),
        _ => unreadable(&file, &error),
    })?;
    if Digest::of(&bytes) == spec.digest { Ok(bytes) } else { Err(changed(&file)) }
}

fn changed(file: &str) -> Refusal {
    let remedy = "let the copy finish; better, rename a finished file into place";
    Refusal::new(file, "it changed while it was being read", remedy).passing()
}
