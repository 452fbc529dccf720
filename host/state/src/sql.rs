//! SQL databases of services: one SQLite file for each database that a service is granted.
//!
//! * A [`SqlConnection`] belongs to one request. It opens the file with its first statement, and what it has not committed is
//!   rolled back when it is dropped or reset.
//! * Statements run on threads that may wait. A statement that finds the database locked is tried again later, and occupies no
//!   thread meanwhile: the holder of the lock may need one to commit.
//! * The SQL is not trusted. It reaches no other file, and its time, its memory, its size and that of its result are bounded.

mod authorizer;
mod bounds;

mod connection;
mod database;
mod error;
mod statement;
#[cfg(test)]
mod tests;

pub use bounds::Allowance;
pub use connection::SqlConnection;
pub use database::{SqlDatabase, SqlDatabases, SqlOptions};
pub use error::SqlError;

/// The most bytes of a text, a blob or a row.
pub const MAX_VALUE: usize = 1 << 20;

/// The most bytes of the text of a statement.
pub const MAX_STATEMENT: usize = 256 << 10;

/// The most bytes of all parameters of a statement, and of a result: values, 32 bytes for each of them and 24 for each row.
pub const MAX_TRANSFER: usize = 4 << 20;

/// A value of SQLite.
#[derive(Clone, Debug, PartialEq)]
pub enum SqlValue {
    /// A whole number.
    Integer(i64),
    /// A number with a fraction. It is not NaN, which SQLite does not have.
    Real(f64),
    /// Text in UTF-8.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
    /// No value.
    Null,
}

/// What a statement returns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SqlResult {
    /// The names of the columns.
    pub columns: Vec<String>,
    /// The rows, each with a value for every column.
    pub rows: Vec<Vec<SqlValue>>,
}

impl SqlValue {
    /// Its bytes, as [`MAX_TRANSFER`] counts them.
    fn size(&self) -> usize {
        let content = match self {
            Self::Text(text) => text.len(),
            Self::Blob(bytes) => bytes.len(),
            Self::Integer(_) | Self::Real(_) | Self::Null => 0,
        };
        content.saturating_add(32)
    }
}
