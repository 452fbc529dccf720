//! Requests to the server: signed, bounded in number and time, and repeated while it is overloaded or its connections are lost.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use lodge_remote::{Backoff, ConnectFailure};
use lodge_state::blobs::BlobError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout_at};

use crate::connector::S3Connector;
use crate::failure::{FailedAttempt, MAX_ERROR, S3Failure, late_failure, named_failure, unavailable};
use crate::key_file::S3Credentials;
use crate::settings::S3Settings;
use crate::sign::{Unsigned, hex, sha256, sign};

/// RequestAttempts of a request. All of them can be repeated.
const ATTEMPTS: usize = 4;
/// How long an attempt may take until the head of its response.
pub(crate) const ATTEMPT: Duration = Duration::from_secs(60);
/// The same for requests by which the server copies or joins what it has.
pub(crate) const LONG_ATTEMPT: Duration = Duration::from_secs(15 * 60);
/// Requests at a time, of all services and of one.
const REQUESTS: (usize, usize) = (128, 32);
/// Connections that are kept while nothing uses them, and for how long.
const IDLE: (usize, Duration) = (32, Duration::from_secs(30));
/// Bytes that a connection reads at a time.
const READ: usize = 128 << 10;

/// The server.
pub(crate) struct S3Transport {
    client: Client<S3Connector, Full<Bytes>>,
    /// `http://HOST:PORT`.
    origin: String,
    /// The value of the header `Host`.
    authority: String,
    bucket: String,
    region: String,
    credentials: S3Credentials,
    requests: Arc<Semaphore>,
}

/// The way of one service to the server.
#[derive(Clone)]
pub(crate) struct S3Lane {
    transport: Arc<S3Transport>,
    requests: Arc<Semaphore>,
}

/// A request for a key, or for the bucket if that is empty.
pub(crate) struct S3Request {
    pub(crate) method: Method,
    pub(crate) key: String,
    /// Parameters in the order of their names.
    pub(crate) query: Vec<(&'static str, String)>,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
    /// The SHA-256 of the body, if it is known.
    pub(crate) hash: Option<String>,
    pub(crate) attempt: Duration,
}

/// The attempts of a request until its deadline.
struct RequestAttempts {
    made: usize,
    backoff: Backoff,
    /// How long one may take.
    length: Duration,
    deadline: Instant,
}

impl S3Transport {
    pub(crate) fn new(settings: &S3Settings) -> Self {
        let S3Settings { host, port, tls, bucket, region, key, .. } = settings.clone();
        let shown = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let (scheme, default) = if tls.is_some() { ("https", 443) } else { ("http", 80) };
        let authority = if port == default { shown.clone() } else { format!("{shown}:{port}") };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(IDLE.0)
            .pool_idle_timeout(IDLE.1)
            .http1_max_buf_size(READ)
            .build(S3Connector { host, port, tls });
        let (credentials, requests) = (S3Credentials::new(key), Arc::new(Semaphore::new(REQUESTS.0)));
        Self { client, origin: format!("{scheme}://{shown}:{port}"), authority, bucket, region, credentials, requests }
    }

    pub(crate) fn bucket(&self) -> &str {
        &self.bucket
    }

    /// Sends a request once, and waits for the head of its response.
    async fn once(&self, request: &S3Request) -> Result<Response<Incoming>, BlobError> {
        let key = self.credentials.current().await?;
        let path = if request.key.is_empty() {
            format!("/{}", self.bucket)
        } else {
            format!("/{}/{}", self.bucket, request.key)
        };
        let query: Vec<_> = request.query.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
        let query = query.join("&");
        let hash = request.hash.clone().unwrap_or_else(|| hex(&sha256(&request.body)));
        let mut headers = request.headers.clone();
        headers.push(("host", self.authority.clone()));
        let (method, region) = (request.method.as_str(), self.region.as_str());
        let unsigned = Unsigned { method, path: &path, query: &query, region, hash: &hash };
        sign(&unsigned, &mut headers, &key, SystemTime::now());
        let separator = if query.is_empty() { "" } else { "?" };
        let mut builder =
            Request::builder().method(request.method.clone()).uri(format!("{}{path}{separator}{query}", self.origin));
        for (name, value) in headers {
            builder = builder.header(name, value);
        }
        let sent = builder.body(Full::new(request.body.clone())).map_err(|_| unavailable("a request is not valid"))?;
        self.client.request(sent).await.map_err(|error| {
            let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<ConnectFailure>());
            source.map_or_else(|| unavailable("the connection was lost"), unavailable)
        })
    }
}

impl S3Lane {
    pub(crate) fn new(transport: &Arc<S3Transport>) -> Self {
        Self { transport: Arc::clone(transport), requests: Arc::new(Semaphore::new(REQUESTS.1)) }
    }

