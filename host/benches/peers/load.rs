//! The load: at full rate to measure cost, and at a fixed rate to measure latency.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The request that is sent.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) path: String,
    /// Further lines of the head.
    pub(crate) headers: String,
    /// The body of a POST; a request without one is a GET.
    body: Option<String>,
}

/// Connections of [`closed`].
const CONNECTIONS: usize = 32;
/// Connections of [`paced`]. A request waits for a free connection, and its latency includes the wait.
const PACED: usize = 8;

impl Target {
    pub(crate) fn new(address: SocketAddr, path: impl Into<String>) -> Self {
        Self { address, path: path.into(), headers: String::new(), body: None }
    }

    /// Returns the target with an `Accept-Encoding`, unless it is empty.
    pub(crate) fn accepting(self, coding: &str) -> Self {
        if coding.is_empty() { self } else { self.with("Accept-Encoding", coding) }
    }

    /// Returns the target with a body of JSON, which is sent by POST.
    pub(crate) fn posting(mut self, body: &str) -> Self {
        self.body = Some(body.to_owned());
        self.with("Content-Type", "application/json").with("Content-Length", body.len())
    }

    /// Returns the target with a further header field.
    pub(crate) fn with(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.headers += &format!("{name}: {value}\r\n");
        self
    }

    fn request(&self) -> Vec<u8> {
        let (method, body) = self.body.as_deref().map_or(("GET", ""), |body| ("POST", body));
        format!("{method} {} HTTP/1.1\r\nHost: {}\r\n{}\r\n{body}", self.path, self.address, self.headers).into_bytes()
    }

    /// Sends one request on a connection of its own, and returns the status.
    pub(crate) fn once(&self) -> std::io::Result<u16> {
        Ok(self.response()?.0)
    }

    /// Sends one request on a connection of its own, which is returned before there is a response.
    pub(crate) fn begin(&self) -> std::io::Result<TcpStream> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.write_all(&self.request())?;
        Ok(stream)
    }

    /// Sends one request on a connection of its own, and returns the bytes of the response, with its head.
    pub(crate) fn size(&self) -> std::io::Result<usize> {
        match self.response()? {
            (200, bytes) => Ok(bytes),
            (status, _) => Err(std::io::Error::other(format!("{self:?}: {status}"))),
        }
    }

    fn response(&self) -> std::io::Result<(u16, usize)> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut buffer = Vec::new();
        Ok((ask(&mut stream, &self.request(), &mut buffer)?, buffer.len()))
    }
}

