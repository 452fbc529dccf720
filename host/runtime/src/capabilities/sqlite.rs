//! SQL on the databases of a service: `fermyon:spin/sqlite@2.0.0` and `spin:sqlite@3.1.0`, which also serves imports of
//! `3.0.0`.
//!
//! A handle is a connection of its own. It is opened by its first statement, and closed at the end of the request: what a guest has
//! not committed by then is rolled back, also in an instance that goes on to handle other requests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lodge_base::telemetry::traces::{OperationObject, OperationSpan};
use lodge_state::sql::{Allowance, SqlConnection, SqlDatabase, SqlError, SqlResult, SqlValue};
use lodge_traffic::service::Service;
use wasmtime::component::{
    Accessor, ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceTableError, ResourceType,
};

use super::connections::RequestConnections;
use super::denied::deny;
use super::handles::TOO_MANY_HANDLES;
use super::logged_denials::Denial;
use super::outcome::{UNAVAILABLE, cut, log_outage};
use super::sandbox::Sandbox;
use super::streamed::streamed;
use super::{Ctx, GuestCall};

/// The databases that the manifest of a service grants.
pub struct GrantedDatabases {
    /// Each by its name.
    pub databases: BTreeMap<String, Arc<SqlDatabase>>,
    /// The service, whose metrics count the statements.
    pub service: Arc<Service>,
    /// The longest time that a statement may take.
    pub timeout: Duration,
}

/// The databases of a sandbox, with the connections of its current request.
pub(super) type RequestDatabases = RequestConnections<GrantedDatabases, SqlConnection>;

/// A connection that a guest has opened.
struct OpenDatabase {
    name: Arc<str>,
    connection: Arc<SqlConnection>,
    granted: Arc<GrantedDatabases>,
}

#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(variant)]
enum Error {
    /// Part of the interface. A database that is not granted is denied, whether it exists or not.
    #[component(name = "no-such-database")]
    NoSuchDatabase,
    #[component(name = "access-denied")]
    AccessDenied,
    /// Part of the interface. A handle that does not exist is a trap.
    #[component(name = "invalid-connection")]
    InvalidConnection,
    #[component(name = "database-full")]
    DatabaseFull,
    #[component(name = "io")]
    Io(String),
}

/// The most bytes of an error's text that a guest receives.
const TEXT: usize = 1 << 10;

impl From<SqlError> for Error {
    fn from(error: SqlError) -> Self {
        match error {
            SqlError::Full => Self::DatabaseFull,
            SqlError::Unavailable(_) => Self::Io(UNAVAILABLE.into()),
            // SQLite repeats parts of the statement.
            other => Self::Io(cut(&other.to_string(), TEXT).to_owned()),
        }
    }
}

#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(variant)]
enum Value {
    #[component(name = "integer")]
    Integer(i64),
    #[component(name = "real")]
    Real(f64),
    #[component(name = "text")]
    Text(String),
    #[component(name = "blob")]
    Blob(Vec<u8>),
    #[component(name = "null")]
    Null,
}

impl From<Value> for SqlValue {
    fn from(value: Value) -> Self {
        match value {
            Value::Integer(number) => Self::Integer(number),
            Value::Real(number) => Self::Real(number),
            Value::Text(text) => Self::Text(text),
            Value::Blob(bytes) => Self::Blob(bytes),
            Value::Null => Self::Null,
        }
    }
}

impl From<SqlValue> for Value {
    fn from(value: SqlValue) -> Self {
        match value {
            SqlValue::Integer(number) => Self::Integer(number),
            SqlValue::Real(number) => Self::Real(number),
            SqlValue::Text(text) => Self::Text(text),
            SqlValue::Blob(bytes) => Self::Blob(bytes),
            SqlValue::Null => Self::Null,
        }
    }
}

#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(record)]
struct RowResult {
    values: Vec<Value>,
}

#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(record)]
struct QueryResult {
    columns: Vec<String>,
    rows: Vec<RowResult>,
}

