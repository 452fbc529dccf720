//! A replica of a service whose behaviour the test sets, down to single bytes.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
const SWITCHED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\nx-replica: one\r\n\r\n";

/// How a replica responds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Habit {
    /// With its name.
    Name,
    /// With its name, after this many milliseconds.
    Late(u64),
    /// With the request as received.
    Describe,
    /// With the body, part by part.
    Echo,
    /// After it has read the whole body.
    Swallow,
    /// After it has read the whole body, and this many milliseconds.
    Digest(u64),
    /// With this status and an empty body.
    Status(u16),
    /// By closing the connection.
    Close,
    /// By closing the connection in the middle of the head.
    CloseMidHead,
    /// By closing the connection after half of the declared body, sent together with the head.
    CloseAtOnce,
    /// With its name, when the test calls [`Replica::go_on`].
    Held,
    /// By closing the connection before the declared body is complete, when the test calls [`Replica::go_on`].
    CloseMidBody,
    /// By closing the connection before the last chunk, when the test calls [`Replica::go_on`].
    CloseMidChunks,
    /// With half of a body, and then nothing.
    StallMidBody,
    /// Never.
    Hang,
    /// With bytes that are not HTTP.
    Rubbish,
    /// With these bytes, after which it closes the connection.
    Says(&'static str),
    /// By switching to a protocol that echoes bytes, if the request asks for it.
    Switch,
    /// By switching to a protocol that sends bytes without end.
    Pour,
    /// It accepts no connections, and closes existing ones.
    Refuse,
}

/// A replica.
pub(crate) struct Replica {
    pub(crate) address: SocketAddr,
    /// Its health check fails.
    pub(crate) sick: Arc<AtomicBool>,
    /// The response to its health check never ends.
    pub(crate) chatty: Arc<AtomicBool>,
    shared: Arc<Shared>,
    serving: Mutex<Option<AbortHandle>>,
}

struct Shared {
    name: &'static str,
    habit: Mutex<Habit>,
    hits: AtomicUsize,
    checks: AtomicUsize,
    sick: Arc<AtomicBool>,
    chatty: Arc<AtomicBool>,
    /// What a response waits for in the middle.
    go_on: Notify,
    /// Connections, so that they can be closed.
    connections: Mutex<Vec<AbortHandle>>,
}