/// Sends requests without pause over 32 connections, on one thread bound to `core`. Returns the number of responses. `{n}` in the
/// path is the number of the connection.
pub(crate) fn closed(target: &Target, core: Option<usize>, time: Duration) -> Result<u64, String> {
    let (answered, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    on_thread(core, || async {
        let stop = Instant::now() + time;
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..CONNECTIONS {
            let (mut target, answered, failed) = (target.clone(), Arc::clone(&answered), Arc::clone(&failed));
            target.path = target.path.replace("{n}", &n.to_string());
            tasks.spawn(async move {
                match repeat(&target, &answered, || Instant::now() >= stop).await {
                    Ok(()) => {}
                    Err(_) => drop(failed.fetch_add(1, Relaxed)),
                }
            });
        }
        tasks.join_all().await;
    });
    match failed.load(Relaxed) {
        0 => Ok(answered.load(Relaxed)),
        failed => Err(format!("{failed} connections to {}{} failed", target.address, target.path)),
    }
}

/// Requests that never get a response, on this many connections, until dropped.
pub(crate) struct Hogs {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Hogs {
    /// Starts them, distributed over the targets.
    pub(crate) fn start(targets: Vec<Target>, connections: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            on_thread(None, || async {
                let mut tasks = tokio::task::JoinSet::new();
                for target in targets.iter().cycle().take(connections) {
                    let target = target.clone();
                    tasks.spawn(async move {
                        loop {
                            let _ = repeat(&target, &AtomicU64::new(0), || false).await;
                            tokio::time::sleep(Duration::from_millis(10)).await;
                        }
                    });
                }
                while !stopped.load(Relaxed) {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the hogs' thread");
        }
    }
}

/// Sends `rate` requests per second. Returns the latencies in ascending order, each measured from when the request was
/// due. Every status must be 200.
pub(crate) fn paced(target: &Target, rate: u32, time: Duration) -> Result<Vec<Duration>, String> {
    let answers = answers(target, rate, time)?;
    assert!(answers.iter().all(|(_, status)| *status == 200), "{target:?}");
    Ok(answers.into_iter().map(|(took, _)| took).collect())
}

/// As [`paced`], with the status of each response.
pub(crate) fn answers(target: &Target, rate: u32, time: Duration) -> Result<Vec<(Duration, u16)>, String> {
    let begin = Instant::now() + Duration::from_millis(50);
    let threads: Vec<_> = (0..PACED)
        .map(|n| {
            let target = target.clone();
            std::thread::spawn(move || -> std::io::Result<Vec<(Duration, u16)>> {
                let mut stream = TcpStream::connect(target.address)?;
                stream.set_nodelay(true)?;
                let (request, mut buffer, mut took) = (target.request(), Vec::new(), Vec::new());
                for turn in (n..).step_by(PACED) {
                    let due = begin + Duration::from_secs(1) * u32::try_from(turn).unwrap() / rate;
                    if due > begin + time {
                        return Ok(took);
                    }
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    let status = ask(&mut stream, &request, &mut buffer)?;
                    took.push((due.elapsed(), status));
                }
                Ok(took)
            })
        })
        .collect();
    let mut took = Vec::new();
    for thread in threads {
        took.extend(thread.join().expect("a client").map_err(|error| format!("{target:?}: {error}"))?);
    }
    took.sort();
    Ok(took)
}

/// When requests are due.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arrivals {
    /// At equal distances.
    Even,
    /// As by many independent clients: a Poisson process, the same in each run.
    Random,
}

/// Requests that are due whether or not those before have a response.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenLoad {
    /// Threads with a connection each, which take turns. A request waits for its own, and its latency includes the wait.
    pub(crate) connections: usize,
    pub(crate) arrivals: Arrivals,
    /// Requests per second.
    pub(crate) rate: u32,
}

impl OpenLoad {
    /// Sends requests, and returns the latencies in ascending order, each from when its request was due. Every status must be 200.
    pub(crate) fn run(self, target: &Target, time: Duration) -> Result<Vec<Duration>, String> {
        let mut due = vec![Vec::new(); self.connections];
        let (mut at, mut seed) = (Duration::from_millis(100), 0x9e37_79b9_7f4a_7c15_u64);
        for turn in (0..self.connections).cycle() {
            if at > time + Duration::from_millis(100) {
                break;
            }
            due[turn].push(at);
            at += match self.arrivals {
                Arrivals::Even => Duration::from_secs(1) / self.rate,
                Arrivals::Random => {
                    // xorshift; the highest 53 bits are a number above 0 and up to 1.
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    let uniform = ((seed >> 11) + 1) as f64 / (1_u64 << 53) as f64;
                    Duration::from_secs_f64(-uniform.ln() / f64::from(self.rate))
                }
            };
        }
        let begin = Instant::now();
        let client = |due: Vec<Duration>| {
            let target = target.clone();
            std::thread::spawn(move || -> std::io::Result<Vec<Duration>> {
                let mut stream = TcpStream::connect(target.address)?;
                stream.set_nodelay(true)?;
                let (request, mut buffer, mut took) = (target.request(), Vec::new(), Vec::with_capacity(due.len()));
                for due in due {
                    let due = begin + due;
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    let status = ask(&mut stream, &request, &mut buffer)?;
                    assert_eq!(status, 200, "{target:?}");
                    took.push(due.elapsed());
                }
                Ok(took)
            })
        };
        let threads: Vec<_> = due.into_iter().map(client).collect();
        let mut took = Vec::new();
        for thread in threads {
            took.extend(thread.join().expect("a client").map_err(|error| format!("{target:?}: {error}"))?);
        }
        took.sort();
        Ok(took)
    }
}

/// Returns the quantile `part` of the latencies that [`paced`] returns.
pub(crate) fn quantile(sorted: &[Duration], part: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * part) as usize]
}

pub(crate) fn on_thread<F: Future<Output = ()>>(core: Option<usize>, work: impl FnOnce() -> F + Send) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if let Some(core) = core {
                super::servers::bind(core);
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(work());
        });
    });
}

async fn repeat(target: &Target, answered: &AtomicU64, until: impl Fn() -> bool) -> std::io::Result<()> {
    let mut stream = tokio::net::TcpStream::connect(target.address).await?;
    stream.set_nodelay(true)?;
    let (request, mut buffer) = (target.request(), Vec::with_capacity(4096));
    while !until() {
        stream.write_all(&request).await?;
        buffer.clear();
        while complete(&buffer)?.is_none() {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        answered.fetch_add(1, Relaxed);
    }
    Ok(())
}

fn ask(stream: &mut TcpStream, request: &[u8], buffer: &mut Vec<u8>) -> std::io::Result<u16> {
    stream.write_all(request)?;
    buffer.clear();
    let mut chunk = [0; 4096];
    loop {
        let read = stream.read(&mut chunk)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        buffer.extend_from_slice(&chunk[..read]);
        if let Some(status) = complete(buffer)? {
            return Ok(status);
        }
    }
}

/// Reads a whole response, and returns its status.
fn complete(bytes: &[u8]) -> std::io::Result<Option<u16>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut headers);
    let parsed = head.parse(bytes).map_err(std::io::Error::other)?;
    let httparse::Status::Complete(body) = parsed else { return Ok(None) };
    let length = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let whole = match length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok()) {
        Some(length) => bytes.len() - body >= length,
        // Otherwise it is chunked: the responses here are small and have no trailers.
        None => bytes.ends_with(b"0\r\n\r\n"),
    };
    Ok(whole.then_some(head.code.unwrap_or(0)))
}
