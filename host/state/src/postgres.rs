//! SQL on databases of a PostgreSQL server, for services that share it with other hosts and programs.
//!
//! The crate `lodge-postgres` implements [`PostgresServers`]. What is here does not depend on it, so that a build without it has
//! the interface as well, and says what it lacks.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The most bytes of the text of a statement.
pub const MAX_STATEMENT: usize = 256 << 10;

/// The most bytes of all parameters of a statement, and of a result: values, 32 bytes for each of them and 24 for each row.
pub const MAX_TRANSFER: usize = 4 << 20;

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
    /// Runs one statement. Waits for a connection of the service to be free.
    ///
    /// # Errors
    /// See [`PostgresError`]. Unless it is [`PostgresError::Failed`] or one of the arguments, a write may have been done.
    fn run<'a>(
        &'a self,
        text: String,
        parameters: Vec<PostgresValue>,
        deadline: Instant,
    ) -> PendingRows<'a, PostgresRows>;

    /// Rolls back what is not committed, and gives the connection back. The next statement takes another.
    fn reset(&self);
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

/// A column of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresColumn {
    /// Its name.
    pub name: String,
    /// The type of its values.
    pub kind: PostgresKind,
}

/// The types of values that have a form of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostgresKind {
    /// `boolean`.
    Bool,
    /// `"char"`, a single byte.
    Int8,
    /// `smallint`.
    Int16,
    /// `integer`.
    Int32,
    /// `bigint`, `oid`.
    Int64,
    /// `real`.
    Float32,
    /// `double precision`.
    Float64,
    /// Texts, and what has one exact text: `numeric`, `uuid`, `json`, `jsonb`, enumerations.
    Text,
    /// `bytea`.
    Bytes,
    /// `date`.
    Date,
    /// `time`.
    Time,
    /// `timestamp`, and `timestamptz` in UTC.
    DateTime,
    /// All others.
    Other,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum PostgresValue {
    /// No value.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number of 8 bits.
    Int8(i8),
    /// A whole number of 16 bits.
    Int16(i16),
    /// A whole number of 32 bits.
    Int32(i32),
    /// A whole number of 64 bits.
    Int64(i64),
    /// A whole number that is not negative, as a parameter.
    Unsigned(u64),
    /// A number with a fraction, of 32 bits.
    Float32(f32),
    /// A number with a fraction, of 64 bits.
    Float64(f64),
    /// A text. As a parameter of a type that is no text, the server reads it as that type.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A day: year, month and day.
    Date(i32, u8, u8),
    /// A time of a day: hour, minute, second and nanosecond.
    Time(u8, u8, u8, u32),
    /// A day and a time; of a type with a time zone, in UTC.
    DateTime((i32, u8, u8), (u8, u8, u8, u32)),
    /// Seconds since 1970, as a parameter.
    Timestamp(i64),
    /// A value of a type without a form here, or one that the form cannot hold, such as an infinite date. Cast it to `text`.
    Unsupported,
}

impl PostgresValue {
    /// Its bytes, as [`MAX_TRANSFER`] counts them.
    pub fn size(&self) -> usize {
        let content = match self {
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
            _ => 0,
        };
        content.saturating_add(32)
    }
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
    #[error("{message} (SQLSTATE {code})")]
    Failed {
        /// The five characters that classify it.
        code: String,
        /// The message of the server.
        message: String,
    },
}

impl PostgresError {
    /// The outcome, as metrics name it.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Unreachable(_) | Self::Lost => "unavailable",
            Self::Busy => "conflict",
            Self::Timeout => "timeout",
            Self::TooLarge { .. } => "too-large",
            Self::Parameter { .. } => "invalid",
            // Serialization failures and deadlocks, and locks that were not waited for.
            Self::Failed { code, .. } if code.starts_with("40") || code == "55P03" => "conflict",
            Self::Failed { code, .. } if code == "57014" => "timeout",
            Self::Failed { code, .. } if code == "42501" => "denied",
            Self::Failed { .. } => "failed",
        }
    }
}

/// The longest time that a connection is kept that nobody uses.
pub const IDLE: Duration = Duration::from_secs(60);
