//! A fixed number of connections to a server, replaced when they are lost or silent.
//!
//! Every connection has a task that opens it, drives it, and opens the next one. An operation uses the connection with the
//! fewest operations in progress. While none is open it waits if that is about to change, and fails at once if the last attempt
//! to connect has failed.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lodge_state::{Error, within};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::backoff::Backoff;
use crate::connect_failure::ConnectFailure;
use crate::stream::Unanswered;

/// How long opening a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How often an idle connection is checked.
const CHECK: Duration = Duration::from_secs(15);
/// How long the response to a check may take. Then the connection is closed, and with it all that it has queued.
const SILENCE: Duration = Duration::from_secs(3);
/// Attempts of an operation that can be repeated, when its connection is lost.
const ATTEMPTS: usize = 3;

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkFailure {
    /// Its connection was lost: it may have been done.
    Lost,
    /// The server has refused it, for this reason.
    Refused(Error),
    /// As before, and the connection may be to the wrong server: it is checked.
    Doubted(Error),
}

impl From<Error> for LinkFailure {
    fn from(error: Error) -> LinkFailure {
        LinkFailure::Refused(error)
    }
}

/// A connection that was opened.
pub struct OpenedLink<C> {
    /// What operations use. Clones are the same connection.
    pub connection: C,
    /// Reads and writes. It ends when the connection is lost; dropping it closes the connection.
    pub driver: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// What counts the bytes that it receives.
    pub unanswered: Unanswered,
}

/// Opens connections.
pub trait ServerConnector: Send + Sync + 'static {
    /// A connection that several operations can use at a time.
    type Connection: Clone + Send + Sync + 'static;

    /// What messages call the server.
    const SERVER: &'static str;

    /// Opens a connection, ready for use. The caller bounds the time.
    fn connect(&self) -> impl Future<Output = Result<OpenedLink<Self::Connection>, ConnectFailure>> + Send;

    /// Waits for a response of the server, and returns whether the connection can still be used.
    fn check(&self, connection: &Self::Connection) -> impl Future<Output = bool> + Send;
}

/// The connections. Dropping it closes them.
pub struct Links<C: ServerConnector> {
    shared: Arc<Shared<C>>,
    tasks: Vec<JoinHandle<()>>,
}

struct Shared<C: ServerConnector> {
    connector: C,
    links: Vec<Link<C::Connection>>,
    /// Changes when the state of a link does.
    changed: watch::Sender<()>,
}

struct Link<C> {
    state: Mutex<State<C>>,
    /// Operations that use it.
    used: AtomicUsize,
    /// Asks for a check: an operation got no response.
    suspect: Notify,
}

enum State<C> {
    /// The first attempt after a loss, or after the start.
    Connecting,
    Open(C, Unanswered),
    /// The last attempt failed.
    LinkFailure(ConnectFailure),
}

impl<C: ServerConnector> Links<C> {
    /// Opens `number` connections by tasks of `runtime`. Returns at once.
    pub fn open(connector: C, number: usize, runtime: &Handle) -> Links<C> {
        let link = || Link { state: Mutex::new(State::Connecting), used: AtomicUsize::new(0), suspect: Notify::new() };
        let links = (0..number.max(1)).map(|_| link()).collect();
        let shared = Arc::new(Shared { connector, links, changed: watch::Sender::new(()) });
        let tasks = (0..number.max(1)).map(|index| runtime.spawn(supervise(shared.clone(), index))).collect();
        Links { shared, tasks }
    }

    /// Does an operation that must not be repeated when its result was lost.
    ///
    /// # Errors
    /// [`Error::Timeout`] at the deadline, [`Error::Unavailable`] if there is no connection or it was lost, else those of
    /// `operation`.
    pub async fn once<T, F>(&self, deadline: Instant, operation: impl FnOnce(C::Connection) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, LinkFailure>>,
    {
        let used = self.link(deadline).await?;
        let operation = operation(used.connection.clone());
        used.outcome(deadline, operation).await?.ok_or_else(lost::<C>)
    }

    /// Does an operation that can be repeated when its result was lost.
    ///
    /// # Errors
    /// As [`once`](Self::once).
    pub async fn repeatable<T, F>(&self, deadline: Instant, operation: impl Fn(C::Connection) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, LinkFailure>>,
    {
        for _ in 0..ATTEMPTS {
            let used = self.link(deadline).await?;
            let operation = operation(used.connection.clone());
            if let Some(done) = used.outcome(deadline, operation).await? {
                return Ok(done);
            }
        }
        Err(lost::<C>())
    }

    /// Waits for a connection.
    async fn link(&self, deadline: Instant) -> Result<Used<'_, C::Connection>, Error> {
        let mut changed = self.shared.changed.subscribe();
        loop {
            changed.mark_unchanged();
            if let Some(used) = self.shared.choose()? {
                return Ok(used);
            }
            let closed = || Error::unavailable("the host is shutting down");
            within(deadline, async { changed.changed().await.map_err(|_| closed()) }).await?;
        }
    }
}

impl<C: ServerConnector> Drop for Links<C> {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl<C: ServerConnector> fmt::Debug for Links<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").field("server", &C::SERVER).field("number", &self.tasks.len()).finish_non_exhaustive()
    }
}

