//! A connection to a server, on which statements of services run.

use std::pin::pin;
use std::time::Duration;

use futures_util::TryStreamExt;
use lodge_remote::{ConnectFailure, Unanswered, connect};
use lodge_state::postgres::{
    MAX_TRANSFER, PostgresColumn, PostgresError, PostgresMode, PostgresReport, PostgresRows, PostgresValue, ROW,
};
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::error::DbError;
use tokio_postgres::{Client, Statement};

use super::parameter::Parameter;
use super::value::{self, TOO_LARGE, form};
use crate::failure::refused;
use crate::settings::PostgresSettings;
use crate::tls::Connect;

/// The most bytes that the server sends for one statement. More than a result may have, since rows come in before they are counted.
pub(super) const MOST_RECEIVED: u64 = 8 << 20;

/// The longest time for which a statement may go on after it was cancelled.
const STOP: Duration = Duration::from_secs(2);

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
    /// Ends when the connection does.
    driver: Option<JoinHandle<()>>,
    /// The number of its process in the server.
    process: i32,
    received: Unanswered,
    settings: PostgresSettings,
    runtime: Handle,
    /// Whether a statement was sent whose end is not known.
    is_busy: bool,
    /// One of the connections that the service may have. Held until the server has none for it.
    permit: Option<OwnedSemaphorePermit>,
}

impl DatabaseClient {
    /// Begins to use a connection, whose `driver` is a task of `runtime`.
    ///
    /// # Errors
    /// If the server does not answer.
    pub(super) async fn new(
        client: Client,
        driver: JoinHandle<()>,
        received: Unanswered,
        settings: PostgresSettings,
        runtime: Handle,
    ) -> Result<Self, ConnectFailure> {
        let process = client.query_one("SELECT pg_backend_pid()", &[]).await;
        let process = process.and_then(|row| row.try_get(0)).map_err(|error| refused(&error))?;
        let (is_busy, permit, driver) = (false, None, Some(driver));
        Ok(Self { client, driver, process, received, settings, runtime, is_busy, permit })
    }

    /// Lets a request have the connection.
    pub(super) fn give(&mut self, permit: OwnedSemaphorePermit) {
        self.permit = Some(permit);
    }

    /// Takes what allows a request to have the connection.
    pub(super) fn take(&mut self) -> Option<OwnedSemaphorePermit> {
        self.permit.take()
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
            Err(PostgresError::Failed(report)) => report.code != "26000",
            Err(_) => false,
        };
        is_over && !self.is_busy && self.is_open()
    }

    /// Runs a text in this way. Dropping the future leaves the connection unusable.
    pub(super) async fn run(
        &mut self,
        mode: PostgresMode,
        text: &str,
        parameters: &[PostgresValue],
    ) -> Result<PostgresRows, PostgresError> {
        self.received.reset();
        self.is_busy = true;
        let result = match self.exchange(mode, text, parameters).await {
            Err(PostgresError::Lost) if self.received.is_excessive(MOST_RECEIVED) => Err(TOO_LARGE),
            other => other,
        };
        self.is_busy = !matches!(result, Ok(_) | Err(PostgresError::Failed(_) | PostgresError::Parameter { .. }));
        result
    }

    async fn exchange(
        &self,
        mode: PostgresMode,
        text: &str,
        parameters: &[PostgresValue],
    ) -> Result<PostgresRows, PostgresError> {
        if mode == PostgresMode::Batch {
            let done = self.client.batch_execute(text).await;
            return done.map(|()| PostgresRows::default()).map_err(|error| failed(&error));
        }
        let statement = self.client.prepare(text).await.map_err(|error| failed(&error))?;
        if mode == PostgresMode::Check {
            return Ok(PostgresRows::default());
        }
        let bound = bind(&statement, parameters)?;
        let columns = statement.columns().iter().map(|column| PostgresColumn {
            name: column.name().to_owned(),
            kind: value::kind(column.type_()),
            type_name: column.type_().name().to_owned(),
            form: form(column.type_()).to_owned(),
        });
        let mut result = PostgresRows { columns: columns.collect(), ..PostgresRows::default() };
        let names = result.columns.iter().map(|column| column.name.len() + column.type_name.len() + column.form.len());
        let mut size = names.fold(0, usize::saturating_add);
        let rows = self.client.query_raw(&statement, bound).await.map_err(|error| failed(&error))?;
        let mut rows = pin!(rows);
        while let Some(row) = rows.try_next().await.map_err(|error| failed(&error))? {
            let mut values = Vec::with_capacity(row.len());
            size = size.saturating_add(ROW);
            for column in 0..row.len() {
                let value = value::read(&row, column, mode == PostgresMode::RunInDetail)?;
                size = size.saturating_add(value.size());
                if size > MAX_TRANSFER {
                    return Err(TOO_LARGE);
                }
                values.push(value);
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
        // A request may have made types, and removed them.
        self.client.clear_type_cache();
        let is_clean = self.client.batch_execute(RESET).await.is_ok();
        self.is_busy = !is_clean;
        is_clean
    }
}

impl Drop for DatabaseClient {
    fn drop(&mut self) {
        let Some(mut driver) = self.driver.take() else { return };
        if !self.is_busy || self.client.is_closed() {
            return driver.abort();
        }
        let (cancel, settings, process, permit) =
            (self.client.cancel_token(), self.settings.clone(), self.process, self.permit.take());
        // The server notices a closed connection only when it sends something. The driver ends when the statement has: nothing else
        // can be sent without its client.
        self.runtime.spawn(async move {
            let cancelled = async {
                let PostgresSettings { host, port, tls, .. } = &settings;
                let stream = connect(host, *port, None).await.ok()?;
                cancel.cancel_query_raw(stream, Connect { host: host.clone(), config: tls.clone() }).await.ok()
            };
            let _ = timeout(CANCEL, cancelled).await;
            if timeout(STOP, &mut driver).await.is_err() {
                // SQL can go on after it was cancelled, and not after this.
                let _ = timeout(CANCEL, end(&settings, process)).await;
            }
            driver.abort();
            drop(permit);
        });
    }
}

/// Ends a process of the server, which the same user may do.
async fn end(settings: &PostgresSettings, process: i32) -> Option<()> {
    let PostgresSettings { host, port, tls, config, .. } = settings;
    let stream = connect(host, *port, None).await.ok()?.limited(MOST_RECEIVED);
    let to = Connect { host: host.clone(), config: tls.clone() };
    let (client, connection) = config.connect_raw(stream, to).await.ok()?;
    let text = format!("SELECT pg_terminate_backend({process})");
    tokio::select! {
        ended = client.batch_execute(&text) => ended.ok(),
        _ = connection => None,
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
        Some(error) => PostgresError::Failed(Box::new(report(error))),
        None => PostgresError::Lost,
    }
}

/// What the server reports of a statement that it has not done.
fn report(error: &DbError) -> PostgresReport {
    let line = error.line().map(|line| line.to_string());
    let extras = [
        ("hint", error.hint()),
        ("schema", error.schema()),
        ("table", error.table()),
        ("column", error.column()),
        ("datatype", error.datatype()),
        ("constraint", error.constraint()),
        ("where_", error.where_()),
        ("file", error.file()),
        ("line", line.as_deref()),
        ("routine", error.routine()),
    ];
    PostgresReport {
        severity: error.severity().to_owned(),
        code: error.code().code().to_owned(),
        message: error.message().to_owned(),
        detail: error.detail().map(str::to_owned),
        extras: extras.into_iter().filter_map(|(name, text)| Some((name, text?.to_owned()))).collect(),
    }
}
