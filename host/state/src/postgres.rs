//! SQL on databases of a PostgreSQL server, for services that share it with other hosts and programs.
//!
//! The crate `lodge-postgres` implements [`PostgresServers`]. What is here does not depend on it, so that a build without it has
//! the interface as well, and says what it lacks.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

mod value;

pub use value::{
    PostgresDate, PostgresDateTime, PostgresDetail, PostgresInterval, PostgresKind, PostgresRange, PostgresTime,
    PostgresValue,
};

/// The most bytes of the text of a statement.
pub const MAX_STATEMENT: usize = 256 << 10;

/// The most bytes of all parameters of a statement, and of a result: values, 32 bytes for each of them and [`ROW`] for each row.
pub const MAX_TRANSFER: usize = 4 << 20;

/// The bytes of a row without its values.
pub const ROW: usize = 24;

/// The most parameters of a statement.
pub const MAX_PARAMETERS: usize = 10_000;

/// A result, later. Dropping it cancels the statement; what it has changed may be committed nevertheless.
pub type PendingRows<'a, T> = Pin<Box<dyn Future<Output = Result<T, PostgresError>> + Send + 'a>>;

/// How a service reaches a database.
#[derive(Clone)]
pub struct PostgresAddress {
    /// `postgres://USER[:PASSWORD]@HOST[:PORT]/DATABASE`, with `?sslmode=disable` for a server without TLS.
    pub url: String,
    /// The authorities (PEM) that sign the certificate of the server, in place of the system's.
    pub authorities: Option<Arc<[u8]>>,
    /// The most connections to it.
    pub connections: usize,
}

/// What connects a host to servers.
pub trait PostgresServers: Send + Sync {
    /// Returns a pool of connections of its own for a service. Connects to nothing yet.
    ///
    /// # Errors
    /// If the address is not valid: what is wrong, and what would be right, without its password.
    fn pool(&self, address: &PostgresAddress) -> Result<Arc<dyn PostgresPool>, String>;
}

/// The connections of a service to a database.
pub trait PostgresPool: Send + Sync {
    /// Returns a connection for one request. It is made, or taken from those that are idle, by the first statement.
    fn connection(&self) -> Arc<dyn PostgresSession>;
}

/// A connection to a database, for one request. Several statements of one connection run one after another.
pub trait PostgresSession: Send + Sync {
    /// Runs a text in this way. Waits for a connection of the service to be free.
    ///
    /// # Errors
    /// See [`PostgresError`]. Unless it is [`PostgresError::Failed`] or one of the arguments, a write may have been done.
    fn run<'a>(
        &'a self,
        mode: PostgresMode,
        text: String,
        parameters: Vec<PostgresValue>,
        deadline: Instant,
    ) -> PendingRows<'a, PostgresRows>;

    /// Rolls back what is not committed, and gives the connection back. The next statement takes another.
    fn reset(&self);
}

/// What is done with a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostgresMode {
    /// It is one statement, which runs.
    Run,
    /// The same, and values are read as [`PostgresDetail`] too, for interfaces that have forms for them.
    RunInDetail,
    /// It is one statement, which the server only looks at.
    Check,
    /// It is any number of statements, which run one after another. They have no parameters, and their rows are discarded.
    Batch,
}

/// What a statement returns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PostgresRows {
    /// The columns.
    pub columns: Vec<PostgresColumn>,
    /// The rows, each with a value for every column.
    pub rows: Vec<Vec<PostgresValue>>,
    /// The rows that it has changed, or returned.
    pub affected: u64,
}

impl PostgresRows {
    /// Its bytes without the columns, as [`MAX_TRANSFER`] counts them.
    pub fn size(&self) -> usize {
        let row = |values: &Vec<PostgresValue>| values.iter().map(PostgresValue::size).fold(ROW, usize::saturating_add);
        self.rows.iter().map(row).fold(0, usize::saturating_add)
    }
}

/// A column of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresColumn {
    /// Its name.
    pub name: String,
    /// The type of its values.
    pub kind: PostgresKind,
    /// The name of that type in the server.
    pub type_name: String,
    /// The name of the type of PostgreSQL in whose form the values are: of a domain, what it restricts, and `text` for enumerations.
    /// Empty for types that others have made.
    pub form: String,
}

/// Why a statement failed. Messages are for the developer of the service, but for [`PostgresError::Unreachable`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PostgresError {
    /// There is no connection. For operators: it may name servers and users.
    #[error("the database cannot be reached: {0}")]
    Unreachable(String),
    /// All connections of the service were in use until the deadline.
    #[error("all connections of the service are in use: keep transactions short, or raise `postgres.connections`")]
    Busy,
    /// The deadline passed.
    #[error("the statement was stopped at its deadline: see `postgres.timeout` and `limits.wall`")]
    Timeout,
    /// The connection was lost, or given back, while the statement ran.
    #[error("the connection was lost: whether the statement was done is not known")]
    Lost,
    /// An earlier statement ended the connection: it passed its deadline or the bound of its result, nobody waited for it, or the
    /// connection was lost. What the request had begun in it is undone.
    #[error(
        "an earlier statement ended this connection, and its transaction with it: open another connection, and begin anew"
    )]
    Ended,
    /// Something exceeds its bound.
    #[error("{what} has more than {limit} {unit}")]
    TooLarge {
        /// The statement, the parameters or the result.
        what: &'static str,
        /// Its most.
        limit: usize,
        /// Of what.
        unit: &'static str,
    },
    /// A parameter does not fit.
    #[error("parameter {number}: {why}")]
    Parameter {
        /// From 1.
        number: usize,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// What the server reports, such as a violated constraint.
    #[error("{0}")]
    Failed(Box<PostgresReport>),
}

/// Why the server has not done a statement, as it reports that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresReport {
    /// How bad it is, such as `ERROR`.
    pub severity: String,
    /// The five characters that classify it.
    pub code: String,
    /// What has happened.
    pub message: String,
    /// More about that.
    pub detail: Option<String>,
    /// What else it reports, each with its name, such as `hint` and `constraint`.
    pub extras: Vec<(&'static str, String)>,
}

impl fmt::Display for PostgresReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let hint = self.extras.iter().find(|(name, _)| *name == "hint").map(|(_, hint)| hint);
        for more in self.detail.iter().chain(hint) {
            write!(f, "; {more}")?;
        }
        write!(f, " (SQLSTATE {})", self.code)
    }
}

impl PostgresError {
    /// The outcome, as metrics name it.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Unreachable(_) | Self::Lost | Self::Ended => "unavailable",
            Self::Busy => "conflict",
            Self::Timeout => "timeout",
            Self::TooLarge { .. } => "too-large",
            Self::Parameter { .. } => "invalid",
            Self::Failed(report) => match report.code.as_str() {
                // Serialization failures and deadlocks, and locks that were not waited for.
                code if code.starts_with("40") || code == "55P03" => "conflict",
                "57014" => "timeout",
                "42501" => "denied",
                _ => "failed",
            },
        }
    }
}

/// The longest time that a connection is kept that nobody uses.
pub const IDLE: Duration = Duration::from_secs(60);