fn lost<C: ServerConnector>() -> Error {
    let server = C::SERVER;
    Error::unavailable(format!(
        "the connection to {server} was lost: read the key to find out whether a write was applied"
    ))
}

impl<C: ServerConnector> Shared<C> {
    /// The open connection with the fewest operations; `None` if one is being opened.
    ///
    /// # Errors
    /// If all attempts have failed.
    fn choose(&self) -> Result<Option<Used<'_, C::Connection>>, Error> {
        let (mut best, mut least) = (None, usize::MAX);
        let (mut connecting, mut failure) = (false, None);
        for link in &self.links {
            match &*link.state.lock().unwrap_or_else(PoisonError::into_inner) {
                State::Open(connection, unanswered) => {
                    let used = link.used.load(Ordering::Relaxed);
                    if used < least {
                        (best, least) = (Some((link, connection.clone(), unanswered.clone())), used);
                    }
                }
                State::Connecting => connecting = true,
                State::LinkFailure(reason) => failure = Some(reason.clone()),
            }
        }
        match (best, failure) {
            (Some((link, connection, unanswered)), _) => {
                link.used.fetch_add(1, Ordering::Relaxed);
                Ok(Some(Used { link, connection, unanswered }))
            }
            (None, Some(failure)) if !connecting => {
                Err(Error::unavailable(format!("cannot connect to {}: {failure}", C::SERVER)))
            }
            (None, _) => Ok(None),
        }
    }

    fn set(&self, link: &Link<C::Connection>, state: State<C::Connection>) {
        *link.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        self.changed.send_replace(());
    }
}

/// A connection in use by one operation.
struct Used<'a, T> {
    link: &'a Link<T>,
    connection: T,
    unanswered: Unanswered,
}

impl<T> Used<'_, T> {
    /// Waits for `operation`; `None` if the connection was lost meanwhile.
    async fn outcome<R>(
        &self,
        deadline: Instant,
        operation: impl Future<Output = Result<R, LinkFailure>>,
    ) -> Result<Option<R>, Error> {
        let outcome = timeout_at(deadline, operation).await;
        if !matches!(outcome, Err(_) | Ok(Err(LinkFailure::Lost))) {
            self.unanswered.reset();
        }
        match outcome {
            Ok(Ok(done)) => Ok(Some(done)),
            Ok(Err(LinkFailure::Lost)) => Ok(None),
            Ok(Err(LinkFailure::Refused(error))) => Err(error),
            Ok(Err(LinkFailure::Doubted(error))) => {
                self.link.suspect.notify_one();
                Err(error)
            }
            Err(_) => {
                self.link.suspect.notify_one();
                Err(Error::Timeout)
            }
        }
    }
}

impl<T> Drop for Used<'_, T> {
    fn drop(&mut self) {
        self.link.used.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Keeps one connection open, for ever.
async fn supervise<C: ServerConnector>(shared: Arc<Shared<C>>, index: usize) {
    let Some(link) = shared.links.get(index) else { return };
    let mut backoff = Backoff::new();
    loop {
        let opened = timeout(CONNECT, shared.connector.connect()).await;
        let began = Instant::now();
        match opened {
            Ok(Ok(OpenedLink { connection, mut driver, unanswered })) => {
                shared.set(link, State::Open(connection.clone(), unanswered.clone()));
                tokio::select! {
                    () = &mut driver => {}
                    () = silence(&shared, link, &connection, &unanswered) => {}
                }
                shared.set(link, State::Connecting);
                // Closes the connection: operations that wait for it fail now.
                drop(driver);
                // A server that accepts connections and drops them is not connected to without a pause.
                if began.elapsed() > CONNECT {
                    backoff = Backoff::new();
                }
            }
            Ok(Err(failure)) => shared.set(link, State::LinkFailure(failure)),
            Err(_) => {
                let text = format!(
                    "no response within {} s: check whether the server is overloaded, and whether its port expects TLS",
                    CONNECT.as_secs()
                );
                shared.set(link, State::LinkFailure(ConnectFailure::new(text)));
            }
        }
        sleep(backoff.pause()).await;
    }
}

/// Waits until the server no longer responds on a connection.
async fn silence<C: ServerConnector>(
    shared: &Shared<C>,
    link: &Link<C::Connection>,
    connection: &C::Connection,
    unanswered: &Unanswered,
) {
    loop {
        let _ = timeout(CHECK, link.suspect.notified()).await;
        if !timeout(SILENCE, shared.connector.check(connection)).await.unwrap_or(false) {
            return;
        }
        unanswered.reset();
    }
}