impl From<SqlResult> for QueryResult {
    fn from(SqlResult { columns, rows }: SqlResult) -> Self {
        let row = |values: Vec<SqlValue>| RowResult { values: values.into_iter().map(Value::from).collect() };
        Self { columns, rows: rows.into_iter().map(row).collect() }
    }
}

/// Links both interfaces, and into a `concurrent` engine also the async functions.
pub(super) fn link(linker: &mut Linker<Ctx>, concurrent: bool) -> wasmtime::Result<()> {
    link_basics(&mut linker.instance("fermyon:spin/sqlite@2.0.0")?)?;
    let mut sqlite = linker.instance("spin:sqlite/sqlite@3.1.0")?;
    link_basics(&mut sqlite)?;
    sqlite.func_wrap(
        "[method]connection.last-insert-rowid",
        |caller: GuestCall<'_>, (handle,): (Resource<OpenDatabase>,)| {
            Ok((caller.data().table.get(&handle)?.connection.last_insert_rowid(),))
        },
    )?;
    sqlite.func_wrap("[method]connection.changes", |caller: GuestCall<'_>, (handle,): (Resource<OpenDatabase>,)| {
        Ok((caller.data().table.get(&handle)?.connection.changes(),))
    })?;
    if concurrent {
        link_async(&mut sqlite)?;
    }
    Ok(())
}

/// Links what both interfaces have.
fn link_basics(sqlite: &mut LinkerInstance<'_, Ctx>) -> wasmtime::Result<()> {
    sqlite.resource("connection", ResourceType::host::<OpenDatabase>(), |mut caller, rep| {
        caller.data_mut().table.delete(Resource::<OpenDatabase>::new_own(rep))?;
        Ok(())
    })?;
    sqlite.func_wrap("[static]connection.open", |mut caller: GuestCall<'_>, (name,): (String,)| {
        Ok((open(caller.data_mut(), &name)?,))
    })?;
    sqlite.func_wrap_async(
        "[method]connection.execute",
        |caller: GuestCall<'_>, (handle, text, parameters): (_, String, Vec<Value>)| {
            let call = SqlCall::begin(caller.data(), &handle);
            Box::new(async move { Ok((call?.run(text, parameters).await.map(QueryResult::from),)) })
        },
    )
}

fn link_async(sqlite: &mut LinkerInstance<'_, Ctx>) -> wasmtime::Result<()> {
    sqlite.func_wrap_concurrent("[static]connection.open-async", |accessor: &Accessor<Ctx>, (name,): (String,)| {
        let opened = accessor.with(|mut access| open(access.get(), &name));
        Box::pin(async move { Ok((opened?,)) })
    })?;
    sqlite.func_wrap_concurrent(
        "[method]connection.execute-async",
        |accessor: &Accessor<Ctx>, (handle, text, parameters): (Resource<OpenDatabase>, String, Vec<Value>)| {
            let call = accessor.with(|mut access| SqlCall::begin(access.get(), &handle));
            Box::pin(async move {
                let result = match call?.run(text, parameters).await {
                    Ok(result) => QueryResult::from(result),
                    Err(error) => return Ok((Err(error),)),
                };
                let rows = streamed::<_, _, Error>(accessor, result.columns, result.rows)?;
                Ok((rows.ok_or_else(|| Error::Io(TOO_MANY_HANDLES.into())),))
            })
        },
    )?;
    sqlite.func_wrap_concurrent(
        "[method]connection.last-insert-rowid-async",
        |accessor: &Accessor<Ctx>, (handle,): (Resource<OpenDatabase>,)| {
            let connection = accessor.with(|mut access| connection(access.get(), &handle));
            Box::pin(async move { Ok((connection?.last_insert_rowid(),)) })
        },
    )?;
    sqlite.func_wrap_concurrent(
        "[method]connection.changes-async",
        |accessor: &Accessor<Ctx>, (handle,): (Resource<OpenDatabase>,)| {
            let connection = accessor.with(|mut access| connection(access.get(), &handle));
            Box::pin(async move { Ok((connection?.changes(),)) })
        },
    )
}

