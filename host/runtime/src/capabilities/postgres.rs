//! SQL on databases of PostgreSQL servers: `fermyon:spin/postgres@2.0.0`, `spin:postgres@3.0.0`, and `4.2.0`, which also serves imports
//! of `4.0.0` and `4.1.0`; and `wasmcloud:postgres@0.2.0`.
//!
//! A handle is a connection of its own. It is taken from those of the service by its first statement, and given back at the end of
//! the request: what a guest has not committed by then is rolled back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lodge_base::lock::lock;
use lodge_base::tls::pem;
use lodge_state::postgres::{
    MAX_TRANSFER, PostgresAddress, PostgresError, PostgresPool, PostgresRows, PostgresServers, PostgresSession,
    PostgresValue,
};
use lodge_traffic::service::Service;
use rustls::pki_types::CertificateDer;
use tokio::sync::Semaphore;
use wasmtime::component::{
    ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceTableError, ResourceType,
};

use super::connections::RequestConnections;
use super::denied::deny;
use super::handles::TOO_MANY_HANDLES;
use super::logged_denials::Denial;
use super::outcome::log_outage;
use super::{Ctx, GuestCall};

mod asynchronous;
mod builder;
mod call;
mod error;
mod values;
mod wasmcloud;

use call::{BESIDE, PostgresCall};
use error::{CallFailure, Error, FailedQuery, QueryError};
use values::{v2, v3, v4};
use wasmcloud::PreparedStatements;

/// The most bytes of the parameters of all statements that a sandbox runs at a time. They are in no memory of the sandbox, and async
/// functions let it begin thousands.
const SENT: usize = 4 * MAX_TRANSFER;

/// The databases that the manifest of a service grants.
pub struct GrantedPostgres {
    settings: PostgresAccess,
    /// The service, whose metrics count the statements.
    service: Arc<Service>,
    /// What connects to servers; `None` in a program without the backend.
    servers: Option<Arc<dyn PostgresServers>>,
    /// The certificates of the authorities, if the manifest names any.
    authorities: Vec<CertificateDer<'static>>,
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
        let authorities = settings.authorities.as_deref().and_then(|text| pem::chain(text).ok()).unwrap_or_default();
        Self { settings, service, servers, authorities, pools: Mutex::default() }
    }

    /// Returns a connection to the database of this key, whose value is `url`.
    fn connection(&self, key: &str, url: &str) -> Result<Arc<dyn PostgresSession>, PostgresError> {
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
        let pool = servers.pool(&address).map_err(PostgresError::Unreachable)?;
        let connection = pool.connection();
        // Requests that have a connection of the former pool keep it until their end.
        pools.insert(key.to_owned(), DatabaseConnections { url: url.to_owned(), pool });
        Ok(connection)
    }

    /// Logs why a database cannot be reached, if that is what `error` says.
    fn log_unreachable(&self, database: &str, error: &PostgresError) {
        if let PostgresError::Unreachable(why) = error {
            log_outage(&self.service, &format!("its database `{database}`"), why);
        }
    }
}

/// The databases of a sandbox, with what its current request has of them.
pub(super) struct RequestPostgres {
    connections: RequestConnections<GrantedPostgres, dyn PostgresSession>,
    /// The bytes of [`SENT`] that are left.
    sent: Arc<Semaphore>,
    /// The connection of an interface without handles.
    unnamed: Option<Box<OpenPostgres>>,
    prepared: PreparedStatements,
}

impl RequestPostgres {
    pub(super) fn new(granted: Arc<GrantedPostgres>) -> Self {
        let (connections, sent) = (RequestConnections::new(granted), Arc::new(Semaphore::new(SENT)));
        Self { connections, sent, unnamed: None, prepared: PreparedStatements::default() }
    }

    /// Gives all connections back at the end of a request.
    pub(super) fn reset(&mut self) {
        self.connections.reset();
    }

    fn granted(&self) -> &Arc<GrantedPostgres> {
        &self.connections.granted
    }

    /// Returns a connection to the database of this key, whose value is `url`.
    fn connect(&mut self, key: &str, url: &str) -> Result<OpenPostgres, CallFailure> {
        self.connections.check().map_err(CallFailure::Refused)?;
        let granted = Arc::clone(self.granted());
        let connection = granted.connection(key, url).inspect_err(|error| granted.log_unreachable(key, error))?;
        self.connections.add(&connection);
        let (sent, unread) = (Arc::clone(&self.sent), Arc::new(Semaphore::new(MAX_TRANSFER + BESIDE)));
        Ok(OpenPostgres { name: key.into(), url: url.to_owned(), connection, granted, sent, unread })
    }
}

