//! Connections to Redis.

use lodge_remote::{ConnectFailure, OpenedLink, ServerConnector, connect};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ErrorKind, RedisError, RedisResult, cmd};

use crate::connection::RedisConnection;
use crate::scripts;
use crate::settings::RedisSettings;

/// Opens connections that are ready for scripts.
pub(crate) struct RedisConnector(RedisSettings);

impl RedisConnector {
    pub(crate) fn new(settings: RedisSettings) -> RedisConnector {
        RedisConnector(settings)
    }
}

impl ServerConnector for RedisConnector {
    type Connection = RedisConnection;

    const SERVER: &'static str = crate::SERVER;

    async fn connect(&self) -> Result<OpenedLink<RedisConnection>, ConnectFailure> {
        let RedisSettings { host, port, tls, login, .. } = &self.0;
        let stream = connect(host, *port, tls.clone()).await?;
        let unanswered = stream.unanswered();
        // Deadlines are those of operations.
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let opened = MultiplexedConnection::new_with_config(login, stream, config).await;
        let (server, driver) = opened.map_err(|error| refused(&error))?;
        let mut driver: std::pin::Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(driver);
        let digests = tokio::select! {
            digests = prepare(server.clone()) => digests?,
            () = &mut driver => return Err(ConnectFailure::new("the connection was closed: see the log of the server")),
        };
        let connection = RedisConnection::new(server, digests);
        Ok(OpenedLink { connection, driver, unanswered })
    }

    async fn check(&self, connection: &RedisConnection) -> bool {
        if connection.is_demoted() {
            return false;
        }
        let pong: RedisResult<String> = cmd("PING").query_async(&mut connection.server.clone()).await;
        pong.is_ok()
    }
}

/// Checks that the server keeps what it confirms, and loads the scripts.
async fn prepare(mut server: MultiplexedConnection) -> Result<Vec<String>, ConnectFailure> {
    // A user may have no right to ask for it.
    let memory: RedisResult<String> = cmd("INFO").arg("memory").query_async(&mut server).await;
    let memory = memory.unwrap_or_default();
    let value = |name: &str| memory.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let policy = value("maxmemory_policy").unwrap_or("noeviction");
    if policy != "noeviction" && value("maxmemory").is_some_and(|limit| limit != "0") {
        return Err(ConnectFailure::new(format!(
            "it deletes data when its memory is full (maxmemory-policy is {policy}): set maxmemory-policy to noeviction, or \
             use a server that is not a cache"
        )));
    }
    let mut digests = Vec::new();
    for script in scripts::ALL {
        let load: RedisResult<String> = cmd("SCRIPT").arg("LOAD").arg(script.source()).query_async(&mut server).await;
        digests.push(load.map_err(|error| refused(&error))?);
    }
    Ok(digests)
}

/// Why Redis does not accept a connection.
fn refused(error: &RedisError) -> ConnectFailure {
    let code = error.code().unwrap_or_default();
    match (error.kind(), code) {
        (ErrorKind::AuthenticationFailed, _) | (_, "WRONGPASS" | "NOAUTH") => {
            ConnectFailure::new("user or password is wrong: correct the URL")
        }
        (_, "NOPERM") => ConnectFailure::new(
            "the user of its URL may not use scripts: grant it @scripting, @read and @write on lodge:*",
        ),
        (_, "LOADING") => ConnectFailure::new("it is still loading its data: this ends by itself"),
        (ErrorKind::Io, _) => ConnectFailure::new(
            "the connection was closed: check that its port speaks Redis, and TLS only with rediss://",
        ),
        _ if error.detail().is_some_and(|detail| detail.contains("DB index")) => {
            ConnectFailure::new("it has no database of this number: correct the path of the URL")
        }
        (_, "") => ConnectFailure::new("its responses are not those of Redis: correct the port of its URL"),
        (_, code) => ConnectFailure::new(format!("it refuses connections with {code}: see its log")),
    }
}
