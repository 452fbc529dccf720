//! SQL on databases of PostgreSQL servers: `spin:postgres@3.0.0` and `fermyon:spin/postgres@2.0.0`.
//!
//! A handle is a connection of its own. It is taken from those of the service by its first statement, and given back at the end of
//! the request: what a guest has not committed by then is rolled back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use lodge_base::lock::lock;
use lodge_base::telemetry::traces::{OperationObject, OperationSpan};
use lodge_state::postgres::{
    PostgresAddress, PostgresError, PostgresPool, PostgresRows, PostgresServers, PostgresSession, PostgresValue,
};
use lodge_traffic::service::Service;
use wasmtime::component::{
    ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceTableError, ResourceType,
};

use super::denied::deny;
use super::logged_denials::Denial;
use super::outcome::{cut, log_outage};
use super::sandbox::Sandbox;
use super::{Ctx, GuestCall, TOO_MANY_HANDLES};

mod values;

use values::{v2, v3};

/// The most connections of a request.
const CONNECTIONS: usize = 16;

/// What guests receive instead of the reason for which there is no connection, which may name servers and users.
const UNREACHABLE: &str = "the database cannot be reached: try again later; the log of the host says why";

/// What guests receive for a database that is not granted.
const DENIED: &str = "the manifest of the service grants no such database";

/// The most bytes of an error's text that a guest receives.
const TEXT: usize = 1 << 10;

/// The databases that the manifest of a service grants.
pub struct GrantedPostgres {
    settings: PostgresAccess,
    /// The service, whose metrics count the statements.
    service: Arc<Service>,
    /// What connects to servers; `None` in a program without the backend.
    servers: Option<Arc<dyn PostgresServers>>,
    /// The connections to each database, by its key.
    pools: Mutex<HashMap<String, DatabaseConnections>>,
}

/// The connections of a service to a database.
struct DatabaseConnections {
    /// The value of the key for which they are.
    url: String,
    pool: Arc<dyn PostgresPool>,
}

/// How a service may use databases.
pub struct PostgresAccess {
    /// The keys of the configuration with their URLs.
    pub databases: Vec<String>,
    /// The authorities (PEM) that sign the certificates of their servers, in place of the system's.
    pub authorities: Option<Arc<[u8]>>,
    /// The most connections to each.
    pub connections: usize,
    /// The longest time that a statement may take.
    pub timeout: Duration,
}

impl GrantedPostgres {
    /// Grants a service databases. Connects to nothing yet.
    pub fn new(
        settings: PostgresAccess,
        service: Arc<Service>,
        servers: Option<Arc<dyn PostgresServers>>,
    ) -> GrantedPostgres {
        Self { settings, service, servers, pools: Mutex::default() }
    }

    /// Returns a connection to the database of this key, whose value is `url`.
    fn connection(&self, key: &str, url: &str) -> Result<Arc<dyn PostgresSession>, PostgresError> {
        let unreachable = |why: String| PostgresError::Unreachable(format!("the value of `{key}`: {why}"));
        let Some(servers) = &self.servers else {
            let why = "this program has no backend for PostgreSQL; build it with `--features postgres`";
            return Err(PostgresError::Unreachable(why.into()));
        };
        let mut pools = lock(&self.pools);
        if let Some(known) = pools.get(key).filter(|known| known.url == url) {
            return Ok(known.pool.connection());
        }
        let PostgresAccess { authorities, connections, .. } = &self.settings;
        let (authorities, connections) = (authorities.clone(), *connections);
        let address = PostgresAddress { url: url.to_owned(), authorities, connections };
        let pool = servers.pool(&address).map_err(unreachable)?;
        let connection = pool.connection();
        // Requests that have a connection of the former pool keep it until their end.
        pools.insert(key.to_owned(), DatabaseConnections { url: url.to_owned(), pool });
        Ok(connection)
    }
}

/// The databases of a sandbox, with the connections of its current request.
pub(super) struct RequestPostgres {
    granted: Arc<GrantedPostgres>,
    connections: Vec<Weak<dyn PostgresSession>>,
}

