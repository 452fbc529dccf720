//! Refusals of files in the served directory.

use std::fmt;
use std::io::{Error, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use crate::digest::Digest;

/// The reason why a file is not served, and the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The name of the file in the directory.
    pub file: String,
    /// The problem.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
    /// Whether the problem may end without a change of the file, so that a retry is useful.
    pub passing: bool,
    /// The end of the build's output.
    pub output: Option<Arc<str>>,
    /// The component that is refused, if it is known which one that is.
    pub digest: Option<Box<Digest>>,
}

impl Refusal {
    /// Creates a refusal of `file`.
    pub fn new(file: &str, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        let file = file.to_owned();
        Self { file, reason: reason.into(), remedy: remedy.into(), passing: false, output: None, digest: None }
    }

    /// Marks the problem as one that may end by itself.
    #[must_use]
    pub fn passing(self) -> Self {
        Self { passing: true, ..self }
    }

    /// Says which component is refused, so that nobody takes this for the refusal of another one in its place.
    #[must_use]
    pub fn of(self, digest: Digest) -> Self {
        Self { digest: Some(Box::new(digest)), ..self }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.file, self.reason, self.remedy)
    }
}

/// Returns the file name of a path, for messages.
pub fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// Converts an error of reading `file` into a refusal.
pub fn unreadable(file: &str, error: &Error) -> Refusal {
    match error.kind() {
        ErrorKind::InvalidInput => {
            let what = if file.ends_with(".toml") { "manifest" } else { "component" };
            Refusal::new(file, error.to_string(), format!("replace it with the {what} or a link to the {what}"))
        }
        ErrorKind::InvalidData => match error.to_string().split_once("; ") {
            Some((reason, remedy)) => Refusal::new(file, reason, remedy),
            None => Refusal::new(file, error.to_string(), "save it as UTF-8"),
        },
        ErrorKind::FileTooLarge if file.ends_with(".wasm") => {
            Refusal::new(file, error.to_string(), "strip its debug sections, or raise engine.max_file")
        }
        ErrorKind::FileTooLarge => Refusal::new(file, error.to_string(), "a manifest is a small text file; shorten it"),
        _ => {
            let remedy = "let the user that runs Lodge read it";
            Refusal::new(file, format!("cannot read it: {error}"), remedy).passing()
        }
    }
}