fn connection(ctx: &Ctx, handle: &Resource<OpenDatabase>) -> wasmtime::Result<Arc<SqlConnection>> {
    Ok(Arc::clone(&ctx.table.get(handle)?.connection))
}

/// Opens a connection to the database `name`.
fn open(ctx: &mut Ctx, name: &str) -> wasmtime::Result<Result<Resource<OpenDatabase>, Error>> {
    let Some(of_request) = &mut ctx.sqlite else {
        deny(&ctx.sandbox, Denial::Sqlite);
        return Ok(Err(Error::AccessDenied));
    };
    let Some(database) = of_request.granted.databases.get(name) else {
        deny(&ctx.sandbox, Denial::Database);
        return Ok(Err(Error::AccessDenied));
    };
    let database = Arc::clone(database);
    if let Err(why) = of_request.check() {
        return Ok(Err(Error::Io(why)));
    }
    let connection = Arc::new(SqlConnection::new(database));
    let granted = Arc::clone(&of_request.granted);
    match ctx.table.push(OpenDatabase { name: name.into(), connection: Arc::clone(&connection), granted }) {
        Ok(handle) => {
            of_request.add(&connection);
            Ok(Ok(handle))
        }
        Err(ResourceTableError::Full) => Ok(Err(Error::Io(TOO_MANY_HANDLES.into()))),
        Err(other) => Err(other.into()),
    }
}

/// A statement of a guest.
struct SqlCall {
    database: Arc<str>,
    connection: Arc<SqlConnection>,
    granted: Arc<GrantedDatabases>,
    sandbox: Arc<Sandbox>,
}

impl SqlCall {
    /// Begins a call.
    ///
    /// # Errors
    /// If the guest has no such handle.
    fn begin(ctx: &Ctx, handle: &Resource<OpenDatabase>) -> wasmtime::Result<Self> {
        let OpenDatabase { name, connection, granted } = ctx.table.get(handle)?;
        let (database, connection, granted) = (Arc::clone(name), Arc::clone(connection), Arc::clone(granted));
        Ok(Self { database, connection, granted, sandbox: Arc::clone(&ctx.sandbox) })
    }

    /// Begins the span of a statement, if it is recorded.
    fn span(&self) -> OperationSpan {
        let Some(trace) = self.sandbox.operation_trace() else { return OperationSpan::default() };
        let database = OperationObject::Database(Arc::clone(&self.database));
        trace.begin_operation("sql.execute", &self.granted.service.name, database)
    }

    /// Runs a statement, and counts it. Its CPU time is that of the guest.
    async fn run(self, text: String, parameters: Vec<Value>) -> Result<SqlResult, Error> {
        let start = Instant::now();
        // Some of the request's time stays for the guest to respond that its statement was stopped.
        let left = self.sandbox.deadline().map(|deadline| deadline.saturating_duration_since(start).mul_f32(0.9));
        let timeout = left.map_or(self.granted.timeout, |left| self.granted.timeout.min(left));
        let allowance = Allowance { deadline: start + timeout, cpu: self.sandbox.cpu.left() };
        let parameters = parameters.into_iter().map(SqlValue::from).collect();
        let span = self.span();
        let (result, cpu) = self.connection.execute(text, parameters, allowance).await;
        span.finish(result.as_ref().err().map(SqlError::outcome));
        self.sandbox.cpu.charge_elsewhere(cpu);
        let metrics = &self.granted.service.metrics;
        metrics.sql_duration.record(start.elapsed());
        metrics.sql.count(result.as_ref().map_or_else(SqlError::outcome, |_| "ok"));
        if let Err(SqlError::Unavailable(why)) = &result {
            log_outage(&self.granted.service, &format!("its database `{}`", self.database), why);
        }
        Ok(result?)
    }
}