impl Replica {
    pub(crate) async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sick, chatty) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let shared = Arc::new(Shared {
            name,
            habit: Mutex::new(Habit::Name),
            hits: AtomicUsize::new(0),
            checks: AtomicUsize::new(0),
            sick: Arc::clone(&sick),
            chatty: Arc::clone(&chatty),
            go_on: Notify::new(),
            connections: Mutex::default(),
        });
        let serving = Mutex::new(Some(tokio::spawn(serve(listener, Arc::clone(&shared))).abort_handle()));
        Self { address, sick, chatty, shared, serving }
    }

    /// Sets the behaviour from the next request on.
    pub(crate) fn set(&self, habit: Habit) {
        *self.shared.habit.lock().unwrap() = habit;
        let mut serving = self.serving.lock().unwrap();
        if habit == Habit::Refuse {
            serving.take().into_iter().for_each(|serving| serving.abort());
            self.shared.connections.lock().unwrap().drain(..).for_each(|connection| connection.abort());
        } else if serving.is_none() {
            let listener = std::net::TcpListener::bind(self.address).unwrap();
            listener.set_nonblocking(true).unwrap();
            let listener = TcpListener::from_std(listener).unwrap();
            *serving = Some(tokio::spawn(serve(listener, Arc::clone(&self.shared))).abort_handle());
        }
    }

    /// Lets one response continue that waits for this, or will wait.
    pub(crate) fn go_on(&self) {
        self.shared.go_on.notify_one();
    }

    /// The number of requests that it received, without health checks.
    pub(crate) fn hits(&self) -> usize {
        self.shared.hits.load(Relaxed)
    }

    /// The number of health checks that it received.
    pub(crate) fn checks(&self) -> usize {
        self.shared.checks.load(Relaxed)
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.serving.lock().unwrap().take().into_iter().for_each(|serving| serving.abort());
        self.shared.connections.lock().unwrap().drain(..).for_each(|connection| connection.abort());
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let connection = tokio::spawn(connection(stream, Arc::clone(&shared)));
        shared.connections.lock().unwrap().push(connection.abort_handle());
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) -> Option<()> {
    stream.set_nodelay(true).unwrap();
    let (mut from, mut to) = stream.into_split();
    let mut kept = Vec::new();
    loop {
        let head = head(&mut from, &mut kept).await?;
        if head.starts_with("GET /healthy ") {
            shared.checks.fetch_add(1, Relaxed);
            if shared.chatty.load(Relaxed) {
                to.write_all(CHUNKED.as_bytes()).await.ok()?;
                let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
                loop {
                    to.write_all(&chunk).await.ok()?;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            let status = if shared.sick.load(Relaxed) { 500 } else { 200 };
            to.write_all(format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n").as_bytes()).await.ok()?;
            continue;
        }
        shared.hits.fetch_add(1, Relaxed);
        let habit = *shared.habit.lock().unwrap();
        let mut body = Body::of(&head, &mut from, &mut kept);
        respond(habit, &head, &mut body, &mut to, &shared).await?;
    }
}

/// Responds to a request; `None` when the connection has ended.
async fn respond(
    habit: Habit,
    head: &str,
    body: &mut Body<'_>,
    to: &mut OwnedWriteHalf,
    shared: &Shared,
) -> Option<()> {
    let name = shared.name;
    let whole = |text: &str| {
        let body = if head.starts_with("HEAD ") { "" } else { text };
        let length = text.len();
        format!(
            "HTTP/1.1 200 OK\r\nx-replica: {name}\r\nkeep-alive: timeout=5\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    };
    match habit {
        Habit::Name => {
            body.whole().await?;
            to.write_all(whole(name).as_bytes()).await.ok()
        }
        Habit::Late(millis) => {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            to.write_all(whole(name).as_bytes()).await.ok()
        }
        Habit::Held => {
            shared.go_on.notified().await;
            to.write_all(whole(name).as_bytes()).await.ok()
        }
        Habit::Describe => {
            let body = body.whole().await?;
            let text = format!("{}{}", head.replace("\r\n", "\n"), String::from_utf8_lossy(&body));
            to.write_all(whole(&text).as_bytes()).await.ok()
        }
        Habit::Echo => {
            to.write_all(CHUNKED.as_bytes()).await.ok()?;
            while let Some(part) = body.part().await {
                let chunk = [format!("{:x}\r\n", part.len()).as_bytes(), &part, b"\r\n"].concat();
                to.write_all(&chunk).await.ok()?;
            }
            to.write_all(b"0\r\n\r\n").await.ok()
        }
        Habit::Swallow => {
            body.whole().await?;
            to.write_all(whole("swallowed").as_bytes()).await.ok()
        }
        Habit::Digest(millis) => {
            body.whole().await?;
            tokio::time::sleep(Duration::from_millis(millis)).await;
            to.write_all(whole("digested").as_bytes()).await.ok()
        }
        Habit::Status(status) => {
            body.whole().await?;
            let length = if status == 304 { "" } else { "content-length: 0\r\n" };
            to.write_all(format!("HTTP/1.1 {status} X\r\n{length}\r\n").as_bytes()).await.ok()
        }
        Habit::Switch => {
            let offers = head.lines().find_map(|line| line.strip_prefix("upgrade: ")).unwrap_or_default();
            if !head.contains("connection: upgrade\r\n") || !offers.split(", ").any(|offer| offer == "echo") {
                return to.write_all(whole("not asked to switch").as_bytes()).await.ok();
            }
            to.write_all(SWITCHED.as_bytes()).await.ok()?;
            let mut bytes = [0; 1024];
            loop {
                match body.from.read(&mut bytes).await {
                    Ok(0) | Err(_) => return None,
                    Ok(read) => to.write_all(&bytes[..read]).await.ok()?,
                }
            }
        }
        Habit::Pour => {
            to.write_all(SWITCHED.as_bytes()).await.ok()?;
            let mut bytes = [0; 1024];
            loop {
                // Received bytes do not stop it, but the end does.
                tokio::select! {
                    read = body.from.read(&mut bytes) => read.ok().filter(|read| *read > 0)?,
                    written = to.write(&[b'x'; 0x10000]) => written.ok()?,
                };
            }
        }
        broken => break_off(broken, body, to, &shared.go_on).await,
    }
}

/// Fails a request in one of the ways in which replicas do.
async fn break_off(habit: Habit, body: &mut Body<'_>, to: &mut OwnedWriteHalf, go_on: &Notify) -> Option<()> {
    match habit {
        Habit::Close | Habit::Refuse => {
            body.whole().await?;
            None
        }
        Habit::CloseMidHead => {
            to.write_all(b"HTTP/1.1 200 OK\r\ncontent-le").await.ok()?;
            None
        }
        Habit::CloseMidBody => {
            to.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await.ok()?;
            go_on.notified().await;
            None
        }
        Habit::CloseAtOnce => {
            to.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await.ok()?;
            None
        }
        Habit::CloseMidChunks => {
            to.write_all(format!("{CHUNKED}4\r\nhalf\r\n").as_bytes()).await.ok()?;
            go_on.notified().await;
            None
        }
        Habit::StallMidBody => {
            to.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await.ok()?;
            tokio::time::sleep(Duration::from_secs(600)).await;
            None
        }
        Habit::Hang => {
            tokio::time::sleep(Duration::from_secs(600)).await;
            None
        }
        Habit::Says(text) => {
            body.whole().await?;
            to.write_all(text.as_bytes()).await.ok()?;
            None
        }
        Habit::Rubbish => {
            to.write_all(b"\x16\x03\x01 this is no HTTP at all\r\n\r\n").await.ok()?;
            None
        }
        other => unreachable!("{other:?} responds"),
    }
}

async fn head(from: &mut OwnedReadHalf, kept: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = kept.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = kept.split_off(end + 4);
            return String::from_utf8(std::mem::replace(kept, rest)).ok();
        }
        if from.read_buf(kept).await.ok()? == 0 {
            return None;
        }
    }
}

/// The body of a request, with a length or in chunks.
struct Body<'a> {
    from: &'a mut OwnedReadHalf,
    kept: &'a mut Vec<u8>,
    /// The remaining bytes; `None` for chunks.
    left: Option<usize>,
    ended: bool,
}

impl<'a> Body<'a> {
    fn of(head: &str, from: &'a mut OwnedReadHalf, kept: &'a mut Vec<u8>) -> Self {
        let head = head.to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
        let chunked = head.contains("transfer-encoding: chunked");
        Self { from, kept, left: if chunked { None } else { Some(length.unwrap_or(0)) }, ended: false }
    }

    async fn part(&mut self) -> Option<Vec<u8>> {
        loop {
            match &mut self.left {
                Some(0) => return None,
                Some(left) if !self.kept.is_empty() => {
                    let rest = self.kept.split_off((*left).min(self.kept.len()));
                    let part = std::mem::replace(self.kept, rest);
                    *left -= part.len();
                    return Some(part);
                }
                None if self.ended => return None,
                None => {
                    let line = self.kept.windows(2).position(|window| window == b"\r\n");
                    if let Some(line) = line {
                        let size = std::str::from_utf8(&self.kept[..line]).unwrap();
                        let size = usize::from_str_radix(size, 16).unwrap();
                        if self.kept.len() >= line + 2 + size + 2 {
                            let rest = self.kept.split_off(line + 2 + size + 2);
                            let chunk = std::mem::replace(self.kept, rest);
                            self.ended = size == 0;
                            return (size > 0).then(|| chunk[line + 2..line + 2 + size].to_vec());
                        }
                    }
                }
                Some(_) => {}
            }
            if self.from.read_buf(self.kept).await.ok()? == 0 {
                return None;
            }
        }
    }

    async fn whole(&mut self) -> Option<Vec<u8>> {
        let mut whole = Vec::new();
        while let Some(part) = self.part().await {
            whole.extend(part);
        }
        Some(whole)
    }
}
