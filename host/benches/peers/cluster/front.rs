//! A load balancer before the hosts, with its clients: requests are due at a fixed rate, and a bounded number is sent at a time.
//!
//! It does what nginx does with `proxy_next_upstream error`, and checks the hosts as a load balancer does: it sends to those whose
//! `/readyz` was 200 at the last look, and to another host after an error of a connection, if nothing was sent or the method is
//! idempotent. A response is passed on whatever its status is, and so is a timeout: what a host responds is not mended here.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::load::Target;

/// Requests at a time, and connections to each host.
const CLIENTS: usize = 64;
/// The time between two looks at `/readyz` of a host.
const CHECK: Duration = Duration::from_millis(250);
/// The longest time for a connection, and for a response.
const CONNECT: Duration = Duration::from_secs(1);
const RESPONSE: Duration = Duration::from_secs(10);

/// What is sent in turn: a service of all hosts; calls to services of two hosts each, of which one in three goes to another host; and a
/// service that one host forwards to the two others.
const MIX: [Kind; 8] = [
    Kind::get("/hello", "", None),
    Kind::get("/caller", "x-times: 1\r\nx-to: http://one.internal/one\r\n", Some("0")),
    Kind::get("/four", "", Some("")),
    Kind::get("/caller", "x-times: 1\r\nx-to: http://two.internal/two\r\n", Some("0")),
    Kind::get("/hello", "", None),
    Kind::get("/caller", "x-times: 1\r\nx-to: http://three.internal/three\r\n", Some("0")),
    Kind::get("/four", "", Some("")),
    Kind { path: "/four", headers: "", upload: Some("an order"), expected: Some("an order") },
];

/// A request that is sent, and what its response must be.
#[derive(Debug)]
struct Kind {
    path: &'static str,
    headers: &'static str,
    /// The body of a POST; a GET has none.
    upload: Option<&'static str>,
    /// The body of the response, if it matters.
    expected: Option<&'static str>,
}

impl Kind {
    const fn get(path: &'static str, headers: &'static str, expected: Option<&'static str>) -> Self {
        Self { path, headers, upload: None, expected }
    }

    fn name(&self) -> String {
        format!("{} {}", if self.upload.is_some() { "POST" } else { "GET" }, self.path)
    }

    fn text(&self) -> Vec<u8> {
        let (path, headers) = (self.path, self.headers);
        match self.upload {
            None => format!("GET {path} HTTP/1.1\r\nHost: shop\r\n{headers}\r\n").into_bytes(),
            Some(body) => {
                let length = body.len();
                format!("POST {path} HTTP/1.1\r\nHost: shop\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
                    .into_bytes()
            }
        }
    }
}

/// Where a host is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) services: SocketAddr,
    pub(super) admin: SocketAddr,
}

/// A request, and what became of it.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) due: Instant,
    pub(super) done: Instant,
    pub(super) is_idempotent: bool,
    /// How often it was sent.
    pub(super) tries: usize,
    /// Why it has failed, if it has.
    pub(super) failure: Option<String>,
}

/// The load balancer with its load.
pub(super) struct Front {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Vec<Sent>>>,
    checks: Vec<JoinHandle<()>>,
}

struct Shared {
    hosts: Vec<(Place, AtomicBool)>,
    begin: Instant,
    rate: u32,
    /// The number of the next request.
    next: AtomicU32,
    /// The host of the next request.
    turn: AtomicUsize,
    ends: AtomicBool,
}

/// Why there is no response.
enum Fault {
    /// There is no connection, so nothing was sent.
    Unconnected(ErrorKind),
    /// The connection broke after something was sent.
    Broken {
        is_new: bool,
    },
    TimedOut,
}

/// A whole response.
struct Answer {
    status: u16,
    /// The host closes the connection.
    closes: bool,
    body: Vec<u8>,
    is_error: bool,
}

impl Front {
    /// Starts the load.
    pub(super) fn start(places: &[Place], rate: u32) -> Self {
        let shared = Arc::new(Shared {
            hosts: places.iter().map(|place| (*place, AtomicBool::new(true))).collect(),
            begin: Instant::now(),
            rate,
            next: AtomicU32::new(0),
            turn: AtomicUsize::new(0),
            ends: AtomicBool::new(false),
        });
        let client = |_| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.send_requests())
        };
        let check = |host| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.check(host))
        };
        Self { clients: (0..CLIENTS).map(client).collect(), checks: (0..places.len()).map(check).collect(), shared }
    }

    /// Ends the load, and returns all requests.
    pub(super) fn finish(self) -> Vec<Sent> {
        self.shared.ends.store(true, Relaxed);
        self.checks.into_iter().for_each(|check| check.join().expect("a check"));
        self.clients.into_iter().flat_map(|client| client.join().expect("a client")).collect()
    }
}

impl Shared {
    /// Looks whether a host is ready, again and again.
    fn check(&self, host: usize) {
        let (place, is_up) = &self.hosts[host];
        let target = Target::new(place.admin, "/readyz");
        while !self.ends.load(Relaxed) {
            is_up.store(matches!(target.once(), Ok(200)), Relaxed);
            std::thread::sleep(CHECK);
        }
    }

