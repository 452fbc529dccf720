//! Why a file of the directory is not served.

use std::fmt;
use std::io::{Error, ErrorKind};
use std::path::Path;
use std::sync::Arc;

/// A file that is not served: which, why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The file, as it is named in the directory.
    pub file: String,
    /// What is wrong with it.
    pub reason: String,
    /// What to do.
    pub remedy: String,
    /// It may pass without the file being changed, so it is worth another try.
    pub passing: bool,
    /// The end of what its build has said.
    pub output: Option<Arc<str>>,
}

impl Refusal {
    /// A refusal of `file`.
    pub fn new(file: &str, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { file: file.to_owned(), reason: reason.into(), remedy: remedy.into(), passing: false, output: None }
    }

    /// One that may pass by itself.
    #[must_use]
    pub fn passing(self) -> Self {
        Self { passing: true, ..self }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.file, self.reason, self.remedy)
    }
}

/// A file's name as people know it, for messages.
pub fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// A refusal of a file for an error of reading it.
pub fn unreadable(file: &str, error: &Error) -> Refusal {
    match error.kind() {
        ErrorKind::InvalidInput => {
            let what = if file.ends_with(".toml") { "manifest" } else { "component" };
            Refusal::new(file, error.to_string(), format!("put the {what} itself, or a link to it, here"))
        }
        ErrorKind::InvalidData => match error.to_string().split_once("; ") {
            Some((reason, remedy)) => Refusal::new(file, reason, remedy),
            None => Refusal::new(file, error.to_string(), "save it as UTF-8"),
        },
        ErrorKind::FileTooLarge if file.ends_with(".wasm") => {
            Refusal::new(file, error.to_string(), "strip its debug sections, or raise engine.max_file")
        }
        ErrorKind::FileTooLarge => Refusal::new(file, error.to_string(), "a manifest is a small file of text"),
        _ => {
            let remedy = "make it readable for the user that Lodge runs as";
            Refusal::new(file, format!("it cannot be read: {error}"), remedy).passing()
        }
    }
}