impl RequestPostgres {
    pub(super) fn new(granted: Arc<GrantedPostgres>) -> Self {
        Self { granted, connections: Vec::new() }
    }

    /// Gives all connections back at the end of a request. A handle that a guest keeps takes another one for the next request.
    pub(super) fn reset(&mut self) {
        self.connections.retain(|connection| {
            connection.upgrade().is_some_and(|connection| {
                connection.reset();
                true
            })
        });
    }
}

/// A connection that a guest has opened.
struct OpenPostgres {
    name: Arc<str>,
    /// The URL that the connection is for.
    url: String,
    connection: Arc<dyn PostgresSession>,
    granted: Arc<GrantedPostgres>,
}

#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(variant)]
enum Error {
    #[component(name = "connection-failed")]
    ConnectionFailed(String),
    #[component(name = "bad-parameter")]
    BadParameter(String),
    #[component(name = "query-failed")]
    QueryFailed(String),
    /// Part of the interface. A value without a form there is `unsupported`.
    #[component(name = "value-conversion-failed")]
    ValueConversionFailed(String),
    #[component(name = "other")]
    Other(String),
}

impl From<PostgresError> for Error {
    fn from(error: PostgresError) -> Self {
        let text = || cut(&error.to_string(), TEXT).to_owned();
        match error {
            // The reason is for operators.
            PostgresError::Unreachable(_) => Self::ConnectionFailed(UNREACHABLE.into()),
            PostgresError::Busy | PostgresError::Lost => Self::ConnectionFailed(text()),
            PostgresError::Parameter { .. } => Self::BadParameter(text()),
            PostgresError::Failed { .. } | PostgresError::Timeout => Self::QueryFailed(text()),
            PostgresError::TooLarge { .. } => Self::Other(text()),
        }
    }
}

/// Links both interfaces.
pub(super) fn link(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    let mut new = linker.instance("spin:postgres/postgres@3.0.0")?;
    link_functions::<v3::ParameterValue, v3::RowSet>(&mut new)?;
    let mut old = linker.instance("fermyon:spin/postgres@2.0.0")?;
    link_functions::<v2::ParameterValue, v2::RowSet>(&mut old)
}

fn link_functions<P, R>(postgres: &mut LinkerInstance<'_, Ctx>) -> wasmtime::Result<()>
where
    P: Lift + ComponentType + Into<PostgresValue> + Send + Sync + 'static,
    R: Lower + ComponentType + From<PostgresRows> + Send + Sync + 'static,
{
    postgres.resource("connection", ResourceType::host::<OpenPostgres>(), |mut caller, rep| {
        caller.data_mut().table.delete(Resource::<OpenPostgres>::new_own(rep))?;
        Ok(())
    })?;
    postgres.func_wrap("[static]connection.open", |mut caller: GuestCall<'_>, (address,): (String,)| {
        Ok((open(caller.data_mut(), &address)?,))
    })?;
    postgres.func_wrap_async(
        "[method]connection.query",
        |mut caller: GuestCall<'_>, (handle, text, parameters): (_, String, Vec<P>)| {
            let call = PostgresCall::begin(caller.data_mut(), &handle);
            Box::new(async move {
                Ok((match call? {
                    Ok(call) => call.run(text, parameters).await.map(R::from),
                    Err(error) => Err(error),
                },))
            })
        },
    )?;
    postgres.func_wrap_async(
        "[method]connection.execute",
        |mut caller: GuestCall<'_>, (handle, text, parameters): (_, String, Vec<P>)| {
            let call = PostgresCall::begin(caller.data_mut(), &handle);
            Box::new(async move {
                Ok((match call? {
                    Ok(call) => call.run(text, parameters).await.map(|rows| rows.affected),
                    Err(error) => Err(error),
                },))
            })
        },
    )
}

