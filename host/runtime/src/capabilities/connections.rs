//! The connections to databases that a request has open.

use std::sync::{Arc, Weak};

use lodge_state::postgres::PostgresSession;
use lodge_state::sql::SqlConnection;

/// The most connections of a request.
const CONNECTIONS: usize = 16;

/// A connection that a request leaves nothing in.
pub(super) trait RequestConnection {
    /// Rolls back what is not committed. The next statement takes another connection.
    fn reset(&self);
}

impl RequestConnection for SqlConnection {
    fn reset(&self) {
        SqlConnection::reset(self);
    }
}

impl RequestConnection for dyn PostgresSession {
    fn reset(&self) {
        PostgresSession::reset(self);
    }
}

/// What a sandbox is granted, with the connections of its current request.
pub(super) struct RequestConnections<G, C: ?Sized> {
    pub(super) granted: Arc<G>,
    connections: Vec<Weak<C>>,
}

impl<G, C: RequestConnection + ?Sized> RequestConnections<G, C> {
    pub(super) fn new(granted: Arc<G>) -> Self {
        Self { granted, connections: Vec::new() }
    }

    /// Checks that the request may have another connection.
    ///
    /// # Errors
    /// The bound, for the developer of the guest.
    pub(super) fn check(&mut self) -> Result<(), String> {
        self.connections.retain(|connection| connection.strong_count() > 0);
        match self.connections.len() < CONNECTIONS {
            true => Ok(()),
            false => Err(format!("a request has at most {CONNECTIONS} connections; drop some")),
        }
    }

    /// Adds a connection, which lasts as long as its handle.
    pub(super) fn add(&mut self, connection: &Arc<C>) {
        self.connections.push(Arc::downgrade(connection));
    }

    /// Ends what all connections have begun at the end of a request. A handle that a guest keeps takes another one for the next request.
    pub(super) fn reset(&mut self) {
        self.connections.retain(|connection| {
            connection.upgrade().is_some_and(|connection| {
                connection.reset();
                true
            })
        });
    }
}
