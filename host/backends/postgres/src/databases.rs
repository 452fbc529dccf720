//! Databases that services use by SQL of their own.
//!
//! * A service has a pool of connections to each of its databases; services share none, so that none has what another left in one.
//! * A connection belongs to one request, from its first statement to its end. Then it is rolled back and reset, and only then another
//!   request may have it. One that does something else than it should is closed.
//! * A statement that nobody waits for any more is cancelled in the server.

mod parameter;
mod pool;
mod session;
mod value;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use lodge_remote::Tls;
use lodge_state::postgres::{
    MAX_PARAMETERS, MAX_STATEMENT, MAX_TRANSFER, PendingRows, PostgresAddress, PostgresError, PostgresMode,
    PostgresPool, PostgresReport, PostgresRows, PostgresServers, PostgresSession, PostgresValue,
};
use tokio::runtime::Handle;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::timeout_at;

use self::pool::{Pool, PooledClient};
use crate::settings::PostgresSettings;

/// The databases of all services of a host.
pub struct PostgresDatabases(Handle);

impl PostgresDatabases {
    /// Connects to nothing yet. Connections are those of `runtime`.
    pub fn new(runtime: Handle) -> Self {
        Self(runtime)
    }
}

impl PostgresServers for PostgresDatabases {
    fn pool(&self, address: &PostgresAddress) -> Result<Arc<dyn PostgresPool>, String> {
        let tls = Tls { authorities: address.authorities.as_deref().map(<[u8]>::to_vec), identity: None };
        let settings = PostgresSettings::new(&address.url, &tls, address.connections);
        let pool = Pool::new(settings.map_err(|error| error.to_string())?, self.0.clone());
        Ok(Arc::new(DatabasePool(Arc::new(pool))))
    }
}

struct DatabasePool(Arc<Pool>);

impl PostgresPool for DatabasePool {
    fn connection(&self) -> Arc<dyn PostgresSession> {
        Arc::new(RequestSession { pool: Arc::clone(&self.0), slot: Mutex::default() })
    }
}

/// The connection of a request.
struct RequestSession {
    pool: Arc<Pool>,
    slot: Mutex<ClientSlot>,
}

/// Where a request keeps its connection between statements.
type ClientSlot = Arc<AsyncMutex<ConnectionState>>;

/// What a request has of its connection.
#[derive(Default)]
enum ConnectionState {
    /// It has needed none so far.
    #[default]
    Unopened,
    Open(Box<PooledClient>),
    /// A statement ended it. Another one would run outside of the transaction, without the role and the settings of this one.
    Ended,
}

impl PostgresSession for RequestSession {
    fn run<'a>(
        &'a self,
        mode: PostgresMode,
        text: String,
        parameters: Vec<PostgresValue>,
        deadline: Instant,
    ) -> PendingRows<'a, PostgresRows> {
        Box::pin(async move {
            check(&text, &parameters)?;
            let slot = Arc::clone(&self.slot.lock().unwrap_or_else(PoisonError::into_inner));
            let deadline = tokio::time::Instant::from_std(deadline);
            let Ok(mut slot) = timeout_at(deadline, slot.lock_owned()).await else { return Err(PostgresError::Busy) };
            let known = match &mut *slot {
                ConnectionState::Unopened => None,
                // Taken out: if this future is dropped, so is the connection, which cancels the statement.
                state => match std::mem::replace(state, ConnectionState::Ended) {
                    ConnectionState::Open(session) => Some(session),
                    _ => return Err(PostgresError::Ended),
                },
            };
            let mut session = match known {
                Some(session) => session,
                None => Box::new(self.pool.session(deadline).await?),
            };
            *slot = ConnectionState::Ended;
            let result = timeout_at(deadline, session.run(mode, &text, &parameters)).await;
            let result = result.unwrap_or(Err(PostgresError::Timeout));
            if session.is_usable(&result) {
                *slot = ConnectionState::Open(session);
            }
            result
        })
    }

    fn reset(&self) {
        // A new slot: a statement that still runs keeps the old one, and drops its connection.
        let slot = std::mem::take(&mut *self.slot.lock().unwrap_or_else(PoisonError::into_inner));
        give_back(&slot);
    }
}

impl Drop for RequestSession {
    fn drop(&mut self) {
        give_back(self.slot.get_mut().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Gives the connection in a slot back, unless a statement runs.
fn give_back(slot: &ClientSlot) {
    if let Ok(mut slot) = slot.try_lock()
        && let ConnectionState::Open(session) = std::mem::replace(&mut *slot, ConnectionState::Ended)
    {
        session.give_back();
    }
}

/// Checks the sizes of a statement and its parameters.
fn check(text: &str, parameters: &[PostgresValue]) -> Result<(), PostgresError> {
    let too_large = |what, limit, unit| Err(PostgresError::TooLarge { what, limit, unit });
    if text.len() > MAX_STATEMENT {
        return too_large("the statement", MAX_STATEMENT, "bytes");
    }
    if text.contains('\0') {
        return Err(PostgresError::Failed(Box::new(PostgresReport {
            severity: "ERROR".into(),
            code: "42601".into(),
            message: "a statement contains no NUL character".into(),
            detail: None,
            extras: Vec::new(),
        })));
    }
    if parameters.len() > MAX_PARAMETERS {
        return too_large("the list of parameters", MAX_PARAMETERS, "items");
    }
    if parameters.iter().map(PostgresValue::size).fold(0_usize, usize::saturating_add) > MAX_TRANSFER {
        return too_large("the list of parameters", MAX_TRANSFER, "bytes");
    }
    Ok(())
}