/// A connection that a guest has opened.
struct OpenPostgres {
    name: Arc<str>,
    /// The URL that the connection is for.
    url: String,
    connection: Arc<dyn PostgresSession>,
    granted: Arc<GrantedPostgres>,
    sent: Arc<Semaphore>,
    /// The bytes of [`MAX_TRANSFER`] that are left for results which the guest has not read.
    unread: Arc<Semaphore>,
}

/// Links the interfaces, and into a `concurrent` engine also the async functions.
pub(super) fn link(linker: &mut Linker<Ctx>, concurrent: bool) -> wasmtime::Result<()> {
    link_functions::<v2::ParameterValue, v2::RowSet, String>(&mut linker.instance("fermyon:spin/postgres@2.0.0")?)?;
    link_functions::<v3::ParameterValue, v3::RowSet, String>(&mut linker.instance("spin:postgres/postgres@3.0.0")?)?;
    let mut newest = linker.instance("spin:postgres/postgres@4.2.0")?;
    link_functions::<v4::ParameterValue, v4::RowSet, QueryError>(&mut newest)?;
    builder::link(&mut newest)?;
    if concurrent {
        asynchronous::link(&mut newest)?;
        wasmcloud::link(linker)?;
    }
    Ok(())
}

/// Links what all interfaces have, each with values and errors of its own.
fn link_functions<P, R, Q>(postgres: &mut LinkerInstance<'_, Ctx>) -> wasmtime::Result<()>
where
    P: Lift + ComponentType + Into<PostgresValue> + Send + Sync + 'static,
    R: Lower + ComponentType + From<PostgresRows> + Send + Sync + 'static,
    Q: Lower + ComponentType + FailedQuery + Send + Sync + 'static,
{
    postgres.resource("connection", ResourceType::host::<OpenPostgres>(), |mut caller, rep| {
        caller.data_mut().table.delete(Resource::<OpenPostgres>::new_own(rep))?;
        Ok(())
    })?;
    postgres.func_wrap("[static]connection.open", |mut caller: GuestCall<'_>, (address,): (String,)| {
        Ok((open(caller.data_mut(), &address)?.map_err(Error::<Q>::from),))
    })?;
    postgres.func_wrap_async(
        "[method]connection.query",
        |mut caller: GuestCall<'_>, (handle, text, parameters): (_, String, Vec<P>)| {
            let call = PostgresCall::begin(caller.data_mut(), &handle, text, parameters);
            Box::new(async move { Ok((call::run(call?).await.map(R::from).map_err(Error::<Q>::from),)) })
        },
    )?;
    postgres.func_wrap_async(
        "[method]connection.execute",
        |mut caller: GuestCall<'_>, (handle, text, parameters): (_, String, Vec<P>)| {
            let call = PostgresCall::begin(caller.data_mut(), &handle, text, parameters);
            Box::new(async move { Ok((call::run(call?).await.map(|rows| rows.affected).map_err(Error::<Q>::from),)) })
        },
    )
}

/// Opens a connection to the database that `address` names: by its key of the configuration, or by its URL, which is the value of the
/// key.
fn open(ctx: &mut Ctx, address: &str) -> wasmtime::Result<Result<Resource<OpenPostgres>, CallFailure>> {
    let Some(of_request) = &mut ctx.postgres else {
        deny(&ctx.sandbox, Denial::Postgres);
        return Ok(Err(CallFailure::Denied));
    };
    let value = |key: &String| ctx.config.as_ref()?.value(key);
    let databases = &of_request.granted().settings.databases;
    let mut known = databases.iter().filter_map(|key| Some((key, value(key)?)));
    let Some((key, url)) = known.find(|(key, url)| *key == address || *url == address) else {
        deny(&ctx.sandbox, Denial::PostgresDatabase);
        return Ok(Err(CallFailure::Denied));
    };
    let (key, url) = (key.clone(), url.to_owned());
    let open = match of_request.connect(&key, &url) {
        Ok(open) => open,
        Err(failure) => return Ok(Err(failure)),
    };
    match ctx.table.push(open) {
        Ok(handle) => Ok(Ok(handle)),
        Err(ResourceTableError::Full) => Ok(Err(CallFailure::Refused(TOO_MANY_HANDLES.into()))),
        Err(other) => Err(other.into()),
    }
}
