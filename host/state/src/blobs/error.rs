//! Why an operation failed. The messages are for the developer of the service; they contain no paths of the host.

use std::io::{self, ErrorKind};

/// Why an operation on objects failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    /// There is no container of this name.
    #[error("there is no such container: create it first")]
    NoContainer,
    /// There is a container of this name.
    #[error("the container exists already")]
    ContainerExists,
    /// There is no object of this name.
    #[error("there is no such object")]
    NoObject,
    /// An argument is not valid, whatever there is.
    #[error("{what} {problem}")]
    Invalid {
        /// The argument.
        what: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An argument exceeds its bound.
    #[error("{what} has more than {limit} {unit}")]
    TooLarge {
        /// The argument.
        what: &'static str,
        /// What is counted.
        unit: &'static str,
        /// The bound.
        limit: usize,
    },
    /// The service has as much as it may have.
    #[error("the quota of {limit} {resource} is used up: delete some, or raise it in [blobstore] of the manifest")]
    Full {
        /// What there is too much of: `bytes`, `objects` or `containers`.
        resource: &'static str,
        /// The quota.
        limit: u64,
    },
    /// The deadline passed. A change may have been made, or may be made later.
    #[error("the operation was not done before its deadline: see `state.timeout` and `limits.wall`")]
    Timeout,
    /// The directory cannot be used now.
    #[error("the objects cannot be used: {0}")]
    Unavailable(String),
}

impl BlobError {
    /// The outcome, as metrics name it.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::NoContainer | Self::NoObject => "absent",
            Self::ContainerExists => "conflict",
            Self::Invalid { .. } => "invalid",
            Self::TooLarge { .. } => "too-large",
            Self::Full { .. } => "quota",
            Self::Timeout => "timeout",
            Self::Unavailable(_) => "unavailable",
        }
    }

    /// The error for something that is not there, if `error` says that, else for the disk.
    pub(super) fn absent(self, error: &io::Error) -> Self {
        match error.kind() {
            // A part of the path may be a file, which is no container.
            ErrorKind::NotFound | ErrorKind::NotADirectory => self,
            _ => error.into(),
        }
    }
}

/// The texts of these errors contain no paths.
impl From<&io::Error> for BlobError {
    fn from(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::InvalidFilename => {
                Self::Invalid { what: "the name", problem: "is too long for the file system of the host" }
            }
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<io::Error> for BlobError {
    fn from(error: io::Error) -> Self {
        Self::from(&error)
    }
}