/// Opens a connection to the database that `address` names: by its key of the configuration, or by its URL, which is the value of the
/// key.
fn open(ctx: &mut Ctx, address: &str) -> wasmtime::Result<Result<Resource<OpenPostgres>, Error>> {
    let Some(of_request) = &mut ctx.postgres else {
        deny(&ctx.sandbox, Denial::Postgres);
        return Ok(Err(Error::ConnectionFailed(DENIED.into())));
    };
    let value = |key: &String| ctx.config.as_ref()?.value(key);
    let mut known = of_request.granted.settings.databases.iter().filter_map(|key| Some((key, value(key)?)));
    let Some((key, url)) = known.find(|(key, url)| *key == address || *url == address) else {
        deny(&ctx.sandbox, Denial::PostgresDatabase);
        return Ok(Err(Error::ConnectionFailed(DENIED.into())));
    };
    of_request.connections.retain(|connection| connection.strong_count() > 0);
    if of_request.connections.len() >= CONNECTIONS {
        return Ok(Err(Error::Other(format!("a request has at most {CONNECTIONS} connections; drop some"))));
    }
    let granted = Arc::clone(&of_request.granted);
    let connection = match granted.connection(key, url) {
        Ok(connection) => connection,
        Err(error) => {
            log_outage(&granted.service, &error.to_string());
            return Ok(Err(error.into()));
        }
    };
    let weak = Arc::downgrade(&connection);
    match ctx.table.push(OpenPostgres { name: key.as_str().into(), url: url.to_owned(), connection, granted }) {
        Ok(handle) => {
            of_request.connections.push(weak);
            Ok(Ok(handle))
        }
        Err(ResourceTableError::Full) => Ok(Err(Error::Other(TOO_MANY_HANDLES.into()))),
        Err(other) => Err(other.into()),
    }
}

/// A statement of a guest.
struct PostgresCall {
    database: Arc<str>,
    connection: Arc<dyn PostgresSession>,
    granted: Arc<GrantedPostgres>,
    sandbox: Arc<Sandbox>,
}

impl PostgresCall {
    /// Begins a call. A handle that a guest keeps has a connection to the URL of the current request.
    ///
    /// # Errors
    /// If the guest has no such handle, or its database is not granted any more.
    fn begin(ctx: &mut Ctx, handle: &Resource<OpenPostgres>) -> wasmtime::Result<Result<Self, Error>> {
        let Ctx { table, config, postgres, sandbox, .. } = ctx;
        let open = table.get_mut(handle)?;
        let Some(url) = config.as_ref().and_then(|config| config.value(&open.name)) else {
            return Ok(Err(Error::ConnectionFailed(DENIED.into())));
        };
        if open.url != url {
            match open.granted.connection(&open.name, url) {
                Ok(connection) => (open.connection, open.url) = (connection, url.to_owned()),
                Err(error) => {
                    log_outage(&open.granted.service, &error.to_string());
                    return Ok(Err(error.into()));
                }
            }
            if let Some(of_request) = postgres {
                of_request.connections.push(Arc::downgrade(&open.connection));
            }
        }
        let OpenPostgres { name, connection, granted, .. } = open;
        let (database, connection, granted) = (Arc::clone(name), Arc::clone(connection), Arc::clone(granted));
        Ok(Ok(Self { database, connection, granted, sandbox: Arc::clone(sandbox) }))
    }

    /// Begins the span of a statement, if it is recorded.
    fn span(&self) -> OperationSpan {
        let Some(trace) = self.sandbox.operation_trace() else { return OperationSpan::default() };
        let database = OperationObject::Database(Arc::clone(&self.database));
        trace.begin_operation("sql.execute", &self.granted.service.name, database)
    }

    /// Runs a statement, and counts it.
    async fn run<P: Into<PostgresValue>>(self, text: String, parameters: Vec<P>) -> Result<PostgresRows, Error> {
        let start = Instant::now();
        let deadline = self.sandbox.operation_deadline(self.granted.settings.timeout);
        let parameters = parameters.into_iter().map(P::into).collect();
        let span = self.span();
        let result = self.connection.run(text, parameters, deadline).await;
        span.finish(result.as_ref().err().map(PostgresError::outcome));
        let metrics = &self.granted.service.metrics;
        metrics.sql_duration.record(start.elapsed());
        metrics.sql.count(result.as_ref().map_or_else(PostgresError::outcome, |_| "ok"));
        if let Err(PostgresError::Unreachable(why)) = &result {
            log_outage(&self.granted.service, why);
        }
        Ok(result?)
    }
}
