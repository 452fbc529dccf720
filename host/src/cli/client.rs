//! The client of the admin API: HTTP/1.1 on a blocking socket, with one connection per request.

pub(super) mod api;
mod body;
mod failure;
pub(super) mod sse;
mod stream;

use std::io::{BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use self::body::ResponseBody;
use self::sse::EventStream;
use self::stream::{HostPlace, HostUrl};
use super::out::{CliError, clean, notice};
use crate::admin::contract::Problem;

/// The default timeout for a response.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The most bytes of a response that is not a stream: the state of some thousand services.
const MAX_BODY: u64 = 16 << 20;
/// The TCP keep-alive time and interval, by which a quiet stream notices that the host is gone.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// A client of one host.
#[derive(Clone)]
pub(super) struct AdminClient {
    place: HostPlace,
    token: Option<String>,
    /// Where the token is from, for messages.
    token_source: String,
    /// The timeout for a whole response or, for a stream, for its head.
    timeout: Duration,
}

/// A response of the admin API.
pub(super) struct ApiResponse {
    /// The status code.
    pub(super) status: u16,
    /// The body, as text.
    pub(super) text: String,
}

impl AdminClient {
    /// Creates a client for the host with this admin address. Does not connect yet.
    ///
    /// # Errors
    /// If the token contains characters that a header cannot hold.
    pub(super) fn new(admin: SocketAddr, token: Option<String>) -> Result<Self, CliError> {
        Self::of(HostPlace::Address(loopback_if_unspecified(admin)), token)
    }

    /// Creates a client for the host whose admin listener is at this URL. Does not connect yet.
    ///
    /// # Errors
    /// If it is not the http or https URL of a host, or the token contains characters that a header cannot hold.
    pub(super) fn at(url: &str, token: Option<String>) -> Result<Self, CliError> {
        let url = HostUrl::read(url)?;
        if url.is_readable() && token.is_some() {
            notice("others on the way can read the token: this is plain http; use https");
        }
        Self::of(HostPlace::Url(url), token)
    }

    fn of(place: HostPlace, token: Option<String>) -> Result<Self, CliError> {
        if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(CliError::Usage("admin_token: a header can only hold visible ASCII characters".into()));
        }
        let token = token.filter(|token| !token.is_empty());
        Ok(Self { place, token, token_source: "admin_token".into(), timeout: TIMEOUT })
    }

    /// Returns the client with the source of its token.
    pub(super) fn with_token_source(self, token_source: String) -> Self {
        Self { token_source, ..self }
    }

    /// Returns the client with another timeout.
    pub(super) fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Returns the URL of the host, for messages.
    pub(super) fn url(&self) -> String {
        self.place.url()
    }

    /// Sends a GET request. Returns the body of a successful response.
    pub(super) fn get(&self, path: &str) -> Result<String, CliError> {
        self.require_success(path, self.exchange("GET", path, None)?)
    }

    /// Sends a POST request without a body. Returns the body of a successful response.
    pub(super) fn post(&self, path: &str) -> Result<String, CliError> {
        self.require_success(path, self.exchange("POST", path, Some(b""))?)
    }

    /// Sends a PUT request with JSON. Returns the body of a successful response.
    pub(super) fn put(&self, path: &str, json: &str) -> Result<String, CliError> {
        self.require_success(path, self.exchange("PUT", path, Some(json.as_bytes()))?)
    }

    /// Sends a request and returns the response, whatever its status.
    pub(super) fn exchange(&self, method: &str, path: &str, body: Option<&[u8]>) -> Result<ApiResponse, CliError> {
        let (status, body) = self.send(method, path, body)?;
        self.read_response(status, body)
    }

    /// Sends a PUT request with these headers, whose body may be large. Returns the response, whatever its status.
    pub(super) fn upload(&self, path: &str, headers: &str, body: &[u8]) -> Result<ApiResponse, CliError> {
        let head = self.request("PUT", path, &format!("{headers}content-length: {}\r\n", body.len()));
        let (status, body) = self.transfer(head.into_bytes(), body)?;
        self.read_response(status, body)
    }

    /// Sends a GET request. Returns the body of a successful response, which may have any size.
    pub(super) fn download(&self, path: &str) -> Result<impl Read + use<>, CliError> {
        self.successful(path)
    }

    fn successful(&self, path: &str) -> Result<ResponseBody, CliError> {
        let (status, body) = self.send("GET", path, None)?;
        if status != 200 {
            let response = self.read_response(status, body)?;
            return Err(self.failure(path, &response));
        }
        Ok(body)
    }

    /// Requests a stream of events, which lasts until the host ends it.
    pub(super) fn follow(&self, path: &str) -> Result<EventStream, CliError> {
        let mut body = self.successful(path)?;
        body.clear_timeout();
        Ok(EventStream::new(body, self.url()))
    }

    fn send(&self, method: &str, path: &str, body: Option<&[u8]>) -> Result<(u16, ResponseBody), CliError> {
        // JSON, unless it is the value of a key.
        let of = |body: &[u8]| format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
        let mut request = self.request(method, path, &body.map_or(String::new(), of)).into_bytes();
        request.extend_from_slice(body.unwrap_or_default());
        self.transfer(request, b"")
    }

    /// Sends a request, whose body may be large and comes after all that `request` has of it.
    fn transfer(&self, request: Vec<u8>, body: &[u8]) -> Result<(u16, ResponseBody), CliError> {
        let sent = self.place.connect(Instant::now() + self.timeout).and_then(|mut stream| {
            let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
            socket2::SockRef::from(stream.socket()).set_tcp_keepalive(&keepalive)?;
            stream.socket().set_write_timeout(Some(self.timeout))?;
            stream.write_all(&request)?;
            let written = stream.write_all(body).and_then(|()| stream.flush());
            if !body.is_empty() {
                // How long a large body takes is up to the network.
                stream.set_deadline(Some(Instant::now() + self.timeout));
            }
            Ok((stream, written))
        });
        let response = sent.and_then(|(stream, written)| {
            let head = body::head(BufReader::new(stream));
            // A host that refuses a body does not read it to its end.
            if let (Err(_), Err(error)) = (&head, written) { Err(error) } else { head }
        });
        response.map_err(|error| self.unreachable(&error))
    }

    /// The head of a request with these headers, each a line.
    fn request(&self, method: &str, path: &str, headers: &str) -> String {
        let token = self.token.as_ref().map_or(String::new(), |token| format!("authorization: Bearer {token}\r\n"));
        let (host, prefix) = (self.place.authority(), self.place.prefix());
        format!("{method} {prefix}{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{token}{headers}\r\n")
    }

    fn read_response(&self, status: u16, body: ResponseBody) -> Result<ApiResponse, CliError> {
        let mut bytes = Vec::new();
        let read = body.take(MAX_BODY + 1).read_to_end(&mut bytes);
        let broken = |why: String| clean(&format!("{}: the response broke off: {why}", self.url())).into_owned();
        read.map_err(|error| CliError::Unreachable(broken(error.to_string())))?;
        if bytes.len() as u64 > MAX_BODY {
            let most = bytesize::ByteSize(MAX_BODY).display().iec();
            return Err(CliError::Problem(broken(format!("over {most}"))));
        }
        Ok(ApiResponse { status, text: String::from_utf8_lossy(&bytes).into_owned() })
    }

    fn require_success(&self, path: &str, response: ApiResponse) -> Result<String, CliError> {
        if (200..300).contains(&response.status) { Ok(response.text) } else { Err(self.failure(path, &response)) }
    }
}

