//! The connections of one service to one database.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lodge_remote::{ConnectFailure, connect};
use lodge_state::postgres::{IDLE, PostgresError, PostgresMode, PostgresRows, PostgresValue};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::session::{DatabaseClient, MOST_RECEIVED};
use crate::connector::drive;
use crate::failure::refused;
use crate::settings::PostgresSettings;
use crate::tls::Connect;

/// The longest time that resetting a connection takes.
const RESET: Duration = Duration::from_secs(5);

/// The connections of one service to one database.
pub(super) struct Pool {
    settings: PostgresSettings,
    /// One for each connection, in use or not.
    permits: Arc<Semaphore>,
    /// Those that no request has, the one that was used last at the end.
    idle: Mutex<Vec<(DatabaseClient, Instant)>>,
    /// Whether a task waits to close what has been idle for long.
    sweeping: AtomicBool,
    runtime: Handle,
}

/// A connection that a request has.
pub(super) struct PooledClient {
    session: DatabaseClient,
    pool: Arc<Pool>,
}

impl Pool {
    pub(super) fn new(settings: PostgresSettings, runtime: Handle) -> Self {
        let permits = Arc::new(Semaphore::new(settings.connections()));
        Self { settings, permits, idle: Mutex::default(), sweeping: AtomicBool::new(false), runtime }
    }

    /// Returns a connection: an idle one, or a new one.
    pub(super) async fn session(self: &Arc<Self>, deadline: Instant) -> Result<PooledClient, PostgresError> {
        let permit = timeout_at(deadline, Arc::clone(&self.permits).acquire_owned()).await;
        let Ok(Ok(permit)) = permit else { return Err(PostgresError::Busy) };
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match idle {
                Some((mut session, since)) if session.is_open() && since.elapsed() < IDLE => {
                    session.give(permit);
                    return Ok(PooledClient { session, pool: Arc::clone(self) });
                }
                Some(_) => {}
                None => break,
            }
        }
        let connected = timeout_at(deadline, self.connect()).await;
        let late = || Err(ConnectFailure::new("it does not answer in time: check the network, and its load"));
        let unreachable = |why: ConnectFailure| PostgresError::Unreachable(why.to_string());
        let mut session = connected.unwrap_or_else(|_| late()).map_err(unreachable)?;
        session.give(permit);
        Ok(PooledClient { session, pool: Arc::clone(self) })
    }

    async fn connect(&self) -> Result<DatabaseClient, ConnectFailure> {
        let PostgresSettings { host, port, tls, config, .. } = &self.settings;
        let stream = connect(host, *port, None).await?.limited(MOST_RECEIVED);
        let received = stream.unanswered();
        let to = Connect { host: host.clone(), config: tls.clone() };
        let (client, connection) = config.connect_raw(stream, to).await.map_err(|error| refused(&error))?;
        let driver = self.runtime.spawn(drive(connection));
        let client = DatabaseClient::new(client, driver, received, self.settings.clone(), self.runtime.clone());
        client.await
    }

    /// Closes connections that nobody has used for long.
    fn sweep_later(self: &Arc<Self>) {
        if self.sweeping.swap(true, Relaxed) {
            return;
        }
        let pool = Arc::clone(self);
        self.runtime.spawn(async move {
            loop {
                sleep(IDLE).await;
                let mut idle = pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
                idle.retain(|(session, since)| session.is_open() && since.elapsed() < IDLE);
                if idle.is_empty() {
                    pool.sweeping.store(false, Relaxed);
                    return;
                }
            }
        });
    }
}

impl PooledClient {
    /// Runs a text in this way.
    pub(super) async fn run(
        &mut self,
        mode: PostgresMode,
        text: &str,
        parameters: &[PostgresValue],
    ) -> Result<PostgresRows, PostgresError> {
        self.session.run(mode, text, parameters).await
    }

    /// Whether the connection can run another statement after this result.
    pub(super) fn is_usable(&self, result: &Result<PostgresRows, PostgresError>) -> bool {
        self.session.is_usable(result)
    }

    /// Rolls back, resets the connection, and lets another request have it.
    pub(super) fn give_back(self) {
        let Self { mut session, pool } = self;
        let runtime = pool.runtime.clone();
        runtime.spawn(async move {
            if timeout(RESET, session.reset()).await == Ok(true) {
                let permit = session.take();
                pool.idle.lock().unwrap_or_else(PoisonError::into_inner).push((session, Instant::now()));
                pool.sweep_later();
                drop(permit);
            }
        });
    }
}
