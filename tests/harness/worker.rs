//! A consumer outside of the host, as the replica of an upstream: it records the messages that it receives.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// A request with a message.
#[derive(Clone, Debug)]
pub(crate) struct Delivered {
    pub(crate) head: String,
    pub(crate) body: String,
    pub(crate) at: Instant,
    /// Requests in progress when it arrived, with itself.
    pub(crate) concurrent: usize,
}

impl Delivered {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let line = self.head.lines().find(|line| line.to_lowercase().starts_with(&format!("{name}:")))?;
        line.split_once(':').map(|(_, value)| value.trim())
    }

    pub(crate) fn attempt(&self) -> u32 {
        self.header("message-attempt").unwrap().parse().unwrap()
    }
}

/// The status of a response, and how long it takes.
type Behaviour = Box<dyn Fn(&Delivered) -> (u16, Duration) + Send + Sync>;

/// A worker that listens.
pub(crate) struct Worker {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    serving: AbortHandle,
}

struct Shared {
    behaviour: Behaviour,
    delivered: Mutex<Vec<Delivered>>,
    running: Mutex<usize>,
}

impl Worker {
    pub(crate) async fn start(behaviour: impl Fn(&Delivered) -> (u16, Duration) + Send + Sync + 'static) -> Worker {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (delivered, running) = Default::default();
        let shared = Arc::new(Shared { behaviour: Box::new(behaviour), delivered, running });
        let serving = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(connection(stream, Arc::clone(&shared)));
                }
            }
        });
        Worker { address, shared, serving: serving.abort_handle() }
    }

    /// A worker that responds to all with this status.
    pub(crate) async fn with(status: u16) -> Worker {
        Worker::start(move |_| (status, Duration::ZERO)).await
    }

    /// What it has received so far.
    pub(crate) fn delivered(&self) -> Vec<Delivered> {
        self.shared.delivered.lock().unwrap().clone()
    }

    /// The bodies that it has received so far.
    pub(crate) fn bodies(&self) -> Vec<String> {
        self.delivered().into_iter().map(|delivered| delivered.body).collect()
    }

    /// The lines of a manifest that make it the service.
    pub(crate) fn upstream(&self) -> String {
        format!("[upstream]\nreplicas = ['http://{}']\n", self.address)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn connection(mut stream: TcpStream, shared: Arc<Shared>) -> Option<()> {
    let mut received = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            read(&mut stream, &mut received).await?;
        };
        let head = String::from_utf8_lossy(&received[..end]).into_owned();
        let line = head.lines().find(|line| line.to_lowercase().starts_with("content-length:"));
        let length: usize = line.map_or(0, |line| line[15..].trim().parse().unwrap());
        while received.len() < end + length {
            read(&mut stream, &mut received).await?;
        }
        let body = String::from_utf8_lossy(&received[end..end + length]).into_owned();
        received.drain(..end + length);
        let concurrent = {
            let mut running = shared.running.lock().unwrap();
            *running += 1;
            *running
        };
        let delivered = Delivered { head, body, at: Instant::now(), concurrent };
        let (status, pause) = (shared.behaviour)(&delivered);
        shared.delivered.lock().unwrap().push(delivered);
        tokio::time::sleep(pause).await;
        *shared.running.lock().unwrap() -= 1;
        stream.write_all(format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n").as_bytes()).await.ok()?;
    }
}

async fn read(stream: &mut TcpStream, received: &mut Vec<u8>) -> Option<()> {
    let mut buffer = [0; 4096];
    let count = stream.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
    received.extend_from_slice(&buffer[..count]);
    Some(())
}
