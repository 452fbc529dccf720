//! A connection to a server, on which statements of services run.

use std::pin::pin;
use std::time::Duration;

use futures_util::TryStreamExt;
use lodge_remote::{Unanswered, connect};
use lodge_state::postgres::{MAX_TRANSFER, PostgresColumn, PostgresError, PostgresRows, PostgresValue};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_postgres::{Client, Statement};

use super::parameter::Parameter;
use super::value;
use crate::settings::PostgresSettings;
use crate::tls::Connect;

/// The most bytes that the server sends for one statement. More than a result may have, since rows come in before they are counted.
pub(super) const MOST_RECEIVED: u64 = 8 << 20;

const TOO_LARGE: PostgresError = PostgresError::TooLarge { what: "the result", limit: MAX_TRANSFER, unit: "bytes" };

/// The longest time for telling a server to stop a statement.
const CANCEL: Duration = Duration::from_secs(5);

/// What a request may have left in a connection. Statements that the driver has prepared stay: it uses them again.
const RESET: &str = "ROLLBACK; CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; \
    SELECT pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES; \
    DO $$ DECLARE prepared text; BEGIN \
      FOR prepared IN SELECT name FROM pg_prepared_statements WHERE from_sql LOOP \
        EXECUTE format('DEALLOCATE %I', prepared); \
      END LOOP; \
    END $$";

/// A connection to a server.
pub(super) struct DatabaseClient {
    client: Client,
    driver: AbortHandle,
    received: Unanswered,
    settings: PostgresSettings,
    runtime: Handle,
    /// Whether a statement was sent whose end is not known.
    is_busy: bool,
}

impl DatabaseClient {
    pub(super) fn new(
        client: Client,
        driver: AbortHandle,
        received: Unanswered,
        settings: PostgresSettings,
        runtime: Handle,
    ) -> Self {
        Self { client, driver, received, settings, runtime, is_busy: false }
    }

    /// Whether the server has not closed it.
    pub(super) fn is_open(&self) -> bool {
        !self.client.is_closed()
    }

    /// Whether another statement can run after one with this result. The server has ended a statement that it has refused.
    pub(super) fn is_usable(&self, result: &Result<PostgresRows, PostgresError>) -> bool {
        let is_over = match result {
            Ok(_) | Err(PostgresError::Parameter { .. }) => true,
            // A prepared statement that the driver relies on is gone.
            Err(PostgresError::Failed { code, .. }) => code != "26000",
            Err(_) => false,
        };
        is_over && !self.is_busy && self.is_open()
    }

    /// Runs a statement. Dropping the future leaves the connection unusable.
    pub(super) async fn run(
        &mut self,
        text: &str,
        parameters: &[PostgresValue],
    ) -> Result<PostgresRows, PostgresError> {
        self.received.reset();
        self.is_busy = true;
        let result = match self.exchange(text, parameters).await {
            Err(PostgresError::Lost) if self.received.bytes() > MOST_RECEIVED => Err(TOO_LARGE),
            other => other,
        };
        self.is_busy = !matches!(result, Ok(_) | Err(PostgresError::Failed { .. } | PostgresError::Parameter { .. }));
        result
    }

    async fn exchange(&self, text: &str, parameters: &[PostgresValue]) -> Result<PostgresRows, PostgresError> {
        let statement = self.client.prepare(text).await.map_err(|error| failed(&error))?;
        let bound = bind(&statement, parameters)?;
        let columns = statement
            .columns()
            .iter()
            .map(|column| PostgresColumn { name: column.name().to_owned(), kind: value::kind(column.type_()) });
        let columns: Vec<_> = columns.collect();
        let mut result = PostgresRows { columns, ..PostgresRows::default() };
        let mut size = result.columns.iter().map(|column| column.name.len()).fold(0, usize::saturating_add);
        let rows = self.client.query_raw(&statement, bound).await.map_err(|error| failed(&error))?;
        let mut rows = pin!(rows);
        while let Some(row) = rows.try_next().await.map_err(|error| failed(&error))? {
            let mut values = Vec::with_capacity(row.len());
            size = size.saturating_add(24);
            for column in 0..row.len() {
                let value = value::read(&row, column).map_err(|error| failed(&error))?;
                size = size.saturating_add(value.size());
                values.push(value);
            }
            if size > MAX_TRANSFER {
                return Err(TOO_LARGE);
            }
            result.rows.push(values);
        }
        result.affected = rows.rows_affected().unwrap_or_default();
        Ok(result)
    }

    /// Rolls back, and removes what a request has left. Returns whether another request may have the connection.
    pub(super) async fn reset(&mut self) -> bool {
        self.received.reset();
        self.is_busy = true;
        let is_clean = self.client.batch_execute(RESET).await.is_ok();
        self.is_busy = !is_clean;
        is_clean
    }
}

impl Drop for DatabaseClient {
    fn drop(&mut self) {
        self.driver.abort();
        if !self.is_busy || self.client.is_closed() {
            return;
        }
        // The server notices a closed connection only when it sends something.
        let (cancel, PostgresSettings { host, port, tls, .. }) = (self.client.cancel_token(), self.settings.clone());
        self.runtime.spawn(async move {
            let cancelled = async {
                let stream = connect(&host, port, None).await.ok()?;
                cancel.cancel_query_raw(stream, Connect { host: host.clone(), config: tls }).await.ok()
            };
            // A server that cannot be reached stops by its own `statement_timeout`.
            let _ = timeout(CANCEL, cancelled).await;
        });
    }
}

/// Checks whether the parameters fit their types.
fn bind<'a>(statement: &Statement, parameters: &'a [PostgresValue]) -> Result<Vec<Parameter<'a>>, PostgresError> {
    let types = statement.params();
    if types.len() != parameters.len() {
        let why = format!("the statement has {}, and {} were given", types.len(), parameters.len());
        return Err(PostgresError::Parameter { number: types.len().min(parameters.len()).saturating_add(1), why });
    }
    let numbered = (1..).zip(types.iter().zip(parameters));
    numbered
        .map(|(number, (of, value))| Parameter::new(value, of).map_err(|why| PostgresError::Parameter { number, why }))
        .collect()
}

/// Why the server has not run a statement.
fn failed(error: &tokio_postgres::Error) -> PostgresError {
    match error.as_db_error() {
        // The server shuts down, or has restarted after the crash of a process.
        Some(error) if error.code().code().starts_with("57P") => PostgresError::Lost,
        Some(error) => {
            let (code, mut message) = (error.code().code().to_owned(), error.message().to_owned());
            for more in error.detail().into_iter().chain(error.hint()) {
                message.push_str("; ");
                message.push_str(more);
            }
            PostgresError::Failed { code, message }
        }
        None => PostgresError::Lost,
    }
}
