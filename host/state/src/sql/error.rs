//! Why a statement failed. The messages are for the developer of the service; they contain no paths of the host.

/// Why a statement failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SqlError {
    /// The database has its quota in bytes, or the disk is full.
    #[error("the database is full: delete something, or raise `sqlite.bytes` in the manifest")]
    Full,
    /// Another connection is writing. [`SqlConnection`](super::SqlConnection) tries again until the deadline.
    #[error("the database is locked by another transaction: keep transactions that write short")]
    Locked,
    /// The transaction has read what another connection has changed since, so it cannot write.
    #[error("another transaction has changed the database since this one read it: begin it with BEGIN IMMEDIATE")]
    Outdated,
    /// The deadline passed.
    #[error("the statement was stopped at its deadline: see `sqlite.timeout` and `limits.wall`")]
    Timeout,
    /// The CPU time of the request is used up.
    #[error("the statement was stopped: the CPU time of the request (`limits.cpu`) is used up")]
    CpuTime,
    /// All statements together need too much memory, and this one has run for long.
    #[error("the statement was stopped: it needs too much memory for sorting or for temporary tables")]
    Memory,
    /// It does what no statement may.
    #[error("not authorized: {0}")]
    Denied(&'static str),
    /// Something exceeds its bound.
    #[error("{what} has more than {limit} bytes")]
    TooLarge {
        /// The statement, a value, the parameters or the result.
        what: &'static str,
        /// Its most bytes.
        limit: usize,
    },
    /// The call is wrong, whatever the database contains.
    #[error("{0}")]
    Invalid(String),
    /// What SQLite reports, such as a violated constraint.
    #[error("{0}")]
    Failed(String),
    /// The file cannot be used.
    #[error("the database cannot be used: {0}")]
    Unavailable(String),
}

impl SqlError {
    /// The outcome, as metrics name it.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Full => "quota",
            Self::Locked | Self::Outdated => "conflict",
            Self::Timeout => "timeout",
            Self::CpuTime | Self::Memory => "limit",
            Self::Denied(_) => "denied",
            Self::TooLarge { .. } => "too-large",
            Self::Invalid(_) => "invalid",
            Self::Failed(_) => "failed",
            Self::Unavailable(_) => "unavailable",
        }
    }
}
