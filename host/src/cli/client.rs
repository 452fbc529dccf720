//! Asks a running host over its admin listener: HTTP/1.1 on a blocking socket, a connection for every question.

pub(super) mod api;
mod body;
pub(super) mod sse;

use std::io::{BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use self::body::{Body, Timed};
use self::sse::Events;
use super::out::{CliError, clean};

/// For a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// For an answer, unless somebody has less time.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer that is no stream.
const MAX_BODY: u64 = 64 << 20;
/// On a quiet stream, between two looks whether the host is still there.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Somebody who may ask a host.
pub(super) struct Client {
    address: SocketAddr,
    token: Option<String>,
    /// For a whole answer; of a stream, for its head.
    timeout: Duration,
}

/// What a host said.
pub(super) struct ApiResponse {
    /// Its status.
    pub(super) status: u16,
    /// Its body, as text.
    pub(super) text: String,
}

impl Client {
    /// A client of the host with this admin address, which has not been asked yet.
    ///
    /// # Errors
    /// When the token cannot stand in a header.
    pub(super) fn new(admin: SocketAddr, token: Option<String>) -> Result<Self, CliError> {
        if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(CliError::Usage("admin_token: only visible ASCII characters can be sent".into()));
        }
        Ok(Self {
            address: loopback_if_unspecified(admin),
            token: token.filter(|token| !token.is_empty()),
            timeout: TIMEOUT,
        })
    }

    /// The same, but it waits only so long for an answer.
    pub(super) fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Where it asks, for messages.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// GET of a path that must succeed: the answer's text.
    pub(super) fn get(&self, path: &str) -> Result<String, CliError> {
        self.require_success(path, self.exchange("GET", path, None)?)
    }

    /// POST without a body, which must succeed.
    pub(super) fn post(&self, path: &str) -> Result<String, CliError> {
        self.require_success(path, self.exchange("POST", path, Some(""))?)
    }

    /// PUT of JSON, which must succeed.
    pub(super) fn put(&self, path: &str, json: &str) -> Result<String, CliError> {
        self.require_success(path, self.exchange("PUT", path, Some(json))?)
    }

    /// Asks, and takes whatever the answer is.
    pub(super) fn exchange(&self, method: &str, path: &str, json: Option<&str>) -> Result<ApiResponse, CliError> {
        let (status, body) = self.send(method, path, json)?;
        self.read_response(status, body)
    }

    /// Follows a stream of events, until the host ends it.
    pub(super) fn follow(&self, path: &str) -> Result<Events, CliError> {
        let (status, mut body) = self.send("GET", path, None)?;
        if status != 200 {
            let answer = self.read_response(status, body)?;
            return Err(self.failure(path, &answer));
        }
        body.clear_timeout();
        Ok(Events::new(body, self.url()))
    }

    fn send(&self, method: &str, path: &str, json: Option<&str>) -> Result<(u16, Body), CliError> {
        let until = Instant::now() + self.timeout;
        let sent = TcpStream::connect_timeout(&self.address, CONNECT).and_then(|mut stream| {
            let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
            socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
            stream.set_write_timeout(Some(self.timeout))?;
            stream.write_all(self.request(method, path, json).as_bytes())?;
            Ok(stream)
        });
        let answered = sent.and_then(|stream| body::head(BufReader::new(Timed::new(stream, until))));
        answered.map_err(|error| {
            let way_out = "is `lodge serve` running? --admin names another address";
            CliError::new(format!("{} does not answer: {error}; {way_out}", self.url()))
        })
    }

    fn request(&self, method: &str, path: &str, json: Option<&str>) -> String {
        let token = self.token.as_ref().map_or(String::new(), |token| format!("authorization: Bearer {token}\r\n"));
        let length = json.map_or(String::new(), |json| {
            format!("content-type: application/json\r\ncontent-length: {}\r\n", json.len())
        });
        let (host, json) = (self.address, json.unwrap_or_default());
        format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{token}{length}\r\n{json}")
    }

    fn read_response(&self, status: u16, body: Body) -> Result<ApiResponse, CliError> {
        let mut bytes = Vec::new();
        let read = body.take(MAX_BODY + 1).read_to_end(&mut bytes);
        let broken = |why: String| CliError::new(format!("{}: its answer broke off: {why}", self.url()));
        read.map_err(|error| broken(error.to_string()))?;
        if bytes.len() as u64 > MAX_BODY {
            return Err(broken(format!("over {}", bytesize::ByteSize(MAX_BODY).display().iec())));
        }
        Ok(ApiResponse { status, text: String::from_utf8_lossy(&bytes).into_owned() })
    }

    fn require_success(&self, path: &str, answer: ApiResponse) -> Result<String, CliError> {
        if (200..300).contains(&answer.status) { Ok(answer.text) } else { Err(self.failure(path, &answer)) }
    }

    /// What an answer other than success means to the person who asked.
    pub(super) fn failure(&self, path: &str, answer: &ApiResponse) -> CliError {
        let place = self.url();
        let key = "admin_token (--admin-token, LODGE_ADMIN_TOKEN or lodge.toml)";
        let why = answer.why();
        CliError::new(match answer.status {
            401 if self.token.is_some() => format!("{place} does not accept this token; {key} has to be the host's"),
            401 => format!("{place} wants a token; set {key} to the host's"),
            404 => format!("{place} knows no {path}: {why}; is it a Lodge, and as new as this one?"),
            status => format!("{place}{path}: {status} {why}"),
        })
    }
}

impl ApiResponse {
    /// Why it is not a success: the title of a problem, or the first line of the text.
    pub(super) fn why(&self) -> String {
        let problem = serde_json::from_str::<api::Problem>(&self.text).unwrap_or_default();
        let why = problem.detail.or(problem.title);
        let why = why.unwrap_or_else(|| self.text.lines().next().unwrap_or_default().chars().take(200).collect());
        clean(&why).into_owned()
    }
}

/// `text` as a part of a path or a query.
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

/// Every address is listened on; one has to be asked.
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
        assert!(matches!(Client::new(admin, Some("a\r\nb: c".into())), Err(CliError::Usage(_))));
        let client = Client::new(admin, Some("secret".into())).unwrap();
        assert!(client.request("GET", "/", None).contains("\r\nauthorization: Bearer secret\r\n\r\n"));
    }
}
