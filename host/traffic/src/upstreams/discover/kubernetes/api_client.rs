//! Requests to the API server: each on a connection of its own, without redirects, with the token and the authorities
//! that the files of the service account have at that moment.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, HOST, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::event_turn::EventTurn;
use super::events::message;
use super::failure::WatchFailure;
use super::slices::BYTES_OF_ALL;
use lodge_base::budget::Budget;
use lodge_base::ids::hash_of;
use lodge_base::tls::{self, pem};
use lodge_base::{config, files};

/// The time for a connection, TLS included.
const CONNECT: Duration = Duration::from_secs(5);
/// The time for the head of a response.
const HEAD: Duration = Duration::from_secs(30);
/// The most bytes of a head, and of what is read ahead of a body.
const BUFFER: usize = 64 << 10;
/// A silent connection to a dead server is detected after three times this.
const SILENT: Duration = Duration::from_secs(10);
/// The most bytes of a token or a namespace, of certificates, and of the body of an error.
const TOKEN: u64 = 64 << 10;
const CERTIFICATES: u64 = 1 << 20;
const STATUS: usize = 64 << 10;
/// The most bytes of the name of a machine.
const HOST_NAME: u64 = 4 << 10;
/// The most lists that are read at once, of all Services, and the most large events that arrive at once.
const LISTS: usize = 4;
const LARGE_EVENTS: usize = 4;

/// A client of the API server.
pub(super) struct ApiClient {
    server: Result<ApiServer, String>,
    account: PathBuf,
    /// A permit for each list that is read.
    pub(super) lists: Semaphore,
    /// A permit for each large event that arrives.
    pub(super) large_events: Arc<Semaphore>,
    /// Where events are parsed.
    pub(super) turn: EventTurn,
    /// The room for the slices of all Services.
    pub(super) kept: Arc<Budget>,
    /// The zone of this host.
    pub(super) zone: Option<String>,
    /// A number that other hosts do not have.
    pub(super) seed: u64,
}

/// Where the API server is.
#[derive(Debug, PartialEq, Eq)]
struct ApiServer {
    is_tls: bool,
    /// A name, or an address without brackets.
    host: String,
    port: u16,
    /// What precedes every path, without a slash at the end.
    prefix: String,
}

/// The body of a response with status 200, and its connection.
pub(super) struct ApiBody {
    pub(super) body: Incoming,
    _connection: JoinSet<()>,
}

impl ApiClient {
    /// Creates a client with these settings and environment variables.
    pub(super) fn new(settings: &config::Kubernetes, variable: impl Fn(&str) -> Option<String>) -> Self {
        Self {
            server: server(settings.url.as_ref(), &variable),
            account: settings.account.clone(),
            lists: Semaphore::new(LISTS),
            large_events: Arc::new(Semaphore::new(LARGE_EVENTS)),
            turn: EventTurn::default(),
            kept: Budget::new(BYTES_OF_ALL),
            zone: settings.zone.clone(),
            seed: hash_of(host_name(&variable).trim().as_bytes()),
        }
    }

    /// Returns the namespace of the service account.
    ///
    /// # Errors
    /// One line.
    pub(super) async fn namespace(&self) -> Result<Arc<str>, String> {
        let path = self.account.join("namespace");
        let shown = path.display().to_string();
        let text = on_disk(move || files::read_text(&path, TOKEN)).await;
        let text =
            text.map_err(|why| format!("{shown}: {why}; write the namespace, as k8s://NAMESPACE/SERVICE:PORT"))?;
        Ok(text.trim().into())
    }

