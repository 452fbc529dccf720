//! `lodge schema`: prints the JSON Schema of a manifest for editors.

use super::out::{self, CliError};
use lodge_manifest::schema;

/// Prints the schema.
pub(super) fn run() -> Result<(), CliError> {
    out::line(&format!("{:#}", schema::manifest()))
}
