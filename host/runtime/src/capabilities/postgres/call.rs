//! A statement of a guest, from its call to its result.

use std::sync::Arc;
use std::time::Instant;

use lodge_base::telemetry::traces::{OperationObject, OperationSpan};
use lodge_state::postgres::{
    MAX_PARAMETERS, MAX_TRANSFER, PostgresError, PostgresMode, PostgresRows, PostgresSession, PostgresValue,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::component::Resource;

use super::super::Ctx;
use super::super::config::ConfigSnapshot;
use super::super::sandbox::Sandbox;
use super::error::CallFailure;
use super::{GrantedPostgres, OpenPostgres, RequestPostgres, SENT};

/// What a statement or a result needs beside its bytes, roughly.
pub(super) const BESIDE: usize = 1 << 10;

/// A statement of a guest.
pub(super) struct PostgresCall {
    database: Arc<str>,
    connection: Arc<dyn PostgresSession>,
    mode: PostgresMode,
    text: String,
    parameters: Vec<PostgresValue>,
    /// The room for the parameters.
    sent: OwnedSemaphorePermit,
    unread: Arc<Semaphore>,
    granted: Arc<GrantedPostgres>,
    sandbox: Arc<Sandbox>,
}

impl PostgresCall {
    /// Begins a call of the connection of a handle.
    ///
    /// # Errors
    /// If the guest has no such handle, or there are too many parameters, and as [`on`](Self::on).
    pub(super) fn begin<P: Into<PostgresValue>>(
        ctx: &mut Ctx,
        handle: &Resource<OpenPostgres>,
        text: String,
        parameters: Vec<P>,
    ) -> wasmtime::Result<Result<Self, CallFailure>> {
        let Ctx { table, config, postgres, sandbox, .. } = ctx;
        let open = table.get_mut(handle)?;
        if let Err(error) = check_number(parameters.len()) {
            return Ok(Err(error.into()));
        }
        let parameters = parameters.into_iter().map(P::into).collect();
        let of_sandbox = (config.as_ref(), &*sandbox);
        Ok(Self::on(open, postgres.as_mut(), of_sandbox, (PostgresMode::Run, text), parameters))
    }

    /// Begins a call. A handle that a guest keeps has a connection to the URL of the current request.
    ///
    /// # Errors
    /// If the database is not granted any more, or the sandbox sends too much at a time.
    pub(super) fn on(
        open: &mut OpenPostgres,
        of_request: Option<&mut RequestPostgres>,
        (config, sandbox): (Option<&ConfigSnapshot>, &Arc<Sandbox>),
        (mode, text): (PostgresMode, String),
        parameters: Vec<PostgresValue>,
    ) -> Result<Self, CallFailure> {
        let url = config.and_then(|config| config.value(&open.name)).ok_or(CallFailure::Denied)?;
        if open.url != url {
            let connection = open.granted.connection(&open.name, url);
            open.connection = connection.inspect_err(|error| open.granted.log_unreachable(&open.name, error))?;
            url.clone_into(&mut open.url);
            if let Some(of_request) = of_request {
                of_request.connections.add(&open.connection);
            }
        }
        let size = parameters.iter().map(PostgresValue::size).fold(text.len(), usize::saturating_add);
        // One that has more is refused before it waits for anything.
        let Some(sent) = room(&open.sent, size.min(MAX_TRANSFER)) else {
            let why = format!("the statements that run have more than {SENT} bytes: await some before others");
            return Err(CallFailure::Refused(why));
        };
        let OpenPostgres { name, connection, granted, unread, .. } = open;
        Ok(Self {
            database: Arc::clone(name),
            connection: Arc::clone(connection),
            mode,
            text,
            parameters,
            sent,
            unread: Arc::clone(unread),
            granted: Arc::clone(granted),
            sandbox: Arc::clone(sandbox),
        })
    }

    /// The connection, and the room for results that are not read.
    pub(super) fn reading(&self) -> (Arc<dyn PostgresSession>, Arc<Semaphore>) {
        (Arc::clone(&self.connection), Arc::clone(&self.unread))
    }

    /// Begins the span of a statement, if it is recorded.
    fn span(&self) -> OperationSpan {
        let Some(trace) = self.sandbox.operation_trace() else { return OperationSpan::default() };
        let database = OperationObject::Database(Arc::clone(&self.database));
        trace.begin_operation("sql.execute", &self.granted.service.name, database)
    }

    /// Runs the statement, and counts it.
    async fn run(self) -> Result<PostgresRows, PostgresError> {
        let start = Instant::now();
        let deadline = self.sandbox.operation_deadline(self.granted.settings.timeout);
        let span = self.span();
        let result = self.connection.run(self.mode, self.text, self.parameters, deadline).await;
        drop(self.sent);
        span.finish(result.as_ref().err().map(PostgresError::outcome));
        let metrics = &self.granted.service.metrics;
        metrics.sql_duration.record(start.elapsed());
        metrics.sql.count(result.as_ref().map_or_else(PostgresError::outcome, |_| "ok"));
        result.inspect_err(|error| self.granted.log_unreachable(&self.database, error))
    }
}

/// Checks the number of parameters, which comes before anything is made of them.
pub(super) fn check_number(parameters: usize) -> Result<(), PostgresError> {
    if parameters > MAX_PARAMETERS {
        return Err(PostgresError::TooLarge { what: "the list of parameters", limit: MAX_PARAMETERS, unit: "items" });
    }
    Ok(())
}

/// Runs a statement that has begun.
pub(super) async fn run(call: Result<PostgresCall, CallFailure>) -> Result<PostgresRows, CallFailure> {
    Ok(call?.run().await?)
}

/// Takes room for so many bytes, and for what is needed beside them; `None` if there is not enough.
pub(super) fn room(all: &Arc<Semaphore>, bytes: usize) -> Option<OwnedSemaphorePermit> {
    let bytes = u32::try_from(bytes.saturating_add(BESIDE)).ok()?;
    Arc::clone(all).try_acquire_many_owned(bytes).ok()
}