    /// Sends a GET for this path and query. `what` names the request in messages, `needs` the right that it needs.
    ///
    /// # Errors
    /// If there is no response with status 200 in time.
    pub(super) async fn get(&self, path: &str, what: &str, needs: &str) -> Result<ApiBody, WatchFailure> {
        let server = self.server.as_ref().map_err(|why| WatchFailure::new(why.clone()))?;
        let (response, connection) =
            self.exchange(server, path).await.map_err(|why| WatchFailure::new(format!("{what}: {why}")))?;
        if response.status() == StatusCode::OK {
            return Ok(ApiBody { body: response.into_body(), _connection: connection });
        }
        let (status, after) = (response.status(), retry_after(&response));
        let body = timeout(CONNECT, Limited::new(response.into_body(), STATUS).collect()).await;
        let body = body.ok().and_then(Result::ok).map(|body| body.to_bytes()).unwrap_or_default();
        let mut message = message(&body);
        if !message.is_empty() {
            message = format!(": {message}");
        }
        let why = match status {
            StatusCode::UNAUTHORIZED => {
                format!("the API server does not accept the token in {}{message}", self.account.join("token").display())
            }
            StatusCode::FORBIDDEN => format!("the service account lacks the right to {needs}{message}"),
            StatusCode::NOT_FOUND => format!("the API server has no {path}{message}"),
            status if status.is_redirection() => format!("{status}, and redirects are not followed"),
            status => format!("{status}{message}"),
        };
        let failure = WatchFailure::new(format!("{what}: {why}")).after(after).with_status(status);
        Err(failure)
    }

    async fn exchange(&self, server: &ApiServer, path: &str) -> Result<(Response<Incoming>, JoinSet<()>), String> {
        let host = if server.host.contains(':') { format!("[{}]", server.host) } else { server.host.clone() };
        let request = Request::get(format!("{}{path}", server.prefix))
            .header(HOST, format!("{host}:{}", server.port))
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, "lodge");
        let place = format!("{host}:{}", server.port);
        let late = |time| move |_| format!("no response within {}", humantime::format_duration(time));
        if !server.is_tls {
            let tcp = timeout(CONNECT, connect(server)).await.map_err(late(CONNECT))?;
            let tcp = tcp.map_err(|error| format!("no connection to {place}: {error}"))?;
            let request = request.body(Empty::new()).map_err(|error| error.to_string())?;
            return timeout(HEAD, send(tcp, request)).await.map_err(late(HEAD))?;
        }
        let account = self.account.clone();
        let (mut token, tls) = on_disk(move || Ok::<_, String>((token(&account)?, trust(&account)?))).await?;
        token.set_sensitive(true);
        let name = ServerName::try_from(server.host.clone()).map_err(|_| format!("{host} is not a host"))?;
        let open = async {
            let tcp = connect(server).await?;
            TlsConnector::from(Arc::new(tls)).connect(name, tcp).await
        };
        let stream = timeout(CONNECT, open).await.map_err(late(CONNECT))?;
        let stream = stream.map_err(|error| format!("no connection to {place}: {error}"))?;
        // Only now: the server has shown that it is the one that the token is for.
        let request = request.header(AUTHORIZATION, token).body(Empty::new()).map_err(|error| error.to_string())?;
        timeout(HEAD, send(stream, request)).await.map_err(late(HEAD))?
    }
}

/// Returns the name of this machine, in a cluster that of the pod; an empty one if nothing says it.
fn host_name(variable: impl Fn(&str) -> Option<String>) -> String {
    let name = files::read_text(Path::new("/proc/sys/kernel/hostname"), HOST_NAME).ok();
    name.or_else(|| variable("HOSTNAME")).unwrap_or_default()
}

/// Finds the API server: at `url`, or else where the variables of every pod say.
fn server(url: Option<&Uri>, variable: impl Fn(&str) -> Option<String>) -> Result<ApiServer, String> {
    let bare = |host: &str| {
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        inner.unwrap_or(host).to_owned()
    };
    if let Some(url) = url {
        let is_tls = url.scheme_str() == Some("https");
        let port = url.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let prefix = url.path().trim_end_matches('/').to_owned();
        return Ok(ApiServer { is_tls, host: bare(url.host().unwrap_or_default()), port, prefix });
    }
    let said = |name: &str| variable(name).filter(|value| !value.is_empty());
    let host = said("KUBERNETES_SERVICE_HOST").ok_or(
        "no API server is known: this host runs in no pod of Kubernetes (KUBERNETES_SERVICE_HOST is not set); \
         set kubernetes.url in lodge.toml",
    )?;
    let port = said("KUBERNETES_SERVICE_PORT_HTTPS").or_else(|| said("KUBERNETES_SERVICE_PORT"));
    let port =
        port.map_or(Ok(443), |port| port.parse().map_err(|_| format!("KUBERNETES_SERVICE_PORT: {port:?} is no port")))?;
    Ok(ApiServer { is_tls: true, host: bare(&host), port, prefix: String::new() })
}

