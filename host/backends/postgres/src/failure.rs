//! Why PostgreSQL has refused something.

use std::error::Error as _;

use lodge_remote::{ConnectFailure, LinkFailure};
use lodge_state::Error;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::FromSql;

/// Why a statement failed. Its text may contain values, so only its code is repeated.
pub(crate) fn failed(error: &tokio_postgres::Error) -> LinkFailure {
    let Some(code) = error.code() else {
        // Without a code the connection is gone, or the program is wrong.
        return LinkFailure::Lost;
    };
    let text = match code.code() {
        // The server shuts down, or has restarted after the crash of a process.
        "57P01" | "57P02" | "57P03" => return LinkFailure::Lost,
        "25006" => {
            let text = "PostgreSQL is a standby and refuses writes: let the URL name the primary";
            return LinkFailure::Doubted(Error::unavailable(text));
        }
        // statement_timeout and lock_timeout.
        "57014" | "55P03" => "PostgreSQL took too long: check its load, and its locks in pg_stat_activity",
        "40001" | "40P01" => "PostgreSQL has ended a conflict of two operations: this one can be tried again",
        "53100" => "the disk of PostgreSQL is full: make room",
        "53200" | "53300" => "PostgreSQL has no memory or no connections left: raise its limits",
        "42501" => "the user of the URL may not use the schema lodge: grant it, or let this user own it",
        "42P01" | "42883" | "3F000" | "23503" => {
            // The next connection creates it again.
            let text = "the schema lodge in PostgreSQL has been changed: restore it, or drop all of it and restart";
            return LinkFailure::Doubted(Error::unavailable(text));
        }
        other => {
            return Error::unavailable(format!("PostgreSQL has refused the operation ({other}): see its log")).into();
        }
    };
    Error::unavailable(text).into()
}

/// A column of a row.
pub(crate) fn get<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, LinkFailure> {
    row.try_get(column).map_err(|_| unexpected().into())
}

/// A result that the functions never give.
pub(crate) fn unexpected() -> Error {
    Error::unavailable("PostgreSQL has sent an unexpected result: check whether the schema lodge was changed")
}

/// Why PostgreSQL does not accept a connection.
pub(crate) fn refused(error: &tokio_postgres::Error) -> ConnectFailure {
    if let Some(failure) = error.source().and_then(|source| source.downcast_ref::<ConnectFailure>()) {
        return failure.clone();
    }
    let Some(code) = error.code() else {
        let cause = error.source().map_or_else(String::new, ToString::to_string);
        return if cause.contains("TLS") || error.to_string().contains("TLS") {
            ConnectFailure::new("it has no TLS: configure its ssl, or add sslmode=disable to the URL")
        } else if cause.contains("password") {
            ConnectFailure::new("it demands a password: add it to the URL")
        } else {
            ConnectFailure::new("the connection was closed: check that its port speaks PostgreSQL")
        };
    };
    let text = if *code == SqlState::INVALID_PASSWORD || *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION {
        "user or password is wrong, or pg_hba.conf does not allow the connection: correct the URL or the file"
    } else if *code == SqlState::INVALID_CATALOG_NAME {
        "the database of the URL does not exist: create it"
    } else if *code == SqlState::TOO_MANY_CONNECTIONS {
        "it has too many connections: raise max_connections, or configure fewer"
    } else if *code == SqlState::CANNOT_CONNECT_NOW {
        "it is starting or stopping: this ends by itself"
    } else if *code == SqlState::INSUFFICIENT_PRIVILEGE {
        "the user of the URL may not create the schema lodge: GRANT CREATE ON DATABASE to it, or create the schema for it"
    } else {
        return ConnectFailure::new(format!("it refuses connections with {}: see its log", code.code()));
    };
    ConnectFailure::new(text)
}
