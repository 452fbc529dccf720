//! Connections to NATS.
//!
//! The client library reconnects by itself, and would then send what was queued long ago. Here a connection ends when it is
//! lost: operations that wait for it fail, and the next ones use the next connection.

use std::time::Duration;

use async_nats::{Client, ConnectError, ConnectErrorKind, Event, HeaderMap, Message, Request, RequestErrorKind};
use bytes::Bytes;
use lodge_remote::{ConnectFailure, LinkFailure, OpenedLink, ServerConnector, Unanswered};
use lodge_state::Error;
use tokio::sync::watch;

use crate::settings::NatsSettings;

/// How long a connection that was lost is kept by the library. It reconnects only if something still uses it then.
const ABANDONED: Duration = Duration::from_secs(2);
/// Requests that wait to be sent, in the library.
const CAPACITY: usize = 256;
/// Messages of a subscription that wait in the library. They are taken at once, and a request for messages has fewer.
const SUBSCRIBED: usize = 1024;

/// Opens connections.
pub(crate) struct NatsConnector(NatsSettings);

/// A connection. Clones are the same connection.
#[derive(Clone)]
pub(crate) struct NatsConnection {
    pub(crate) client: Client,
    lost: watch::Receiver<bool>,
}

impl NatsConnection {
    /// Sends a request and waits for its response.
    pub(crate) async fn request(
        &self,
        subject: String,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> Result<Message, LinkFailure> {
        let mut request = Request::new().payload(payload).timeout(None);
        if let Some(headers) = headers {
            request = request.headers(headers);
        }
        match self.unless_lost(self.client.send_request(subject, request)).await? {
            Ok(message) => Ok(message),
            Err(error) => Err(match error.kind() {
                RequestErrorKind::NoResponders => LinkFailure::Refused(Error::unavailable(NO_RESPONDERS)),
                RequestErrorKind::MaxPayloadExceeded => LinkFailure::Refused(self.too_large()),
                RequestErrorKind::InvalidSubject => LinkFailure::Refused(crate::unexpected()),
                RequestErrorKind::TimedOut | RequestErrorKind::Other => LinkFailure::Lost,
            }),
        }
    }

    /// Waits until the server has worked through all that this connection has sent: it does so in order. A flush by the library
    /// ends when its bytes are written, before the server has read them.
    pub(crate) async fn round_trip(&self) -> Result<(), LinkFailure> {
        match self.request("$JS.API.INFO".into(), None, Bytes::new()).await {
            Err(LinkFailure::Lost) => Err(LinkFailure::Lost),
            // Any response will do, also one that says that JetStream is not there.
            _ => Ok(()),
        }
    }

    /// The error of a message that is larger than NATS accepts.
    pub(crate) fn too_large(&self) -> Error {
        let limit = self.client.max_payload();
        Error::unavailable(format!("NATS accepts messages of {limit} bytes: set its max_payload to 2MB, or store less"))
    }

    /// Waits for `operation` until the connection is lost.
    pub(crate) async fn unless_lost<T>(&self, operation: impl Future<Output = T>) -> Result<T, LinkFailure> {
        let mut lost = self.lost.clone();
        tokio::select! {
            biased;
            _ = lost.wait_for(|lost| *lost) => Err(LinkFailure::Lost),
            done = operation => Ok(done),
        }
    }
}

/// What is known when nothing listens to the interface of JetStream or of a stream.
pub(crate) const NO_RESPONDERS: &str =
    "NATS has no JetStream, or the stream has no leader: enable JetStream, or wait until its cluster has recovered";

impl NatsConnector {
    pub(crate) fn new(settings: NatsSettings) -> NatsConnector {
        NatsConnector(settings)
    }
}

impl ServerConnector for NatsConnector {
    type Connection = NatsConnection;

    const SERVER: &'static str = crate::SERVER;

    async fn connect(&self) -> Result<OpenedLink<NatsConnection>, ConnectFailure> {
        let mut failure = ConnectFailure::new("no server is configured");
        for server in &self.0.servers {
            let (send, lost) = watch::channel(false);
            let on_event = send.clone();
            let host = if server.host.contains(':') { format!("[{}]", server.host) } else { server.host.clone() };
            let options = self.0.options(server);
            let connected = options
                .name("lodge")
                .client_capacity(CAPACITY)
                .subscription_capacity(SUBSCRIBED)
                .ping_interval(Duration::from_secs(15))
                .max_reconnects(1)
                // The first attempt has no pause: it is the connection itself.
                .reconnect_delay_callback({
                    let lost = lost.clone();
                    move |_| if *lost.borrow() { ABANDONED } else { Duration::ZERO }
                })
                .ignore_discovered_servers()
                .event_callback(move |event| {
                    if matches!(event, Event::Disconnected | Event::Closed | Event::LameDuckMode) {
                        on_event.send_replace(true);
                    }
                    std::future::ready(())
                })
                .connect(format!("nats://{host}:{}", server.port))
                .await;
            match connected {
                Ok(client) => return opened(client, send, lost),
                Err(error) => failure = refused(&error),
            }
        }
        Err(failure)
    }

    async fn check(&self, connection: &NatsConnection) -> bool {
        connection.round_trip().await.is_ok()
    }
}

fn opened(
    client: Client,
    send: watch::Sender<bool>,
    lost: watch::Receiver<bool>,
) -> Result<OpenedLink<NatsConnection>, ConnectFailure> {
    if !client.is_server_compatible(2, 11, 0) {
        let version = client.server_info().version;
        return Err(ConnectFailure::new(format!(
            "it is version {version}, which has no TTL of keys: use 2.11 or later"
        )));
    }
    let connection = NatsConnection { client, lost: lost.clone() };
    // Dropped, it ends the operations that wait.
    let guard = LostOnDrop(send);
    let driver = Box::pin(async move {
        let _guard = guard;
        let mut lost = lost;
        let _ = lost.wait_for(|lost| *lost).await;
    });
    // The library opens its connections itself; what they receive is not counted.
    Ok(OpenedLink { connection, driver, unanswered: Unanswered::default() })
}

struct LostOnDrop(watch::Sender<bool>);

impl Drop for LostOnDrop {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

/// An error with all of its causes.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// Why NATS does not accept a connection. The library's texts contain addresses.
fn refused(error: &ConnectError) -> ConnectFailure {
    let text = causes(error);
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            ConnectFailure::new("user, password, token or credentials are wrong: correct its URL or its credentials")
        }
        ConnectErrorKind::Dns => {
            ConnectFailure::new("the host of its URL cannot be resolved: correct it, or check DNS")
        }
        ConnectErrorKind::TimedOut => ConnectFailure::new("it does not respond: check whether it is overloaded"),
        _ if text.contains("UnknownIssuer") || text.contains("BadSignature") => {
            ConnectFailure::new("the issuer of its certificate is not trusted: trust its authority")
        }
        _ if text.contains("NotValidForName") || text.contains("not valid for name") => {
            ConnectFailure::new("its certificate is for another name: correct the host of the URL")
        }
        ConnectErrorKind::Tls => ConnectFailure::new(
            "TLS failed: check that it has TLS on this port, and that its certificate is trusted and valid",
        ),
        _ if text.contains("refused") => {
            ConnectFailure::new("connection refused: start the server, or correct the host and port of its URL")
        }
        _ => ConnectFailure::new(
            "the connection was closed: check that its port speaks NATS, and use tls:// if it demands TLS",
        ),
    }
}