    /// Sends the next request when it is due, again and again.
    fn send_requests(&self) -> Vec<Sent> {
        let (mut connections, mut all) = (BTreeMap::new(), Vec::new());
        loop {
            let number = self.next.fetch_add(1, Relaxed);
            let due = self.begin + Duration::from_secs(1) * number / self.rate;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if self.ends.load(Relaxed) {
                return all;
            }
            let kind = &MIX[number as usize % MIX.len()];
            let (tries, failure) = self.send(kind, &mut connections);
            let is_idempotent = kind.upload.is_none();
            all.push(Sent { due, done: Instant::now(), is_idempotent, tries, failure });
        }
    }

    /// Sends a request to a host, and again to another one where that is safe. Returns how often, and why it has failed.
    fn send(&self, kind: &Kind, connections: &mut BTreeMap<usize, TcpStream>) -> (usize, Option<String>) {
        let mut tried = Vec::new();
        loop {
            let host = self.choose(&tried);
            tried.push(host);
            let fault = match exchange(self.hosts[host].0.services, kind, host, connections) {
                Ok(answer) => return (tried.len(), failure(kind, &answer)),
                Err(fault) => fault,
            };
            connections.remove(&host);
            if matches!(fault, Fault::Unconnected(_) | Fault::Broken { is_new: true }) {
                // Until the next look.
                self.hosts[host].1.store(false, Relaxed);
            }
            let (may_repeat, why) = match fault {
                Fault::Unconnected(kind) => (true, format!("no connection: {kind}")),
                Fault::Broken { .. } => (kind.upload.is_none(), "the connection broke".to_owned()),
                Fault::TimedOut => (false, "no response".to_owned()),
            };
            if !may_repeat || tried.len() == self.hosts.len() {
                return (tried.len(), Some(format!("{}: {why}", kind.name())));
            }
        }
    }

    /// Returns the next host that is ready and was not tried, or else the next one that was not tried.
    fn choose(&self, tried: &[usize]) -> usize {
        let (turn, count) = (self.turn.fetch_add(1, Relaxed), self.hosts.len());
        let others = || (0..count).map(|n| (turn + n) % count).filter(|host| !tried.contains(host));
        let ready = others().find(|host| self.hosts[*host].1.load(Relaxed));
        ready.or_else(|| others().next()).expect("a host that was not tried")
    }
}

/// Sends a request to a host once.
fn exchange(
    address: SocketAddr,
    kind: &Kind,
    host: usize,
    connections: &mut BTreeMap<usize, TcpStream>,
) -> Result<Answer, Fault> {
    if connections.get(&host).is_some_and(|stream| !is_open(stream)) {
        connections.remove(&host);
    }
    let is_new = !connections.contains_key(&host);
    if is_new {
        let connect = || -> std::io::Result<TcpStream> {
            let stream = TcpStream::connect_timeout(&address, CONNECT)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(RESPONSE))?;
            Ok(stream)
        };
        connections.insert(host, connect().map_err(|error| Fault::Unconnected(error.kind()))?);
    }
    let stream = connections.get_mut(&host).expect("it is there");
    let broken = |error: &std::io::Error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Fault::TimedOut,
        _ => Fault::Broken { is_new },
    };
    stream.write_all(&kind.text()).map_err(|error| broken(&error))?;
    let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
    let answer = loop {
        let read = stream.read(&mut chunk).map_err(|error| broken(&error))?;
        bytes.extend_from_slice(&chunk[..read]);
        match whole(&bytes) {
            Some(answer) => break answer,
            None if read == 0 => return Err(Fault::Broken { is_new }),
            None => {}
        }
    };
    if answer.closes {
        connections.remove(&host);
    }
    Ok(answer)
}

/// Whether the host has not closed an idle connection, as load balancers notice at once.
fn is_open(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("a socket");
    let looked = stream.peek(&mut [0]);
    stream.set_nonblocking(false).expect("a socket");
    looked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// Returns why a response is a failure, if it is.
fn failure(kind: &Kind, answer: &Answer) -> Option<String> {
    let is_expected = kind.expected.is_none_or(|expected| answer.body == expected.as_bytes());
    if answer.status == 200 && !answer.is_error && is_expected {
        return None;
    }
    let text = String::from_utf8_lossy(&answer.body);
    let problem = text.split_once("urn:lodge:problem:").and_then(|(_, rest)| rest.split('"').next());
    let body = problem.map_or_else(|| text.chars().take(40).collect(), str::to_owned);
    Some(format!("{}: {} {body}", kind.name(), answer.status))
}

/// Reads a response; `None` if it is not complete. What is no HTTP ends the benchmark.
fn whole(bytes: &[u8]) -> Option<Answer> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(begin) = head.parse(bytes).expect("a response") else { return None };
    let value = |name: &str| {
        let found = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.map(|header| String::from_utf8_lossy(header.value).into_owned())
    };
    let rest = &bytes[begin..];
    let body = match value("content-length") {
        Some(length) => rest.get(..length.parse().expect("a length"))?.to_vec(),
        None => unchunked(rest)?,
    };
    let closes = value("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    Some(Answer { status: head.code.unwrap_or(0), closes, body, is_error: value("x-error").is_some() })
}

/// Returns a body without the framing of its chunks; `None` if it is not complete.
fn unchunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let httparse::Status::Complete((begin, size)) = httparse::parse_chunk_size(rest).expect("a chunk") else {
            return None;
        };
        let chunk = rest.get(begin..begin + usize::try_from(size).expect("a small chunk") + 2)?;
        body.extend_from_slice(&chunk[..chunk.len() - 2]);
        rest = &rest[begin + chunk.len()..];
        if size == 0 {
            return Some(body);
        }
    }
}