impl ApiResponse {
    /// Whether it is a problem of this kind.
    pub(super) fn is(&self, kind: &str) -> bool {
        let problem = serde_json::from_str::<Problem>(&self.text).unwrap_or_default();
        problem.kind.is_some_and(|urn| urn.rsplit(':').next() == Some(kind))
    }

    /// Whether the listener for services has sent it.
    fn is_of_services(&self) -> bool {
        let problem = serde_json::from_str::<Problem>(&self.text).unwrap_or_default();
        problem.kind.is_some_and(|urn| urn.starts_with("urn:lodge:problem:"))
    }

    /// Returns the reason of an error: the detail or title of a problem (RFC 9457), or the first line of the text.
    pub(super) fn why(&self) -> String {
        let problem = serde_json::from_str::<Problem>(&self.text).unwrap_or_default();
        let why = problem.detail.or(problem.title);
        let why = why.unwrap_or_else(|| self.text.lines().next().unwrap_or_default().chars().take(200).collect());
        clean(&why).into_owned()
    }
}

/// Percent-encodes `text` as a part of a path or query.
pub(super) fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~@".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
        encoded
    })
}

/// Returns an address to connect to: the loopback address if the host listens on all addresses.
fn loopback_if_unspecified(admin: SocketAddr) -> SocketAddr {
    let ip = match admin.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, admin.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded() {
        assert_eq!(encoded("a-b_c.0"), "a-b_c.0");
        assert_eq!(encoded("a/../b?x=ü\n"), "a%2F..%2Fb%3Fx%3D%C3%BC%0A");
    }

    #[test]
    fn a_token_cannot_add_headers() {
        let admin = SocketAddr::from(([127, 0, 0, 1], 1));
        assert!(matches!(AdminClient::new(admin, Some("a\r\nb: c".into())), Err(CliError::Usage(_))));
        let client = AdminClient::new(admin, Some("secret".into())).unwrap();
        assert!(client.request("GET", "/", "").contains("\r\nauthorization: Bearer secret\r\n\r\n"));
    }
}