async fn connect(server: &ApiServer) -> std::io::Result<TcpStream> {
    let tcp = TcpStream::connect((server.host.as_str(), server.port)).await?;
    tcp.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(SILENT).with_interval(SILENT).with_retries(2);
    SockRef::from(&tcp).set_tcp_keepalive(&keepalive)?;
    Ok(tcp)
}

async fn send<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<(Response<Incoming>, JoinSet<()>), String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut builder = http1::Builder::new();
    let open = builder.max_buf_size(BUFFER).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = open.map_err(|error| error.to_string())?;
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        // Its error is also that of the response.
        let _ = connection.await;
    });
    let response = sender.send_request(request).await.map_err(|error| format!("no response: {error}"))?;
    Ok((response, driver))
}

/// Reads files on the pool for blocking work.
async fn on_disk<T: Send + 'static, E: ToString + Send + 'static>(
    read: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, String> {
    spawn_blocking(read).await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

/// Reads the token: the kubelet replaces it before it expires.
fn token(account: &Path) -> Result<HeaderValue, String> {
    let path = account.join("token");
    let text = files::read_text(&path, TOKEN).map_err(|error| {
        let mount =
            if error.kind() == ErrorKind::NotFound { "; the pod needs automountServiceAccountToken: true" } else { "" };
        format!("{}: {error}{mount}", path.display())
    })?;
    let header = HeaderValue::from_str(&format!("Bearer {}", text.trim()));
    header.map_err(|_| format!("{}: it is not a token", path.display()))
}

/// Reads the authorities of the cluster; without such a file, those of the system.
fn trust(account: &Path) -> Result<ClientConfig, String> {
    let path = account.join("ca.crt");
    let pem = match files::read(&path, CERTIFICATES) {
        Ok(pem) => pem,
        Err(error) if error.kind() == ErrorKind::NotFound => return tls::client(tls::system_roots()?),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    tls::client(pem::authorities(&pem).map_err(|why| format!("{}: {why}", path.display()))?)
}

fn retry_after<B>(response: &Response<B>) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_in_seconds() {
        let after = |text: &str| retry_after(&Response::builder().header(RETRY_AFTER, text).body(()).unwrap());
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!((after("-1"), after("soon"), after("Sun, 06 Nov 1994 08:49:37 GMT")), (None, None, None));
        assert_eq!(retry_after(&Response::new(())), None);
    }

    #[test]
    fn the_server_is_that_of_the_cluster_or_of_the_settings() {
        let of = |url: Option<&str>, host: &str, port: &str| {
            let url: Option<Uri> = url.map(|url| url.parse().unwrap());
            let found = server(url.as_ref(), |name| match name {
                "KUBERNETES_SERVICE_HOST" => Some(host.into()),
                "KUBERNETES_SERVICE_PORT" => Some(port.into()),
                _ => None,
            });
            found.map(|found| format!("{} {} {} {}", found.is_tls, found.host, found.port, found.prefix))
        };
        assert_eq!(of(None, "10.96.0.1", "6443"), Ok("true 10.96.0.1 6443 ".into()));
        assert_eq!(of(None, "fd00::1", ""), Ok("true fd00::1 443 ".into()));
        assert_eq!(of(None, "[fd00::1]", "443"), Ok("true fd00::1 443 ".into()));
        assert_eq!(of(Some("https://[fd00::2]:8443/"), "x", "1"), Ok("true fd00::2 8443 ".into()));
        assert_eq!(of(Some("http://127.0.0.1/a/b/"), "", ""), Ok("false 127.0.0.1 80 /a/b".into()));
        assert!(of(None, "", "").is_err_and(|why| why.contains("set kubernetes.url")));
        assert!(of(None, "10.96.0.1", "x").is_err_and(|why| why.contains("\"x\" is no port")));
    }
}
