//! Runs a statement, on a thread that may wait.

use std::sync::Arc;

use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Batch, Connection, Error, ErrorCode, Row, Statement, ToSql, ffi};

use super::bounds::{StatementBounds, thread_cpu};
use super::database::{OpenConnection, SqlDatabase, unavailable};
use super::{MAX_TRANSFER, MAX_VALUE, SqlError, SqlResult, SqlValue};
use crate::mutex::lock;

/// The instructions of SQLite's machine between two checks of the bounds: some tens of microseconds.
const OPS: i32 = 1000;

/// Bytes of a row beside its values, as [`MAX_TRANSFER`] counts them.
const ROW: usize = 24;

/// The most characters of SQLite's text that reach the guest.
const TEXT: usize = 500;

/// Why a statement ended early.
enum StatementFailure {
    /// SQLite says so.
    Sqlite(Error),
    /// This crate says so.
    Own(SqlError),
}

impl From<Error> for StatementFailure {
    fn from(error: Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Runs one statement.
pub(super) fn run(
    open: &mut OpenConnection,
    text: &str,
    parameters: &[SqlValue],
    bounds: &Arc<StatementBounds>,
    database: &SqlDatabase,
) -> Result<SqlResult, SqlError> {
    let (since, watched) = (thread_cpu(), Arc::clone(bounds));
    *lock(&open.denied) = None;
    let set = open.connection.progress_handler(OPS, Some(move || watched.is_exceeded(since)));
    set.map_err(|error| unavailable(&error))?;
    let result = execute(&open.connection, text, parameters, database);
    // The next statement sets its own.
    let _ = open.connection.progress_handler(0, None::<fn() -> bool>);
    bounds.end(since);
    result.map_err(|failure| match failure {
        StatementFailure::Own(error) => error,
        StatementFailure::Sqlite(error) => match lock(&open.denied).take() {
            Some(what) => SqlError::Denied(what),
            None => explain(&error, bounds),
        },
    })
}

fn execute(
    connection: &Connection,
    text: &str,
    parameters: &[SqlValue],
    database: &SqlDatabase,
) -> Result<SqlResult, StatementFailure> {
    let mut statements = Batch::new(connection, text);
    let Some(mut statement) = statements.next()? else { return Ok(SqlResult::default()) };
    // A second one may not be valid before the first has run.
    if !matches!(statements.next(), Ok(None)) {
        return Err(invalid("there is more than one statement; write one at a time"));
    }
    bind(&mut statement, parameters)?;
    if !statement.readonly() && database.log_is_full() && !database.empty_log() {
        return Err(StatementFailure::Own(SqlError::Full));
    }
    let columns: Vec<_> = statement.column_names().map(str::to_owned).collect();
    let (mut rows, mut size) = (Vec::new(), 0_usize);
    let mut found = statement.raw_query();
    while let Some(row) = found.next()? {
        let values = (0..columns.len()).map(|column| read(row, column)).collect::<Result<Vec<_>, _>>()?;
        size = values.iter().map(SqlValue::size).fold(size.saturating_add(ROW), usize::saturating_add);
        if size > MAX_TRANSFER {
            return Err(StatementFailure::Own(SqlError::TooLarge { what: "the result", limit: MAX_TRANSFER }));
        }
        rows.push(values);
    }
    Ok(SqlResult { columns, rows })
}

fn bind(statement: &mut Statement<'_>, parameters: &[SqlValue]) -> Result<(), StatementFailure> {
    let expected = statement.parameter_count();
    if expected != parameters.len() {
        return Err(invalid(&format!("the statement has {expected} parameters, and {} were given", parameters.len())));
    }
    for (index, value) in (1..).zip(parameters) {
        statement.raw_bind_parameter(index, value)?;
    }
    Ok(())
}

impl ToSql for SqlValue {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Integer(number) => ValueRef::Integer(*number),
            Self::Real(number) => ValueRef::Real(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
            Self::Null => ValueRef::Null,
        }))
    }
}

/// Reads a value exactly.
fn read(row: &Row<'_>, column: usize) -> Result<SqlValue, StatementFailure> {
    Ok(match row.get_ref(column)? {
        ValueRef::Null => SqlValue::Null,
        ValueRef::Integer(number) => SqlValue::Integer(number),
        ValueRef::Real(number) => SqlValue::Real(number),
        ValueRef::Blob(bytes) => SqlValue::Blob(bytes.to_vec()),
        ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => SqlValue::Text(text.to_owned()),
            Err(_) => {
                let problem = format!("column {} is text that is not UTF-8; select it as CAST(… AS BLOB)", column + 1);
                return Err(invalid(&problem));
            }
        },
    })
}

fn invalid(problem: &str) -> StatementFailure {
    StatementFailure::Own(SqlError::Invalid(problem.to_owned()))
}

/// The error for what SQLite says.
fn explain(error: &Error, bounds: &StatementBounds) -> SqlError {
    let (code, text) = match error {
        Error::SqliteFailure(code, text) => (code, text.clone().unwrap_or_else(|| code.to_string())),
        Error::SqlInputError { error, msg, offset, .. } => (error, format!("{msg} (at byte {offset})")),
        other => return SqlError::Failed(other.to_string()),
    };
    match code.code {
        ErrorCode::OperationInterrupted => bounds.stopped().unwrap_or(SqlError::Timeout),
        ErrorCode::DiskFull => SqlError::Full,
        ErrorCode::DatabaseBusy if code.extended_code == ffi::SQLITE_BUSY_SNAPSHOT => SqlError::Outdated,
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => SqlError::Locked,
        ErrorCode::TooBig => SqlError::TooLarge { what: "a value or a row", limit: MAX_VALUE },
        ErrorCode::OutOfMemory => SqlError::Memory,
        ErrorCode::CannotOpen
        | ErrorCode::SystemIoFailure
        | ErrorCode::DatabaseCorrupt
        | ErrorCode::NotADatabase
        | ErrorCode::ReadOnly => SqlError::Unavailable(text),
        _ => SqlError::Failed(text.chars().take(TEXT).collect()),
    }
}