    pub(crate) fn bucket(&self) -> &str {
        self.transport.bucket()
    }

    /// Waits for the places of a request: first that of the service, so that no service waits in the queue of the host with more
    /// than it could send.
    async fn places(&self, deadline: Instant) -> Result<[Option<OwnedSemaphorePermit>; 2], BlobError> {
        let places = async {
            // They are never closed.
            let own = Arc::clone(&self.requests).acquire_owned().await.ok();
            [own, Arc::clone(&self.transport.requests).acquire_owned().await.ok()]
        };
        timeout_at(deadline, places).await.map_err(|_| BlobError::Timeout)
    }

    /// Sends a request until it has a response that is no passing failure, and waits for the head of that.
    pub(crate) async fn send(&self, request: &S3Request, deadline: Instant) -> Result<Response<Incoming>, S3Failure> {
        let _places = self.places(deadline).await?;
        let mut attempts = RequestAttempts::new(request.attempt, deadline);
        loop {
            match self.attempt(request, attempts.begin()).await {
                Ok(response) => return Ok(response),
                Err(failed) => attempts.pause(failed).await?,
            }
        }
    }

    /// The same, and reads the content of the response, at most `most` bytes. The request is also sent again if that breaks off, or
    /// is a passing failure although the status is 200.
    pub(crate) async fn send_and_read(
        &self,
        request: &S3Request,
        most: usize,
        deadline: Instant,
    ) -> Result<(HeaderMap, Bytes), S3Failure> {
        let _places = self.places(deadline).await?;
        let mut attempts = RequestAttempts::new(request.attempt, deadline);
        loop {
            let end = attempts.begin();
            let failed = match self.attempt(request, end).await {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    match collect(body, most, end).await {
                        Ok(content) => match late_failure(&content) {
                            None => return Ok((head.headers, content)),
                            Some(failed) => failed,
                        },
                        Err(error) => FailedAttempt { failure: error.into(), passing: true },
                    }
                }
                Err(failed) => failed,
            };
            attempts.pause(failed).await?;
        }
    }

    /// Sends a request once, and waits for the head of its response.
    async fn attempt(&self, request: &S3Request, end: Instant) -> Result<Response<Incoming>, FailedAttempt> {
        let (failure, passing) = match timeout_at(end, self.transport.once(request)).await {
            Ok(Ok(response)) if response.status().is_success() => return Ok(response),
            Ok(Ok(response)) => {
                let passing = is_passing(response.status());
                let failure = failure(response, end).await;
                let passing = passing && matches!(failure, S3Failure::Other(_));
                (failure, passing)
            }
            Ok(Err(error)) => (error.into(), true),
            Err(_) => (BlobError::Timeout.into(), true),
        };
        Err(FailedAttempt { failure, passing })
    }
}

impl RequestAttempts {
    fn new(length: Duration, deadline: Instant) -> Self {
        Self { made: 0, backoff: Backoff::new(), length, deadline }
    }

    /// Begins an attempt, and returns its end.
    fn begin(&mut self) -> Instant {
        self.made = self.made.saturating_add(1);
        self.deadline.min(Instant::now() + self.length)
    }

    /// Waits until the next attempt; returns the failure of the last one if there is to be none.
    async fn pause(&mut self, FailedAttempt { failure, passing }: FailedAttempt) -> Result<(), S3Failure> {
        let failure = match failure {
            S3Failure::Other(BlobError::Timeout) if Instant::now() < self.deadline => {
                unavailable(format!("no response within {} s", self.length.as_secs())).into()
            }
            other => other,
        };
        let pause = self.backoff.pause();
        if !passing || self.made >= ATTEMPTS || Instant::now() + pause >= self.deadline {
            return Err(failure);
        }
        sleep(pause).await;
        Ok(())
    }
}

/// Whether a response says that the request can be repeated.
fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 500 | 502 | 503 | 504)
}

/// Reads the content of a response, at most `most` bytes.
async fn collect(body: Incoming, most: usize, deadline: Instant) -> Result<Bytes, BlobError> {
    match timeout_at(deadline, Limited::new(body, most).collect()).await {
        Ok(Ok(content)) => Ok(content.to_bytes()),
        Ok(Err(_)) => Err(unavailable("a response has broken off, or is too large")),
        Err(_) => Err(BlobError::Timeout),
    }
}

/// The failure that a response says.
async fn failure(response: Response<Incoming>, deadline: Instant) -> S3Failure {
    let status = response.status();
    let content = collect(response.into_body(), MAX_ERROR, deadline).await.unwrap_or_default();
    named_failure(status, &String::from_utf8_lossy(&content))
}

/// Encodes a value of a parameter, as signatures need it.
fn encode(value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    value.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_encoded() {
        assert_eq!(encode("a/b c+=~"), "a%2Fb%20c%2B%3D~");
    }
}
