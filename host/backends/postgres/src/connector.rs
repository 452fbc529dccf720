//! Connections to PostgreSQL.

use std::future::poll_fn;
use std::sync::Arc;

use lodge_remote::{ConnectFailure, LinkFailure, OpenedLink, ServerConnector, ServerStream, connect};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Connection, Row};

use crate::failure::{failed, refused, unexpected};
use crate::message_statements::{MessageStatement, MessageStatements};
use crate::settings::PostgresSettings;
use crate::statements::{self, Parameters, Statement};
use crate::tls::{Connect, Secure};

/// The schema, which this version of Lodge knows up to [`VERSION`].
const SCHEMA: &str = include_str!("schema.sql");
const VERSION: i32 = 1;

/// Opens connections that have prepared all statements.
pub(crate) struct PostgresConnector(PostgresSettings);

/// A connection. Clones are the same connection.
#[derive(Clone)]
pub(crate) struct PostgresConnection(Arc<Prepared>);

struct Prepared {
    client: Client,
    statements: Vec<tokio_postgres::Statement>,
    messages: MessageStatements,
}

impl PostgresConnection {
    /// Runs a statement, and returns its rows.
    pub(crate) async fn all(&self, statement: Statement, parameters: &Parameters<'_>) -> Result<Vec<Row>, LinkFailure> {
        let prepared = self.0.statements.get(statement as usize).ok_or_else(unexpected)?;
        self.0.client.query(prepared, parameters).await.map_err(|error| failed(&error))
    }

    /// Runs a statement of messages, and returns its rows.
    pub(crate) async fn of_messages(
        &self,
        statement: MessageStatement,
        parameters: &Parameters<'_>,
    ) -> Result<Vec<Row>, LinkFailure> {
        self.0.messages.all(&self.0.client, statement, parameters).await
    }

    /// Runs a statement that returns one row, or none.
    pub(crate) async fn optional(
        &self,
        statement: Statement,
        parameters: &Parameters<'_>,
    ) -> Result<Option<Row>, LinkFailure> {
        Ok(self.all(statement, parameters).await?.into_iter().next())
    }

    /// Runs a statement that returns one row.
    pub(crate) async fn one(&self, statement: Statement, parameters: &Parameters<'_>) -> Result<Row, LinkFailure> {
        self.optional(statement, parameters).await?.ok_or_else(|| unexpected().into())
    }
}

impl PostgresConnector {
    pub(crate) fn new(settings: PostgresSettings) -> PostgresConnector {
        PostgresConnector(settings)
    }
}

impl ServerConnector for PostgresConnector {
    type Connection = PostgresConnection;

    const SERVER: &'static str = crate::SERVER;

    async fn connect(&self) -> Result<OpenedLink<PostgresConnection>, ConnectFailure> {
        let PostgresSettings { host, port, tls, config, .. } = &self.0;
        // PostgreSQL begins without TLS, and changes to it.
        let stream = connect(host, *port, None).await?;
        let unanswered = stream.unanswered();
        let tls = Connect { host: host.clone(), config: tls.clone() };
        let (client, connection) = config.connect_raw(stream, tls).await.map_err(|error| refused(&error))?;
        let mut driver: std::pin::Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(drive(connection));
        let prepared = tokio::select! {
            prepared = prepare(client) => prepared?,
            () = &mut driver => return Err(ConnectFailure::new("the connection was closed: see the log of the server")),
        };
        Ok(OpenedLink { connection: PostgresConnection(Arc::new(prepared)), driver, unanswered })
    }

    async fn check(&self, connection: &PostgresConnection) -> bool {
        // A standby cannot write, and a database without the schema cannot be used.
        let check = "SELECT pg_is_in_recovery() OR to_regclass('lodge.schema') IS NULL";
        let row = connection.0.client.query_one(check, &[]).await;
        row.and_then(|row| row.try_get(0)).is_ok_and(|unusable: bool| !unusable)
    }
}

/// Drives a connection until it ends. What a server tells beside its answers goes nowhere: the driver would log it without a service,
/// as often as a guest causes it, and most is about statements of the host.
pub(crate) async fn drive(mut connection: Connection<ServerStream, Secure>) {
    // Statements that wait get the error themselves.
    while let Some(Ok(_)) = poll_fn(|cx| connection.poll_message(cx)).await {}
}

/// Creates what is missing, and prepares all statements.
async fn prepare(client: Client) -> Result<Prepared, ConnectFailure> {
    let version = client.query_opt("SELECT version FROM lodge.schema", &[]).await;
    let missing = [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME];
    match version {
        Ok(Some(row)) => {
            let version: i32 = row.try_get(0).map_err(|error| refused(&error))?;
            if version > VERSION {
                return Err(ConnectFailure::new(format!(
                    "its schema lodge has version {version}, and this version of Lodge knows up to {VERSION}: use the later \
                     version of Lodge"
                )));
            }
        }
        Err(error) if error.code().is_some_and(|code| missing.contains(code)) => create(&client).await?,
        Ok(None) => return Err(ConnectFailure::new("its schema lodge has no version: drop it, or restore it")),
        Err(error) => return Err(refused(&error)),
    }
    let mut statements = Vec::new();
    for (_, text) in statements::ALL {
        statements.push(client.prepare(text).await.map_err(|error| refused(&error))?);
    }
    Ok(Prepared { client, statements, messages: MessageStatements::default() })
}

/// Creates the schema. Several connections do it at the same time: the first one does, and the others wait for it.
async fn create(client: &Client) -> Result<(), ConnectFailure> {
    let locked = "BEGIN; SELECT pg_advisory_xact_lock(7305, 1)";
    client.batch_execute(locked).await.map_err(|error| refused(&error))?;
    let exists = client.query_one("SELECT to_regclass('lodge.schema') IS NOT NULL", &[]).await;
    let exists = exists.and_then(|row| row.try_get(0)).map_err(|error| refused(&error))?;
    let script = if exists { "" } else { SCHEMA };
    client.batch_execute(&format!("{script}\n;COMMIT")).await.map_err(|error| refused(&error))
}
